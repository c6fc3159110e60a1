// Cutting values into chunks, and finding names among those of the same hash.
#include "core/inode/xattr_items.h"

#include <algorithm>
#include <array>

namespace fusefs {
namespace {

constexpr uint64_t kChunkMask = (uint64_t{1} << kXattrChunkBits) - 1;
constexpr uint64_t kHashMask = ~uint64_t{0} << (kXattrChunkBits + kXattrSlotBits);
static_assert(kXattrValueBytesMax / kXattrChunkBytesMax < kChunkMask, "chunks suffice");

bool is_xattr_of(const std::optional<ItemView>& item, InodeNo ino) {
  return item && item->key.object == ino.value() && item->key.type == KeyType::xattr;
}

// How much of the value chunk 0 holds beside header and name.
size_t head_bytes(size_t name_len, size_t value_len) {
  return std::min(value_len, kXattrChunkBytesMax - sizeof(XattrValue) - name_len);
}

uint64_t chunk_count(size_t name_len, size_t value_len) {
  const size_t rest = value_len - head_bytes(name_len, value_len);
  return 1 + (rest + kXattrChunkBytesMax - 1) / kXattrChunkBytesMax;
}

struct HeadView {
  uint32_t value_len;
  std::string_view name;
  ConstBytes value;  // as much as chunk 0 has
};

Result<HeadView> view_head(const ItemView& item) {
  if (item.value.size() < sizeof(XattrValue)) return Error::corrupt;
  const XattrValue& value = view_as<XattrValue>(item.value);
  const uint32_t value_len = value.value_len;
  const size_t name_len = value.name_len;
  if ((item.key.offset & kChunkMask) != 0 || name_len == 0 || value.zero != 0 ||
      value_len > kXattrValueBytesMax ||
      item.value.size() != sizeof(XattrValue) + name_len + head_bytes(name_len, value_len)) {
    return Error::corrupt;
  }
  const ConstBytes behind = item.value.subspan(sizeof(XattrValue));
  return HeadView{value_len, text_of(behind.first(name_len)), behind.subspan(name_len)};
}

}  // namespace

Attempt<XattrPlace> find_xattr(Transaction& txn, NameHash hash, InodeNo ino,
                               std::string_view name) {
  const uint64_t first = hash.first_xattr(name);
  const uint64_t last = first | ~kHashMask;
  std::optional<uint64_t> free;
  std::optional<uint64_t> next = first;
  while (next && *next <= last) {
    ATTEMPT(const std::optional<ItemView> item, txn.at_or_after(xattr_key(ino, *next)));
    if (!is_xattr_of(item, ino) || item->key.offset > last) break;
    TRY(const HeadView head, view_head(*item));
    const uint64_t offset = item->key.offset;
    if (head.name == name) return XattrPlace{offset, true, head.value_len};
    if (offset > *next && !free) free = *next;
    next = offset_behind_xattr(offset);
  }
  if (!free && next && *next <= last) free = *next;
  if (!free) return Error::no_space;
  return XattrPlace{*free, false, 0};
}

Attempt<std::vector<std::byte>> read_xattr(Transaction& txn, InodeNo ino, std::string_view name,
                                           const XattrPlace& place) {
  std::vector<std::byte> value;
  value.reserve(place.value_len);
  const uint64_t chunks = chunk_count(name.size(), place.value_len);
  for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
    ATTEMPT(const std::optional<ItemView> item, txn.find(xattr_key(ino, place.offset + chunk)));
    if (!item) return Error::corrupt;
    ConstBytes part = item->value;
    if (chunk == 0) {
      TRY(const HeadView head, view_head(*item));
      part = head.value;
    }
    value.insert(value.end(), part.begin(), part.end());
  }
  if (value.size() != place.value_len) return Error::corrupt;
  return value;
}

void put_xattr(Transaction& txn, InodeNo ino, std::string_view name, const XattrPlace& place,
               ConstBytes value) {
  const size_t head = head_bytes(name.size(), value.size());
  const XattrValue header{static_cast<uint32_t>(value.size()),
                          static_cast<unsigned char>(name.size()), 0};
  std::array<std::byte, kXattrChunkBytesMax> buffer;
  std::byte* end = buffer.data();
  const auto append = [&end](ConstBytes bytes) {
    end = std::copy(bytes.begin(), bytes.end(), end);
  };
  append(bytes_of(header));
  append(bytes_of(name));
  append(value.first(head));
  txn.put(xattr_key(ino, place.offset), ConstBytes(buffer.data(), end));

  const uint64_t chunks = chunk_count(name.size(), value.size());
  ConstBytes rest = value.subspan(head);
  for (uint64_t chunk = 1; chunk < chunks; ++chunk) {
    const size_t len = std::min(rest.size(), kXattrChunkBytesMax);
    txn.put(xattr_key(ino, place.offset + chunk), rest.first(len));
    rest = rest.subspan(len);
  }
  if (!place.exists) return;
  const uint64_t old_chunks = chunk_count(name.size(), place.value_len);
  for (uint64_t chunk = chunks; chunk < old_chunks; ++chunk) {
    txn.erase(xattr_key(ino, place.offset + chunk));
  }
}

void erase_xattr(Transaction& txn, InodeNo ino, std::string_view name, const XattrPlace& place) {
  const uint64_t chunks = chunk_count(name.size(), place.value_len);
  for (uint64_t chunk = 0; chunk < chunks; ++chunk) txn.erase(xattr_key(ino, place.offset + chunk));
}

Attempt<std::optional<XattrListed>> next_xattr(Transaction& txn, InodeNo ino, uint64_t offset) {
  ATTEMPT(const std::optional<ItemView> item, txn.at_or_after(xattr_key(ino, offset)));
  if (!is_xattr_of(item, ino)) return std::optional<XattrListed>();
  TRY(const HeadView head, view_head(*item));
  return std::optional<XattrListed>(XattrListed{item->key.offset, std::string(head.name)});
}

std::optional<uint64_t> offset_behind_xattr(uint64_t offset) {
  const uint64_t last_chunk = offset | kChunkMask;
  if (last_chunk == ~uint64_t{0}) return std::nullopt;
  return last_chunk + 1;
}

Attempt<bool> erase_all_xattrs(Transaction& txn, InodeNo ino, uint32_t kept_changes) {
  uint64_t offset = 0;
  while (txn.has_room(kept_changes + 1)) {
    ATTEMPT(const std::optional<ItemView> item, txn.at_or_after(xattr_key(ino, offset)));
    if (!is_xattr_of(item, ino)) return true;
    const Key key = item->key;
    txn.erase(key);
    if (key.offset == ~uint64_t{0}) return true;
    offset = key.offset + 1;
  }
  return false;
}

}  // namespace fusefs
