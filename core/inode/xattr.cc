// Extended attributes: which names there are, who may change them, and the bounds.
#include <algorithm>

#include "core/inode/namespace.h"

namespace fusefs {
namespace {

constexpr std::string_view kCapabilityName = "security.capability";

std::string_view name_of(SpecialXattr which) {
  switch (which) {
    case SpecialXattr::capability:
      return kCapabilityName;
    case SpecialXattr::access_acl:
      return kAccessAclName;
    case SpecialXattr::default_acl:
      return kDefaultAclName;
  }
  return {};
}

bool is_acl(std::string_view name) { return name == kAccessAclName || name == kDefaultAclName; }

Result<void> check_xattr_name(std::string_view name) {
  if (name.size() > kXattrNameBytesMax) return Error::range_too_small;
  if (is_acl(name)) return {};
  for (const std::string_view prefix : {"user.", "trusted.", "security."}) {
    if (!name.starts_with(prefix)) continue;
    if (name.size() == prefix.size() || name.find('\0') != std::string_view::npos) {
      return Error::invalid_argument;
    }
    return {};
  }
  return Error::not_supported;
}

}  // namespace

// ---- What the core itself looks for ----

bool Namespace::lacks_special(const Inode& inode, SpecialXattr which) {
  return inode.attr.xattr_count == 0 || (inode.absent_xattrs & static_cast<uint8_t>(which)) != 0;
}

Attempt<XattrPlace> Namespace::find_special(Transaction& txn, Inode& inode, SpecialXattr which) {
  if (lacks_special(inode, which)) return XattrPlace{};
  Attempt<XattrPlace> found = find_xattr(txn, hash_, inode.ino, name_of(which));
  // That there is no slot for the name means that it is not there.
  if (found.failed() && found.error() == Error::no_space) return XattrPlace{};
  if (found.ok() && !found.value().exists) inode.absent_xattrs |= static_cast<uint8_t>(which);
  return found;
}

Attempt<std::optional<Acl>> Namespace::read_acl(Transaction& txn, Inode& inode,
                                                SpecialXattr which) {
  ATTEMPT(const XattrPlace place, find_special(txn, inode, which));
  if (!place.exists) return std::optional<Acl>();
  ATTEMPT(const std::vector<std::byte> value, read_xattr(txn, inode.ino, name_of(which), place));
  Result<Acl> acl = Acl::parse(value);
  if (!acl.ok()) return Error::corrupt;
  return std::optional<Acl>(std::move(acl).value());
}

Attempt<void> Namespace::stage_access_acl_of_mode(Transaction& txn, Inode& inode, uint32_t mode) {
  ATTEMPT(std::optional<Acl> acl, read_acl(txn, inode, SpecialXattr::access_acl));
  if (!acl) return {};
  ATTEMPT(const XattrPlace place, find_special(txn, inode, SpecialXattr::access_acl));
  acl->take_mode(mode);
  put_xattr(txn, inode.ino, kAccessAclName, place, acl->to_bytes());
  return {};
}

Attempt<void> Namespace::stage_capability_removal(Transaction& txn, InodeEdit& edit) {
  ATTEMPT(const XattrPlace place, find_special(txn, *edit.inode, SpecialXattr::capability));
  if (!place.exists) return {};
  erase_xattr(txn, edit.attr.ino, kCapabilityName, place);
  if (edit.attr.xattr_count != 0) --edit.attr.xattr_count;
  return {};
}

// ---- Reading ----

Attempt<std::vector<std::byte>> Namespace::get_xattr(InodeNo ino, std::string_view name,
                                                     NamespaceStash& stash) {
  TRY_OK(check_xattr_name(name));
  ATTEMPT(InodeRef inode, inodes_.get(ino, stash.pins));
  if (inode->attr.xattr_count == 0) return Error::no_attribute;
  Transaction txn(store_, stash.pins);
  for (const SpecialXattr which :
       {SpecialXattr::capability, SpecialXattr::access_acl, SpecialXattr::default_acl}) {
    if (name != name_of(which)) continue;
    ATTEMPT(const XattrPlace place, find_special(txn, *inode, which));
    if (!place.exists) return Error::no_attribute;
    return read_xattr(txn, ino, name, place);
  }
  Attempt<XattrPlace> found = find_xattr(txn, hash_, ino, name);
  if (found.failed() && found.error() == Error::no_space) return Error::no_attribute;
  ATTEMPT(const XattrPlace place, std::move(found));
  if (!place.exists) return Error::no_attribute;
  return read_xattr(txn, ino, name, place);
}

Attempt<std::vector<std::string>> Namespace::list_xattrs(InodeNo ino, NamespaceStash& stash) {
  ATTEMPT(const InodeRef inode, inodes_.get(ino, stash.pins));
  std::vector<std::string> names;
  if (inode->attr.xattr_count == 0) return names;
  Transaction txn(store_, stash.pins);
  std::optional<uint64_t> offset = 0;
  while (offset) {
    ATTEMPT(std::optional<XattrListed> listed, next_xattr(txn, ino, *offset));
    if (!listed) break;
    offset = offset_behind_xattr(listed->offset);
    names.push_back(std::move(listed->name));
  }
  return names;
}

// ---- Changing ----

Attempt<void> Namespace::check_xattr_list_room(Transaction& txn, const Inode& inode,
                                               std::string_view name) {
  // So few names fit, however long they are.
  constexpr uint32_t kCountThatFits = kXattrListBytesMax / (kXattrNameBytesMax + 1);
  if (inode.attr.xattr_count < kCountThatFits) return {};
  size_t bytes = name.size() + 1;
  std::optional<uint64_t> offset = 0;
  while (offset) {
    ATTEMPT(const std::optional<XattrListed> listed, next_xattr(txn, inode.ino, *offset));
    if (!listed) break;
    offset = offset_behind_xattr(listed->offset);
    bytes += listed->name.size() + 1;
  }
  if (bytes > kXattrListBytesMax) return Error::no_space;
  return {};
}

// Stages the attribute (no value: its removal) and the inode, and commits.
Attempt<void> Namespace::commit_xattr(Transaction& txn, InodeEdit& edit, std::string_view name,
                                      const XattrPlace& place, std::optional<ConstBytes> value,
                                      NamespaceStash& stash) {
  InodeAttr& attr = edit.attr;
  if (value) {
    put_xattr(txn, attr.ino, name, place, *value);
    if (!place.exists) ++attr.xattr_count;
  } else if (place.exists) {
    erase_xattr(txn, attr.ino, name, place);
    if (attr.xattr_count != 0) --attr.xattr_count;
  }
  edit.note_change(inodes_.now());
  edit.stage(txn);
  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  edit.apply(inodes_, stash.seq);
  edit.inode->absent_xattrs = 0;
  return {};
}

Attempt<void> Namespace::set_xattr(InodeNo ino, std::string_view name, ConstBytes value,
                                   XattrMode mode, NamespaceStash& stash, bool kill_sgid) {
  TRY_OK(check_xattr_name(name));
  if (value.size() > kXattrValueBytesMax) return Error::value_too_large;
  ATTEMPT(InodeRef inode, inodes_.get(ino, stash.pins));
  if (is_frozen(*inode)) return Error::not_permitted;
  Transaction txn(store_, stash.pins);
  ATTEMPT(const XattrPlace place, find_xattr(txn, hash_, ino, name));
  if (place.exists && mode == XattrMode::create) return Error::exists;
  if (!place.exists && mode == XattrMode::replace) return Error::no_attribute;
  InodeEdit edit(std::move(inode));
  if (is_acl(name)) return set_acl(txn, edit, name, place, value, kill_sgid, stash);
  ATTEMPT_OK(check_xattr_room(txn, edit, name, place, value));
  return commit_xattr(txn, edit, name, place, value, stash);
}

Attempt<void> Namespace::check_xattr_room(Transaction& txn, const InodeEdit& edit,
                                          std::string_view name, const XattrPlace& place,
                                          ConstBytes value) {
  if (!place.exists) ATTEMPT_OK(check_xattr_list_room(txn, *edit.inode, name));
  if (!place.exists || value.size() > place.value_len) ATTEMPT_OK(space_.check_room());
  return {};
}

Attempt<void> Namespace::set_acl(Transaction& txn, InodeEdit& edit, std::string_view name,
                                 const XattrPlace& place, ConstBytes value, bool kill_sgid,
                                 NamespaceStash& stash) {
  if (edit.attr.is_symlink()) return Error::not_supported;
  // An ACL without entries is none.
  if (value.size() <= sizeof(AclHeader)) {
    if (value.size() == sizeof(AclHeader) && view_as<AclHeader>(value).version != kAclVersion) {
      return Error::invalid_argument;
    }
    if (!place.exists) return {};
    return commit_xattr(txn, edit, name, place, std::nullopt, stash);
  }
  TRY(const Acl acl, Acl::parse(value));
  const std::vector<std::byte> stored = acl.to_bytes();
  std::optional<ConstBytes> kept = stored;
  if (name == kDefaultAclName) {
    if (!edit.attr.is_directory()) return Error::access_denied;
  } else {
    edit.attr.mode = acl.apply_to_mode(edit.attr.mode);
    if (kill_sgid) edit.attr.mode &= ~02000u;
    if (acl.is_minimal()) kept = std::nullopt;
  }
  if (kept) ATTEMPT_OK(check_xattr_room(txn, edit, name, place, *kept));
  return commit_xattr(txn, edit, name, place, kept, stash);
}

Attempt<void> Namespace::remove_xattr(InodeNo ino, std::string_view name, NamespaceStash& stash) {
  TRY_OK(check_xattr_name(name));
  ATTEMPT(InodeRef inode, inodes_.get(ino, stash.pins));
  if (is_frozen(*inode)) return Error::not_permitted;
  Transaction txn(store_, stash.pins);
  Attempt<XattrPlace> found = find_xattr(txn, hash_, ino, name);
  if (found.failed() && found.error() == Error::no_space) return Error::no_attribute;
  ATTEMPT(const XattrPlace place, std::move(found));
  if (!place.exists) {
    // Removing an ACL that is not there leaves what was asked for, as XFS and ext4 have it.
    if (is_acl(name)) return {};
    return Error::no_attribute;
  }
  InodeEdit edit(std::move(inode));
  return commit_xattr(txn, edit, name, place, std::nullopt, stash);
}

}  // namespace fusefs
