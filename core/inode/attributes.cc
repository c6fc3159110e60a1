// chmod, chown, utimens, chattr, and the privileges that a change of owner or content takes away.
#include "core/inode/namespace.h"

namespace fusefs {
namespace {

constexpr uint32_t kSetuid = 04000;
constexpr uint32_t kSetgid = 02000;
constexpr uint32_t kGroupExecute = 00010;

// Setgid without group execute is no privilege but mandatory locking, and stays.
uint32_t without_privileges(uint32_t mode) {
  const bool sgid = (mode & kGroupExecute) != 0;
  return mode & ~(kSetuid | (sgid ? kSetgid : 0));
}

bool changes_anything(const AttrChange& change) {
  return change.permissions || change.uid || change.gid || change.atime || change.mtime ||
         change.ctime || change.kill_privileges;
}

Result<void> check_allowed(const Inode& inode, const AttrChange& change) {
  if (has_flag(inode, kInodeImmutable)) return Error::not_permitted;
  const bool only_now = change.times_are_now && !change.permissions && !change.uid && !change.gid;
  if (has_flag(inode, kInodeAppendOnly) && !only_now) return Error::not_permitted;
  return {};
}

uint32_t flags_allowed(const InodeAttr& attr) {
  if (attr.is_directory()) return kInodeFlagsKnown;
  if (attr.is_regular()) return kInodeFlagsKnown & ~kInodeDirSync;
  return kInodeNoAtime | kInodeNoDump;
}

}  // namespace

Attempt<InodeRef> Namespace::set_attr(InodeNo ino, const AttrChange& change,
                                      NamespaceStash& stash) {
  ATTEMPT(InodeRef inode, inodes_.get(ino, stash.pins));
  if (!changes_anything(change)) return inode;
  TRY_OK(check_allowed(*inode, change));

  Transaction txn(store_, stash.pins);
  InodeEdit edit(inode);
  InodeAttr& attr = edit.attr;
  if (change.uid) attr.uid = *change.uid;
  if (change.gid) attr.gid = *change.gid;
  const bool loses_privileges = ((change.uid || change.gid) && !attr.is_directory()) ||
                                (change.kill_privileges && attr.is_regular());
  if (loses_privileges) {
    attr.mode = without_privileges(attr.mode);
    ATTEMPT_OK(stage_capability_removal(txn, edit));
  }
  if (change.permissions) {
    attr.mode = (attr.mode & ~07777u) | (*change.permissions & 07777u);
    ATTEMPT_OK(stage_access_acl_of_mode(txn, *inode, attr.mode));
  }
  edit.note_change(inodes_.now());
  if (change.atime) attr.atime = *change.atime;
  if (change.mtime) attr.mtime = *change.mtime;
  if (change.ctime) attr.ctime = *change.ctime;
  edit.stage(txn);

  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  edit.apply(inodes_, stash.seq);
  return inode;
}

Attempt<InodeRef> Namespace::set_flags(InodeNo ino, uint32_t flags, NamespaceStash& stash) {
  ATTEMPT(InodeRef inode, inodes_.get(ino, stash.pins));
  if ((flags & ~flags_allowed(inode->attr)) != 0) return Error::not_supported;
  if (inode->attr.flags == flags) return inode;
  Transaction txn(store_, stash.pins);
  InodeEdit edit(inode);
  edit.attr.flags = flags;
  edit.note_change(inodes_.now());
  edit.stage(txn);
  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  edit.apply(inodes_, stash.seq);
  return inode;
}

Attempt<void> Namespace::kill_privileges(InodeNo ino, bool suid_too, NamespaceStash& stash) {
  ATTEMPT(InodeRef inode, inodes_.get(ino, stash.pins));
  if (!inode->attr.is_regular()) return {};
  const uint32_t mode = suid_too ? without_privileges(inode->attr.mode) : inode->attr.mode;
  // Asked before each write: usually there is nothing, and it is known.
  const bool no_capability = lacks_special(*inode, SpecialXattr::capability);
  if (mode == inode->attr.mode && no_capability) return {};

  Transaction txn(store_, stash.pins);
  InodeEdit edit(std::move(inode));
  edit.attr.mode = mode;
  ATTEMPT_OK(stage_capability_removal(txn, edit));
  if (mode == edit.inode->attr.mode && txn.empty()) return {};
  edit.note_change(inodes_.now());
  edit.stage(txn);
  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  edit.apply(inodes_, stash.seq);
  return {};
}

}  // namespace fusefs
