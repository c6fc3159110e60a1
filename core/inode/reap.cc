// Removing what has no name and no user any more, in as many transactions as it takes.
//
// Each step leaves a volume on which the next one, or a mount after a crash, goes on: the orphan
// item stays until the last step takes it away together with the inode item.
#include "core/engine/operation.h"
#include "core/inode/extent_map.h"
#include "core/inode/namespace.h"

namespace fusefs {
namespace {

constexpr FileBlock kFileBlocksEnd = file_block_end(kFileBytesMax);
// Erasing symlink, inode and orphan item, or putting the inode item.
constexpr uint32_t kLastChanges = 3;

// Stages the next step.
//   Returns  whether it is the last
Attempt<bool> stage_removal(Transaction& txn, InodeEdit& edit) {
  InodeAttr& attr = edit.attr;
  if (attr.is_regular()) {
    ATTEMPT(const ExtentChange change, unmap_range(txn, attr.ino, {FileBlock(0), kFileBlocksEnd}));
    attr.block_count =
        BlockCount(attr.block_count.value() + static_cast<uint64_t>(change.block_difference));
    if (change.done < kFileBlocksEnd) {
      edit.stage(txn);
      return false;
    }
  }
  ATTEMPT(const bool no_xattr, erase_all_xattrs(txn, attr.ino, kLastChanges));
  if (!no_xattr) {
    edit.stage(txn);
    return false;
  }
  if (attr.is_symlink()) txn.erase(symlink_key(attr.ino));
  txn.erase(inode_key(attr.ino));
  txn.erase(orphan_key(attr.ino));
  return true;
}

}  // namespace

bool Namespace::is_reapable(const Inode& inode) const {
  return inode.attr.link_count == 0 && inode.open_count == 0 &&
         inodes_.lookups().count(inode.ino) == 0;
}

Attempt<void> Namespace::reap(InodeNo ino, NamespaceStash& stash) {
  Attempt<InodeRef> found = inodes_.get(ino, stash.pins);
  if (found.failed() && found.error() == Error::not_found) return {};
  ATTEMPT(const InodeRef inode, std::move(found));
  if (!is_reapable(*inode)) return {};
  // From here on nobody gives it a name; sizes and times in memory have lost their meaning.
  inode->life = Inode::Life::removing;
  inode->attr_dirty = false;
  inode->attr.size = inode->disk_size;

  Transaction txn(store_, stash.pins);
  InodeEdit edit(inode);
  ATTEMPT(const bool last, stage_removal(txn, edit));
  ATTEMPT_OK(txn.prepare());
  stash.seq = txn.commit();
  if (last) {
    inodes_.removed(*inode);
    return {};
  }
  edit.apply(inodes_, stash.seq);
  // One step at a time: removing a large file keeps nobody else out.
  if (Operation* operation = Operation::current()) operation->note_progress();
  return restart_now();
}

Attempt<std::optional<InodeNo>> Namespace::next_orphan(InodeNo after, OrphanKind& kind,
                                                       NodePins& pins) {
  ATTEMPT(const std::optional<ItemView> item,
          store_.tree().at_or_after(orphan_key(after.next()), pins));
  if (!item || item->key.type != KeyType::orphan || item->key.object != kOrphanObject) {
    return std::optional<InodeNo>();
  }
  if (item->value.size() != sizeof(OrphanValue)) return Error::corrupt;
  kind = OrphanKind{view_as<OrphanValue>(item->value).kind};
  if (kind != OrphanKind::unlinked && kind != OrphanKind::truncate) return Error::corrupt;
  return std::optional<InodeNo>(InodeNo(item->key.offset));
}

}  // namespace fusefs
