// NodePage: reading and changing the 16 KiB of one tree node. Layout: core/format/node_format.h.
//
// It knows slots and bytes, not nodes' places, not their neighbours and not the cache. A change
// either fits, or is refused and leaves the page as it was: splitting is the tree's.
//
//        +--------+-------------------+---- contiguous ----+-----------------------+
//        | header | slots, ascending  |                    | values and garbage    |
//        +--------+-------------------+--------------------+-----------------------+
//                                     ^ slots end          ^ values_first
//
// Erased and outgrown values are garbage until an insertion needs the bytes: then the page is
// compacted. free_bytes() counts garbage as free.
//
// Requires a page that node_verifies() accepted, or one made by init() and changed only here.
#pragma once

#include "core/base/units.h"
#include "core/format/node_format.h"

namespace fusefs {

inline constexpr uint32_t kNodePayloadBytes = kNodeBytes - sizeof(NodeHeader);

class NodePage {
 public:
  NodePage() = default;
  explicit NodePage(std::byte* page) : page_(page) {}

  // An empty node, with the block header still zero.
  void init(uint32_t level);

  uint32_t level() const { return header().level; }
  uint32_t count() const { return header().count; }
  Key key(uint32_t index) const { return slot(index).key.key(); }
  ConstBytes value(uint32_t index) const {
    const NodeSlot& at = slot(index);
    return {page_ + at.value_first, at.value_len};
  }
  ChildPointer child(uint32_t index) const { return view_as<ChildPointer>(value(index)); }

  // Bytes of slots and values; and what insertions may still use, garbage included.
  uint32_t used_bytes() const { return kNodePayloadBytes - free_bytes(); }
  uint32_t free_bytes() const { return contiguous_bytes() + header().garbage_bytes; }
  static constexpr uint32_t item_bytes(size_t value_len) {
    return static_cast<uint32_t>(sizeof(NodeSlot) + value_len);
  }

  // The first slot at or after `key`; count() when there is none.
  uint32_t lower_bound(const Key& key) const;
  // True when slot `index` exists and has this key.
  bool holds(uint32_t index, const Key& key) const {
    return index < count() && this->key(index) == key;
  }
  // Of an interior node that is not empty: the slot of the child that may hold `key`.
  uint32_t child_slot(const Key& key) const;

  // Inserts before slot `index`. `value` must not point into this page.
  // False, and nothing has changed: it does not fit.
  bool insert(uint32_t index, const Key& key, ConstBytes value);
  // Replaces the value of slot `index`, of any length. False: it does not fit.
  bool replace(uint32_t index, ConstBytes value);
  void erase(uint32_t index);
  void set_key(uint32_t index, const Key& key) { slot(index).key = KeyFormat::of(key); }
  void set_child(uint32_t index, const ChildPointer& child);

  // Copies the slots [from, other.count()) behind the last one here. Requires that they fit.
  void append_from(const NodePage& other, uint32_t from);
  // Erases the slots [from, count()).
  void truncate(uint32_t from);
  // How to split a page into which an item of `bytes`, to be inserted before `index`, does not fit.
  // Behind the last item nothing moves: ascending insertion leaves full pages behind it.
  struct Split {
    uint32_t stay;    // items [stay, count()) move to the right page
    bool goes_right;  // the new item
  };
  Split split_for(uint32_t index, uint32_t bytes) const;

 private:
  NodeHeader& header() { return *reinterpret_cast<NodeHeader*>(page_); }
  const NodeHeader& header() const { return *reinterpret_cast<const NodeHeader*>(page_); }
  NodeSlot& slot(uint32_t index) {
    return reinterpret_cast<NodeSlot*>(page_ + sizeof(NodeHeader))[index];
  }
  const NodeSlot& slot(uint32_t index) const {
    return reinterpret_cast<const NodeSlot*>(page_ + sizeof(NodeHeader))[index];
  }
  uint32_t slots_end() const {
    return static_cast<uint32_t>(sizeof(NodeHeader) + count() * sizeof(NodeSlot));
  }
  uint32_t contiguous_bytes() const { return header().values_first - slots_end(); }
  void place_value(NodeSlot& at, ConstBytes value);
  void drop_value(const NodeSlot& at);
  void compact();

  std::byte* page_ = nullptr;
};

}  // namespace fusefs
