// Pinning: pages of a file in the hands of somebody who reads or stores whenever he likes.
//
//     begin_pin   faults, a batch at a time: for writing each page is the file's own, has the block
//                 it will need, and is dirty; then it is pinned. With frames of the caller's the
//                 page moves there.
//     pinned      fsync, sync, clones and unmount write what has changed (writeback.h); the flusher
//                 and reclaim never come here
//     end_pin     what has changed is an ordinary dirty page again, the rest is clean; pages in the
//                 caller's frames move back or go
//
// A mapped range begins empty. Who maps it has nothing of it until he faults, and may store into a
// page only after a fault for a store: pages come one by one, are dirty only when stored into, and
// are written by everybody who writes dirty pages, from their frames.
//
//     load faults      fault_pinned: the page comes to its frame, pinned  --> may load
//     store faults     fault_pinned: the write fault of any write; dirty  --> may store
//     writeback        marked; `protect`: may load only; written. A store faults, and waits
//     end_pin          as above
//
// No lock is held while a range is pinned: nobody waits for a pin. What becomes of pinned pages
// when the file changes: pinned_range.h.
//
// Monitor held for every call.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "core/file/fault.h"
#include "core/file/file_context.h"
#include "core/file/tail.h"

namespace fusefs {

struct PinRequest {
  FileRange range{};  // not empty, inside the file
  PinKind kind = PinKind::read;
  uint32_t uid = 0;        // whose limit it counts for
  bool kill_suid = false;  // for writing: the caller has no CAP_FSETID
  // Where the pages are to be, one after the other, page-aligned; kept alive by `frames_owner` as
  // long as anybody uses one of them. Null: in the page cache.
  std::byte* frames = nullptr;
  std::shared_ptr<void> frames_owner;
  // Makes ready the memory of the pages that come next, of at most kPreparePages. Called without
  // the monitor, not for kind mapped, and more than once for a page if others prepare it as well.
  std::function<void(FileRange)> prepare = {};
  // Of kind mapped, which needs frames as well: takes the right to store from everybody who maps
  // pages of the range, and returns when it is gone. Called without the monitor, also for pages
  // that nobody may store into. It may last as long as it likes (late_rights.h). Lives
  // until the pin has ended and what uses it has.
  ProtectPages protect = {};
  bool stores = true;  // of kind mapped: whether anybody may store at all
};

// A huge page.
inline constexpr BlockCount kPreparePages{512};

struct PinStash {
  NamespaceStash names;
  bool checked = false;
  TailStash tail;
  FaultStash fault;
  Ref<Pin> pin;                 // begun
  BlockCount prepared_count{};  // pages
  std::optional<Error> error;   // what has been pinned is being given back
};

// Pins the range. A page may be pinned many times, but its frame is the one it has: with `frames`,
// none of its pages may be pinned anywhere else. A mapped range overlaps no other pin at all.
//   Returns   the pin; it goes on, also without references, until end_pin()
//   Restarts  as fault(), writeback, folio_locked, outside, again (others are let in between
//             batches)
//   Errors    nothing is pinned: beyond_eof; too_busy (as above); pin_limit,
//             pin_limit_per_user; no_memory (half of the page cache is promised to pins);
//             invalid_argument, is_a_directory; no_space, read_only_volume, not_permitted (for
//             writing); io_failed, device_gone, corrupt
Attempt<Ref<Pin>> begin_pin(FileContext& context, Inode& inode, const PinRequest& request,
                            PinStash& stash);

// Ends it. Of a mapped range nobody may be kept from carrying out grants any more, or have dropped
// them: they are waited for. Stores that come before the attempt that lets go of their page are
// part of the file. Nothing to do for one that has ended.
//   Restarts  two_state, folio_locked (also while a right to a page is being granted), writeback,
//             memory (pages in the caller's frames), again
Attempt<void> end_pin(FileContext& context, Pin& pin);

enum class PinAccess : uint8_t { load, store };

// One fault. Destroyed half-way, what was being granted counts as granted.
struct PinFaultStash {
  PinFaultStash() = default;
  PinFaultStash(const PinFaultStash&) = delete;
  PinFaultStash& operator=(const PinFaultStash&) = delete;
  ~PinFaultStash() { end_grant(); }
  void end_grant();

  InodeRef inode;
  FaultStash fault;
  PageCache* cache = nullptr;
  FolioRef granting;
  bool to_store = false;
  std::shared_ptr<MappedRights> rights;
  MappedRights::Call call = 0;
  bool granted = false;
};

// A fault of somebody who maps `pin`, in page `index` of the file, which is in its range. When the
// page is in its frame, and for a store dirty and not being written, `grant` is called, without the
// monitor: it gives whoever has faulted the right to load, or to load and store. Nobody takes the
// right to store back before it returns. Readers do not wait for it, only who ends the pin, and for
// a right to store who cleans the page, though not for long (late_rights.h).
//   Restarts  as fault(); memory (dirty limit); folio_locked, writeback; outside
//   Errors    nothing has been granted, and the page is as it was: no_space, pin_limit,
//             pin_limit_per_user; beyond_eof; bad_address (the pin ends, or has ended);
//             not_permitted (loads only); io_failed, device_gone, corrupt, read_only_volume
Attempt<void> fault_pinned(FileContext& context, Pin& pin, FileBlock index, PinAccess access,
                           const std::function<void()>& grant, PinFaultStash& stash);

}  // namespace fusefs
