#include "core/tree/tree.h"

#include "tests/support/tree_bed.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

MaybeItem model_find(const TreeModel& model, const Key& key) {
  const auto at = model.find(key);
  return at == model.end() ? MaybeItem() : MaybeItem(*at);
}
MaybeItem model_at_or_after(const TreeModel& model, const Key& key) {
  const auto at = model.lower_bound(key);
  return at == model.end() ? MaybeItem() : MaybeItem(*at);
}
MaybeItem model_at_or_before(const TreeModel& model, const Key& key) {
  auto at = model.upper_bound(key);
  return at == model.begin() ? MaybeItem() : MaybeItem(*--at);
}

void random_history(uint64_t seed, double forced) {
  CAPTURE(seed);
  CAPTURE(forced);
  TreeBed bed(seed, forced, 8);
  Random random(seed * 1000);
  TreeModel model;
  const size_t len_max = seed % 2 == 0 ? kItemValueBytesMax : 300;
  const uint64_t keys = seed % 2 == 0 ? 300 : 3000;
  std::optional<Tree::Frozen> being_written;
  for (int step = 0; step < 4000; ++step) {
    const Key key = numbered(random.below(keys));
    // Long stretches that grow the tree, and long ones that shrink it.
    const uint64_t erase_of_ten = step / 1000 % 2 == 0 ? 2 : 7;
    if (random.below(10) < erase_of_ten) {
      REQUIRE(bed.erase(key).ok());
      model.erase(key);
    } else {
      const TreeValue value = value_of(random, len_max);
      REQUIRE(bed.put(key, value).ok());
      model[key] = value;
    }
    const Key other = numbered(random.below(keys));
    REQUIRE(bed.find(other).value() == model_find(model, other));
    REQUIRE(bed.search(&Tree::at_or_after, other).value() == model_at_or_after(model, other));
    REQUIRE(bed.search(&Tree::at_or_before, other).value() == model_at_or_before(model, other));
    if (being_written && random.below(20) == 0) {
      bed.write(*being_written);
      being_written.reset();
      if (random.below(3) == 0 && bed.tree->dirty_count() == 0) bed.reload();
    } else if (!being_written && random.below(60) == 0) {
      being_written = bed.freeze();
      if (random.below(2) == 0) {
        bed.write(*being_written);
        being_written.reset();
        if (random.below(2) == 0) bed.reload();
      }
    }
  }
  if (being_written) bed.write(*being_written);
  bed.write(bed.freeze());
  CHECK(bed.space.nodes().size() == bed.node_count);
  bed.check_shape();
  bed.reload();
  CHECK(bed.content() == model);
  CHECK(bed.evict_count > 0);
}

}  // namespace

TEST_CASE("a tree answers like an ordered map while nodes are evicted and checkpoints are made") {
  for (uint64_t seed = 1; seed <= 2; ++seed) random_history(seed, 0.0);
}

TEST_CASE("a tree answers like an ordered map when a fifth of all steps restarts for no reason") {
  for (uint64_t seed = 3; seed <= 4; ++seed) random_history(seed, 0.2);
}

TEST_CASE(
    "what a checkpoint has frozen is on the device as it was, whatever is changed meanwhile") {
  TreeBed bed(5);
  Random random(5);
  TreeModel model;
  for (uint64_t i = 0; i < 3000; ++i) {
    model[numbered(i)] = value_of(random, 100);
    REQUIRE(bed.put(numbered(i), model[numbered(i)]).ok());
  }
  const Tree::Frozen frozen = bed.freeze();
  for (uint64_t i = 0; i < 3000; i += 2) REQUIRE(bed.erase(numbered(i)).ok());
  for (uint64_t i = 3000; i < 5000; ++i) REQUIRE(bed.put(numbered(i), {}).ok());
  bed.write(frozen);
  bed.reload();
  CHECK(bed.content() == model);
}

TEST_CASE("ascending insertion leaves leaves more than nine tenths full") {
  TreeBed bed(6);
  Random random(6);
  constexpr uint64_t kItems = 20000;
  const TreeValue value(100);
  for (uint64_t i = 0; i < kItems; ++i) REQUIRE(bed.put(numbered(i), value).ok());
  const Tree::Frozen frozen = bed.freeze();
  uint64_t leaves = 0;
  for (const Tree::FrozenNode& node : frozen.nodes) {
    if (NodePage(node.image).level() == 0) ++leaves;
  }
  const uint64_t bytes = kItems * NodePage::item_bytes(value.size());
  CHECK(bytes * 10 > leaves * kNodePayloadBytes * 9);
  bed.write(frozen);
}

