// POSIX access control lists, in the form of the extended attributes system.posix_acl_access and
// system.posix_acl_default.
//
//   byte 0         4      6      8          12
//        +---------+------+------+----------+---
//        | version | tag  | perm | id       | ... one of tag, perm, id per entry
//        +---------+------+------+----------+---
//
// Pure functions of an ACL and a mode; who stores what where is in Namespace. The kernel makes the
// access decisions.
//
// Source  fs/posix_acl.c in Linux, acl(5)
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/error.h"

namespace fusefs {

inline constexpr std::string_view kAccessAclName = "system.posix_acl_access";
inline constexpr std::string_view kDefaultAclName = "system.posix_acl_default";
inline constexpr uint32_t kAclVersion = 2;

enum class AclTag : uint16_t {
  user_owner = 0x01,
  user = 0x02,
  group_owner = 0x04,
  group = 0x08,
  mask = 0x10,
  other = 0x20,
};

struct AclHeader {
  Le32 version;
};
struct AclEntryFormat {
  Le16 tag;
  Le16 permissions;
  Le32 id;  // user and group; else ~0
};
static_assert(sizeof(AclHeader) == 4 && sizeof(AclEntryFormat) == 8);

class Acl {
 public:
  struct Entry {
    AclTag tag{};
    uint16_t permissions = 0;  // 0 to 7
    uint32_t id = 0;
  };

  // Requires a whole ACL: owner, users, owning group, groups, mask, other in this order; a mask if
  // there are users or groups.
  //   Errors  invalid_argument
  static Result<Acl> parse(ConstBytes value);
  std::vector<std::byte> to_bytes() const;
  const std::vector<Entry>& entries() const { return entries_; }

  // True when the permission bits of a mode can say everything that the ACL says.
  bool is_minimal() const;
  // The mode with the permission bits that the ACL stands for: the group's are the mask's.
  uint32_t apply_to_mode(uint32_t mode) const;
  // chmod: the bits of `mode` go to owner, mask (or owning group) and other.
  void take_mode(uint32_t mode);
  // Turns a directory's default ACL into the access ACL of something created in it with `mode`:
  // both keep only what both allow. Returns the mode.
  uint32_t intersect_with_mode(uint32_t mode);

 private:
  Entry& only(AclTag tag);
  const Entry& only(AclTag tag) const { return const_cast<Acl&>(*this).only(tag); }
  Entry& group_class();
  const Entry& group_class() const { return const_cast<Acl&>(*this).group_class(); }

  std::vector<Entry> entries_;
};

}  // namespace fusefs
