#include "core/base/clock.h"

#include <ctime>

namespace fusefs {
namespace {

// 2026-01-01 00:00:00 UTC: where simulated wall clocks start.
constexpr int64_t kSimEpochSec = 1'767'225'600;

timespec read_clock(clockid_t id) {
  timespec ts{};
  clock_gettime(id, &ts);
  return ts;
}

}  // namespace

uint64_t SystemClock::monotonic_ns() const {
  const timespec ts = read_clock(CLOCK_MONOTONIC);
  return static_cast<uint64_t>(ts.tv_sec) * kNsPerSecond + static_cast<uint64_t>(ts.tv_nsec);
}

Timestamp SystemClock::wall() const {
  const timespec ts = read_clock(CLOCK_REALTIME);
  return {ts.tv_sec, static_cast<uint32_t>(ts.tv_nsec)};
}

Timestamp SimClock::wall() const {
  return {kSimEpochSec + static_cast<int64_t>(now_ns_ / kNsPerSecond),
          static_cast<uint32_t>(now_ns_ % kNsPerSecond)};
}

}  // namespace fusefs
