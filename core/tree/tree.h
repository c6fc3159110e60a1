// Tree: one copy-on-write B+tree of ordered keys, in cached nodes.
//
// A node that changes after a checkpoint gets a new identity: first a virtual one (bit 63 set, no
// place on the device), then, when the next checkpoint freezes it, blocks of its own. Nodes that a
// checkpoint has frozen or that were read from the device are never changed: a change copies them.
//
//     on device --load--> clean --first change--> dirty (copy) --freeze--> frozen --written-->
//     clean
//                           ^                                                                   |
//                           +---------------------- evicted, least recently used ---------------+
//
// It knows keys and bytes, not what they mean; and not the journal: what a crash loses of the
// dirty nodes is replayed from there.
//
// Invariants:
//   (1) An ItemView stays valid until the end of the attempt that obtained it, or until apply().
//   (2) apply() needs no I/O and cannot fail: prepare() has put the path into the cache and pinned
//   it. (3) Evicted nodes are clean and not pinned.
//
// Monitor held for every call.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "core/base/ref.h"
#include "core/engine/attempt.h"
#include "core/engine/scheduler.h"
#include "core/format/node_format.h"
#include "core/io/block_device.h"
#include "core/io/health.h"
#include "core/tree/space_map.h"

namespace fusefs {

class Node;

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
  std::vector<Ref<Node>> nodes_;  // bounded: see Tree; the oldest are let go
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
  };
  Tree(BlockDevice& device, Health& health, const TreeRoot& root, const Options& options);
  ~Tree();

  // The item with exactly `key` / the smallest at or after it / the largest at or before it.
  //   Restarts  node_load;  Errors  io_failed, corrupt
  Attempt<std::optional<ItemView>> find(const Key& key, NodePins& pins);
  Attempt<std::optional<ItemView>> at_or_after(const Key& key, NodePins& pins);
  Attempt<std::optional<ItemView>> at_or_before(const Key& key, NodePins& pins);

  // Loads and pins what changing `key` needs, also for splits and merges.
  // Adds to `new_dirty` (an upper bound of) how many nodes become dirty by it.
  Attempt<void> prepare(const Key& key, NodePins& pins, uint64_t& new_dirty);
  // Requires prepare() of the key in this attempt.
  void put(const Key& key, ConstBytes value);
  void erase(const Key& key);

  // Reads ahead the leaf that follows `key`'s, without waiting (directory and extent scans).
  void read_ahead(const Key& key);

  uint64_t dirty_count() const;

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
  // Gives every dirty node its blocks (children before parents), releases the replaced ones, and
  // makes all of them immutable. Requires SpaceMap::prepare_nodes(dirty_count()) in this attempt.
  Frozen freeze(CheckpointNo checkpoint, SpaceMap& space);
  // The frozen nodes are on the device: they are clean now.
  void frozen_written(const Frozen& frozen);

  TreeStats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
