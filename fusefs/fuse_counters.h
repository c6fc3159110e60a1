// FuseCounters: counts and latencies per opcode, written by the threads that answer.
//
// Each thread has a part of its own, so that recording meets nobody; a snapshot adds the parts up.
// Any thread, without the monitor.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/stats/fuse_stats.h"
#include "fusefs/protocol.h"

namespace fusefs {

class FuseCounters {
 public:
  FuseCounters();
  ~FuseCounters();

  void begin() { in_flight_.fetch_add(1, std::memory_order_relaxed); }
  // After begin(), when the answer has been sent.
  void end(uint32_t opcode, bool failed, uint64_t bytes, uint64_t latency_ns);
  void note_malformed() { malformed_.fetch_add(1, std::memory_order_relaxed); }
  void note_not_served() { not_served_.fetch_add(1, std::memory_order_relaxed); }
  void note_undelivered() { undelivered_.fetch_add(1, std::memory_order_relaxed); }
  void note_notify() { notify_.fetch_add(1, std::memory_order_relaxed); }

  struct Snapshot {
    std::map<std::string, FuseOpStats> opcodes;  // by name, those that occurred
    uint64_t in_flight_count = 0;
    uint64_t malformed_count = 0;    // refused before they were decoded
    uint64_t not_served_count = 0;   // opcodes that we do not have
    uint64_t undelivered_count = 0;  // answered, and nobody waited any more
    uint64_t notify_count = 0;       // invalidations sent to the kernel
  };
  Snapshot snapshot() const;

 private:
  // The histograms are large; an opcode that a thread never meets costs it nothing.
  struct Part {
    std::mutex mutex;
    std::array<std::unique_ptr<FuseOpStats>, wire::kOpcodeEnd> opcodes;
  };
  Part& my_part();

  const uint64_t id_;  // tells thread-local pointers of different objects apart
  mutable std::mutex parts_mutex_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::atomic<uint64_t> in_flight_{0};
  std::atomic<uint64_t> malformed_{0};
  std::atomic<uint64_t> not_served_{0};
  std::atomic<uint64_t> undelivered_{0};
  std::atomic<uint64_t> notify_{0};
};

}  // namespace fusefs
