// Extended attributes as items of the tree. Keys and chunks: core/format/item_format.h.
//
//     key     hash of the name, slot, chunk 0      chunk 1          chunk 2
//     value   [ header | name | value bytes ]      [ value bytes ]  [ value bytes ]
//
// What names mean, and who may set them, is the namespace's business.
//
// Monitor held for every call. Sees and stages changes in the transaction.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/inode/directory.h"

namespace fusefs {

inline constexpr size_t kXattrNameBytesMax = 255;
// A list of names, each with its terminator: what listxattr(2) can return.
inline constexpr size_t kXattrListBytesMax = 65536;

// Where an attribute is, or would go.
struct XattrPlace {
  uint64_t offset = 0;  // of chunk 0
  bool exists = false;
  uint32_t value_len = 0;  // if it exists
};

//   Restarts node_load;  Errors io_failed, corrupt, no_space (64 names of this hash are there)
Attempt<XattrPlace> find_xattr(Transaction& txn, NameHash hash, InodeNo ino, std::string_view name);
// The whole value of an attribute that exists.
Attempt<std::vector<std::byte>> read_xattr(Transaction& txn, InodeNo ino, std::string_view name,
                                           const XattrPlace& place);
// Stages the attribute; what was there before is replaced.
void put_xattr(Transaction& txn, InodeNo ino, std::string_view name, const XattrPlace& place,
               ConstBytes value);
void erase_xattr(Transaction& txn, InodeNo ino, std::string_view name, const XattrPlace& place);

// The first attribute whose chunk 0 is at `offset` or behind it.
struct XattrListed {
  uint64_t offset = 0;
  std::string name;
};
Attempt<std::optional<XattrListed>> next_xattr(Transaction& txn, InodeNo ino, uint64_t offset);
// Where to go on behind an attribute; nothing: it was the last that can be.
std::optional<uint64_t> offset_behind_xattr(uint64_t offset);

// Stages the removal of attributes' chunks, whatever they are, while the transaction has room for
// `kept_changes` more.
//   Returns  whether none is left
Attempt<bool> erase_all_xattrs(Transaction& txn, InodeNo ino, uint32_t kept_changes);

}  // namespace fusefs
