// OpenFiles: what the kernel's file handles stand for.
//
// A handle is a slot and the number of its use, so that a stale or invented one is refused and
// never taken for another's. Slots are memory only: no descriptor per open file.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/file/file_context.h"

namespace fusefs {

class OpenFiles {
 public:
  // Counts as an opener of the inode until close().
  uint64_t open(InodeRef inode, int flags);
  // Null for a handle that is not open. Valid until the next open() or close().
  OpenFile* find(uint64_t handle);
  // Returns the inode, whose opener count has been taken back; null for an unknown handle.
  InodeRef close(uint64_t handle);
  // A number that only who has this handle can know; 0 for an unknown handle.
  uint64_t secret(uint64_t handle);
  // The file whose handle and secret these are; null for any other pair.
  OpenFile* find_by_secret(uint64_t handle, uint64_t secret);
  // Whether somebody has the inode open for reading and writing. A store through mmap needs that,
  // and Linux sends what was stored before it closes: without, the kernel keeps nothing from us.
  bool may_be_mapped_writable(InodeNo ino) const { return read_write_.contains(ino); }
  void close_all();
  uint64_t count() const { return count_; }

 private:
  struct Slot {
    std::unique_ptr<OpenFile> file;
    uint32_t use = 0;
    uint64_t secret = 0;  // 0: not asked for yet
  };
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::unordered_map<InodeNo, uint32_t> read_write_;  // handles that are O_RDWR
  uint64_t count_ = 0;
};

}  // namespace fusefs
