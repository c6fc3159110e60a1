#include "core/io/write_cache.h"

namespace fusefs {

bool WriteCache::durable(WriteStamp stamp) const {
  return stamp <= durable_ || !device_.geometry().has_volatile_cache;
}

void WriteCache::settle() {
  if (!flush_ || flush_->pending()) return;
  const Result<void> result = flush_->result();
  if (result.ok()) {
    durable_ = in_flight_;
    settled_ = flush_settles_;
  } else {
    failed_ = result.error();
  }
  flush_.reset();
}

Attempt<void> WriteCache::flush(WriteStamp stamp, Ref<IoTicket>& ticket) {
  CHECK(stamp <= last_write_);
  settle();
  if (durable(stamp)) {
    ticket.reset();
    return {};
  }
  if (failed_) return *failed_;
  if (!flush_) {
    flush_ = make_ref<IoTicket>();
    in_flight_ = last_write_;
    const ChangeCounts& changes = device_.changes();
    flush_settles_.reset();
    if (changes.in_flight == 0) flush_settles_ = changes.submitted;
    sharers_ = 0;
    ++flush_count_;
    device_.submit(IoRequest::flush(), flush_);
  }
  // One that began before the write had completed may miss it; it is waited for all the same, and
  // the next one is started by whoever comes first.
  if (ticket != flush_) ++sharers_;
  ticket = flush_;
  return restart_after(flush_->completion(), RestartReason::durable);
}

// With others about, what they share costs less: of many who have waited for one flush, and now
// write again one after the other, the first finds nobody there yet, and the count tells.
bool WriteCache::begin_lone() {
  const DeviceGeometry& geometry = device_.geometry();
  if (!geometry.has_volatile_cache || geometry.has_fua) return false;
  settle();
  const ChangeCounts& changes = device_.changes();
  if (failed_ || flush_ || sharers_ > 1) return false;
  if (changes.in_flight != 0 || changes.submitted != settled_) return false;
  lone_change_ = changes.submitted + 1;
  return true;
}

void WriteCache::end_lone(const Result<void>& result) {
  const bool was_alone = device_.changes().submitted == lone_change_;
  if (result.ok()) {
    if (was_alone) settled_ = lone_change_;
  } else if (!was_alone && !failed_) {
    failed_ = result.error();
  }
}

}  // namespace fusefs
