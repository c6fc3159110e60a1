// Directories: names, cookies, and the entries' items in the tree.
//
// A name's place is its cookie (core/format/item_format.h): hash, then a slot for names of equal
// hash. Cookies are stable while the entry exists, over changes of other entries and remounts.
//
// Monitor held for every call. Sees and stages changes in the transaction.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/inode/inode.h"

namespace fusefs {

struct Dirent {
  uint64_t cookie = 0;
  InodeNo ino;
  uint8_t type = 0;  // S_IFMT >> 12
  std::string name;
};

class NameHash {
 public:
  explicit NameHash(uint64_t seed) : seed_(seed) {}
  // The first cookie that a name may have; the next 255 follow.
  uint64_t first_cookie(std::string_view name) const;

 private:
  uint64_t seed_;
};

//   Restarts node_load;  Errors io_failed, corrupt
Attempt<std::optional<Dirent>> find_entry(Transaction& txn, NameHash hash, InodeNo directory,
                                          std::string_view name);
// Requires that the name is not there.
//   Errors  no_space when 256 names of one hash are there already
Attempt<void> add_entry(Transaction& txn, NameHash hash, InodeNo directory, std::string_view name,
                        InodeNo ino, uint8_t type);
// Changes what an existing entry points to, keeping its cookie.
void replace_entry(Transaction& txn, InodeNo directory, const Dirent& entry, InodeNo ino,
                   uint8_t type);
void remove_entry(Transaction& txn, InodeNo directory, const Dirent& entry);
// The first entry with a cookie above `cookie`.
Attempt<std::optional<Dirent>> next_entry(Tree& tree, InodeNo directory, uint64_t cookie,
                                          NodePins& pins);

// A name as the kernel may send it: 1 to 255 bytes, no '/', not "." or "..".
//   Errors  name_too_long, invalid_argument
Result<void> check_name(std::string_view name);

}  // namespace fusefs
