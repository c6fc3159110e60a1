// Names and cookies.
//
//     cookie      hash of "a" << 8                     hash of "b" << 8
//                 |  +0   |  +1   | ... |  +255 |      |  +0   |
//     entries     [ "a"   ]         [ "q": same hash ]
//
// A name is looked for in all 256 slots of its hash, since the slots before its own may have been
// freed after it came.
#include "core/inode/directory.h"

#include <algorithm>
#include <array>

#include "core/base/checksum.h"

namespace fusefs {
namespace {

constexpr uint64_t kSlotMask = (uint64_t{1} << kCookieSlotBits) - 1;

bool is_entry_of(const std::optional<ItemView>& item, InodeNo directory) {
  return item && item->key.object == directory.value() && item->key.type == KeyType::dirent;
}

struct EntryView {
  const DirentValue& value;
  std::string_view name;
};

Result<EntryView> view_entry(const ItemView& item) {
  if (item.value.size() < sizeof(DirentValue)) return Error::corrupt;
  const DirentValue& value = view_as<DirentValue>(item.value);
  if (value.name_len == 0 || value.ino == 0 || item.key.offset < kFirstCookie ||
      item.value.size() != sizeof(DirentValue) + value.name_len) {
    return Error::corrupt;
  }
  return EntryView{value, text_of(item.value.subspan(sizeof(DirentValue)))};
}

Dirent to_dirent(uint64_t cookie, const EntryView& view) {
  return {cookie, InodeNo(view.value.ino), view.value.type, std::string(view.name)};
}

}  // namespace

uint64_t NameHash::first_cookie(std::string_view name) const {
  const uint64_t hash = checksum_seeded(bytes_of(name), seed_) >> (kCookieSlotBits + 1) & mask_;
  return std::max(hash << kCookieSlotBits, kFirstCookie);  // bit 63 is clear: an off_t
}

uint64_t NameHash::first_xattr(std::string_view name) const {
  constexpr unsigned kLowBits = kXattrSlotBits + kXattrChunkBits;
  return (checksum_seeded(bytes_of(name), seed_) >> kLowBits & mask_) << kLowBits;
}

Result<Dirent> decode_entry(const ItemView& item) {
  TRY(const EntryView view, view_entry(item));
  return to_dirent(item.key.offset, view);
}

Attempt<EntryPlace> find_place(Transaction& txn, NameHash hash, InodeNo directory,
                               std::string_view name) {
  const uint64_t first = hash.first_cookie(name);
  const uint64_t last = first | kSlotMask;
  EntryPlace place;
  uint64_t next = first;
  while (next <= last) {
    ATTEMPT(const std::optional<ItemView> item, txn.at_or_after(dirent_key(directory, next)));
    if (!is_entry_of(item, directory) || item->key.offset > last) break;
    TRY(const EntryView view, view_entry(*item));
    const uint64_t cookie = item->key.offset;
    if (view.name == name) {
      place.entry = to_dirent(cookie, view);
      return place;
    }
    if (cookie > next && !place.free_cookie) place.free_cookie = next;
    next = cookie + 1;
  }
  if (next <= last && !place.free_cookie) place.free_cookie = next;
  return place;
}

Attempt<std::optional<Dirent>> find_entry(Transaction& txn, NameHash hash, InodeNo directory,
                                          std::string_view name) {
  ATTEMPT(EntryPlace place, find_place(txn, hash, directory, name));
  return std::move(place.entry);
}

void put_entry(Transaction& txn, InodeNo directory, uint64_t cookie, std::string_view name,
               InodeNo ino, uint8_t type) {
  std::array<std::byte, sizeof(DirentValue) + kNameBytesMax> buffer;
  const DirentValue value{ino.value(), type, static_cast<unsigned char>(name.size())};
  std::memcpy(buffer.data(), &value, sizeof(value));
  std::memcpy(buffer.data() + sizeof(value), name.data(), name.size());
  txn.put(dirent_key(directory, cookie), ConstBytes(buffer.data(), sizeof(value) + name.size()));
}

void remove_entry(Transaction& txn, InodeNo directory, const Dirent& entry) {
  txn.erase(dirent_key(directory, entry.cookie));
}

Attempt<std::optional<Dirent>> next_entry(Tree& tree, InodeNo directory, uint64_t cookie,
                                          NodePins& pins) {
  const uint64_t next = std::max(cookie + 1, kFirstCookie);
  ATTEMPT(const std::optional<ItemView> item, tree.at_or_after(dirent_key(directory, next), pins));
  if (!is_entry_of(item, directory)) return std::optional<Dirent>();
  TRY(Dirent entry, decode_entry(*item));
  return std::optional<Dirent>(std::move(entry));
}

Attempt<bool> is_empty_directory(Transaction& txn, InodeNo directory) {
  ATTEMPT(const std::optional<ItemView> item, txn.at_or_after(dirent_key(directory, 0)));
  return !is_entry_of(item, directory);
}

Result<void> check_name(std::string_view name) {
  if (name.size() > kNameBytesMax) return Error::name_too_long;
  if (name.empty() || name == "." || name == ".." ||
      name.find_first_of(std::string_view("/\0", 2)) != std::string_view::npos) {
    return Error::invalid_argument;
  }
  return {};
}

}  // namespace fusefs
