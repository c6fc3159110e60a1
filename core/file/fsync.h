// fsync, fdatasync, and syncing everything.
//
// Monitor held for every call.
#pragma once

#include "core/file/writeback.h"

namespace fusefs {

struct FsyncStash {
  WritebackStash writeback;
  Ref<IoTicket> flush;
  int phase = 0;
  JournalSeq seq;
  WriteStamp stamp = 0;
  std::vector<InodeRef> inodes;  // sync_all
};

// When it returns, the file's data and what is needed to reach it are durable; without
// `data_only` all its attributes too. Reports background write errors once per open file.
//   Errors  io_failed, no_space, device_gone
Attempt<void> fsync(FileContext& context, OpenFile& file, bool data_only, FsyncStash& stash);
// For directories and special files: their transactions are durable.
Attempt<void> fsync_inode(FileContext& context, Inode& inode, FsyncStash& stash);
// Everything dirty of all files, and the journal.
Attempt<void> sync_all(FileContext& context, FsyncStash& stash);

}  // namespace fusefs
