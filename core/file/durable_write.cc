#include "core/file/durable_write.h"

#include <algorithm>

#include "core/file/writeback.h"

namespace fusefs {

IoGather DurableWrite::begin(FileContext& context, const Inode& inode, SyncLevel wanted) {
  CHECK(phase_ == Phase::idle || phase_ == Phase::done);
  const DeviceGeometry& geometry = context.device.geometry();
  wanted_ = wanted;
  fua_ = wanted != SyncLevel::none && geometry.has_fua && geometry.has_volatile_cache;
  touched_ = times_saved_ = needed_commit_ = false;
  error_.reset();
  // What maps the blocks now. Later transactions of this inode are not ours to wait for.
  if (wanted != SyncLevel::none) require(inode.data_seq);
  ticket_ = make_ref<IoTicket>();
  phase_ = Phase::writing;
  return IoGather(context.device, IoKind::write, ticket_, fua_);
}

void DurableWrite::require(JournalSeq seq) { seq_ = std::max(seq_, seq); }

// The times of a pure overwrite go into the journal while the device writes the data. An error is
// told when it has done so.
void DurableWrite::save_times(FileContext& context, Inode& inode, NodePins& pins,
                              std::optional<Restart>& wait) {
  if (!touched_) touch_contents(context, inode);
  touched_ = true;
  const Attempt<void> saved = save_attr(context, inode, pins);
  if (saved.must_restart()) {
    wait = saved.restart();
    return;
  }
  times_saved_ = true;
  if (saved.failed()) {
    error_ = saved.error();
    return;
  }
  require(inode.changed_seq);
  context.store.journal().kick();
}

Attempt<void> DurableWrite::advance(FileContext& context, Inode& inode, Placement& placement,
                                    uint64_t end, NodePins& pins) {
  if (phase_ == Phase::done) return {};
  // Others may take the size beyond `end` meanwhile, and then there is less left to commit.
  const bool overwrite = !placement.needs_commit(inode, end);
  needed_commit_ = needed_commit_ || !overwrite;
  if (wanted_ == SyncLevel::all && overwrite && !times_saved_) {
    std::optional<Restart> wait;
    save_times(context, inode, pins, wait);
    if (wait) return *wait;
  }
  if (phase_ == Phase::writing) {
    const Attempt<void> written = ticket_->wait();
    if (written.must_restart()) return written;
    phase_ = Phase::done;
    if (written.failed()) return written;
    if (error_) return *error_;
    stamp_ = fua_ ? 0 : context.write_cache.note_write();
    if (!touched_) touch_contents(context, inode);
    touched_ = true;
    phase_ = Phase::committing;
  }
  if (!overwrite) {
    const Attempt<void> committed = placement.commit(context, inode, end, stamp_, pins);
    if (committed.must_restart()) return committed;
    phase_ = Phase::done;
    if (committed.failed()) return committed;
  } else {
    if (stamp_ != 0) inode.data_stamp = stamp_;
    flush_stamp_ = std::max(flush_stamp_, stamp_);
    phase_ = Phase::done;
    if (error_) return *error_;
  }
  if (wanted_ == SyncLevel::none || !needed_commit_) return {};
  require(wanted_ == SyncLevel::all ? inode.changed_seq : inode.data_seq);
  context.store.journal().kick();
  return {};
}

Attempt<void> DurableWrite::settle(FileContext& context) {
  if (wanted_ == SyncLevel::none) return {};
  Journal& journal = context.store.journal();
  const bool needs_batch = seq_ > journal.durable_seq();
  if (needs_batch && !std::exchange(joined_, true)) journal.join(seq_);
  if (!context.write_cache.durable(flush_stamp_)) {
    if (needs_batch) journal.kick();
    ATTEMPT_OK(context.write_cache.flush(flush_stamp_, flush_));
  }
  if (needs_batch) ATTEMPT_OK(journal.wait_durable(seq_));
  return {};
}

}  // namespace fusefs
