// NodeCache: tree nodes by id, bounded. Internal to core/tree.
//
// Nodes that are clean, loading or failed are in one list in the order of their last use (by
// second chance: a use marks the node, the clock hand moves marked ones to the front). Dirty and
// frozen nodes are not in it.
//
// Nodes are evicted only when a load starts, which ends the attempt, or when the caller says so:
// within an attempt no node goes away under an ItemView.
//
// Invariants:
//   (1) Nobody references an evicted node, and no read into its memory is in flight.
//   (2) A load that failed is told to everybody who waited for it; when the last of them has let
//       go, the node is forgotten and may be tried again.
#pragma once

#include <vector>

#include "core/engine/attempt.h"
#include "core/io/health.h"
#include "core/tree/node.h"

namespace fusefs {

inline constexpr uint32_t kAnyLevel = UINT32_MAX;
// Reads of nodes that nobody waits for yet.
inline constexpr uint32_t kReadAheadsMax = 16;

class NodeCache {
 public:
  struct Options {
    uint64_t nodes_max = 0;
    uint64_t checksum_seed = 0;
  };
  NodeCache(BlockDevice& device, Health& health, const Options& options);
  ~NodeCache();
  NodeCache(const NodeCache&) = delete;
  NodeCache& operator=(const NodeCache&) = delete;

  // The node that `child` points to, ready to be read, or null: it must be loaded.
  Node* find_ready(uint64_t id) {
    Node* node = find(id);
    if (node == nullptr || node->state < NodeState::clean) return nullptr;
    node->recently_used = true;
    ++hit_count_;
    return node;
  }
  // What find_ready() did not find. `waiting` gets the reference that keeps it for the restart.
  //   Restarts  node_load;  Errors  io_failed, corrupt
  Attempt<Node*> load(const ChildPointer& child, uint32_t level, Ref<Node>& waiting);
  // Starts reading it, unless it is there or too many are being read already.
  void read_ahead(const ChildPointer& child, uint32_t level);

  // A new dirty node, empty.
  Node& create(uint32_t level);
  // A clean node becomes dirty: it gets a virtual id.
  void make_dirty(Node& node);
  // A frozen node's changeable copy. The frozen one is detached.
  Node& copy_frozen(Node& node);
  // A dirty node gets its place and becomes frozen; a frozen one, written, becomes clean.
  void freeze(Node& node, BlockNo at);
  void written(Node& node);
  // The tree has no use for it any more.
  void detach(Node& node);
  // Evicts what is above the bound. Requires that no ItemView of this attempt is used any more.
  void evict_to_bound() { evict(0); }

  uint64_t count() const { return count_; }
  uint64_t dirty_count() const { return dirty_count_; }
  uint64_t frozen_count() const { return frozen_count_; }
  uint64_t hit_count() const { return hit_count_; }
  uint64_t read_count() const { return read_count_; }
  uint64_t evict_count() const { return evict_count_; }
  const Options& options() const { return options_; }

 private:
  friend class Node;

  size_t bucket_of(uint64_t id) const {
    return static_cast<size_t>((id * 0x9E3779B97F4A7C15ull) >> 32) & (buckets_.size() - 1);
  }
  Node* find(uint64_t id) const {
    Node* node = buckets_[bucket_of(id)];
    while (node != nullptr && node->id != id) node = node->hash_next_;
    return node;
  }
  void insert(Node& node);
  void remove(Node& node);
  void rename(Node& node, uint64_t id);
  void grow();

  void list_front(Node& node);
  void unlist(Node& node);

  bool place_possible(const ChildPointer& child) const;
  Node& start_load(const ChildPointer& child, uint32_t level);
  void settle(Node& node);
  void evict(uint64_t room);
  void forget(Node& node);
  void reference_dropped(Node& node);

  BlockDevice& device_;
  Health& health_;
  const Options options_;
  std::vector<Node*> buckets_;  // a power of two
  Node* oldest_ = nullptr;
  Node* newest_ = nullptr;
  uint64_t count_ = 0;
  uint64_t dirty_count_ = 0;
  uint64_t frozen_count_ = 0;
  uint64_t listed_count_ = 0;
  uint64_t loading_count_ = 0;
  uint64_t next_virtual_id_ = kVirtualIdBit;
  uint64_t hit_count_ = 0;
  uint64_t read_count_ = 0;
  uint64_t evict_count_ = 0;
};

}  // namespace fusefs
