// NodeWalk: the tree's nodes as they lie on the device, depth first, with reads ahead.
//
// For check and dump: it does not go through Tree and its node cache, so that a damaged tree can
// be looked at. A node that is damaged is handed out with what is wrong; what was below it is
// passed over. Nodes come in the order of their keys, each before its children.
//
//     for (;;) {
//       ATTEMPT(const WalkedNode* node, walk.current());
//       if (node == nullptr) break;
//       ... look at it; may restart, current() is still the same then ...
//       walk.advance();
//     }
//
// The walk is part of its user's stash. Monitor held for every call.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "core/engine/attempt.h"
#include "core/format/node_format.h"
#include "core/format/superblock_format.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"

namespace fusefs {

// Whose keys a walk is about; nodes that can hold none of them are not read.
struct KeyRange {
  Key first{};
  Key last{~uint64_t{0}, static_cast<KeyType>(0xff), ~uint64_t{0}};
  bool contains(const Key& key) const { return first <= key && key <= last; }
};

struct WalkedNode {
  ChildPointer pointer;          // as the parent has it
  Key low;                       // the parent's slot: the node has no smaller key
  AlignedBuffer image;           // empty when it could not be read
  const char* damage = nullptr;  // what is wrong, or null
  const NodeHeader& header() const { return view_as<NodeHeader>(image_bytes()); }
  // Of a node without damage.
  const NodeSlot& slot(uint32_t index) const {
    return reinterpret_cast<const NodeSlot*>(image.data() + sizeof(NodeHeader))[index];
  }
  ConstBytes value(uint32_t index) const {
    return image_bytes().subspan(slot(index).value_first, slot(index).value_len);
  }
  ConstBytes image_bytes() const { return {image.data(), image.size()}; }
};

class NodeWalk {
 public:
  // `superblock` must live as long.
  NodeWalk(BlockDevice& device, const Superblock& superblock, const KeyRange& keys = {});
  ~NodeWalk();

  // The next node, or null at the end. The same one again until advance().
  //   Restarts  on reads
  Attempt<const WalkedNode*> current();
  // Requires that current() returned one; it is gone afterwards.
  void advance();

 private:
  class Read;
  struct Child;
  struct Level;

  void descend();
  void read_ahead(Level& level);
  bool in_data_area(const ChildPointer& pointer) const;
  const char* damage_of(const WalkedNode& node, uint32_t level) const;

  BlockDevice& device_;
  const Superblock& superblock_;
  const KeyRange keys_;
  std::vector<std::unique_ptr<Level>> levels_;  // the root's parent first
  WalkedNode node_;
  bool has_node_ = false;
};

}  // namespace fusefs
