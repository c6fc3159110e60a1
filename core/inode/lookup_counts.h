// LookupCounts: how many times the kernel knows each inode (nlookup), 16 bytes a slot.
//
// The kernel may know millions of inodes, most of which are not in memory as Inode: one flat table
// of slots, found by probing from the hash on. Deletion moves later slots of the same run back, so
// that there are no tombstones and a table through which millions went is as fast as a new one.
//
// Monitor held for every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/units.h"

namespace fusefs {

class LookupCounts {
 public:
  // Requires an inode number above 0.
  void add(InodeNo ino, uint64_t count);
  // Returns how many are left. Forgetting more than was added is clamped.
  uint64_t forget(InodeNo ino, uint64_t count);
  uint64_t count(InodeNo ino) const;
  size_t inode_count() const { return used_; }
  void clear();

  // Calls `visit(InodeNo)` for each inode that the kernel knows.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Slot& slot : slots_) {
      if (slot.ino != 0) visit(InodeNo(slot.ino));
    }
  }

  size_t memory_bytes() const { return slots_.capacity() * sizeof(Slot); }

 private:
  struct Slot {
    uint64_t ino = 0;  // 0: empty
    uint64_t count = 0;
  };
  static_assert(sizeof(Slot) == 16);

  size_t home_of(uint64_t ino) const;
  // The slot of `ino`, or the empty one where it would go. Requires a table.
  size_t find_slot(uint64_t ino) const;
  void erase(size_t at);
  void resize(size_t slots);

  std::vector<Slot> slots_;  // a power of two, never full
  unsigned shift_ = 64;      // 64 - log2(slots)
  size_t used_ = 0;
};

}  // namespace fusefs
