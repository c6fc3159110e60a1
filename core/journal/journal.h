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
#include <memory>
#include <vector>

#include "core/base/units.h"
#include "core/engine/scheduler.h"
#include "core/format/journal_format.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"
#include "core/io/health.h"
#include "core/io/write_cache.h"
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
  uint64_t flush_count = 0;
  uint64_t used_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t space_wait_count = 0;
  Histogram commit_latency_ns;   // from closing a batch to durable
  Histogram batch_transactions;  // transactions per batch
};

// Everything a transaction changes is committed by itself within this time.
inline constexpr uint64_t kCommitIntervalNs = kNsPerSecond;

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

  // Makes sure that append() of `bytes` of changes is possible in this attempt.
  //   Restarts  journal_space: until a checkpoint has freed some; asks for one
  //   Errors    the volume's, when it is no longer writable
  Attempt<void> prepare(uint32_t bytes);

  // Appends a transaction; cannot fail after prepare() in the same attempt.
  // `data_stamp` is the last data write that this transaction shows (0: none).
  JournalSeq append(ConstBytes changes, uint32_t change_count, WriteStamp data_stamp);

  // Restarts  until `seq` is durable; the batch is closed at once
  Attempt<void> wait_durable(JournalSeq seq);
  // Closes the open batch as soon as possible, without waiting.
  void kick();

  JournalSeq last_seq() const { return last_seq_; }  // appended
  JournalSeq durable_seq() const { return durable_seq_; }
  // Woken whenever durable_seq() has grown, and on failure.
  Waitable& durable_changed() { return durable_changed_; }

  // Ends the open batch, so that everything up to last_seq() lies before the returned batch number;
  // a checkpoint that contains it may later release_before() it.
  uint64_t seal();
  // Where batch `number` starts. Requires that all batches before it are durable.
  Attempt<JournalMark> mark_of(uint64_t number);
  // Frees the ring before `mark`. Requires that a superblock with this tail is durable.
  void release_before(const JournalMark& mark);

  // More than half of the ring is in use: time for a checkpoint.
  bool wants_checkpoint() const;
  // Woken when wants_checkpoint() becomes true or somebody waits for journal space.
  Waitable& checkpoint_wanted() { return checkpoint_wanted_; }

  const JournalStats& stats();

 private:
  // Written by the owner of journal.cc.
  class Writer;
  friend class Writer;
  struct Batch;

  Scheduler& scheduler_;
  BlockDevice& device_;
  WriteCache& write_cache_;
  Health& health_;
  const JournalLayout layout_;
  JournalSeq last_seq_;
  JournalSeq durable_seq_;
  Waitable durable_changed_;
  Waitable checkpoint_wanted_;
  Waitable space_freed_;
};

}  // namespace fusefs
