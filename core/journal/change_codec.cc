#include "core/journal/change_codec.h"

#include <algorithm>
#include <limits>

#include "core/base/check.h"
#include "core/format/node_format.h"

namespace fusefs {
namespace {

// Every change takes at least a header, so a count that lies cannot make us allocate much.
constexpr size_t kChangeBytesMin = sizeof(ChangeHeader);

bool key_type_known(unsigned char type) {
  return type >= static_cast<unsigned char>(KeyType::inode) &&
         type <= static_cast<unsigned char>(KeyType::orphan);
}

bool is_zero(const KeyFormat& key) { return key.object == 0 && key.offset == 0 && key.type == 0; }

Result<BlockRange> decode_blocks(ConstBytes value) {
  if (value.size() != sizeof(BlockChange)) return Error::corrupt;
  const BlockChange& blocks = view_as<BlockChange>(value);
  if (blocks.count == 0) return Error::corrupt;
  if (blocks.first > std::numeric_limits<uint64_t>::max() - blocks.count) return Error::corrupt;
  return block_range(BlockNo(blocks.first), BlockCount(blocks.count));
}

// `value` is what follows `header`, already known to lie inside the transaction.
Result<Change> decode_change(const ChangeHeader& header, ConstBytes value) {
  if (header.zero != 0) return Error::corrupt;
  Change change;
  change.kind = static_cast<ChangeKind>(header.kind);
  switch (change.kind) {
    case ChangeKind::put:
    case ChangeKind::erase:
      if (!key_type_known(header.key.type)) return Error::corrupt;
      if (change.kind == ChangeKind::erase && !value.empty()) return Error::corrupt;
      if (value.size() > kItemValueBytesMax) return Error::corrupt;
      change.key = header.key.key();
      change.value = value;
      return change;
    case ChangeKind::allocate:
    case ChangeKind::release: {
      if (!is_zero(header.key)) return Error::corrupt;
      TRY(change.blocks, decode_blocks(value));
      return change;
    }
  }
  return Error::corrupt;
}

}  // namespace

void ChangeEncoder::add(ChangeKind kind, const Key& key, ConstBytes value) {
  ChangeHeader header{};
  header.kind = static_cast<unsigned char>(kind);
  header.value_len = static_cast<uint16_t>(value.size());
  if (kind == ChangeKind::put || kind == ChangeKind::erase) header.key = KeyFormat::of(key);
  const ConstBytes head = bytes_of(header);
  bytes_.insert(bytes_.end(), head.begin(), head.end());
  bytes_.insert(bytes_.end(), value.begin(), value.end());
  ++count_;
}

void ChangeEncoder::put(const Key& key, ConstBytes value) {
  CHECK(value.size() <= kItemValueBytesMax);
  add(ChangeKind::put, key, value);
}

void ChangeEncoder::erase(const Key& key) { add(ChangeKind::erase, key, {}); }

void ChangeEncoder::allocate(BlockRange blocks) {
  CHECK(!blocks.empty());
  const BlockChange change{blocks.first.value(), blocks.count().value()};
  add(ChangeKind::allocate, {}, bytes_of(change));
}

void ChangeEncoder::release(BlockRange blocks) {
  CHECK(!blocks.empty());
  const BlockChange change{blocks.first.value(), blocks.count().value()};
  add(ChangeKind::release, {}, bytes_of(change));
}

Result<std::vector<Change>> decode_changes(ConstBytes bytes, uint32_t count) {
  std::vector<Change> changes;
  changes.reserve(std::min<size_t>(count, bytes.size() / kChangeBytesMin));
  while (!bytes.empty()) {
    if (changes.size() == count || bytes.size() < sizeof(ChangeHeader)) return Error::corrupt;
    const ChangeHeader& header = view_as<ChangeHeader>(bytes);
    bytes = bytes.subspan(sizeof(ChangeHeader));
    const size_t value_len = header.value_len;
    if (value_len > bytes.size()) return Error::corrupt;
    TRY(Change change, decode_change(header, bytes.first(value_len)));
    changes.push_back(change);
    bytes = bytes.subspan(value_len);
  }
  if (changes.size() != count) return Error::corrupt;
  return changes;
}

}  // namespace fusefs
