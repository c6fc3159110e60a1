#include "core/format/key_format.h"

namespace fusefs {

std::string_view key_type_name(KeyType type) {
  switch (type) {
    case KeyType::inode:
      return "inode";
    case KeyType::symlink:
      return "symlink";
    case KeyType::xattr:
      return "xattr";
    case KeyType::dirent:
      return "dirent";
    case KeyType::extent:
      return "extent";
    case KeyType::shared:
      return "shared";
    case KeyType::orphan:
      return "orphan";
  }
  return "unknown";
}

}  // namespace fusefs
