// Monitor: one attempt runs at a time, on any thread.
//
// Everything in core/ above the device drivers requires that the calling thread is inside.
// System calls, copies to and from the kernel and checksums of large data run outside.
#pragma once

#include <cstdint>
#include <mutex>

#include "core/base/clock.h"

namespace fusefs {

struct MonitorStats {
  uint64_t enter_count = 0;
  uint64_t held_ns = 0;
  uint64_t waited_ns = 0;
  uint64_t held_ns_max = 0;
};

class Monitor {
 public:
  explicit Monitor(const Clock& clock) : clock_(clock) {}

  void enter();
  void leave();
  // Monitor held.
  const MonitorStats& stats() const { return stats_; }

 private:
  const Clock& clock_;
  std::mutex mutex_;
  uint64_t entered_ns_ = 0;
  MonitorStats stats_;
};

// Inside the monitor for the scope.
class MonitorHold {
 public:
  explicit MonitorHold(Monitor& monitor) : monitor_(monitor) { monitor_.enter(); }
  ~MonitorHold() { monitor_.leave(); }
  MonitorHold(const MonitorHold&) = delete;
  MonitorHold& operator=(const MonitorHold&) = delete;

 private:
  Monitor& monitor_;
};

}  // namespace fusefs
