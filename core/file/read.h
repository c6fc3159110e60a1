// Reading: from folios where there are any, else from the device straight into the caller's buffer.
//
// The kernel's page cache above keeps private clean data, so a read puts nothing into ours.
//
//     file     | folio | folio | written extent ....... | hole  |
//     buffer   | copy  | copy  | one device read ...... | zero  |
//
// A read takes no hold: it is planned in one attempt, and what it found then stays readable until
// it is done: folios by reference, blocks by the guard, even if the file is cut meanwhile.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"

namespace fusefs {

struct ReadStash {
  NodePins pins;
  Ref<IoTicket> ticket;  // device reads under way
  IoGuard guard;         // keeps released blocks from being reused under them
  // Memory to fill: from a folio, or with zeroes.
  struct Fill {
    FolioRef folio;
    uint32_t folio_offset = 0;
    size_t at = 0;  // in the buffer
    size_t len = 0;
  };
  std::vector<Fill> fills;
  size_t len = 0;  // what will be returned, once planned
  bool planned = false;
  bool filled = false;
};

// Reads up to `len` bytes at `pos` into `buffer`, whose first byte stands for file position
// round_down(pos, kBlockBytes) and which is page-aligned and large enough for whole blocks.
// The data begins at buffer[pos % kBlockBytes].
//   Returns   how many bytes; less than `len` only at the end of the file
//   Restarts  node_load, data_io, folio_locked, outside (copies from folios)
//   Errors    io_failed, corrupt, is_a_directory, invalid_argument (not a regular file)
// `buffer` stays valid until the operation ends.
Attempt<size_t> read_file(FileContext& context, Inode& inode, uint64_t pos, size_t len,
                          Bytes buffer, ReadStash& stash);

}  // namespace fusefs
