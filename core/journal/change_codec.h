// Changes as a transaction carries them in the journal: encoder and decoder of one string of them.
//
// Format: core/format/journal_format.h. The decoder takes nothing on trust: whatever the bytes
// are, it answers with changes that lie inside them or with `corrupt`. What a key means, and
// whether blocks lie on the volume, is its caller's business.
#pragma once

#include <vector>

#include "core/base/error.h"
#include "core/base/units.h"
#include "core/format/journal_format.h"

namespace fusefs {

// One decoded change.
struct Change {
  ChangeKind kind = ChangeKind::put;
  Key key;              // put, erase
  ConstBytes value;     // put; points into what was decoded
  BlockRange blocks{};  // allocate, release; at least one block
};

// Encodes changes for Journal::append().
class ChangeEncoder {
 public:
  // `value` has at most kItemValueBytesMax bytes.
  void put(const Key& key, ConstBytes value);
  void erase(const Key& key);
  // `blocks` is not empty.
  void allocate(BlockRange blocks);
  void release(BlockRange blocks);
  ConstBytes bytes() const { return bytes_; }
  uint32_t count() const { return count_; }

  // Encoded size of a put; of an erase: put_bytes(0).
  static constexpr uint32_t put_bytes(size_t value_len) {
    return static_cast<uint32_t>(sizeof(ChangeHeader) + value_len);
  }
  static constexpr uint32_t block_change_bytes() {
    return static_cast<uint32_t>(sizeof(ChangeHeader) + sizeof(BlockChange));
  }

 private:
  void add(ChangeKind kind, const Key& key, ConstBytes value);

  std::vector<std::byte> bytes_;
  uint32_t count_ = 0;
};

// The `count` changes that `bytes` consists of.
//   Errors  corrupt
Result<std::vector<Change>> decode_changes(ConstBytes bytes, uint32_t count);

}  // namespace fusefs
