// TreeBed: a tree on a simulated device, with what a store would do around it: changes one by one,
// checkpoints, and starting again from what is on the device.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "core/tree/node.h"
#include "core/tree/tree.h"
#include "tests/support/fake_space.h"
#include "tests/support/sim_world.h"

#include <doctest/doctest.h>

namespace fusefs {

using TreeValue = std::vector<std::byte>;
using TreeModel = std::map<Key, TreeValue>;
using MaybeItem = std::optional<std::pair<Key, TreeValue>>;

inline constexpr uint64_t kTreeSeed = 4711;
inline constexpr BlockNo kNodesFirst{64};

inline SimWorldOptions tree_world_options(double forced) {
  SimWorldOptions options;
  options.forced_restart_probability = forced;
  return options;
}

struct TreeBed {
  explicit TreeBed(uint64_t seed, double forced = 0.0, uint64_t cached_nodes_max = 1024)
      : world(seed, tree_world_options(forced)),
        nodes_max(cached_nodes_max),
        tree(std::make_unique<Tree>(world.device(), health, TreeRoot{},
                                    Tree::Options{nodes_max, kTreeSeed, 0})) {}
  ~TreeBed() { world.abandon(); }

  Result<void> put(const Key& key, const TreeValue& value) {
    NodePins pins;
    return world.run([&]() -> Attempt<void> {
      uint64_t new_dirty = 0;
      tree->begin_prepare();
      ATTEMPT_OK(tree->prepare(key, value.size(), pins, new_dirty));
      change([&] { tree->put(key, value); }, new_dirty);
      return {};
    });
  }
  Result<void> erase(const Key& key) {
    NodePins pins;
    return world.run([&]() -> Attempt<void> {
      uint64_t new_dirty = 0;
      tree->begin_prepare();
      ATTEMPT_OK(tree->prepare(key, 0, pins, new_dirty));
      change([&] { tree->erase(key); }, new_dirty);
      return {};
    });
  }
  // Makes a change and compares how many nodes it made dirty with what was foreseen.
  template <class Fn>
  void change(Fn&& fn, uint64_t new_dirty) {
    const uint64_t before = tree->dirty_count();
    fn();
    REQUIRE(tree->dirty_count() <= before + new_dirty);
  }

  using Search = Attempt<std::optional<ItemView>> (Tree::*)(const Key&, NodePins&);
  Result<MaybeItem> search(Search how, const Key& key) {
    NodePins pins;
    return world.run([&]() -> Attempt<MaybeItem> {
      ATTEMPT(const std::optional<ItemView> item, (tree.get()->*how)(key, pins));
      if (!item) return MaybeItem();
      return MaybeItem({item->key, TreeValue(item->value.begin(), item->value.end())});
    });
  }
  Result<MaybeItem> find(const Key& key) { return search(&Tree::find, key); }

  Tree::Frozen freeze() {
    checkpoint = checkpoint.next();
    return world.inside([&] {
      Tree::Frozen frozen = tree->freeze(checkpoint, space);
      space.freeze(checkpoint);
      return frozen;
    });
  }
  void write(const Tree::Frozen& frozen) {
    Ref<IoTicket> ticket;
    const Result<void> written = world.run([&]() -> Attempt<void> {
      if (!ticket) {
        ticket = make_ref<IoTicket>();
        for (const Tree::FrozenNode& node : frozen.nodes) {
          seal_block(Bytes(node.image, kNodeBytes), kTreeSeed);
          world.device().submit(IoRequest::write(block_addr(node.at), node.image, kNodeBytes),
                                ticket);
        }
      }
      return ticket->wait();
    });
    REQUIRE(written.ok());
    world.inside([&] {
      tree->frozen_written(frozen);
      space.checkpoint_durable(checkpoint);
    });
    root = frozen.root;
    node_count = frozen.node_count;
  }
  // Forgets everything in memory.
  void reload() {
    evict_count += tree->stats().evict_count;
    tree = std::make_unique<Tree>(world.device(), health, root,
                                  Tree::Options{nodes_max, kTreeSeed, node_count});
  }
  // Every node on the device verifies, and holds only keys between the separators around it.
  void check_shape() {
    if (root.generation == 0) return;
    const SimImage image = world.device().snapshot();
    uint64_t nodes = 0;
    check_node(image, {root.block.value(), root.generation}, std::nullopt, Key{}, std::nullopt,
               nodes);
    CHECK(nodes == node_count);
  }
  void check_node(const SimImage& image, const ChildPointer& at, std::optional<uint32_t> level,
                  const Key& first, const std::optional<Key>& end, uint64_t& nodes) {
    AlignedBuffer buffer(kNodeBytes);
    image.read(block_addr(BlockNo(at.block)), buffer.bytes());
    REQUIRE(node_verifies(buffer.bytes(), BlockNo(at.block), at.generation, kTreeSeed));
    const NodePage page(buffer.data());
    ++nodes;
    if (level) REQUIRE(page.level() == *level);
    REQUIRE(page.key(0) >= first);
    if (end) REQUIRE(page.key(page.count() - 1) < *end);
    if (page.level() == 0) return;
    for (uint32_t slot = 0; slot < page.count(); ++slot) {
      const bool last = slot + 1 == page.count();
      check_node(image, page.child(slot), page.level() - 1, page.key(slot),
                 last ? end : std::optional<Key>(page.key(slot + 1)), nodes);
    }
  }
  TreeModel content() {
    TreeModel model;
    std::optional<Key> at = Key{};
    while (at) {
      Result<MaybeItem> item = search(&Tree::at_or_after, *at);
      REQUIRE(item.ok());
      if (!item.value()) break;
      model.insert(*item.value());
      at = item.value()->first;
      REQUIRE(at->offset != ~uint64_t{0});
      ++at->offset;
    }
    return model;
  }

  SimWorld world;
  Health health{false};
  FakeSpace space{kNodesFirst, 4000, 2000};
  uint64_t nodes_max;
  CheckpointNo checkpoint{0};
  TreeRoot root;
  uint64_t node_count = 0;
  std::unique_ptr<Tree> tree;
  uint64_t evict_count = 0;  // before the last reload()
};

inline Key numbered(uint64_t number) { return dirent_key(InodeNo(1 + number / 512), number % 512); }

inline TreeValue value_of(Random& random, size_t len_max) {
  TreeValue value(random.below(len_max + 1));
  for (std::byte& byte : value) byte = static_cast<std::byte>(random.next());
  return value;
}

}  // namespace fusefs
