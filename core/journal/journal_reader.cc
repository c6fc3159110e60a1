#include "core/journal/journal_reader.h"

#include <algorithm>
#include <cstring>

#include "core/base/check.h"
#include "core/journal/batch.h"

namespace fusefs {
namespace {

constexpr uint32_t kBatchBlocksMax = kBatchBytesMax / kBlockBytes;
constexpr uint32_t kReadBlocks = kJournalReadBytes / kBlockBytes;
// Room for a batch that has begun, and for reading on behind it.
constexpr uint32_t kWindowBlocks = kBatchBlocksMax + kReadBlocks;

}  // namespace

JournalReader::JournalReader(BlockDevice& device, const JournalLayout& layout,
                             const JournalMark& tail)
    : device_(device), layout_(layout), head_(tail) {}

Attempt<const LoggedTransaction*> JournalReader::current() {
  while (phase_ == Phase::find_batch) {
    ATTEMPT(const bool found, find_batch());
    phase_ = found ? Phase::hand_out : Phase::end;
  }
  if (phase_ == Phase::end) return nullptr;
  return &transactions_.front();
}

void JournalReader::advance() {
  CHECK(phase_ == Phase::hand_out);
  last_seq_ = transactions_.front().seq;
  ++transaction_count_;
  transactions_.pop_front();
  if (transactions_.empty()) pass_batch();
}

// ---- Batches ----

Attempt<bool> JournalReader::find_batch() {
  if (blocks_passed_ == layout_.blocks.value()) return false;
  ATTEMPT_OK(load(1));
  const BatchHeader& header =
      view_as<BatchHeader>(ConstBytes(window_.bytes()).subspan(window_at()));
  if (!header_plausible(header)) return false;
  batch_blocks_ = header.batch_blocks;
  ATTEMPT_OK(load(batch_blocks_));
  const ConstBytes batch =
      ConstBytes(window_.bytes()).subspan(window_at(), size_t{batch_blocks_} * kBlockBytes);
  if (!block_verifies(batch, BlockKind::journal, head_.block, layout_.checksum_seed)) return false;
  const Result<void> decoded = decode_batch(batch);
  if (!decoded.ok()) return decoded.error();
  return true;
}

// Not verified yet: only as much as reading the rest of the batch needs.
bool JournalReader::header_plausible(const BatchHeader& header) const {
  const uint64_t blocks_left = layout_.blocks.value() - blocks_passed_;
  return header.header.magic == kBlockMagic && header.header.generation == head_.batch &&
         header.batch_blocks >= 1 && header.batch_blocks <= kBatchBlocksMax &&
         header.batch_blocks <= blocks_left;
}

Result<void> JournalReader::decode_batch(ConstBytes batch) {
  transactions_.clear();
  const BatchHeader& header = view_as<BatchHeader>(batch);
  ConstBytes payload = batch.subspan(sizeof(BatchHeader));
  const bool sane = header.zero == 0 && header.transaction_count > 0 && header.first_seq > 0 &&
                    header.payload_bytes <= payload.size() &&
                    batch_blocks(header.payload_bytes) == batch_blocks_;
  if (!sane) return Error::corrupt;
  payload = payload.first(header.payload_bytes);

  JournalSeq seq(header.first_seq);
  if (last_seq_ && seq != last_seq_->next()) return Error::corrupt;
  while (!payload.empty()) {
    if (payload.size() < sizeof(TransactionHeader)) return Error::corrupt;
    const TransactionHeader& txn = view_as<TransactionHeader>(payload);
    payload = payload.subspan(sizeof(TransactionHeader));
    if (txn.seq != seq.value() || txn.bytes > payload.size()) return Error::corrupt;
    TRY(std::vector<Change> changes, decode_changes(payload.first(txn.bytes), txn.change_count));
    transactions_.push_back({seq, std::move(changes)});
    payload = payload.subspan(txn.bytes);
    seq = seq.next();
  }
  if (transactions_.size() != header.transaction_count) return Error::corrupt;
  return {};
}

void JournalReader::pass_batch() {
  const uint64_t offset = (head_.block - layout_.first).value() + batch_blocks_;
  head_.block = layout_.first + BlockCount(offset % layout_.blocks.value());
  ++head_.batch;
  ++batch_count_;
  log_bytes_ += uint64_t{batch_blocks_} * kBlockBytes;
  blocks_passed_ += batch_blocks_;
  window_first_ += batch_blocks_;
  window_blocks_ -= batch_blocks_;
  phase_ = Phase::find_batch;
}

// ---- Reading ----

// Makes the first `blocks` blocks of the window valid.
Attempt<void> JournalReader::load(uint32_t blocks) {
  while (window_blocks_ < blocks) {
    if (!read_) start_read(blocks);
    const Attempt<void> waited = read_->wait();
    // A damaged place behind the end of the log must not keep the log from being read: once more,
    // without reading ahead.
    if (waited.failed() && window_blocks_ + reading_blocks_ > blocks) {
      reads_ahead_ = false;
      read_.reset();
      continue;
    }
    ATTEMPT_OK(waited);
    window_blocks_ += reading_blocks_;
    read_bytes_ += uint64_t{reading_blocks_} * kBlockBytes;
    read_.reset();
  }
  return {};
}

void JournalReader::start_read(uint32_t blocks) {
  if (!window_) window_ = AlignedBuffer(size_t{kWindowBlocks} * kBlockBytes);
  // What is left is less than a batch, and nothing handed out points into it.
  std::memmove(window_.data(), window_.data() + window_at(), size_t{window_blocks_} * kBlockBytes);
  window_first_ = 0;

  const uint64_t ring_left = layout_.blocks.value() - blocks_passed_ - window_blocks_;
  const uint32_t wanted = reads_ahead_ ? kReadBlocks : blocks - window_blocks_;
  reading_blocks_ = static_cast<uint32_t>(std::min<uint64_t>(wanted, ring_left));

  const uint64_t offset =
      ((head_.block - layout_.first).value() + window_blocks_) % layout_.blocks.value();
  const uint64_t before_end = std::min<uint64_t>(reading_blocks_, layout_.blocks.value() - offset);
  std::byte* out = window_.data() + size_t{window_blocks_} * kBlockBytes;
  const uint64_t first_len = before_end * kBlockBytes;
  read_ = make_ref<IoTicket>();
  device_.submit(IoRequest::read((layout_.first.value() + offset) * kBlockBytes, out, first_len),
                 read_);
  if (before_end == reading_blocks_) return;
  device_.submit(IoRequest::read(layout_.first.value() * kBlockBytes, out + first_len,
                                 (reading_blocks_ - before_end) * kBlockBytes),
                 read_);
}

}  // namespace fusefs
