// Truncate, fallocate, seek: the shape of a file.
//
// All hold the blocker state of the inode's two-state lock until they are done, write out and drop
// the folios concerned, and work in steps of one transaction each. A truncate that takes more than
// one step leaves an orphan item until it is finished, so that a mount after a crash finishes it.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"
#include "core/file/writeback.h"

namespace fusefs {

struct ShapeStash {
  NamespaceStash names;
  TwoStateHold hold;
  WritebackStash writeback;
  Ref<IoTicket> ticket;
  Reservation reservation;
  std::vector<BlockRange> allocated;
  FileBlock cursor;
  int phase = 0;
  FolioRef folio;
};

// Sets the size. Growing leaves a hole; shrinking frees, and zeroes the rest of the last block.
//   Errors  file_too_large, no_space (a shared last block must be copied), io_failed,
//           not_permitted
Attempt<void> set_size(FileContext& context, Inode& inode, uint64_t size, bool kill_suid,
                       ShapeStash& stash);

enum class FallocateMode : uint8_t { allocate, punch_hole, zero_range };
//   Errors  no_space: nothing beyond what was allocated before is undone; file_too_large
Attempt<void> fallocate_range(FileContext& context, Inode& inode, FallocateMode mode, uint64_t pos,
                              uint64_t len, bool keep_size, ShapeStash& stash);

// The next position at or after `pos` with data, or in a hole. Dirty pages are data.
//   Errors  beyond_eof
Attempt<uint64_t> seek_data(FileContext& context, Inode& inode, uint64_t pos, NodePins& pins);
Attempt<uint64_t> seek_hole(FileContext& context, Inode& inode, uint64_t pos, NodePins& pins);

// What is left of a truncate that a crash interrupted (OrphanKind::truncate).
Attempt<void> finish_truncate(FileContext& context, Inode& inode, ShapeStash& stash);

}  // namespace fusefs
