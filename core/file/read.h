// Reading: from folios where there are any, else from the device straight into the caller's buffer.
//
// The kernel's page cache above keeps private clean data, so a read puts nothing into ours.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"

namespace fusefs {

struct ReadStash {
  NodePins pins;
  Ref<IoTicket> ticket;  // device reads under way
  IoGuard guard;         // keeps released blocks from being reused under them
  std::vector<FolioRef> folios;
  size_t len = 0;  // what will be returned, once planned
  bool planned = false;
  bool copied = false;
};

// Reads up to `len` bytes at `pos` into `buffer`, whose first byte stands for file position
// round_down(pos, kBlockBytes) and which is page-aligned and large enough for whole blocks.
// The data begins at buffer[pos % kBlockBytes].
//   Returns   how many bytes; less than `len` only at the end of the file
//   Restarts  node_load, data_io, folio_locked, outside (copies from folios)
//   Errors    io_failed, corrupt, is_a_directory
// `buffer` stays valid until the operation ends.
Attempt<size_t> read_file(FileContext& context, Inode& inode, uint64_t pos, size_t len,
                          Bytes buffer, ReadStash& stash);

}  // namespace fusefs
