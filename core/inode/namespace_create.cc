// Making inodes and names for them.
//
// One transaction: the inode, its ACLs or symlink target, the entry, and the directory's times. The
// inode's number is only taken when nothing can fail any more, so that attempts cost no numbers.
#include "core/base/checksum.h"
#include "core/inode/namespace.h"

namespace fusefs {
namespace {

constexpr uint32_t kTypeMask = 0170000;
constexpr uint32_t kTypeSymlink = 0120000;
constexpr uint32_t kTypeDirectory = 0040000;
constexpr uint32_t kSetgid = 02000;

// As ext4 has it: what says how to treat a file is inherited, what forbids changes is not.
constexpr uint32_t kInheritedFlags = kInodeNoAtime | kInodeNoDump | kInodeSync | kInodeDirSync;

Result<void> check_request(const CreateRequest& request) {
  switch (request.mode & kTypeMask) {
    case 0100000:  // regular file
    case 0040000:  // directory
    case 0010000:  // fifo
    case 0020000:  // character device
    case 0060000:  // block device
    case 0140000:  // socket
      return {};
    case kTypeSymlink:
      if (request.symlink_target.empty()) return Error::invalid_argument;
      if (request.symlink_target.size() > kSymlinkBytesMax) return Error::name_too_long;
      return {};
    default:
      return Error::invalid_argument;
  }
}

// Handles of a number that was used on another volume, or before a repair, are not mistaken.
uint64_t generation_of(const InodeAttr& attr) {
  const uint64_t birth[] = {attr.ino.value(), static_cast<uint64_t>(attr.btime.sec),
                            attr.btime.nsec};
  return checksum(bytes_of(birth)) >> 32;
}

bool is_device(uint32_t mode) {
  return (mode & kTypeMask) == 0020000 || (mode & kTypeMask) == 0060000;
}

InodeAttr new_attr(InodeNo ino, const Inode& directory, const CreateRequest& request,
                   const Caller& caller, Timestamp now) {
  InodeAttr attr;
  attr.ino = ino;
  attr.mode = request.mode & (kTypeMask | 07777u);
  attr.uid = caller.uid;
  attr.gid = caller.gid;
  attr.link_count = 1;
  attr.atime = attr.mtime = attr.ctime = attr.btime = now;
  attr.device = is_device(attr.mode) ? request.device : 0;
  attr.generation = generation_of(attr);
  if (attr.is_directory()) {
    attr.link_count = 2;
    attr.parent = directory.ino;
  }
  if (attr.is_symlink()) {
    attr.mode = kTypeSymlink | 0777u;
    attr.size = request.symlink_target.size();
  }
  if ((directory.attr.mode & kSetgid) != 0) {
    attr.gid = directory.attr.gid;
    if (attr.is_directory()) attr.mode |= kSetgid;
  }
  if (attr.is_directory()) attr.flags = directory.attr.flags & kInheritedFlags;
  if (attr.is_regular()) attr.flags = directory.attr.flags & kInheritedFlags & ~kInodeDirSync;
  return attr;
}

}  // namespace

Attempt<InodeAttr> Namespace::stage_new_inode(Transaction& txn, Inode& directory,
                                              const CreateRequest& request, const Caller& caller) {
  InodeAttr attr = new_attr(inodes_.next_inode_no(), directory, request, caller, inodes_.now());
  if (attr.is_symlink()) {
    txn.put(symlink_key(attr.ino), bytes_of(std::string_view(request.symlink_target)));
    InodeTable::put_attr(txn, attr, attr.size);
    return attr;
  }
  ATTEMPT(std::optional<Acl> acl, read_acl(txn, directory, SpecialXattr::default_acl));
  if (!acl) {
    attr.mode &= ~(caller.umask & 0777u);
  } else {
    // The new inode has no items yet: each name gets the first slot of its hash.
    const auto put_acl = [&](std::string_view name) {
      const XattrPlace place{hash_.first_xattr(name), false, 0};
      put_xattr(txn, attr.ino, name, place, acl->to_bytes());
      ++attr.xattr_count;
    };
    if (attr.is_directory()) put_acl(kDefaultAclName);
    attr.mode = acl->intersect_with_mode(attr.mode);
    if (!acl->is_minimal()) put_acl(kAccessAclName);
  }
  InodeTable::put_attr(txn, attr, attr.size);
  return attr;
}

InodeRef Namespace::adopt_new_inode(const InodeAttr& attr, JournalSeq seq) {
  CHECK(inodes_.take_inode_no() == attr.ino);
  return inodes_.adopt(attr, seq);
}

Attempt<InodeRef> Namespace::create(InodeNo parent, std::string_view name,
                                    const CreateRequest& request, const Caller& caller,
                                    NamespaceStash& stash) {
  CHECK_MSG(stash.seq == JournalSeq(), "create() has committed before");
  TRY_OK(check_name(name));
  TRY_OK(check_request(request));
  ATTEMPT(InodeRef directory, get_directory(parent, stash));
  Transaction txn(store_, stash.pins);
  ATTEMPT(const EntryPlace place, find_place(txn, hash_, parent, name));
  if (place.entry) return Error::exists;
  if (has_flag(*directory, kInodeImmutable)) return Error::not_permitted;
  if (!place.free_cookie) return Error::no_space;
  const bool is_subdirectory = (request.mode & kTypeMask) == kTypeDirectory;
  if (is_subdirectory && directory->attr.link_count >= kLinkCountMax) return Error::too_many_links;
  ATTEMPT_OK(space_.check_room());

  ATTEMPT(const InodeAttr attr, stage_new_inode(txn, *directory, request, caller));
  put_entry(txn, parent, *place.free_cookie, name, attr.ino, attr.type());
  InodeEdit edit(std::move(directory));
  edit.note_entries(attr.btime, 1, is_subdirectory ? 1 : 0);
  edit.stage(txn);

  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  edit.apply(inodes_, stash.seq);
  return adopt_new_inode(attr, stash.seq);
}

Attempt<InodeRef> Namespace::create_unnamed(InodeNo parent, const CreateRequest& request,
                                            const Caller& caller, NamespaceStash& stash) {
  CHECK_MSG(stash.seq == JournalSeq(), "create_unnamed() has committed before");
  TRY_OK(check_request(request));
  ATTEMPT(const InodeRef directory, get_directory(parent, stash));
  if (has_flag(*directory, kInodeImmutable)) return Error::not_permitted;
  if ((request.mode & kTypeMask) == kTypeDirectory) return Error::invalid_argument;
  ATTEMPT_OK(space_.check_room());

  Transaction txn(store_, stash.pins);
  ATTEMPT(InodeAttr attr, stage_new_inode(txn, *directory, request, caller));
  attr.link_count = 0;
  InodeTable::put_attr(txn, attr, attr.size);
  put_orphan(txn, attr.ino, OrphanKind::unlinked);

  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  return adopt_new_inode(attr, stash.seq);
}

Attempt<InodeRef> Namespace::link(InodeNo ino, InodeNo parent, std::string_view name,
                                  NamespaceStash& stash) {
  CHECK_MSG(stash.seq == JournalSeq(), "link() has committed before");
  TRY_OK(check_name(name));
  ATTEMPT(InodeRef directory, get_directory(parent, stash));
  ATTEMPT(InodeRef inode, inodes_.get(ino, stash.pins));
  Transaction txn(store_, stash.pins);
  ATTEMPT(const EntryPlace place, find_place(txn, hash_, parent, name));
  if (place.entry) return Error::exists;
  if (inode->attr.is_directory() || is_frozen(*inode) || has_flag(*directory, kInodeImmutable)) {
    return Error::not_permitted;
  }
  if (inode->life != Inode::Life::live) return Error::not_found;
  if (inode->attr.link_count >= kLinkCountMax) return Error::too_many_links;
  if (!place.free_cookie) return Error::no_space;
  ATTEMPT_OK(space_.check_room());

  TwoStateHold hold;
  const bool was_orphan = inode->attr.link_count == 0;
  if (was_orphan) {
    // The orphan item goes, and with it the promise that a truncate under way is finished after a
    // crash (it writes none of its own for an unlinked file): it has to be over first.
    ATTEMPT(hold, inode->pages_lock.add());
    txn.erase(orphan_key(ino));
  }
  put_entry(txn, parent, *place.free_cookie, name, ino, inode->attr.type());
  const Timestamp now = inodes_.now();
  InodeEdit directory_edit(std::move(directory));
  directory_edit.note_entries(now, 1, 0);
  directory_edit.stage(txn);
  InodeEdit edit(inode);
  ++edit.attr.link_count;
  edit.note_change(now);
  edit.stage(txn);

  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  directory_edit.apply(inodes_, stash.seq);
  edit.apply(inodes_, stash.seq);
  return inode;
}

}  // namespace fusefs
