#include "core/file/remap.h"

#include <algorithm>

namespace fusefs {

void PairHold::release() {
  lower.release();
  higher.release();
}

Attempt<void> hold_both(Inode& a, Inode& b, PairHold& hold) {
  Inode& lower = a.ino < b.ino ? a : b;
  Inode& higher = a.ino < b.ino ? b : a;
  if (!hold.lower.held()) ATTEMPT_INTO(hold.lower, lower.pages_lock.block_alone());
  if (higher.ino != lower.ino && !hold.higher.held()) {
    ATTEMPT_INTO(hold.higher, higher.pages_lock.block_alone());
  }
  return {};
}

Attempt<void> settle_folios(FileContext& context, Inode& inode, FileRange range,
                            std::unique_ptr<WritebackStash>& writeback) {
  while (true) {
    if (!writeback) {
      writeback = std::make_unique<WritebackStash>();
      writeback->caller_blocks = true;
      writeback->bounce = true;
    }
    ATTEMPT_OK(write_back(context, inode, range, *writeback));
    // A buffered write that was planned before the hold still copies into its folios, with blocks
    // reserved for the extents of that time. Its bytes come first.
    FolioRef locked = inode.mapping.any_locked(range);
    if (!locked && !inode.mapping.any_dirty(range)) break;
    writeback.reset();
    if (locked) return restart_after(locked->changed, RestartReason::folio_locked);
  }
  writeback.reset();
  return {};
}

Attempt<void> share_blocks(FileContext& context, Inode& from, Inode& to, const Sharing& sharing,
                           FileBlock& cursor, NamespaceStash& names, PinnedSharing& pinned) {
  while (cursor < sharing.source.end) {
    // What dedupe adds to the tree is less than it frees.
    if (sharing.touches) ATTEMPT_OK(context.space.check_room());
    const FileBlock at = sharing.target + (cursor - sharing.source.first);
    ATTEMPT_OK(pinned.prepare(context, from, {cursor, sharing.source.end}, to, at, sharing.touches,
                              names.pins));
    Transaction txn(context.store, names.pins);
    ATTEMPT(const ExtentChange change,
            share_range(txn, from.ino, {cursor, sharing.source.end}, to.ino, at));
    InodeAttr attr = to.attr;
    attr.block_count =
        BlockCount(attr.block_count.value() + static_cast<uint64_t>(change.block_difference));
    if (sharing.touches) {
      attr.mtime = attr.ctime = context.inodes.now();
      ++attr.change_count;
    }
    // On the device the target grows with what is there; bytes that its own dirty pages will
    // bring come later, with them.
    const uint64_t reached =
        std::min(sharing.end_size, file_pos(at) + block_bytes(change.done - cursor));
    attr.size = std::max(to.disk_size, reached);
    const uint64_t memory_size = std::max(to.attr.size, reached);
    InodeTable::put_attr(txn, attr, attr.size);
    txn.shows_data(context.write_cache.last_write());
    ATTEMPT_OK(txn.prepare());
    names.seq = txn.commit();
    context.cache.discard(to.mapping, file_range(at, change.done - cursor));
    const uint64_t disk_size = attr.size;
    if (memory_size > to.attr.size) grow_over_pins(context, to, file_pos(at), memory_size);
    pinned.shared(context, from, {cursor, change.done}, to, at);
    to.attr = attr;
    to.attr.size = memory_size;
    context.inodes.saved(to, names.seq, disk_size, true);
    // The rest of a shared last block is no better in the target.
    const FileBlock tail = file_block_at(from.disk_size);
    if (from.tail_unknown && cursor <= tail && tail < change.done) to.tail_unknown = true;
    cursor = change.done;
    Operation::current()->note_progress();
  }
  return {};
}

}  // namespace fusefs
