// OpenFiles: what the kernel's file handles stand for.
//
// A handle is a slot and the number of its use, so that a stale or invented one is refused and
// never taken for another's. Slots are memory only: no descriptor per open file.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <memory>
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
  uint64_t count_ = 0;
};

}  // namespace fusefs
