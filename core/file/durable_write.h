// DurableWrite: from "these blocks" to "durable", for writes that go to the device themselves:
// writethroughs and direct writes, also those that nobody wants durable.
//
//     begin() --> the caller adds its data --> advance() ------------> settle()
//                                              device write, commit    durable
//                                              holds are kept          nothing is held
//
// Who listens to the ticket (core/io/completion.h) calls landed() from there, and may let go of
// everything if nothing is to be committed; advance() goes on from that.
//
// What O_DSYNC (data) and O_SYNC (all) cost:
//
//                      | pure overwrite                   | anything else
//     -----------------+----------------------------------+----------------------------------
//     data, FUA        | the write                        | write; then the journal's batch
//     data, no FUA     | write; flush                     | write; flush, by the batch; batch
//       nobody else    | the write, flushed by the kernel |
//     all              | the same, and beside it a batch  | the same: the commit has the times
//                      | with the times                   |
//
// A flush is shared by everybody whose write had completed when it began (write_cache.h), a batch
// by everybody who committed while the one before it was being written (journal.h): sixteen
// writers cost little more than one. Who has nobody to share with is a lone write (write_cache.h).
// A device without a volatile cache needs neither flush nor FUA.
//
// A pure overwrite (blocks mapped, written and the file's own, inside the size) needs no journal
// write for its data: only the transaction that mapped the blocks must be durable, and mostly is.
//
// Part of a stash. Monitor held for every call.
#pragma once

#include <optional>

#include "core/file/placement.h"
#include "core/file/write.h"

namespace fusefs {

class DurableWrite {
 public:
  DurableWrite() = default;
  DurableWrite(const DurableWrite&) = delete;
  DurableWrite& operator=(const DurableWrite&) = delete;

  // Begins a run of device writes. What the caller adds to the gather and submits, in this attempt,
  // is the data of `placement`, up to `end` as in advance(). Its segments are placed; the memory
  // stays as it is until advance() has ended.
  // May be called again once advance() or await_data() has ended: settle() is for all runs
  // together.
  IoGather begin(FileContext& context, const Inode& inode, SyncLevel wanted,
                 const Placement& placement, uint64_t end);

  // The first part of advance(), as far as the device.
  Attempt<void> await_data(FileContext& context, Inode& inode, const Placement& placement,
                           uint64_t end, NodePins& pins);
  // Bytes of the run have gone with the write of another, which has been committed. To be called
  // between await_data() and advance(), or in place of begin() and await_data() if all have.
  void joined(FileContext& context, Inode& inode, SyncLevel wanted);
  // The device has done the run's data, without error. `ended`: nothing is to be committed, and the
  // caller lets go of the blocks, so that advance() must not look at them any more.
  void landed(FileContext& context, Inode& inode, bool ended);
  // It has not: to be called by who listens to the ticket, at once.
  void refused(FileContext& context, Error error);
  // After landed(): whether something is left for advance() or settle().
  bool owes(const FileContext& context) const;

  // Waits for the device, counts the change of the contents (touch_contents()), and commits what
  // must be: the placement, the size up to `end` (where the data ends, not its last block), and
  // with SyncLevel::all the times, beside the data. Afterwards, or after an error, the device is
  // done with the memory.
  //   Restarts  data_io, and as Placement::commit() and save_attr()
  //   Errors    io_failed, device_gone, no_space (backing file), read_only_volume, corrupt
  Attempt<void> advance(FileContext& context, Inode& inode, Placement& placement, uint64_t end,
                        NodePins& pins);
  // Of the run's data.
  const Ref<IoTicket>& ticket() const { return ticket_; }

  // Until all runs are durable, as far as was wanted; nothing need be held.
  //   Restarts  durable;  Errors  of the flush or the batch
  Attempt<void> settle(FileContext& context);

 private:
  enum class Phase : uint8_t { idle, writing, committing, done };

  void save_times(FileContext& context, Inode& inode, NodePins& pins, std::optional<Restart>& wait);
  void require(JournalSeq seq);
  void touch(FileContext& context, Inode& inode);
  void clear_run(SyncLevel wanted);

  Phase phase_ = Phase::idle;
  SyncLevel wanted_ = SyncLevel::none;
  bool fua_ = false;
  bool lone_ = false;  // until the write cache has heard of its end
  bool touched_ = false;
  bool ended_ = false;  // with landed()
  bool times_saved_ = false;
  bool needed_commit_ = false;  // at some time
  std::optional<Error> error_;  // of the times; told when the device is done
  Ref<IoTicket> ticket_;
  WriteStamp stamp_ = 0;  // of this run; 0: durable when it completes

  // What settle() waits for.
  JournalSeq seq_;
  WriteStamp flush_stamp_ = 0;
  Ref<IoTicket> flush_;
  bool joined_ = false;  // counted as one who waits for the batch
};

}  // namespace fusefs
