// Taking names away. What loses its last name becomes an orphan in the same transaction, and is
// removed by reap() when nobody uses it any more.
#include "core/inode/namespace.h"

namespace fusefs {

void put_orphan(Transaction& txn, InodeNo ino, OrphanKind kind) {
  OrphanValue value{};
  value.kind = static_cast<unsigned char>(kind);
  txn.put(orphan_key(ino), bytes_of(value));
}

Result<void> stage_unlinked(Transaction& txn, InodeEdit& edit, Timestamp now) {
  InodeAttr& attr = edit.attr;
  if (attr.link_count == 0) return Error::corrupt;  // an entry names it
  attr.link_count = attr.is_directory() ? 0 : attr.link_count - 1;
  edit.note_change(now);
  edit.stage(txn);
  // A truncate's item gives way: what it has left to do is part of removing the inode.
  if (attr.link_count == 0) put_orphan(txn, attr.ino, OrphanKind::unlinked);
  return {};
}

Attempt<InodeRef> Namespace::unlink(InodeNo parent, std::string_view name, NamespaceStash& stash) {
  return remove_name(parent, name, false, stash);
}

Attempt<InodeRef> Namespace::rmdir(InodeNo parent, std::string_view name, NamespaceStash& stash) {
  return remove_name(parent, name, true, stash);
}

Attempt<InodeRef> Namespace::remove_name(InodeNo parent, std::string_view name, bool directory,
                                         NamespaceStash& stash) {
  CHECK_MSG(stash.seq == JournalSeq(), "the name has been removed before");
  TRY_OK(check_name(name));
  ATTEMPT(InodeRef holder, get_directory(parent, stash));
  Transaction txn(store_, stash.pins);
  ATTEMPT(const std::optional<Dirent> entry, find_entry(txn, hash_, parent, name));
  if (!entry) return Error::not_found;
  ATTEMPT(InodeRef inode, get_entry_inode(*entry, stash));
  if (is_frozen(*holder) || is_frozen(*inode)) return Error::not_permitted;
  if (inode->attr.is_directory() != directory) {
    return directory ? Error::not_a_directory : Error::is_a_directory;
  }
  if (directory) {
    ATTEMPT(const bool empty, is_empty_directory(txn, inode->ino));
    if (!empty) return Error::directory_not_empty;
  }

  const Timestamp now = inodes_.now();
  remove_entry(txn, parent, *entry);
  InodeEdit holder_edit(std::move(holder));
  holder_edit.note_entries(now, -1, directory ? -1 : 0);
  holder_edit.stage(txn);
  InodeEdit edit(inode);
  TRY_OK(stage_unlinked(txn, edit, now));

  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  holder_edit.apply(inodes_, stash.seq);
  edit.apply(inodes_, stash.seq);
  return inode;
}

}  // namespace fusefs
