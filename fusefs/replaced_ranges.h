// ReplacedRanges: where the kernel may still have pages from before a clone.
//
// A clone replaces blocks of its target behind the kernel, which is told to drop the range
// afterwards. Until it has, somebody may store through a mapping into a page with the old bytes,
// and nobody tells us. That page comes back whole:
//
//     program                     kernel                      clone
//     touches page 7              READ: old bytes
//                                                             shares blocks, lets go
//     stores one byte             page 7 is dirty
//                                                             has the kernel drop the range
//                                 WRITE of page 7: old bytes
//                                 and the one new byte
//
// Taken as it is, it would put old bytes over the clone's. Nor can the store be told from the rest.
// But the clone has not returned, so the store counts as one from before it: replaced as well. From
// the moment a byte is replaced until the kernel has dropped the range, a write of the kernel's
// from its cache is *stale* there, and left out, unless the kernel has got the page since, by a
// read or a write of all of it. Then it has the clone's bytes, and its stores are what they seem.
//
// Linux has no such window: a clone there holds the mapping's lock against faults throughout. Here
// this would deadlock: the kernel drops a page only when the read that fills it has been answered.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_set>
#include <utility>

#include "core/base/units.h"

namespace fusefs {

class ReplacedRanges {
  struct Range {
    uint64_t pos = 0;
    uint64_t end = 0;                     // replaced up to here
    std::unordered_set<FileBlock> fresh;  // pages that the kernel has got since
  };
  using Ranges = std::multimap<InodeNo, Range>;

 public:
  // One clone's: until it ends, nothing is taken over its range from old pages.
  class Stash {
   public:
    Stash() = default;
    ~Stash() { end(); }
    Stash(const Stash&) = delete;
    Stash& operator=(const Stash&) = delete;
    bool begun() const { return owner_ != nullptr; }
    void end();

   private:
    friend class ReplacedRanges;
    ReplacedRanges* owner_ = nullptr;
    Ranges::iterator at_{};
  };

  // Nothing is replaced yet.
  void begin(InodeNo ino, uint64_t pos, Stash& stash);
  // `len` bytes of it are now; it only grows.
  void set_replaced(Stash& stash, uint64_t len);

  // The kernel gets these bytes of the file as they are now, or has given us them: what it has of
  // pages that lie in there completely is not old.
  void note_kernel_has(InodeNo ino, uint64_t pos, uint64_t len);

  // The bytes from `pos` on, up to `end`, that are all stale or all not.
  struct Part {
    uint64_t end = 0;
    bool stale = false;
  };
  Part part_at(InodeNo ino, uint64_t pos, uint64_t end) const;
  // Whether any byte is.
  bool any_stale(InodeNo ino, uint64_t pos, uint64_t end) const;

 private:
  Ranges ranges_;
};

}  // namespace fusefs
