#include "core/journal/journal.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/base/check.h"
#include "core/journal/journal_writer.h"

namespace fusefs {

Journal::Journal(Scheduler& scheduler, BlockDevice& device, WriteCache& write_cache, Health& health,
                 const JournalLayout& layout, const JournalMark& tail, const JournalMark& head,
                 JournalSeq next_seq)
    : scheduler_(scheduler),
      device_(device),
      write_cache_(write_cache),
      health_(health),
      layout_(layout),
      open_(std::make_unique<Batch>(head.batch, AlignedBuffer())),
      tail_(tail),
      next_block_(head.block),
      durable_batch_(head.batch - 1),
      last_seq_(next_seq.value() - 1),
      durable_seq_(last_seq_),
      wanted_seq_(last_seq_) {
  const BlockRange ring = block_range(layout.first, layout.blocks);
  CHECK(ring.contains(tail.block) && ring.contains(head.block));
  CHECK(head.batch >= tail.batch && head.batch > 0 && next_seq.value() > 0);
  // Places alone cannot tell a full ring from an empty one; numbers can.
  if (head.batch != tail.batch) {
    closed_blocks_ = head.block > tail.block
                         ? (head.block - tail.block).value()
                         : layout.blocks.value() - (tail.block - head.block).value();
  }
  stats_.size_bytes = layout.blocks.value() * kBlockBytes;
}

Journal::~Journal() {
  if (timer_) scheduler_.cancel_timer(*timer_);
  if (writer_ != nullptr) writer_->detach();
}

void Journal::start() {
  CHECK(writer_ == nullptr);
  auto writer = std::make_unique<Writer>(*this);
  writer_ = writer.get();
  scheduler_.start(std::move(writer));
}

// ---- Appending ----

// The promise to append() must hold whatever has gathered: the open batch may be closed before the
// transaction, with its padding, which then starts a batch of its own. What the open batch takes
// was asked for in the same way when its transactions came, so closing it never lacks room.
Attempt<void> Journal::prepare(uint32_t bytes) {
  CHECK(bytes <= kTransactionBytesMax);
  if (!health_.writable() || error_) return Error::read_only_volume;
  if (unwritten_blocks_ * kBlockBytes > kJournalUnwrittenBytesMax) {
    return restart_after(durable_changed_, RestartReason::durable);
  }
  const uint64_t needed = batch_blocks(transaction_payload(bytes));
  if (used_blocks() + needed > layout_.blocks.value()) {
    ++stats_.space_wait_count;
    checkpoint_wanted_.wake_all();
    return restart_after(space_freed_, RestartReason::journal_space);
  }
  return {};
}

JournalSeq Journal::append(ConstBytes changes, uint32_t change_count, WriteStamp data_stamp) {
  CHECK(changes.size() <= kTransactionBytesMax && !error_);
  const bool wanted = wants_checkpoint();
  if (!open_->has_room(changes.size())) close_open();
  last_seq_ = last_seq_.next();
  open_->append(last_seq_, changes, change_count, data_stamp, scheduler_.clock().monotonic_ns());
  CHECK_MSG(used_blocks() <= layout_.blocks.value(), "append without prepare");
  ++stats_.transaction_count;
  arm_timer();
  if (!wanted && wants_checkpoint()) checkpoint_wanted_.wake_all();
  return last_seq_;
}

void Journal::close_open() {
  open_->close(next_block_, scheduler_.clock().monotonic_ns());
  const uint64_t blocks = open_->blocks();
  const uint64_t offset = (next_block_ - layout_.first).value() + blocks;
  next_block_ = layout_.first + BlockCount(offset % layout_.blocks.value());
  closed_blocks_ += blocks;
  unwritten_blocks_ += blocks;
  const uint64_t number = open_->number();
  closed_.push_back(std::move(open_));
  open_ = std::make_unique<Batch>(number + 1, std::move(spare_));
  work_.wake_all();
}

// ---- Waiting ----

Batch& Journal::batch_of(JournalSeq seq) {
  if (!open_->empty() && seq >= open_->first_seq()) return *open_;
  for (auto& batch : closed_) {
    if (seq >= batch->first_seq() && seq <= batch->last_seq()) return *batch;
  }
  CHECK(writing_ != nullptr && seq >= writing_->first_seq() && seq <= writing_->last_seq());
  return *writing_;
}

Attempt<void> Journal::wait_durable(JournalSeq seq) {
  CHECK(seq <= last_seq_);
  if (seq <= durable_seq_) return {};
  if (error_) return *error_;
  if (seq > wanted_seq_) {
    wanted_seq_ = seq;
    work_.wake_all();
  }
  // On the batch and not on durable_changed_: who waits for the next batch sleeps on.
  return restart_after(batch_of(seq).settled, RestartReason::durable);
}

void Journal::join(JournalSeq seq) {
  if (seq > durable_seq_ && !error_) ++batch_of(seq).joined;
}

void Journal::kick() {
  if (wanted_seq_ == last_seq_) return;
  wanted_seq_ = last_seq_;
  work_.wake_all();
}

bool Journal::open_is_due() const {
  if (open_->empty()) return false;
  return wanted_seq_ >= open_->first_seq() ||
         scheduler_.clock().monotonic_ns() >= open_->opened_ns() + kCommitIntervalNs;
}

// One timer at most, and it is left alone when its batch is written before: a busy journal would
// otherwise set and cancel one per batch. The writer looks at the age itself.
void Journal::arm_timer() {
  if (open_->empty()) return;
  const uint64_t now_ns = scheduler_.clock().monotonic_ns();
  if (timer_ && now_ns < timer_deadline_ns_) return;
  if (timer_) scheduler_.cancel_timer(*timer_);
  timer_deadline_ns_ = std::max(now_ns + 1, open_->opened_ns() + kCommitIntervalNs);
  timer_ = scheduler_.wake_at(timer_deadline_ns_, work_);
}

// ---- For the writer ----

std::unique_ptr<Batch> Journal::take_closed() {
  if (error_) return nullptr;
  if (closed_.empty() && open_is_due()) close_open();
  arm_timer();
  if (closed_.empty()) return nullptr;
  std::unique_ptr<Batch> batch = std::move(closed_.front());
  closed_.pop_front();
  writing_ = batch.get();
  return batch;
}

void Journal::batch_durable(std::unique_ptr<Batch> batch) {
  writing_ = nullptr;
  durable_seq_ = batch->last_seq();
  durable_batch_ = batch->number();
  unwritten_blocks_ -= batch->blocks();
  ++stats_.batch_count;
  stats_.write_bytes += batch->blocks() * kBlockBytes;
  stats_.commit_latency_ns.record(scheduler_.clock().monotonic_ns() - batch->closed_ns());
  stats_.batch_transactions.record(batch->transaction_count());
  if (batch->joined != 0) stats_.batch_joined.record(batch->joined);
  if (!spare_) spare_ = batch->take_buffer();
  batch->settled.wake_all();
  durable_changed_.wake_all();
}

void Journal::batch_failed(std::unique_ptr<Batch> batch, Error error) {
  writing_ = nullptr;
  error_ = error;
  health_.fail(error, "journal, block " + std::to_string(batch->at().value()));
  batch->settled.wake_all();
  for (auto& waiting : closed_) waiting->settled.wake_all();
  open_->settled.wake_all();
  durable_changed_.wake_all();
  wake_after_failure();
}

// ---- Checkpoints ----

uint64_t Journal::seal() {
  if (!open_->empty()) {
    wanted_seq_ = last_seq_;
    close_open();
  }
  marks_[open_->number()] = next_block_;
  return open_->number();
}

Attempt<JournalMark> Journal::mark_of(uint64_t number) {
  const auto found = marks_.find(number);
  CHECK_MSG(found != marks_.end(), "mark of a batch that was not sealed");
  if (durable_batch_ + 1 < number) {
    if (error_) return *error_;
    return restart_after(durable_changed_, RestartReason::durable);
  }
  return JournalMark{found->second, number};
}

void Journal::release_before(const JournalMark& mark) {
  CHECK(mark.batch >= tail_.batch && mark.batch <= durable_batch_ + 1);
  marks_.erase(marks_.begin(), marks_.upper_bound(mark.batch));
  if (mark.batch == tail_.batch) return;
  const uint64_t freed = mark.block > tail_.block
                             ? (mark.block - tail_.block).value()
                             : layout_.blocks.value() - (tail_.block - mark.block).value();
  CHECK(freed <= closed_blocks_);
  closed_blocks_ -= freed;
  tail_ = mark;
  space_freed_.wake_all();
}

void Journal::wake_after_failure() {
  space_freed_.wake_all();
  durable_changed_.wake_all();
  checkpoint_wanted_.wake_all();
}

bool Journal::wants_checkpoint() const {
  return used_blocks() * 2 > layout_.blocks.value() || space_freed_.has_waiters();
}

const JournalStats& Journal::stats() {
  stats_.used_bytes = used_blocks() * kBlockBytes;
  return stats_;
}

}  // namespace fusefs