TEST_CASE("a tree from which everything is erased has no nodes left, in memory or on the device") {
  TreeBed bed(7);
  Random random(7);
  for (uint64_t i = 0; i < 8000; ++i) REQUIRE(bed.put(numbered(i), value_of(random, 100)).ok());
  bed.write(bed.freeze());
  CHECK(bed.tree->stats().levels == 2);
  CHECK(bed.space.nodes().size() > 20);

  std::vector<uint64_t> order;
  for (uint64_t i = 0; i < 8000; ++i) order.push_back(i);
  for (uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  for (const uint64_t i : order) REQUIRE(bed.erase(numbered(i)).ok());
  CHECK(bed.tree->stats().levels == 0);
  CHECK(bed.tree->stats().cached_nodes == 0);
  bed.write(bed.freeze());
  CHECK(bed.root.generation == 0);
  CHECK(bed.node_count == 0);
  CHECK(bed.space.nodes().empty());

  REQUIRE(bed.put(numbered(1), {}).ok());
  CHECK(bed.content().size() == 1);
}

TEST_CASE("a tree whose left half was erased takes smaller keys again, in every order") {
  for (const bool ascending : {true, false}) {
    CAPTURE(ascending);
    // Four items fill a leaf, so that three levels need few. The right half of the tree is too full
    // to be merged with what is left of the left one.
    const TreeValue large(4000);
    TreeBed bed(13);
    TreeModel model;
    const auto put = [&](uint64_t number, const TreeValue& value) {
      model[numbered(number)] = value;
      REQUIRE(bed.put(numbered(number), value).ok());
    };
    constexpr uint64_t kItems = 3200;
    for (uint64_t i = 0; i < kItems; ++i) put(kItems + i, large);
    REQUIRE(bed.tree->stats().levels == 3);
    uint64_t first = kItems;
    while (bed.tree->stats().levels == 3) {
      model.erase(numbered(first));
      REQUIRE(bed.erase(numbered(first++)).ok());
    }
    REQUIRE(!model.empty());
    for (uint64_t i = 0; i < 1000; ++i) put(ascending ? i : 1000 - i, large);
    bed.write(bed.freeze());
    bed.check_shape();
    bed.reload();
    CHECK(bed.content() == model);
    // What lies left of everything that is there belongs to the first leaf.
    put(0, {});
    CHECK(bed.search(&Tree::at_or_after, Key{}).value()->first == numbered(0));
  }
}

TEST_CASE("a tree that lost most of its items merges its leaves") {
  TreeBed bed(8);
  const TreeValue value(100);
  for (uint64_t i = 0; i < 10000; ++i) REQUIRE(bed.put(numbered(i), value).ok());
  bed.write(bed.freeze());
  const uint64_t full = bed.node_count;
  for (uint64_t i = 0; i < 10000; ++i) {
    if (i % 10 != 0) REQUIRE(bed.erase(numbered(i)).ok());
  }
  bed.write(bed.freeze());
  CHECK(bed.node_count * 3 < full);
  CHECK(bed.tree->stats().merge_count > 0);
  CHECK(bed.content().size() == 1000);
}

TEST_CASE("a damaged, misplaced or outdated node is an error to everybody who needs it") {
  TreeBed bed(9);
  Random random(9);
  for (uint64_t i = 0; i < 1000; ++i) REQUIRE(bed.put(numbered(i), value_of(random, 100)).ok());
  const Tree::Frozen first = bed.freeze();
  bed.write(first);
  const Tree::FrozenNode leaf = first.nodes[1];
  const Key inside = NodePage(leaf.image).key(0);
  const std::vector<std::byte> old_image(leaf.image, leaf.image + kNodeBytes);
  const auto overwrite = [&](BlockNo at, const std::vector<std::byte>& image) {
    AlignedBuffer buffer(image.size());
    std::memcpy(buffer.data(), image.data(), image.size());
    Ref<IoTicket> ticket;
    REQUIRE(bed.world
                .run([&]() -> Attempt<void> {
                  if (!ticket) {
                    ticket = make_ref<IoTicket>();
                    bed.world.device().submit(
                        IoRequest::write(block_addr(at), buffer.data(), buffer.size()), ticket);
                  }
                  return ticket->wait();
                })
                .ok());
  };

  SUBCASE("torn") {
    std::vector<std::byte> torn = old_image;
    std::fill(torn.begin() + 8192, torn.end(), std::byte{0});
    overwrite(leaf.at, torn);
  }
  SUBCASE("another node's content") {
    const std::byte* other = first.nodes[2].image;
    overwrite(leaf.at, std::vector<std::byte>(other, other + kNodeBytes));
  }
  SUBCASE("a write of a later checkpoint that was lost") {
    // The parent then names a generation that the block does not have.
    std::vector<std::byte> stale = old_image;
    view_as<NodeHeader>(Bytes(stale)).header.generation = uint64_t{99};
    seal_block(stale, kTreeSeed);
    overwrite(leaf.at, stale);
  }
  SUBCASE("sealed, but of the wrong level") {
    const Tree::FrozenNode& root = first.nodes.back();
    std::vector<std::byte> wrong(root.image, root.image + kNodeBytes);
    view_as<NodeHeader>(Bytes(wrong)).header.block = leaf.at.value();
    seal_block(wrong, kTreeSeed);
    overwrite(leaf.at, wrong);
  }
  bed.reload();

  int told = 0;
  for (int i = 0; i < 3; ++i) {
    auto pins = std::make_shared<NodePins>();
    bed.world.spawn(
        [&bed, inside, pins]() -> Attempt<void> {
          ATTEMPT(const auto item, bed.tree->find(inside, *pins));
          (void)item;
          return {};
        },
        [&told](Result<void> outcome) {
          if (!outcome.ok() && outcome.error() == Error::corrupt) ++told;
        });
  }
  CHECK(bed.world.run_until_idle());
  CHECK(told == 3);
  CHECK(bed.health.saw_corruption());
  // The rest of the tree is still there, and so is the node once it is readable again.
  CHECK(bed.find(NodePage(first.nodes[0].image).key(0)).value().has_value());
  overwrite(leaf.at, old_image);
  CHECK(bed.find(inside).value().has_value());
}

TEST_CASE("a node that cannot be read is an error now and readable when the device is again") {
  TreeBed bed(10);
  for (uint64_t i = 0; i < 1000; ++i) REQUIRE(bed.put(numbered(i), TreeValue(100)).ok());
  bed.write(bed.freeze());
  bed.reload();
  SimFault fault;
  fault.kind = IoKind::read;
  fault.error = Error::io_failed;
  bed.world.device().add_fault(fault);
  CHECK(bed.find(numbered(1)).error() == Error::io_failed);
  CHECK(bed.put(numbered(1), {}).error() == Error::io_failed);
  bed.world.device().clear_faults();
  CHECK(bed.find(numbered(1)).value().has_value());
}

TEST_CASE("a scan that reads ahead waits less often for the device") {
  TreeBed bed(11);
  for (uint64_t i = 0; i < 5000; ++i) REQUIRE(bed.put(numbered(i), TreeValue(100)).ok());
  bed.write(bed.freeze());
  const auto restarts_of_scan = [&](bool read_ahead) {
    bed.reload();
    uint64_t restarts = 0;
    NodePins pins;
    for (uint64_t i = 0; i < 5000; ++i) {
      REQUIRE(bed.world
                  .run([&]() -> Attempt<void> {
                    Attempt<std::optional<ItemView>> item = bed.tree->find(numbered(i), pins);
                    if (item.must_restart()) ++restarts;
                    ATTEMPT(const auto found, std::move(item));
                    REQUIRE(found.has_value());
                    if (read_ahead) bed.tree->read_ahead(numbered(i));
                    return {};
                  })
                  .ok());
      bed.world.run_for(20'000);
    }
    return restarts;
  };
  const uint64_t without = restarts_of_scan(false);
  CHECK(restarts_of_scan(true) * 4 < without);
}

TEST_CASE("operations that each need more nodes than the cache holds all come to their end") {
  TreeBed bed(12, 0.2, 4);
  for (uint64_t i = 0; i < 4000; ++i) REQUIRE(bed.put(numbered(i), TreeValue(100)).ok());
  bed.write(bed.freeze());
  bed.reload();
  int done = 0;
  for (uint64_t first = 0; first < 4; ++first) {
    auto pins = std::make_shared<NodePins>();
    bed.world.spawn(
        [&bed, first, pins]() -> Attempt<void> {
          uint64_t new_dirty = 0;
          bed.tree->begin_prepare();
          for (uint64_t i = first; i < 4000; i += 400) {
            ATTEMPT_OK(bed.tree->prepare(numbered(i), 1, *pins, new_dirty));
          }
          for (uint64_t i = first; i < 4000; i += 400) bed.tree->put(numbered(i), TreeValue(1));
          return {};
        },
        [&done](Result<void> outcome) { done += outcome.ok() ? 1 : 0; });
  }
  CHECK(bed.world.run_until_idle());
  CHECK(done == 4);
  CHECK(bed.find(numbered(402)).value()->second.size() == 1);
}

}  // namespace fusefs
