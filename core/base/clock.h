// Clock: the seam to time. Tests advance a SimClock by hand, so that a seed replays exactly.
#pragma once

#include <compare>
#include <cstdint>

namespace fusefs {

inline constexpr uint64_t kNsPerSecond = 1'000'000'000;
inline constexpr uint64_t kNsPerMs = 1'000'000;

// Wall-clock time as files carry it. Seconds may be negative (before 1970); nsec < 1e9.
struct Timestamp {
  int64_t sec = 0;
  uint32_t nsec = 0;
  friend constexpr auto operator<=>(const Timestamp&, const Timestamp&) = default;
};

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds since an arbitrary start; never goes back.
  virtual uint64_t monotonic_ns() const = 0;
  virtual Timestamp wall() const = 0;
};

class SystemClock final : public Clock {
 public:
  uint64_t monotonic_ns() const override;
  Timestamp wall() const override;
};

class SimClock final : public Clock {
 public:
  uint64_t monotonic_ns() const override { return now_ns_; }
  Timestamp wall() const override;
  void advance_to(uint64_t now_ns) {
    if (now_ns > now_ns_) now_ns_ = now_ns;
  }

 private:
  uint64_t now_ns_ = 1;
};

}  // namespace fusefs
