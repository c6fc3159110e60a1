#include "core/file/durable_write.h"

#include <algorithm>
#include <utility>

#include "core/file/writeback.h"

namespace fusefs {
namespace {

// The kernel may split more than this, and flush behind each part.
constexpr BlockCount kLoneBlocksMax{16};

// One request, that nothing else has to be durable for.
bool may_be_lone(FileContext& context, const Inode& inode, const Placement& placement,
                 uint64_t end) {
  return placement.segments().size() == 1 && !placement.needs_commit(inode, end) &&
         placement.segments().front().range.count() <= kLoneBlocksMax &&
         inode.data_seq <= context.store.journal().durable_seq();
}

}  // namespace

void DurableWrite::clear_run(SyncLevel wanted) {
  CHECK(phase_ != Phase::writing && !lone_);
  wanted_ = wanted;
  fua_ = touched_ = ended_ = times_saved_ = needed_commit_ = false;
  error_.reset();
  stamp_ = 0;
}

// The times of an O_SYNC write go to the journal beside its data: it is never alone.
IoGather DurableWrite::begin(FileContext& context, const Inode& inode, SyncLevel wanted,
                             const Placement& placement, uint64_t end) {
  clear_run(wanted);
  const DeviceGeometry& geometry = context.device.geometry();
  fua_ = wanted != SyncLevel::none && geometry.has_fua && geometry.has_volatile_cache;
  if (wanted == SyncLevel::data && may_be_lone(context, inode, placement, end)) {
    lone_ = context.write_cache.begin_lone();
    if (lone_) ++context.stats.lone_write_count;
    fua_ = fua_ || lone_;
  }
  // What maps the blocks now. Later transactions of this inode are not ours to wait for.
  if (wanted != SyncLevel::none) require(inode.data_seq);
  ticket_ = make_ref<IoTicket>();
  phase_ = Phase::writing;
  return IoGather(context.device, IoKind::write, ticket_, fua_);
}

void DurableWrite::joined(FileContext& context, Inode& inode, SyncLevel wanted) {
  if (phase_ != Phase::committing) clear_run(wanted);
  phase_ = Phase::committing;
  touch(context, inode);
  stamp_ = context.write_cache.last_write();
  needed_commit_ = true;
}

void DurableWrite::landed(FileContext& context, Inode& inode, bool ended) {
  CHECK(phase_ == Phase::writing);
  phase_ = Phase::committing;
  stamp_ = fua_ ? 0 : context.write_cache.note_write();
  if (std::exchange(lone_, false)) context.write_cache.end_lone({});
  touch(context, inode);
  ended_ = ended;
  if (!ended) return;
  inode.data_stamp = std::max(inode.data_stamp, stamp_);
  flush_stamp_ = std::max(flush_stamp_, stamp_);
}

void DurableWrite::refused(FileContext& context, Error error) {
  if (std::exchange(lone_, false)) context.write_cache.end_lone(error);
}

bool DurableWrite::owes(const FileContext& context) const {
  if (wanted_ == SyncLevel::none) return false;
  return wanted_ == SyncLevel::all || needed_commit_ ||
         seq_ > context.store.journal().durable_seq() ||
         !context.write_cache.durable(std::max(stamp_, flush_stamp_));
}

void DurableWrite::touch(FileContext& context, Inode& inode) {
  if (!std::exchange(touched_, true)) touch_contents(context, inode);
}

void DurableWrite::require(JournalSeq seq) { seq_ = std::max(seq_, seq); }

// The times of a pure overwrite go into the journal while the device writes the data. An error is
// told when it has done so.
void DurableWrite::save_times(FileContext& context, Inode& inode, NodePins& pins,
                              std::optional<Restart>& wait) {
  touch(context, inode);
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

Attempt<void> DurableWrite::await_data(FileContext& context, Inode& inode,
                                       const Placement& placement, uint64_t end, NodePins& pins) {
  // Others may take the size beyond `end` meanwhile, and then there is less left to commit.
  const bool overwrite = ended_ || !placement.needs_commit(inode, end);
  needed_commit_ = needed_commit_ || !overwrite;
  if (wanted_ == SyncLevel::all && overwrite && !times_saved_) {
    std::optional<Restart> wait;
    save_times(context, inode, pins, wait);
    if (wait) return *wait;
  }
  if (phase_ != Phase::writing) return {};
  const Attempt<void> written = ticket_->wait();
  if (written.must_restart()) return written;
  if (written.failed()) refused(context, written.error());
  if (written.failed() || error_) phase_ = Phase::done;
  if (written.failed()) return written;
  if (error_) return *error_;
  landed(context, inode, false);
  return {};
}

Attempt<void> DurableWrite::advance(FileContext& context, Inode& inode, Placement& placement,
                                    uint64_t end, NodePins& pins) {
  if (phase_ == Phase::done) return {};
  const Attempt<void> written = await_data(context, inode, placement, end, pins);
  if (!written.ok()) return written;
  const bool overwrite = ended_ || !placement.needs_commit(inode, end);
  if (!overwrite) {
    const Attempt<void> committed = placement.commit(context, inode, end, stamp_, pins);
    if (committed.must_restart()) return committed;
    phase_ = Phase::done;
    if (committed.failed()) return committed;
  } else {
    inode.data_stamp = std::max(inode.data_stamp, stamp_);
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
