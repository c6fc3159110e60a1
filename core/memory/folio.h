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
// A folio may be pinned: somebody else reads its frame, or stores into it, whenever he likes
// (core/file/pin.h). It stays where it is until the last pin has ended, whatever happens to the
// file. With a pin for writing it is storable:
//
//      dirty --pin--> storable, dirty <-------+---------------+
//                         |                   | written       | not written
//                         +--begin_bounce--> storable, under writeback: its frame still changes,
//                                            what is written is a copy
//
// Storable folios are not among those that next_dirty() finds, and do not count as dirty memory.
//
// A pinned page may be mapped instead: each load and store of who has it faults, until it is
// granted the right to go on without. It is then an ordinary page that is clean, dirty or under
// writeback:
//
//      clean, loads only --fault: dirty, store granted--> dirty
//      dirty --> writeback, protected --> written
//
// Where who has it does not let it be protected in time it is storable as well, for a while
// (core/file/late_rights.h).
//
// Invariants:
//   (1) A dirty folio over a hole or a shared extent owns one reserved block: writing it cannot
//       meet ENOSPC. Over a private extent, written or not, it goes in place and owns none.
//   (2) Only clean, unlocked, unreferenced, unpinned folios are reclaimed.
//   (3) Bytes beyond the end of the file are zero, but for what has been stored there through a
//   pin:
//       that is zeroed when the file grows over it.
//   (4) Who holds a folio's lock waits for nothing but its own I/O and copies: blockers of the
//       inode's two-state lock may wait for it.
//   (5) A locked folio that is not being read stays in its mapping: who removes folios waits for
//   it.
//       Only a shared block's is detached when its block has no other owner left (shared_blocks.h);
//       unlocking it and marking it uptodate are still in order.
//   (6) A pinned folio is uptodate and stays in its mapping.
//   (7) Who maps a page may store into it only while it is dirty, or under writeback and not
//       protected yet, or storable. Nobody cleans a page while such a right is being granted.
//
// Monitor held for every call.
#pragma once

#include <memory>
#include <optional>

#include "core/base/ref.h"
#include "core/engine/waitable.h"
#include "core/memory/frame_arena.h"
#include "core/memory/mapped_rights.h"
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

  struct Pinned {
    uint32_t read_count = 0;
    uint32_t write_count = 0;
    // Of a storable page: checksum of what the device has for it, zeroes where it has nothing.
    // Without a value it is not known. The frame may have changed since; this says whether.
    std::optional<uint64_t> device_sum;
    bool was_stored = false;  // the last bounce has found it changed: the next one may well
    std::shared_ptr<void> frame_owner;     // the frame is somebody else's, kept by this
    std::shared_ptr<MappedRights> rights;  // of a mapped page
    uint32_t granting_loads = 0;           // rights that are on their way: to load,
    uint32_t granting_stores = 0;          // and to load and store
  };
  std::unique_ptr<Pinned> pinned;  // null unless pinned, or in a frame of somebody else's
  bool is_pinned() const { return pinned && pinned->read_count + pinned->write_count != 0; }
  bool is_storable() const { return pinned && pinned->write_count != 0; }
  bool is_external() const { return pinned && pinned->frame_owner; }
  bool is_mapped() const { return pinned && pinned->rights; }
  bool is_granting_store() const { return pinned && pinned->granting_stores != 0; }
  bool is_granting() const {
    return is_granting_store() || (pinned && pinned->granting_loads != 0);
  }

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
