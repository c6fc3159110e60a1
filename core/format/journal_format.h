// Journal batches: what one group commit writes. Spec: docs/FORMAT.md, "Journal".
//
// A batch starts on a block boundary of the ring, is a whole number of blocks and may wrap around
// the ring's end. Its header's generation is the batch number, which grows by one. Replay starts
// at the superblock's tail and ends at the first batch that does not verify or does not have the
// next number. One batch is in flight at a time, so there are no holes.
//
//   batch   = BatchHeader, transactions, zeroes to the block boundary
//   transaction = TransactionHeader, changes
//   change  = ChangeHeader, then value_len bytes: the value (put), nothing (erase), or a
//             BlockChange (allocate, release)
#pragma once

#include "core/format/block_header.h"
#include "core/format/key_format.h"

namespace fusefs {

struct BatchHeader {
  BlockHeader header;      // checksum over the whole batch; generation: the batch number
  Le32 batch_blocks;       // 32  whole blocks
  Le32 transaction_count;  // 36
  Le64 first_seq;          // 40
  Le64 payload_bytes;      // 48  behind this header
  Le64 zero;               // 56
};
static_assert(sizeof(BatchHeader) == 64 && alignof(BatchHeader) == 1);

struct TransactionHeader {
  Le64 seq;
  Le32 bytes;  // of the changes
  Le32 change_count;
};
static_assert(sizeof(TransactionHeader) == 16 && alignof(TransactionHeader) == 1);

enum class ChangeKind : uint8_t {
  put = 1,       // key has value
  erase = 2,     // key is gone
  allocate = 3,  // blocks become allocated
  release = 4,   // blocks become free
};

struct ChangeHeader {
  unsigned char kind;
  unsigned char zero;
  Le16 value_len;
  KeyFormat key;  // zero for allocate and release
};
static_assert(sizeof(ChangeHeader) == 21 && alignof(ChangeHeader) == 1);

struct BlockChange {
  Le64 first;
  Le64 count;
};
static_assert(sizeof(BlockChange) == 16 && alignof(BlockChange) == 1);

// A transaction is at most this large, so that it always fits the smallest journal.
inline constexpr uint32_t kTransactionBytesMax = 256 * 1024;
// A batch is closed when it has grown to this.
inline constexpr uint32_t kBatchBytesMax = 1024 * 1024;
inline constexpr uint64_t kJournalBytesMin = 4ull << 20;
inline constexpr uint64_t kJournalBytesMax = 256ull << 20;

}  // namespace fusefs
