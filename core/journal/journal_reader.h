// JournalReader: the transactions that a crash left in the ring, in order.
//
// Reads batches from the superblock's tail until one does not verify or is not the next: that is
// where the log ends. Used by replay (core/volume), by check and by dump.
//
//     for (;;) {
//       ATTEMPT(const LoggedTransaction* txn, reader.current());
//       if (txn == nullptr) break;
//       ... apply it; may restart, current() is still the same then ...
//       reader.advance();
//     }
//
// A batch that does not verify was never confirmed to anybody: batches are written one at a time,
// and the next is written only when the one before is durable. So the first hole is the end.
//
// The reader is part of the stash of whoever replays. Monitor held for every call.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "core/base/ref.h"
#include "core/engine/attempt.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"
#include "core/journal/change_codec.h"
#include "core/journal/journal.h"

namespace fusefs {

// How much is read at once.
inline constexpr uint32_t kJournalReadBytes = 1024 * 1024;

struct LoggedTransaction {
  JournalSeq seq;
  std::vector<Change> changes;
};

class JournalReader {
 public:
  JournalReader(BlockDevice& device, const JournalLayout& layout, const JournalMark& tail);

  // The next transaction, or null at the end of the log. The same one again until advance().
  //   Restarts  on reads
  //   Errors    io_failed; corrupt (a batch verifies but holds nonsense)
  Attempt<const LoggedTransaction*> current();
  // Goes to the next one. Requires that current() returned one; it is gone afterwards.
  void advance();

  // After the end: where the next batch goes.
  const JournalMark& head() const { return head_; }
  // After the end: the last transaction's number, or nothing if the log was empty.
  std::optional<JournalSeq> last_seq() const { return last_seq_; }
  uint64_t batch_count() const { return batch_count_; }
  uint64_t transaction_count() const { return transaction_count_; }
  // Of batches found, headers and padding included.
  uint64_t log_bytes() const { return log_bytes_; }
  // From the device.
  uint64_t read_bytes() const { return read_bytes_; }

 private:
  // What the reader does next.
  enum class Phase : uint8_t { find_batch, hand_out, end };

  Attempt<void> load(uint32_t blocks);
  void start_read(uint32_t blocks);
  size_t window_at() const { return size_t{window_first_} * kBlockBytes; }
  Attempt<bool> find_batch();
  bool header_plausible(const BatchHeader& header) const;
  Result<void> decode_batch(ConstBytes batch);
  void pass_batch();

  BlockDevice& device_;
  const JournalLayout layout_;
  Phase phase_ = Phase::find_batch;
  JournalMark head_;
  uint64_t blocks_passed_ = 0;  // of the ring, by batches; all of it at most
  uint32_t batch_blocks_ = 0;   // of the batch whose transactions are handed out

  // Ring blocks from head_ on, in the order of the log: a wrap is not visible here.
  AlignedBuffer window_;
  uint32_t window_first_ = 0;    // the block of window_ that holds head_
  uint32_t window_blocks_ = 0;   // valid, from there on
  uint32_t reading_blocks_ = 0;  // being read behind them
  bool reads_ahead_ = true;
  Ref<IoTicket> read_;

  std::deque<LoggedTransaction> transactions_;  // of the batch, point into window_
  std::optional<JournalSeq> last_seq_;
  uint64_t batch_count_ = 0;
  uint64_t transaction_count_ = 0;
  uint64_t log_bytes_ = 0;
  uint64_t read_bytes_ = 0;
};

}  // namespace fusefs
