// Folio: one cached page of one file, or of a block that several files share.
//
//      absent --read--> reading --> clean <-------------------+
//                         |           | write                  | written, not changed meanwhile
//                         v           v                        |
//                      absent       dirty ----> writeback -----+
//                    (read error)     ^            |
//                                     +--redirtied-+
//
// A writethrough (core/file/write_through.h) takes a clean page to writeback, and never makes it
// dirty.
//
// `locked` means that somebody copies into it or fills it without the monitor; others wait for
// `changed`. One that is being filled from the device (`reading`) may be removed meanwhile: who
// cuts or replaces what it stands for does not wait for the device. A folio under writeback is
// stable: who wants to write it waits.
//
// The mapping finds a folio but holds no reference: references are those of operations. A folio
// without any stays cached, and may be reclaimed once it is clean (reclaim_policy.h); one that is
// neither uptodate nor referenced goes at once, so that an attempt may add folios and drop them by
// restarting.
//
// Invariants:
//   (1) A dirty folio over a hole or a shared extent owns one reserved block: writing it cannot
//       meet ENOSPC. Over a private extent, written or not, it goes in place and owns none.
//   (2) Only clean, unlocked, unreferenced folios are reclaimed.
//   (3) Bytes beyond the end of the file are zero.
//   (4) Who holds a folio's lock waits for nothing but its own I/O and copies: blockers of the
//       inode's two-state lock may wait for it.
//   (5) A locked folio that is not being read stays in its mapping: who removes folios waits for
//   it.
//       Only a shared block's is detached when its block has no other owner left (shared_blocks.h);
//       unlocking it and marking it uptodate are still in order.
//
// Monitor held for every call.
#pragma once

#include "core/base/ref.h"
#include "core/engine/waitable.h"
#include "core/memory/frame_arena.h"
#include "core/space/space.h"

namespace fusefs {

class Mapping;
class PageCache;

class Folio : public RefCounted {
 public:
  Folio(PageCache& cache, Mapping& in, FileBlock at, std::byte* memory);
  ~Folio() override;

  // Changed by PageCache only.
  Mapping* mapping;  // null once it has been removed (truncated, replaced, forgotten)
  const FileBlock index;
  std::byte* const frame;
  const bool of_shared_block;  // `index` is a block of the volume
  bool uptodate = false;       // the whole page is valid
  bool dirty = false;
  bool writeback = false;
  bool locked = false;
  bool reading = false;     // locked, by who reads it from the device: may be removed all the same
  bool reclaimed = false;   // why it has gone, if it has
  bool read_ahead = false;  // read before anybody asked, and nobody has since
  Reservation reservation;  // the block a dirty page will need; may be empty
  Waitable changed;         // woken when locked, writeback, uptodate or mapping change

  Bytes bytes() const { return {frame, kPageBytes}; }

 protected:
  void last_reference_dropped() override;

 private:
  friend class PageCache;
  friend class Mapping;
  friend class ReclaimPolicy;
  // What ReclaimPolicy keeps about it.
  enum class Queue : uint8_t { none, spent, ahead, small, main };
  struct Reclaim {
    uint64_t key = 0;
    Folio* previous = nullptr;
    Folio* next = nullptr;
    Queue queue = Queue::none;  // where it is
    Queue home = Queue::none;   // where it goes, once it may be reclaimed
    uint8_t uses = 0;           // since it came there
  };

  PageCache& cache_;
  Reclaim reclaim_;
};

using FolioRef = Ref<Folio>;

}  // namespace fusefs
