// copy_file_range and clones: blocks are shared where both ranges are block-aligned to each
// other, the rest is copied through folios.
//
// Monitor held for every call.
#pragma once

#include "core/file/truncate.h"
#include "core/file/write.h"

namespace fusefs {

struct CopyStash {
  NamespaceStash names;
  WritebackStash writeback;
  TwoStateHold source_hold;
  TwoStateHold target_hold;
  FileBlock cursor;
  int phase = 0;
  uint64_t done = 0;
  AlignedBuffer buffer;
  size_t buffered = 0;
  WriteStash write;
  struct ReadPart;
  std::shared_ptr<ReadPart> read;
};

// Makes `len` bytes of `to` at `to_pos` read as those of `from` at `from_pos`; the target grows as
// needed. The source's dirty pages in the range are written first: the copy is the source at one
// moment. One call shares at most kCloneStepBlocks blocks per transaction; a crash leaves a prefix.
//   Returns   bytes copied; short at the end of the source
//   Errors    overlapping_ranges (same file), no_space, file_too_large, not_permitted, io_failed
Attempt<uint64_t> copy_range(FileContext& context, Inode& from, uint64_t from_pos, Inode& to,
                             uint64_t to_pos, uint64_t len, CopyStash& stash);

}  // namespace fusefs
