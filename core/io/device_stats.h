// DeviceStats: what a device was asked to do and how long it took. Plain numbers; who prints them
// decides on names.
//
// Monitor held for reading and writing.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/io/block_device.h"
#include "core/stats/histogram.h"

namespace fusefs {

struct IoKindStats {
  uint64_t count = 0;  // requests completed, as submitted, not as split
  uint64_t bytes = 0;  // of those that succeeded
  uint64_t errors_count = 0;
  Histogram latency_ns;  // from submit() to completion
};

struct DeviceStats {
  std::array<IoKindStats, kIoKindCount> kinds;
  uint64_t fua_count = 0;     // writes that had to be durable by themselves
  uint64_t fixed_count = 0;   // reads and writes from registered memory
  uint64_t split_count = 0;   // requests that took more than one command
  uint64_t helped_count = 0;  // transfers that several threads took part in
  uint32_t in_flight = 0;
  uint32_t in_flight_max = 0;

  IoKindStats& of(IoKind kind) { return kinds[static_cast<size_t>(kind)]; }
  const IoKindStats& of(IoKind kind) const { return kinds[static_cast<size_t>(kind)]; }

  void note_submitted() { in_flight_max = std::max(in_flight_max, ++in_flight); }
  void note_completed(IoKind kind, uint64_t len, bool ok, uint64_t latency_ns) {
    --in_flight;
    IoKindStats& stats = of(kind);
    ++stats.count;
    if (ok) {
      stats.bytes += len;
    } else {
      ++stats.errors_count;
    }
    stats.latency_ns.record(latency_ns);
  }
};

}  // namespace fusefs
