// Writing: buffered into folios, or direct from the caller's buffer to the device.
//
// Buffered: each page is made ready (read first if it is written in part and has data), space is
// reserved, the bytes are copied outside the monitor into locked folios, and the pages are dirty:
// ENOSPC appears here and not later. Size and times change in memory; the tree follows with the
// data (writeback.h).
//
// Direct: whole blocks go from the caller's buffer to the device, in place where the extent is
// private and written, else to new blocks that the commit maps after the data is there. Unaligned
// edges go through folios and are written at once. Overlapping folios are written and dropped
// first, under the blocker state of the inode's two-state lock.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"

namespace fusefs {

struct WriteRequest {
  uint64_t pos = 0;
  ConstBytes data;         // valid and unchanged until the operation ends
  bool append = false;     // pos is the end of the file
  bool kill_suid = false;  // the caller has no CAP_FSETID
};

struct WriteStash {
  NamespaceStash names;
  TwoStateHold hold;  // direct writes only
  Ref<IoTicket> ticket;
  std::vector<FolioRef> folios;
  Reservation reservation;
  std::vector<BlockRange> allocated;  // handed out, not committed
  uint64_t pos = 0;                   // where the write goes, once decided (append)
  uint64_t done = 0;  // bytes finished: the write goes on from there after a restart
  int phase = 0;
  ~WriteStash();
  // Extended by the owner of write.cc.
  struct State;
  std::unique_ptr<State> state;
  WriteStash();
};

//   Returns   bytes written; short only when space or an error ends it after some
//   Restarts  node_load, data_io, folio_locked, writeback, two_state, memory (dirty limit), space
//   Errors    no_space, file_too_large, io_failed, corrupt, read_only_volume, not_permitted
//             (immutable; append-only without append)
Attempt<size_t> write_buffered(FileContext& context, Inode& inode, const WriteRequest& request,
                               WriteStash& stash);
// The same, and the bytes are on their way past every cache of ours when it returns (durable after
// a flush, as any O_DIRECT write).
Attempt<size_t> write_direct(FileContext& context, Inode& inode, const WriteRequest& request,
                             WriteStash& stash);

}  // namespace fusefs
