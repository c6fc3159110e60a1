#include "core/file/fsync.h"

#include "core/file/placement.h"

namespace fusefs {
namespace {

using Phase = FsyncStash::Phase;

// Waits until stash.seq and stash.stamp are durable, both at once.
Attempt<void> wait_durable(FileContext& context, FsyncStash& stash) {
  Journal& journal = context.store.journal();
  if (stash.seq > journal.durable_seq()) journal.kick();
  if (!context.write_cache.durable(stash.stamp)) {
    ATTEMPT_OK(context.write_cache.flush(stash.stamp, stash.flush));
  }
  if (stash.seq > journal.durable_seq()) ATTEMPT_OK(journal.wait_durable(stash.seq));
  return {};
}

}  // namespace

// Saves the attributes that fsync (or fdatasync: the size) has to make durable, and waits.
Attempt<void> make_durable(FileContext& context, Inode& inode, bool data_only, FsyncStash& stash) {
  if (stash.phase == Phase::saving) {
    const bool size_changed = inode.attr.is_regular() && inode.attr.size != inode.disk_size;
    note_pending_size(context, inode);
    if (inode.atime_lazy && !data_only) context.inodes.mark_attr_dirty(inode);
    if (inode.attr_dirty && (!data_only || size_changed)) {
      ATTEMPT_OK(save_attr(context, inode, stash.writeback.pins, stash.writeback.bounced_size));
    }
    stash.seq = data_only ? inode.data_seq : inode.changed_seq;
    stash.stamp = inode.data_stamp;
    stash.phase = Phase::waiting;
  }
  if (stash.phase == Phase::waiting) {
    ATTEMPT_OK(wait_durable(context, stash));
    stash.phase = Phase::done;
  }
  return {};
}

namespace {

Attempt<void> sync_file(FileContext& context, Inode& inode, bool data_only, FsyncStash& stash) {
  if (stash.phase == Phase::writing) {
    stash.writeback.bounce = true;
    ATTEMPT_OK(write_back(context, inode, kWholeFile, stash.writeback));
    stash.phase = Phase::saving;
  }
  return make_durable(context, inode, data_only, stash);
}

}  // namespace

Attempt<void> fsync(FileContext& context, OpenFile& file, bool data_only, FsyncStash& stash) {
  Inode& inode = *file.inode;
  if (!inode.attr.is_regular()) return fsync_inode(context, inode, stash);
  const Attempt<void> synced = sync_file(context, inode, data_only, stash);
  if (synced.must_restart()) return synced;
  ++context.stats.fsync_count;
  const bool unreported = file.write_errors_seen != inode.write_error_count;
  file.write_errors_seen = inode.write_error_count;
  if (synced.failed()) return synced;
  if (unreported) return inode.write_error;
  return {};
}

Attempt<void> fsync_inode(FileContext& context, Inode& inode, FsyncStash& stash) {
  if (stash.phase == Phase::writing) stash.phase = Phase::saving;
  return make_durable(context, inode, false, stash);
}

Attempt<void> sync_all(FileContext& context, FsyncStash& stash) {
  if (stash.phase == Phase::writing) {
    stash.writers = make_ref<InodeWriters>(context, true);
    stash.inodes = context.inodes.dirty_inodes(SIZE_MAX);
    context.pins.add_storable_inodes(stash.inodes);
    stash.phase = Phase::saving;
  }
  if (stash.phase == Phase::saving) {
    while (!stash.inodes.empty() && stash.writers->has_room()) {
      stash.writers->start(stash.inodes.back());
      stash.inodes.pop_back();
      note_progress();
    }
    if (stash.writers->running() != 0) {
      return restart_after(stash.writers->ended(), RestartReason::writeback);
    }
    stash.seq = context.store.journal().last_seq();
    stash.stamp = context.write_cache.last_write();
    stash.phase = Phase::waiting;
  }
  if (stash.phase == Phase::waiting) {
    ATTEMPT_OK(wait_durable(context, stash));
    stash.phase = Phase::done;
  }
  if (const std::optional<Error> error = stash.writers->error()) return *error;
  return {};
}

}  // namespace fusefs
