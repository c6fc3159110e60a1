// Journal: the redo log. Transactions become durable here, several at a time.
//
//     append() --> open batch --closed--> [flush if it shows data] --> write (FUA) --> durable
//
// One batch is being written at a time; transactions that come meanwhile gather in the next one
// (group commit). A batch is closed when somebody waits for it, when it is a second old, or when
// it has reached kBatchBytesMax. The ring is freed from its tail by checkpoints only.
//
// It knows neither trees nor bitmaps: a transaction is a string of encoded changes
// (core/format/journal_format.h).
//
// Invariants:
//   (1) Transactions become durable in the order of their seq.
//   (2) A transaction that shows data is written after a flush that began when the data's writes
//       had completed.
//   (3) A batch never overwrites one that a crash now would replay.
//
// Errors: a failed flush or batch write fails the volume's Health; every wait then returns the
// error, and nothing is appended any more.
//
// Monitor held for every call.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "core/base/units.h"
#include "core/engine/scheduler.h"
#include "core/format/journal_format.h"
#include "core/io/block_device.h"
#include "core/io/health.h"
#include "core/io/write_cache.h"
#include "core/journal/batch.h"
#include "core/stats/histogram.h"

namespace fusefs {

struct JournalLayout {
  BlockNo first;  // of the ring
  BlockCount blocks;
  uint64_t checksum_seed = 0;
};

// Where a batch starts: what the superblock keeps as the journal's tail.
struct JournalMark {
  BlockNo block;
  uint64_t batch = 1;
};

struct JournalStats {
  uint64_t transaction_count = 0;
  uint64_t batch_count = 0;
  uint64_t write_bytes = 0;
  uint64_t flush_count = 0;  // batches that had to wait for a flush of the data they show
  uint64_t used_bytes = 0;   // of the ring, up to the last transaction appended
  uint64_t size_bytes = 0;
  uint64_t space_wait_count = 0;
  Histogram commit_latency_ns;   // from closing a batch to durable
  Histogram batch_transactions;  // transactions per batch
  Histogram batch_joined;        // synchronous writes that waited for it, of those with any
};

// Everything a transaction changes is committed by itself within this time.
inline constexpr uint64_t kCommitIntervalNs = kNsPerSecond;
// Closed batches that wait for the device take at most this; then prepare() waits for it. Bounds
// memory, and what a wait_durable() behind a burst of others has to wait for.
inline constexpr uint64_t kJournalUnwrittenBytesMax = 4ull * kBatchBytesMax;

class Journal {
 public:
  // `tail` is where the live part of the ring starts, `head` where the next batch goes (equal for
  // an empty journal), `next_seq` the next transaction's number.
  Journal(Scheduler& scheduler, BlockDevice& device, WriteCache& write_cache, Health& health,
          const JournalLayout& layout, const JournalMark& tail, const JournalMark& head,
          JournalSeq next_seq);
  ~Journal();

  // Starts the writer, a background operation.
  void start();

  // Makes sure that append() of `bytes` of changes (at most kTransactionBytesMax) is possible in
  // this attempt.
  //   Restarts  journal_space: until a checkpoint has freed some; asks for one
  //             durable: too much waits to be written
  //   Errors    read_only_volume, when the volume is no longer writable
  Attempt<void> prepare(uint32_t bytes);

  // Appends a transaction; cannot fail after prepare() in the same attempt.
  // `data_stamp` is the last data write that this transaction shows (0: none).
  JournalSeq append(ConstBytes changes, uint32_t change_count, WriteStamp data_stamp);

  //   Restarts  until `seq` is durable; the batch is closed as soon as the writer is free
  //   Errors    of the flush or the write, also when an earlier batch's failed
  Attempt<void> wait_durable(JournalSeq seq);
  // One more operation will wait for `seq`, for the statistics.
  void join(JournalSeq seq);
  // Closes the open batch as soon as possible, without waiting.
  void kick();

  JournalSeq last_seq() const { return last_seq_; }  // appended
  JournalSeq durable_seq() const { return durable_seq_; }
  // Woken whenever durable_seq() has grown, and on failure.
  Waitable& durable_changed() { return durable_changed_; }

  // Ends the open batch, so that everything up to last_seq() lies before the returned batch number;
  // a checkpoint that contains it may later release_before() it.
  uint64_t seal();
  // Where batch `number` starts. Requires that seal() returned it and it was not released since.
  //   Restarts  durable: until all batches before it are
  //   Errors    as wait_durable()
  Attempt<JournalMark> mark_of(uint64_t number);
  // Frees the ring before `mark`. Requires that a superblock with this tail is durable.
  void release_before(const JournalMark& mark);
  // No checkpoint will free anything any more: whoever waits for space looks at Health again.
  // For whoever fails Health; the journal does it by itself when it was the one.
  void wake_after_failure();

  // Time for a checkpoint: more than half of the ring is in use, or somebody waits for space.
  bool wants_checkpoint() const;
  // Woken when wants_checkpoint() becomes true, and on failure.
  Waitable& checkpoint_wanted() { return checkpoint_wanted_; }

  const JournalStats& stats();

 private:
  class Writer;  // journal_writer.h
  friend class Writer;

  uint64_t used_blocks() const { return closed_blocks_ + open_->blocks(); }
  void close_open();
  Batch& batch_of(JournalSeq seq);
  void arm_timer();
  bool open_is_due() const;
  // For the writer: the next batch to write, or null.
  std::unique_ptr<Batch> take_closed();
  void batch_durable(std::unique_ptr<Batch> batch);
  void batch_failed(std::unique_ptr<Batch> batch, Error error);

  Scheduler& scheduler_;
  BlockDevice& device_;
  WriteCache& write_cache_;
  Health& health_;
  const JournalLayout layout_;

  std::unique_ptr<Batch> open_;                // gathers
  std::deque<std::unique_ptr<Batch>> closed_;  // wait for the writer, in order
  Batch* writing_ = nullptr;                   // the writer's
  AlignedBuffer spare_;                        // of the last batch written
  Writer* writer_ = nullptr;

  JournalMark tail_;
  BlockNo next_block_;             // where the open batch will go
  uint64_t closed_blocks_ = 0;     // from the tail to next_block_
  uint64_t unwritten_blocks_ = 0;  // of these, closed and not durable
  uint64_t durable_batch_ = 0;
  std::map<uint64_t, BlockNo> marks_;  // where the batches that seal() named start

  JournalSeq last_seq_;
  JournalSeq durable_seq_;
  JournalSeq wanted_seq_;  // somebody waits for everything up to here
  std::optional<Error> error_;

  Waitable work_;  // the writer waits here
  Waitable durable_changed_;
  Waitable checkpoint_wanted_;
  Waitable space_freed_;
  std::optional<Scheduler::TimerId> timer_;
  uint64_t timer_deadline_ns_ = 0;
  JournalStats stats_;
};

}  // namespace fusefs
