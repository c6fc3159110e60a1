// Reading: from folios where there are any, from the pages of shared blocks, else from the device
// straight into the caller's buffer.
//
// The kernel's page cache above keeps private clean data, so a read of private blocks puts nothing
// into ours. Blocks that several files own are read once for all of them (SharedBlocks): a read
// fault for a run of pages.
//
//     file     | folio | written extent ...... | shared extent ................ | hole  |
//     buffer   | copy  | one device read ..... | copy  | read, then copied .... | zero  |
//     device            ^ into the buffer              ^ into pages that stay
//
// A read takes no hold, unlike fault() (fault.h): it is planned in one attempt, and what it found
// then stays readable until it is done, even if the file is cut or written meanwhile: folios by
// reference, blocks by the guard. It returns the file as it was at that moment, which is after the
// call began, so nothing has to be verified again. With FaultPolicy::hold it keeps an adder hold
// from that moment to the end of its device reads, to measure what that costs the others.
//
// It never waits for memory: shared pages for which there is none are read into the buffer.
//
// Monitor held for every call.
#pragma once

#include <optional>

#include "core/file/page_reads.h"

namespace fusefs {

struct ReadStash {
  bool direct = false;  // O_DIRECT: for statistics
  NodePins pins;
  TwoStateHold hold;     // FaultPolicy::hold only
  Ref<IoTicket> ticket;  // device reads into the buffer, under way
  IoGuard guard;         // keeps released blocks from being reused under them
  PageReads page_reads;  // of shared pages that were missing
  // Memory to fill: from a folio, or with zeroes.
  struct Fill {
    FolioRef folio;
    uint32_t folio_offset = 0;
    size_t at = 0;  // in the buffer
    size_t len = 0;
    BlockNo block;  // of a shared page
  };
  std::vector<Fill> fills;
  std::optional<Error> error;  // of the page reads, until the others have ended too
  size_t len = 0;              // what will be returned, once planned
  uint64_t begin_ns = 0;
  bool faulted = false;  // shared pages were wanted, and counted
  bool released = false;
  bool planned = false;
  bool filled = false;
};

// Reads up to `len` bytes at `pos` into `buffer`, whose first byte stands for file position
// round_down(pos, kBlockBytes) and which is page-aligned and large enough for whole blocks.
// The data begins at buffer[pos % kBlockBytes].
//   Returns   how many bytes; less than `len` only at the end of the file
//   Restarts  node_load, data_io, folio_locked, outside (copies from folios); two_state with
//             FaultPolicy::hold
//   Errors    io_failed, corrupt, is_a_directory, invalid_argument (not a regular file)
// `buffer` stays valid until the operation ends.
Attempt<size_t> read_file(FileContext& context, Inode& inode, uint64_t pos, size_t len,
                          Bytes buffer, ReadStash& stash);

}  // namespace fusefs
