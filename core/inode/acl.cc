// The kernel's posix_acl_valid(), posix_acl_equiv_mode(), posix_acl_create_masq() and
// posix_acl_chmod_masq(), for lists that parse() has found whole.
#include "core/inode/acl.h"

#include <algorithm>

namespace fusefs {
namespace {

constexpr uint32_t kNoId = ~uint32_t{0};

bool is_named(AclTag tag) { return tag == AclTag::user || tag == AclTag::group; }

bool is_known(uint16_t tag) {
  return tag != 0 && tag <= static_cast<uint16_t>(AclTag::other) && (tag & (tag - 1)) == 0;
}

// Tags are numbered in the order in which they must come. Only named ones may repeat.
bool is_in_order(const std::vector<Acl::Entry>& entries) {
  for (size_t i = 1; i < entries.size(); ++i) {
    const AclTag before = entries[i - 1].tag;
    const AclTag tag = entries[i].tag;
    if (before > tag || (before == tag && !is_named(tag))) return false;
  }
  return true;
}

}  // namespace

Result<Acl> Acl::parse(ConstBytes value) {
  if (value.size() < sizeof(AclHeader) || view_as<AclHeader>(value).version != kAclVersion ||
      (value.size() - sizeof(AclHeader)) % sizeof(AclEntryFormat) != 0) {
    return Error::invalid_argument;
  }
  Acl acl;
  unsigned seen = 0;
  acl.entries_.reserve((value.size() - sizeof(AclHeader)) / sizeof(AclEntryFormat));
  for (ConstBytes rest = value.subspan(sizeof(AclHeader)); !rest.empty();
       rest = rest.subspan(sizeof(AclEntryFormat))) {
    const AclEntryFormat& entry = view_as<AclEntryFormat>(rest);
    if (!is_known(entry.tag) || entry.permissions > 7) return Error::invalid_argument;
    const AclTag tag{entry.tag.get()};
    if (is_named(tag) && entry.id == kNoId) return Error::invalid_argument;
    seen |= entry.tag;
    acl.entries_.push_back({tag, entry.permissions, is_named(tag) ? entry.id.get() : kNoId});
  }
  const auto has = [&](AclTag tag) { return (seen & static_cast<unsigned>(tag)) != 0; };
  const bool whole = has(AclTag::user_owner) && has(AclTag::group_owner) && has(AclTag::other);
  const bool needs_mask = has(AclTag::user) || has(AclTag::group);
  if (!whole || (needs_mask && !has(AclTag::mask)) || !is_in_order(acl.entries_)) {
    return Error::invalid_argument;
  }
  return acl;
}

std::vector<std::byte> Acl::to_bytes() const {
  std::vector<std::byte> value(sizeof(AclHeader) + entries_.size() * sizeof(AclEntryFormat));
  view_as<AclHeader>(Bytes(value)).version = kAclVersion;
  Bytes rest = Bytes(value).subspan(sizeof(AclHeader));
  for (const Entry& entry : entries_) {
    view_as<AclEntryFormat>(rest) = {static_cast<uint16_t>(entry.tag), entry.permissions, entry.id};
    rest = rest.subspan(sizeof(AclEntryFormat));
  }
  return value;
}

Acl::Entry& Acl::only(AclTag tag) {
  return *std::find_if(entries_.begin(), entries_.end(),
                       [tag](const Entry& entry) { return entry.tag == tag; });
}

Acl::Entry& Acl::group_class() {
  const auto mask = std::find_if(entries_.begin(), entries_.end(),
                                 [](const Entry& entry) { return entry.tag == AclTag::mask; });
  return mask != entries_.end() ? *mask : only(AclTag::group_owner);
}

bool Acl::is_minimal() const { return entries_.size() == 3; }

uint32_t Acl::apply_to_mode(uint32_t mode) const {
  return (mode & ~0777u) | uint32_t{only(AclTag::user_owner).permissions} << 6 |
         uint32_t{group_class().permissions} << 3 | only(AclTag::other).permissions;
}

void Acl::take_mode(uint32_t mode) {
  only(AclTag::user_owner).permissions = static_cast<uint16_t>(mode >> 6 & 7);
  group_class().permissions = static_cast<uint16_t>(mode >> 3 & 7);
  only(AclTag::other).permissions = static_cast<uint16_t>(mode & 7);
}

uint32_t Acl::intersect_with_mode(uint32_t mode) {
  const uint32_t both = (mode & ~0777u) | (mode & apply_to_mode(0));
  take_mode(both);
  return both;
}

}  // namespace fusefs
