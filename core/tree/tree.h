// Tree: one copy-on-write B+tree of ordered keys, in cached nodes.
//
// A node that changes after a checkpoint gets a new identity: first a virtual one (bit 63 set, no
// place on the device), then, when the next checkpoint freezes it, blocks of its own. What a
// checkpoint writes is not changed while it is being written: a change copies it.
//
//     on device --load--> clean --first change--> dirty --freeze--> frozen --written--> clean
//                           ^                                                            |
//                           +----------------- evicted, least recently used -------------+
//
// It knows keys and bytes, not what they mean; and not the journal: what a crash loses of the
// dirty nodes is replayed from there.
//
// Invariants:
//   (1) An ItemView stays valid until the end of the attempt that obtained it, or until a change.
//   (2) A change needs no I/O and cannot fail: prepare() has put the path into the cache and
//       pinned it.
//   (3) Evicted nodes are clean and not pinned.
//   (4) Every node but the root of an empty tree, which has none, holds at least one item.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/ref.h"
#include "core/engine/attempt.h"
#include "core/format/key_format.h"
#include "core/format/node_format.h"
#include "core/io/block_device.h"
#include "core/io/health.h"
#include "core/tree/space_map.h"

namespace fusefs {

class Node;

// How many nodes that were only read are kept; what prepare() needs is kept besides.
inline constexpr size_t kReadPinsMax = 64;

// Nodes that an operation has used; they stay cached until the operation ends, so that a restart
// finds what it waited for. Part of every stash.
class NodePins {
 public:
  NodePins();
  ~NodePins();
  NodePins(NodePins&&) noexcept;
  NodePins& operator=(NodePins&&) noexcept;
  void clear();

 private:
  friend class Tree;
  void add_read(Node& node);
  void add_prepared(Node& node);
  void add_waiting(Ref<Node> node);

  uint64_t id_;
  std::vector<Ref<Node>> read_;  // a ring of the last kReadPinsMax
  size_t read_next_ = 0;
  std::vector<Ref<Node>> prepared_;
  size_t prepared_sorted_ = 0;  // how many there were when duplicates were removed last
};

struct ItemView {
  Key key;
  ConstBytes value;
};

struct TreeRoot {
  BlockNo block;
  uint64_t generation = 0;  // of the root node; 0: the tree is empty and has no node
};

struct TreeStats {
  uint64_t cached_nodes = 0;
  uint64_t dirty_nodes = 0;
  uint64_t cached_nodes_max = 0;
  uint64_t hit_count = 0;
  uint64_t read_count = 0;
  uint64_t evict_count = 0;
  uint64_t split_count = 0;
  uint64_t merge_count = 0;
  uint32_t levels = 0;
};

class Tree {
 public:
  struct Options {
    uint64_t cached_nodes_max = 4096;  // 64 MiB
    uint64_t checksum_seed = 0;
    uint64_t node_count = 0;  // of the whole tree, as the superblock has it
  };
  Tree(BlockDevice& device, Health& health, const TreeRoot& root, const Options& options);
  ~Tree();

  // The item with exactly `key` / the smallest at or after it / the largest at or before it.
  //   Restarts  node_load;  Errors  io_failed, corrupt
  Attempt<std::optional<ItemView>> find(const Key& key, NodePins& pins);
  Attempt<std::optional<ItemView>> at_or_after(const Key& key, NodePins& pins);
  Attempt<std::optional<ItemView>> at_or_before(const Key& key, NodePins& pins);

  // Changes happen in three steps within one attempt: begin_prepare(), prepare() of every key, then
  // all put()s, then all erase()s. (An erase may remove the leaf whose place a later put would
  // need, and the leaf that then takes the key need not be cached.)
  void begin_prepare();
  // Loads and pins what putting a value of at most `value_len` bytes at `key`, or erasing it,
  // needs, also for splits and merges. Adds to `new_dirty` an upper bound of how many nodes become
  // dirty by it, beyond what was prepared since begin_prepare().
  //   Restarts  node_load;  Errors  io_failed, corrupt
  Attempt<void> prepare(const Key& key, size_t value_len, NodePins& pins, uint64_t& new_dirty);
  // Inserts or replaces. `value` has at most kItemValueBytesMax bytes, none of them in this tree.
  void put(const Key& key, ConstBytes value);
  // `key` may be absent.
  void erase(const Key& key);

  // The item with `key`, as it is now. Requires prepare() of the key in this attempt.
  std::optional<ItemView> prepared_item(const Key& key) const;

  // Reads ahead the leaf that follows `key`'s, without waiting (directory and extent scans).
  void read_ahead(const Key& key);

  uint64_t dirty_count() const;
  // Frozen and not yet written.
  uint64_t frozen_count() const;

  // One node of a checkpoint: immutable until written.
  struct FrozenNode {
    BlockNo at;
    std::byte* image;  // kNodeBytes; header set, checksum not yet: seal_block() outside the monitor
    Ref<Node> keep;
  };
  struct Frozen {
    std::vector<FrozenNode> nodes;
    TreeRoot root;
    uint64_t node_count = 0;
  };
  // Makes sure that freeze() needs no I/O in this attempt.
  //   Restarts  bitmap_load, space;  Errors  io_failed, corrupt, no_space
  Attempt<void> prepare_freeze(SpaceMap& space);
  // Gives every dirty node its blocks (children before parents), releases the replaced ones, and
  // makes all of them immutable. Requires prepare_freeze() in this attempt, and that the nodes
  // frozen before have been written.
  Frozen freeze(CheckpointNo checkpoint, SpaceMap& space);
  // The frozen nodes are on the device: they are clean now, and may be evicted at once.
  void frozen_written(const Frozen& frozen);

  TreeStats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
