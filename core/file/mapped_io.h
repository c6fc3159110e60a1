// Direct I/O whose buffer is part of a file in memory, a window on it.
//
// A direct write of a file takes its bytes from pages of a mapping, perhaps of the same file. It
// blocks the file and drops the pages of its range, and may then find that its buffer is not in
// memory. A fault on the buffer now is refused: it would wait for what this very write holds. So:
//
//     lock, drop the range --> hold the buffer's pages --> device --> next part
//              ^                        |
//              |                        +--> not there: let go of everything
//              |                                   |
//              +---- (all of the rest) ------- fault them in, with nothing held
//                                                  |
//                              no byte written since the last time, with one page
//                                                  v
//                                     the rest through pages, written back
//
// The first time up to 1 MiB of the buffer is faulted in, then, as long as nothing moves on, one
// page. When that page is among those that the write drops, nothing ever will: same page, or two
// tasks whose files are each other's buffer and who drop what the other has just got.
//
// What is written: each byte as it was in the buffer at some moment during the call. Where buffer
// and target overlap, a part may find what an earlier part has written.
//
// A direct read needs no such dance: it blocks nothing. The device fills memory of its own, whose
// bytes are stored to the pages by write faults.
//
// Pages of the buffer that are pinned (pin.h) are there already and stay. The device takes them
// from their frames. Those that are pinned for writing it also fills where they are, as far as
// blocks and pages lie alike, without a lock: who has pinned them may store into them meanwhile as
// well. A target that is pinned is written through its pages.
//
// Monitor held for every call.
#pragma once

#include "core/file/fault.h"
#include "core/file/read.h"
#include "core/file/write.h"
#include "core/file/writeback.h"

namespace fusefs {

// Bytes of a file as memory. The operation keeps the inode.
struct MappedRange {
  Inode* inode = nullptr;
  uint64_t pos = 0;
  uint64_t len = 0;
};

struct MappedIoStash {
  MappedIoStash();
  ~MappedIoStash();
  uint64_t done = 0;
  WriteWatch* watch = nullptr;  // of a write

  // Writing: the part under way.
  struct Source;
  std::unique_ptr<Source> source;
  WriteStash write;
  enum class Phase : uint8_t { direct, filling, storing, flushing, dropping } phase = Phase::direct;
  std::unique_ptr<WritebackStash> writeback;
  // Both: a part in memory of its own.
  AlignedBuffer buffer;
  size_t filled = 0;
  size_t stored = 0;
  std::unique_ptr<ReadStash> read;
  FaultStash fault;
  // Reading: pages that the device fills now; their references keep the memory.
  std::vector<FolioRef> pinned;
  bool filling = false;  // the part under way goes through memory of its own
};

// Writes `buffer` to `inode` at `pos`, past the caches as far as that is possible.
//   Returns   bytes written; short as write_direct(), and where the buffer ends with its file
//   Restarts  as write_direct() and fault()
//   Errors    as write_direct(); bad_address: the buffer lies beyond the end of its file; with
//             SelfIoPolicy::error also where only pages would do
Attempt<size_t> write_mapped(FileContext& context, Inode& inode, uint64_t pos,
                             const MappedRange& buffer, MappedIoStash& stash);

// Reads `inode` from `pos` into `buffer`, whose pages become dirty. Where the file is cut
// meanwhile, the buffer may have zeroes behind what was read, to the end of its block.
//   Returns   bytes read; short at the end of the file, or where the buffer ends with its file
//   Restarts  as read_file() and fault()
//   Errors    as read_file(); bad_address; no_space: none for the buffer's pages
Attempt<size_t> read_mapped(FileContext& context, Inode& inode, uint64_t pos,
                            const MappedRange& buffer, MappedIoStash& stash);

}  // namespace fusefs
