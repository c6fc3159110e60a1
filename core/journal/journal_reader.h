// JournalReader: the transactions that a crash left in the ring, in order.
//
// Reads batches from the superblock's tail until one does not verify or is not the next: that is
// where the log ends. Used by replay (core/volume), by check and by dump.
#pragma once

#include <optional>
#include <vector>

#include "core/journal/journal.h"

namespace fusefs {

// One decoded change.
struct Change {
  ChangeKind kind = ChangeKind::put;
  Key key;              // put, erase
  ConstBytes value;     // put; points into the reader's buffer
  BlockRange blocks{};  // allocate, release
};

struct LoggedTransaction {
  JournalSeq seq;
  std::vector<Change> changes;
};

// Encodes changes for Journal::append().
class ChangeEncoder {
 public:
  void put(const Key& key, ConstBytes value);
  void erase(const Key& key);
  void allocate(BlockRange blocks);
  void release(BlockRange blocks);
  ConstBytes bytes() const { return bytes_; }
  uint32_t count() const { return count_; }

  static uint32_t put_bytes(size_t value_len);  // encoded size of a put; of an erase: put_bytes(0)
  static uint32_t block_change_bytes();

 private:
  std::vector<std::byte> bytes_;
  uint32_t count_ = 0;
};

class JournalReader {
 public:
  JournalReader(BlockDevice& device, const JournalLayout& layout, const JournalMark& tail);

  // The next transaction, or nothing at the end of the log.
  //   Restarts  on reads
  //   Errors    io_failed; corrupt (a batch verifies but holds nonsense)
  // The returned changes stay valid until the next call.
  Attempt<std::optional<LoggedTransaction>> next();

  // After the end: where the next batch goes.
  const JournalMark& head() const { return head_; }
  uint64_t read_bytes() const { return read_bytes_; }

 private:
  BlockDevice& device_;
  const JournalLayout layout_;
  JournalMark head_;
  uint64_t read_bytes_ = 0;
  // Written by the owner of journal_reader.cc.
};

}  // namespace fusefs
