#include "core/journal/batch.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/check.h"

namespace fusefs {
namespace {

// Enough for a few dozen creates; doubles from here.
constexpr size_t kBufferBytesMin = 4 * kBlockBytes;

void copy_to(std::byte* out, ConstBytes bytes) {
  if (!bytes.empty()) std::memcpy(out, bytes.data(), bytes.size());
}

}  // namespace

Batch::Batch(uint64_t number, AlignedBuffer buffer) : number_(number), buffer_(std::move(buffer)) {}

Batch::~Batch() = default;

bool Batch::has_room(size_t changes_bytes) const {
  return sizeof(BatchHeader) + payload_bytes_ + transaction_payload(changes_bytes) <=
         kBatchBytesMax;
}

void Batch::reserve(size_t len) {
  if (len <= buffer_.size()) return;
  size_t grown = std::max(buffer_.size(), kBufferBytesMin);
  while (grown < len) grown *= 2;
  AlignedBuffer larger(grown);
  copy_to(larger.data(), buffer_.bytes());
  buffer_ = std::move(larger);
}

void Batch::append(JournalSeq seq, ConstBytes changes, uint32_t change_count, WriteStamp data_stamp,
                   uint64_t now_ns) {
  CHECK(has_room(changes.size()) && !sealed_);
  if (empty()) {
    first_seq_ = seq;
    opened_ns_ = now_ns;
  }
  const size_t at = sizeof(BatchHeader) + payload_bytes_;
  payload_bytes_ += transaction_payload(changes.size());
  reserve(sizeof(BatchHeader) + payload_bytes_);

  TransactionHeader header;
  header.seq = seq.value();
  header.bytes = static_cast<uint32_t>(changes.size());
  header.change_count = change_count;
  copy_to(buffer_.data() + at, bytes_of(header));
  copy_to(buffer_.data() + at + sizeof(header), changes);

  last_seq_ = seq;
  ++transaction_count_;
  data_stamp_ = std::max(data_stamp_, data_stamp);
}

void Batch::close(BlockNo at, uint64_t now_ns) {
  CHECK(!empty());
  at_ = at;
  closed_ns_ = now_ns;
  const Bytes whole = image();
  const size_t used = sizeof(BatchHeader) + payload_bytes_;
  // The buffer may hold an earlier batch's bytes.
  std::memset(whole.data() + used, 0, whole.size() - used);
  std::memset(whole.data(), 0, sizeof(BatchHeader));
  set_block_header(whole, BlockKind::journal, at, number_);
  BatchHeader& header = view_as<BatchHeader>(whole);
  header.batch_blocks = static_cast<uint32_t>(blocks());
  header.transaction_count = transaction_count_;
  header.first_seq = first_seq_.value();
  header.payload_bytes = payload_bytes_;
}

void Batch::seal(uint64_t checksum_seed) {
  seal_block(image(), checksum_seed);
  sealed_ = true;
}

}  // namespace fusefs
