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

// Where names go. Seeded per volume, so that nobody can prepare names of equal hash.
class NameHash {
 public:
  // Tests make names collide with a `mask` of few bits.
  explicit NameHash(uint64_t seed, uint64_t mask = ~uint64_t{0}) : seed_(seed), mask_(mask) {}
  // The first cookie that a name may have; the next 255 follow.
  uint64_t first_cookie(std::string_view name) const;
  // The first key offset that an extended attribute may have; its slots and chunks follow.
  uint64_t first_xattr(std::string_view name) const;

 private:
  uint64_t seed_;
  uint64_t mask_;
};

//   Errors  corrupt
Result<Dirent> decode_entry(const ItemView& item);

// A name's place in its directory: the entry if it is there, else the cookie it would get.
struct EntryPlace {
  std::optional<Dirent> entry;
  std::optional<uint64_t> free_cookie;  // none: 256 names of this hash are there
};
//   Restarts node_load;  Errors io_failed, corrupt
Attempt<EntryPlace> find_place(Transaction& txn, NameHash hash, InodeNo directory,
                               std::string_view name);
Attempt<std::optional<Dirent>> find_entry(Transaction& txn, NameHash hash, InodeNo directory,
                                          std::string_view name);

// Stages an entry at a cookie that find_place() gave, or changes what the entry there points to.
void put_entry(Transaction& txn, InodeNo directory, uint64_t cookie, std::string_view name,
               InodeNo ino, uint8_t type);
void remove_entry(Transaction& txn, InodeNo directory, const Dirent& entry);

// The first entry with a cookie above `cookie`.
Attempt<std::optional<Dirent>> next_entry(Tree& tree, InodeNo directory, uint64_t cookie,
                                          NodePins& pins);
//   Returns  whether the directory has no entry
Attempt<bool> is_empty_directory(Transaction& txn, InodeNo directory);

// A name as the kernel may send it: 1 to 255 bytes, no '/', not "." or "..".
//   Errors  name_too_long, invalid_argument
Result<void> check_name(std::string_view name);

}  // namespace fusefs
