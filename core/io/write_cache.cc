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
    ++flush_count_;
    device_.submit(IoRequest::flush(), flush_);
  }
  // One that began before the write had completed may miss it; it is waited for all the same, and
  // the next one is started by whoever comes first.
  ticket = flush_;
  return restart_after(flush_->completion(), RestartReason::durable);
}

}  // namespace fusefs
