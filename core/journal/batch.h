// Batch: the transactions of one group commit, as the bytes that will be written.
//
//     open --append()...--> close(): place known, padded --seal(): checksum--> written
//
// Owned by the journal while it gathers and waits its turn, and by the writer while it is sealed
// and written: from close() on nobody changes it but seal().
#pragma once

#include <cstdint>

#include "core/engine/waitable.h"
#include "core/format/journal_format.h"
#include "core/io/aligned_buffer.h"
#include "core/io/write_cache.h"

namespace fusefs {

// Ring blocks that a batch with so many bytes of transactions takes; none without any.
constexpr uint64_t batch_blocks(uint64_t payload_bytes) {
  if (payload_bytes == 0) return 0;
  return (sizeof(BatchHeader) + payload_bytes + kBlockBytes - 1) / kBlockBytes;
}

// What a transaction with so many bytes of changes takes in a batch.
constexpr uint64_t transaction_payload(uint64_t changes_bytes) {
  return sizeof(TransactionHeader) + changes_bytes;
}

static_assert(batch_blocks(transaction_payload(kTransactionBytesMax)) * kBlockBytes <=
                  kBatchBytesMax,
              "a batch has room for any transaction");
static_assert(kBatchBytesMax % kBlockBytes == 0);

class Batch {
 public:
  // `buffer` may be one that an earlier batch has left, or empty.
  Batch(uint64_t number, AlignedBuffer buffer);
  ~Batch();

  // True when a transaction with so many bytes of changes still fits.
  bool has_room(size_t changes_bytes) const;
  // Requires room. Transactions come in the order of their seq.
  void append(JournalSeq seq, ConstBytes changes, uint32_t change_count, WriteStamp data_stamp,
              uint64_t now_ns);

  // Fills in the header. Requires that it is not empty.
  void close(BlockNo at, uint64_t now_ns);
  // The checksum. Needs no monitor.
  void seal(uint64_t checksum_seed);

  bool empty() const { return transaction_count_ == 0; }
  uint64_t number() const { return number_; }
  uint64_t blocks() const { return batch_blocks(payload_bytes_); }
  uint32_t transaction_count() const { return transaction_count_; }
  JournalSeq first_seq() const { return first_seq_; }
  JournalSeq last_seq() const { return last_seq_; }
  WriteStamp data_stamp() const { return data_stamp_; }
  uint64_t opened_ns() const { return opened_ns_; }  // when the oldest transaction came
  uint64_t closed_ns() const { return closed_ns_; }
  BlockNo at() const { return at_; }
  bool sealed() const { return sealed_; }
  Bytes image() { return buffer_.bytes().first(blocks() * kBlockBytes); }
  AlignedBuffer take_buffer() { return std::move(buffer_); }

  // Woken when the batch is durable, or never will be.
  Waitable settled;
  uint32_t joined = 0;  // Journal::join()

 private:
  void reserve(size_t len);

  const uint64_t number_;
  AlignedBuffer buffer_;
  uint64_t payload_bytes_ = 0;
  uint32_t transaction_count_ = 0;
  JournalSeq first_seq_;
  JournalSeq last_seq_;
  WriteStamp data_stamp_ = 0;
  uint64_t opened_ns_ = 0;
  uint64_t closed_ns_ = 0;
  BlockNo at_;
  bool sealed_ = false;
};

}  // namespace fusefs
