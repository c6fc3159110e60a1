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
// No lock is held while a range is pinned: nobody waits for a pin. What becomes of pinned pages
// when the file changes: pinned_range.h.
//
// Monitor held for every call.
#pragma once

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
};

struct PinStash {
  NamespaceStash names;
  bool checked = false;
  TailStash tail;
  FaultStash fault;
  Ref<Pin> pin;                // begun
  std::optional<Error> error;  // what has been pinned is being given back
};

// Pins the range. A page may be pinned many times, but its frame is the one it has: with `frames`,
// none of its pages may be pinned anywhere else.
//   Returns   the pin; it goes on, also without references, until end_pin()
//   Restarts  as fault(), writeback, folio_locked, again (others are let in between batches)
//   Errors    nothing is pinned: beyond_eof; too_busy (pinned in another frame); pin_limit,
//             pin_limit_per_user; no_memory (half of the page cache is promised to pins);
//             invalid_argument, is_a_directory; no_space, read_only_volume, not_permitted (for
//             writing); io_failed, device_gone, corrupt
Attempt<Ref<Pin>> begin_pin(FileContext& context, Inode& inode, const PinRequest& request,
                            PinStash& stash);

// Ends it. Stores that come before the attempt that lets go of their page are part of the file.
// Nothing to do for one that has ended.
//   Restarts  two_state, folio_locked, writeback, memory (pages in the caller's frames), again
Attempt<void> end_pin(FileContext& context, Pin& pin);

}  // namespace fusefs
