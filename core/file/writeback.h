// Writeback: dirty folios to the device, in large runs, and the commit that shows them.
//
//   1. a run of dirty folios, contiguous in the file: marked writeback (stable from here)
//   2. extents: in place where private and written; new blocks near the last extent otherwise,
//      as few and large as free space allows
//   3. device writes; wait
//   4. one transaction: map the new blocks, size on the device up to the end of the data written,
//      times; it shows the data only after the flush that the journal puts before it
//   5. folios are clean (or dirty again, if the device failed: the error is kept for fsync)
//
// The size on disk may grow only over bytes that are on disk; with the end of the block, the file
// would end in zeroes nobody wrote.
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"

namespace fusefs {

// Bytes that one run writes at most.
inline constexpr uint64_t kWritebackRunBytes = 4ull << 20;

struct WritebackStash {
  NodePins pins;
  TwoStateHold hold;           // adder, while a run is under way
  bool caller_blocks = false;  // the caller holds the inode's blocker state: take no hold
  ~WritebackStash();
  WritebackStash();
  // Extended by the owner of writeback.cc.
  struct State;
  std::unique_ptr<State> state;
  FileBlock cursor;  // everything dirty before it has been dealt with
};

// Writes what is dirty in `range` at the time of the call, and waits for writeback that others
// began there. Afterwards the data is on the device and the transaction that shows it is appended
// to the journal (inode.changed_seq), neither of them necessarily durable.
//   Errors  io_failed, device_gone, no_space (backing file): the folios stay dirty, the error is
//           kept in the inode
Attempt<void> write_back(FileContext& context, Inode& inode, FileRange range,
                         WritebackStash& stash);

// The same for the inode's attributes alone: size, times. Requires that its data is written.
Attempt<void> save_attr(FileContext& context, Inode& inode, NodePins& pins);

// The background flusher: writes everything that has been dirty for a second, and more when the
// page cache wants it. A background operation, started by the volume.
std::unique_ptr<Operation> make_flusher(FileContext& context);

}  // namespace fusefs
