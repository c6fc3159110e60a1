// Truncate, fallocate, seek: the shape of a file.
//
// All hold the blocker state of the inode's two-state lock, alone, until they are done, and work in
// steps of one transaction each, which drop the folios of what they cut. A truncate that takes more
// than one step leaves an orphan item until it is finished, so that a mount after a crash finishes
// it; after an error whoever makes the file longer does (tail.h).
//
// What is cut off within a block becomes zero on the device before the size or the map changes.
// Bytes beyond the end of a file are zero on the device, or known not to be: then who grows the
// file clears them first (tail.h).
//
// Pinned pages stay: pinned_range.h.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"
#include "core/file/pinned_range.h"
#include "core/file/tail.h"

namespace fusefs {

struct ShapeStash {
  NamespaceStash names;
  TwoStateHold hold;
  EdgeStash first_edge;
  EdgeStash last_edge;
  TailStash tail;
  Reservation reservation;
  Reservation next;                     // for storable pages whose blocks go
  ProtectRange protect;                 // mapped pages whose blocks go
  std::optional<BlockRange> allocated;  // handed out, not committed
  Space* space = nullptr;               // where `allocated` goes back to
  FileBlock cursor;                     // cut up to here
  FileBlock allocate_cursor;            // allocated up to here
  enum class Phase : uint8_t { start, cutting, allocating, finishing, done } phase = Phase::start;
  ~ShapeStash();
};

// Sets the size. Growing leaves a hole; shrinking frees, and zeroes the rest of the last block.
//   Restarts  two_state, folio_locked, data_io, node_load, journal_space
//   Errors    file_too_large, no_space (a shared last block must be copied), io_failed,
//             not_permitted (immutable, append-only). The size is the old one or the new one; if it
//             is the old one, nothing is cut but perhaps the rest of the new last block.
Attempt<void> set_size(FileContext& context, Inode& inode, uint64_t size, bool kill_suid,
                       ShapeStash& stash);

enum class FallocateMode : uint8_t { allocate, punch_hole, zero_range };
// `len` is at least 1.
//   Errors  no_space: at once if the volume could never hold it, else what was allocated stays;
//           file_too_large; not_permitted; io_failed. What is not punched or zeroed is as it was
//           written.
Attempt<void> fallocate_range(FileContext& context, Inode& inode, FallocateMode mode, uint64_t pos,
                              uint64_t len, bool keep_size, ShapeStash& stash);

// The next position at or after `pos` with data, or in a hole. Dirty pages are data.
//   Errors  beyond_eof
Attempt<uint64_t> seek_data(FileContext& context, Inode& inode, uint64_t pos, NodePins& pins);
Attempt<uint64_t> seek_hole(FileContext& context, Inode& inode, uint64_t pos, NodePins& pins);

// What is left of a truncate that a crash interrupted (OrphanKind::truncate): removes what lies
// beyond the size, then the orphan item.
Attempt<void> finish_truncate(FileContext& context, Inode& inode, ShapeStash& stash);
// The same after an error. Requires the blocker state, alone, and an empty stash at first.
Attempt<void> finish_cut(FileContext& context, Inode& inode, ShapeStash& stash);

// Waits until no folio of `range` is being copied into or written. Requires the blocker state,
// alone: nobody adds any. In the same attempt they may be discarded, with the commit that takes
// what they are of; also those that are being read: who reads them starts over.
//   Restarts  folio_locked, writeback
Attempt<void> await_folios(Inode& inode, FileRange range);
// And drops the folios of `range`, dirty or not: of a file that is nobody's any more. Pinned ones
// stay, unlocked and not under writeback.
//   Restarts  folio_locked, writeback
Attempt<void> drop_folios(FileContext& context, Inode& inode, FileRange range);

}  // namespace fusefs
