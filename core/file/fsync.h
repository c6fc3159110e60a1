// fsync, fdatasync, and syncing everything.
//
// What fsync waits for is the least that makes the file durable:
//
//     the inode's last transaction is not durable     its batch (which flushes for the data it
//                                                     shows), started at once
//     data overwritten in place is not durable        a flush, beside the batch
//     neither                                         nothing
//
// Monitor held for every call.
#pragma once

#include "core/file/writeback.h"

namespace fusefs {

struct FsyncStash {
  WritebackStash writeback;
  Ref<IoTicket> flush;
  enum class Phase : uint8_t { writing, saving, waiting, done } phase = Phase::writing;
  JournalSeq seq;
  WriteStamp stamp = 0;
  // sync_all
  std::vector<InodeRef> inodes;  // not started yet
  Ref<InodeWriters> writers;
};

// When it returns, the file's data and what is needed to reach it are durable; without
// `data_only` all its attributes too. Reports background write errors once per open file.
//   Restarts  as write_back(), durable
//   Errors    io_failed, no_space, device_gone
Attempt<void> fsync(FileContext& context, OpenFile& file, bool data_only, FsyncStash& stash);
// The second half: what has been written is durable, and what is needed to reach it. Begins with
// stash.phase saving.
Attempt<void> make_durable(FileContext& context, Inode& inode, bool data_only, FsyncStash& stash);
// For directories and special files: their transactions are durable.
Attempt<void> fsync_inode(FileContext& context, Inode& inode, FsyncStash& stash);
// Everything dirty of all files, and the journal. What can be written is, also after an error.
Attempt<void> sync_all(FileContext& context, FsyncStash& stash);

}  // namespace fusefs
