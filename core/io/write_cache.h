// WriteCache: what the device may still lose, and one flush shared by all who need one.
//
// Every completed write without FUA makes the device's volatile cache dirty. A flush that starts
// after a write has completed makes it durable; so a caller names the last write it cares about
// and waits until a flush that began later has completed. Callers that come while a flush is under
// way share the next one.
//
// A failed flush is the last: the kernel and the device may have dropped what it covered, and a
// later one would succeed without it. Every flush after it fails with its error.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <optional>

#include "core/io/block_device.h"

namespace fusefs {

// Counts completed writes; a later write has a larger stamp.
using WriteStamp = uint64_t;

class WriteCache {
 public:
  explicit WriteCache(BlockDevice& device) : device_(device) {}

  // To be called when a write without FUA has completed.
  WriteStamp note_write() { return ++last_write_; }
  WriteStamp last_write() const { return last_write_; }
  // True when nothing up to `stamp` can be lost.
  bool durable(WriteStamp stamp) const;

  // Makes everything up to `stamp` durable.
  //   Restarts  on the flush
  //   Errors    of the flush, to everybody who shares it and to all who come later
  // `ticket` is the caller's stash; empty at the first call.
  Attempt<void> flush(WriteStamp stamp, Ref<IoTicket>& ticket);

  uint64_t flush_count() const { return flush_count_; }

 private:
  void settle();

  BlockDevice& device_;
  WriteStamp last_write_ = 0;
  WriteStamp durable_ = 0;    // covered by a completed flush
  WriteStamp in_flight_ = 0;  // covered by the flush under way
  Ref<IoTicket> flush_;       // under way, or null
  std::optional<Error> failed_;
  uint64_t flush_count_ = 0;
};

}  // namespace fusefs
