// Node: a tree node in memory. Internal to core/tree.
//
//     loading --verified--> clean --change--> dirty --freeze--> frozen --written--> clean
//        |                                                        |
//        v                                                        v change: a copy becomes dirty,
//      failed                                                  detached    this one is detached
//
// A dirty node is known by a virtual id (bit 63 set), every other one by its first block. The
// cache owns nodes that are in it; a detached node lives as long as somebody references it.
//
// Invariants:
//   (1) The parent of a dirty node is dirty.
//   (2) The image of a frozen node does not change, but for the first 8 bytes of it, the checksum.
#pragma once

#include "core/base/ref.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"
#include "core/tree/node_edit.h"

namespace fusefs {

class NodeCache;

inline constexpr uint64_t kVirtualIdBit = uint64_t{1} << 63;
constexpr bool is_virtual(uint64_t id) { return (id & kVirtualIdBit) != 0; }

enum class NodeState : uint8_t { loading, failed, clean, dirty, frozen };

// A read of a node: owns the memory until it has completed, whatever becomes of the cache.
class NodeLoad final : public IoTicket {
 public:
  NodeLoad() : buffer(kNodeBytes) {}
  AlignedBuffer buffer;
};

class Node final : public RefCounted {
 public:
  Node(uint64_t node_id, NodeState node_state) : id(node_id), state(node_state) {}
  ~Node() override = default;

  NodePage page() { return NodePage(buffer.data()); }
  bool dirty() const { return state == NodeState::dirty; }

  uint64_t id;
  NodeState state;
  bool recently_used = true;
  Error error = Error::io_failed;  // why it is failed
  AlignedBuffer buffer;            // none while loading

  // What the load must find.
  Ref<NodeLoad> load;
  uint64_t generation = 0;
  uint32_t level = 0;

  // What the changes being prepared will add to it (tree_change.cc).
  uint64_t prepare_session = 0;
  uint32_t prepare_bytes = 0;
  // The last NodePins that took it: a cheap "already there".
  uint64_t pinned_by = 0;

 protected:
  void last_reference_dropped() override;

 private:
  friend class NodeCache;
  NodeCache* cache_ = nullptr;  // null: detached
  Node* hash_next_ = nullptr;
  Node* older_ = nullptr;  // of the nodes that may be evicted
  Node* newer_ = nullptr;
  bool evictable_ = false;  // in that list
};

}  // namespace fusefs
