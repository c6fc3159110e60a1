// Keys of the tree: (object, type, offset), ordered in that order.
//
//   type      object          offset                     value
//   inode     inode number    0                          InodeValue
//   symlink   inode number    0                          target, 1 to 4095 bytes
//   xattr     inode number    xattr slot and chunk       XattrValue, then name and value
//   dirent    directory       cookie                     DirentValue, then the name
//   extent    inode number    first file block           ExtentValue
//   shared    kSharedObject   first block                SharedValue
//   orphan    kOrphanObject   inode number               OrphanValue
#pragma once

#include <compare>
#include <string_view>

#include "core/base/bytes.h"
#include "core/base/units.h"

namespace fusefs {

enum class KeyType : uint8_t {
  inode = 1,
  symlink = 2,
  xattr = 3,
  dirent = 4,
  extent = 5,
  shared = 6,
  orphan = 7,
};

// Objects that are not inodes come last, so that files keep the front of the tree.
inline constexpr uint64_t kSharedObject = ~uint64_t{0} - 1;
inline constexpr uint64_t kOrphanObject = ~uint64_t{0} - 2;
inline constexpr uint64_t kInodeNoMax = ~uint64_t{0} >> 1;
inline constexpr InodeNo kRootInode{1};

struct Key {
  uint64_t object = 0;
  KeyType type{};
  uint64_t offset = 0;
  friend constexpr auto operator<=>(const Key&, const Key&) = default;
};

struct KeyFormat {
  Le64 object;
  Le64 offset;
  unsigned char type;

  Key key() const { return {object, static_cast<KeyType>(type), offset}; }
  static KeyFormat of(const Key& key) {
    return {key.object, key.offset, static_cast<unsigned char>(key.type)};
  }
};
static_assert(sizeof(KeyFormat) == 17 && alignof(KeyFormat) == 1);

std::string_view key_type_name(KeyType type);

constexpr Key inode_key(InodeNo ino) { return {ino.value(), KeyType::inode, 0}; }
constexpr Key symlink_key(InodeNo ino) { return {ino.value(), KeyType::symlink, 0}; }
constexpr Key xattr_key(InodeNo ino, uint64_t offset) {
  return {ino.value(), KeyType::xattr, offset};
}
constexpr Key dirent_key(InodeNo ino, uint64_t cookie) {
  return {ino.value(), KeyType::dirent, cookie};
}
constexpr Key extent_key(InodeNo ino, FileBlock first) {
  return {ino.value(), KeyType::extent, first.value()};
}
constexpr Key shared_key(BlockNo first) { return {kSharedObject, KeyType::shared, first.value()}; }
constexpr Key orphan_key(InodeNo ino) { return {kOrphanObject, KeyType::orphan, ino.value()}; }

}  // namespace fusefs
