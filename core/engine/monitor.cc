#include "core/engine/monitor.h"

#include <algorithm>

namespace fusefs {

void Monitor::enter() {
  const uint64_t asked_ns = clock_.monotonic_ns();
  if (mutex_.try_lock()) {
    entered_ns_ = asked_ns;
  } else {
    mutex_.lock();
    entered_ns_ = clock_.monotonic_ns();
    stats_.waited_ns += entered_ns_ - asked_ns;
  }
  ++stats_.enter_count;
}

void Monitor::leave() {
  const uint64_t held_ns = clock_.monotonic_ns() - entered_ns_;
  stats_.held_ns += held_ns;
  stats_.held_ns_max = std::max(stats_.held_ns_max, held_ns);
  mutex_.unlock();
}

}  // namespace fusefs
