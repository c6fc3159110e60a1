// KernelPages: where the kernel's page cache may have pages of files.
//
// The kernel says nothing about its pages. But it gets each by a read that goes into its cache, or
// leaves it there after a write, and both pass by here; and it has none of a range that it has
// dropped when told to. So a range that is not noted here needs no order to drop it, which costs
// two changes of thread:
//
//     read, write --note()--> noted --- order done ---> not noted
//                               ^          |
//                               +----------+  noted again since the order was sent
//
// What is noted is never too little: pages that the kernel has dropped by itself stay noted, and of
// files with many gaps the smallest gaps count as pages.
//
// Not for writeback_cache: there the kernel makes pages without asking.
//
// Monitor held for every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "core/base/units.h"

namespace fusefs {

// Of one inode. More are merged.
inline constexpr size_t kKernelRangesMax = 64;

class KernelPages {
  // In order; no two touch.
  class Ranges {
   public:
    bool empty() const { return ranges_.empty(); }
    bool any(FileRange range) const;
    void add(FileRange range);
    void remove(FileRange range);
    const std::vector<FileRange>& all() const { return ranges_; }

   private:
    std::vector<FileRange> ranges_;
  };

 public:
  // An order to drop a range, from before it is sent until the kernel has done as told.
  class Drop {
   public:
    Drop() = default;
    ~Drop() { end(false); }
    Drop(const Drop&) = delete;
    Drop& operator=(const Drop&) = delete;
    // `dropped`: the kernel has, or does not know the inode.
    void end(bool dropped);

   private:
    friend class KernelPages;
    KernelPages* owner_ = nullptr;  // null unless it is under way
    InodeNo ino_;
    FileRange range_{};
    Ranges since_;
  };

  KernelPages() = default;
  KernelPages(const KernelPages&) = delete;
  KernelPages& operator=(const KernelPages&) = delete;

  // Before the answer that gives the pages, or keeps them. `len` 0 in all calls: to the end.
  void note(InodeNo ino, uint64_t pos, uint64_t len);
  bool any(InodeNo ino, uint64_t pos, uint64_t len) const;
  void begin(Drop& drop, InodeNo ino, uint64_t pos, uint64_t len);
  // The kernel has forgotten the inode.
  void forget(InodeNo ino) { noted_.erase(ino); }

 private:
  std::unordered_map<InodeNo, Ranges> noted_;
  std::vector<Drop*> drops_;
};

}  // namespace fusefs
