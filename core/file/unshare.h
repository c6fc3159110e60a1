// Unshare: a range gets blocks of its own, so that writing it cannot fail for want of space.
//
//     before    |ssss|pppp|....|ssss|        s: shared   p: private   .: hole
//     after     |cccc|pppp|uuuu|cccc|        c: copied   u: unwritten, unless holes are kept
//
// As fallocate(2) with FALLOC_FL_UNSHARE_RANGE and KEEP_SIZE, which the kernel does not pass to
// FUSE. The contents do not change. Works in steps of at most kUnshareStepBytes, each of them
// copied to new blocks first and then mapped: a crash leaves some steps done, and nothing else.
//
// The blocker state, alone, is held for a step and let go between them.
//
// Monitor held for every call.
#pragma once

#include "core/file/placement.h"
#include "core/file/truncate.h"
#include "core/file/writeback.h"

namespace fusefs {

inline constexpr uint64_t kUnshareStepBytes = 4 << 20;

struct UnshareStash {
  uint64_t copied = 0;   // bytes; survives restarts and errors
  NamespaceStash names;  // pins, and what it waits for in the end
  TwoStateHold hold;
  std::unique_ptr<WritebackStash> writeback;
  enum class Phase : uint8_t {
    start,
    flushing,
    counting,
    planning,
    placing,
    reading,
    writing,
    committing,
    holes,
    settling,
    done
  } phase = Phase::start;
  FileRange range{};
  BlockCount shared_blocks;  // as counted before the first is copied
  bool has_holes = false;
  bool settled = false;  // nothing of the step is in memory only
  FileBlock cursor;      // counted, then copied up to here
  // The step under way.
  std::vector<Extent> pieces;  // shared, ascending
  FileBlock step_end;
  Placement placement;
  AlignedBuffer buffer;
  IoGuard guard;
  Ref<IoTicket> ticket;
  WriteStamp stamp = 0;
  ShapeStash shape;
};

// Unshares [pos, pos + len) as far as it lies inside the file; len 0: to its end. Without
// `keep_holes`, holes get unwritten blocks. Durable when it returns. Changes no size, and no times
// unless a hole was filled.
//   Returns   bytes copied
//   Restarts  two_state, writeback, data_io, folio_locked, node_load, bitmap_load, journal_space,
//             space, durable
//   Errors    no_space: at once when the range needs more than there is, else what was copied
//             stays; invalid_argument (not a regular file), is_a_directory, not_permitted
//             (immutable, append-only), io_failed, corrupt, read_only_volume
Attempt<uint64_t> unshare_range(FileContext& context, Inode& inode, uint64_t pos, uint64_t len,
                                bool keep_holes, UnshareStash& stash);

}  // namespace fusefs
