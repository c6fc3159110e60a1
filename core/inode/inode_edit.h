// InodeEdit: what a transaction makes of one inode, until its commit has made it true.
//
//     InodeEdit edit(inode);
//     edit.attr.uid = uid;
//     edit.note_change(now);
//     edit.stage(txn);
//     ATTEMPT_OK(txn.prepare());
//     stash.seq = txn.commit();
//     edit.apply(table, stash.seq);
//
// Monitor held for every call.
#pragma once

#include <utility>

#include "core/inode/inode.h"

namespace fusefs {

struct InodeEdit {
  explicit InodeEdit(InodeRef edited) : inode(std::move(edited)), attr(inode->attr) {}

  InodeRef inode;
  InodeAttr attr;

  // Attributes or links change.
  void note_change(Timestamp now) {
    attr.ctime = now;
    ++attr.change_count;
  }
  // Entries of the directory change: their number by `entries`, subdirectories by `subdirectories`.
  void note_entries(Timestamp now, int entries, int subdirectories) {
    attr.mtime = now;
    note_change(now);
    attr.size = shifted(attr.size, entries, 0);
    attr.link_count = static_cast<uint32_t>(shifted(attr.link_count, subdirectories, 2));
  }

  // What a regular file has written but not committed is not to be seen after a crash.
  uint64_t stored_size() const { return attr.is_regular() ? inode->disk_size : attr.size; }

  // Counts that are wrong on the device stay wrong; they do not wrap around.
  static uint64_t shifted(uint64_t count, int by, uint64_t least) {
    if (by < 0 && count < least + static_cast<uint64_t>(-by)) return least;
    return count + static_cast<uint64_t>(int64_t{by});
  }

  void stage(Transaction& txn) const { InodeTable::put_attr(txn, attr, stored_size()); }
  void apply(InodeTable& table, JournalSeq seq) {
    const uint64_t stored = stored_size();
    inode->attr = attr;
    table.saved(*inode, seq, stored, false);
  }
};

inline bool has_flag(const Inode& inode, uint32_t flags) { return (inode.attr.flags & flags) != 0; }

// An inode that may not be changed, linked or unlinked at all.
inline bool is_frozen(const Inode& inode) {
  return has_flag(inode, kInodeImmutable | kInodeAppendOnly);
}

// namespace_remove.cc
void put_orphan(Transaction& txn, InodeNo ino, OrphanKind kind);
// One name less (a directory: none left); stages the inode, and the orphan item with the last.
//   Errors corrupt
Result<void> stage_unlinked(Transaction& txn, InodeEdit& edit, Timestamp now);

}  // namespace fusefs
