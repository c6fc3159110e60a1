// WriteCache: what the device may still lose, and one flush shared by all who need one.
//
// Every completed write without FUA makes the device's volatile cache dirty. A flush that starts
// after a write has completed makes it durable; so a caller names the last write it cares about
// and waits until a flush that began later has completed. Callers that come while a flush is under
// way share the next one.
//
// Where nobody is there to share with, a durable write does better with `fua` although the device
// has none: the kernel flushes behind it, and the caller waits once. Such a lone write begins only
// when a power cut could take nothing that was written before, and it makes nothing durable but
// itself.
//
// A failed flush is the last: the kernel and the device may have dropped what it covered, and a
// later one would succeed without it. Every flush after it fails with its error. An error of a lone
// write does not say whether the flush has failed; it need not, as long as no bytes but its own can
// have been dropped, for whoever wrote these is told:
//
//     lone write                  others                       its error is
//     begin: nothing volatile     nothing submitted            the write's; told to its writer
//     ...                         a write comes, and is done   a failed flush: it may have dropped
//     fails                                                    theirs, and theirs would succeed
//
// It is not tried again to find out: what fails or succeeds then need not have done so before.
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

  // True if a durable write is to be a lone one: the caller submits it now, as one request with
  // `fua`, and calls end_lone() when its ticket hears of it. False where the device has FUA, or no
  // volatile cache.
  bool begin_lone();
  void end_lone(const Result<void>& result);

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

  // In the device's count of changes. Stamps would not do: who wrote takes one some time after the
  // device was done.
  std::optional<uint64_t> settled_;        // so many, the first, are durable; if known
  std::optional<uint64_t> flush_settles_;  // will be with the flush under way
  uint64_t lone_change_ = 0;               // the last lone write is this one

  uint64_t sharers_ = 0;  // who waited for the last flush
};

}  // namespace fusefs
