// copy_file_range and clones: blocks are shared where both ranges lie alike within their blocks,
// the rest is copied through folios.
//
//     source   |..h|bbbb|bbbb|bbbb|t..|        h, t: copied
//     target   |..h|bbbb|bbbb|bbbb|t..|        b:    shared, one tree change per extent
//
// A last block that ends with the source is shared too, when the target ends there as well.
//
// What is shared in one call is the source at one moment, and one transaction up to a size:
// remap.h. Over pinned pages of the target it is kPinnedCloneBytes at a time: they get the bytes.
//
// Monitor held for every call.
#pragma once

#include "core/file/read.h"
#include "core/file/remap.h"
#include "core/file/write.h"

namespace fusefs {

struct CopyStash {
  uint64_t done = 0;  // bytes finished; survives restarts and errors
  uint64_t len = 0;   // as clipped to the source
  bool begun = false;
  std::optional<Error> error;  // that made the copy shorter
  NamespaceStash names;
  // The segment under way.
  uint64_t segment_len = 0;  // 0: none
  bool sharing = false;
  enum class Phase : uint8_t {
    start,
    filling,
    storing,
    flushing,
    locking,
    sharing
  } phase = Phase::start;
  // Sharing.
  std::unique_ptr<WritebackStash> writeback;
  PairHold hold;
  TailStash tail;
  FileBlock cursor;  // source blocks before it are shared
  PinnedSharing pinned;
  // Copying.
  AlignedBuffer buffer;
  size_t filled = 0;
  std::unique_ptr<ReadStash> read;
  std::unique_ptr<WriteStash> write;
};

// Makes `len` bytes of `to` at `to_pos` read as those of `from` at `from_pos`; the target grows as
// needed. The source's dirty pages in the range are written first: what is shared is the source at
// one moment, during which neither file is written. Each transaction shares a prefix further; a
// crash leaves such a prefix.
//   Returns   bytes copied; less at the end of the source, or when an error follows some progress
//             (stash.error has it)
//   Restarts  two_state, writeback, data_io, folio_locked, node_load, journal_space, memory
//   Errors    overlapping_ranges (same file), no_space, file_too_large, not_permitted, io_failed,
//             invalid_argument (not regular files)
Attempt<uint64_t> copy_range(FileContext& context, Inode& from, uint64_t from_pos, Inode& to,
                             uint64_t to_pos, uint64_t len, CopyStash& stash);

// How much of the target is the source's by now, between two attempts of a copy from `from_pos`.
uint64_t copied_bytes(const CopyStash& stash, uint64_t from_pos);

}  // namespace fusefs
