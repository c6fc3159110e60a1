// WindowStats: what windows do (fusefs/windows.h). Plain numbers; fusefs/ fills them in, with the
// monitor held.
#pragma once

#include <cstdint>

#include "core/stats/histogram.h"

namespace fusefs {

struct WindowStats {
  uint64_t open = 0;          // now
  uint64_t holders = 0;       // of these
  uint64_t memory_bytes = 0;  // of these
  uint64_t huge_bytes = 0;    // of these
  uint64_t connections = 0;   // to the socket
  uint64_t opened_count = 0;  // times somebody became a holder
  uint64_t refused_count = 0;
  uint64_t ended_count = 0;  // holders that have gone
  uint64_t flush_count = 0;
  uint64_t refreshed_count = 0;  // times the kernel was told to drop pages for a window
  uint64_t io_count = 0;
  uint64_t io_read_bytes = 0;  // file to window
  uint64_t io_write_bytes = 0;
  Histogram open_latency_ns;  // from the request to the answer
  Histogram io_latency_ns;

  // Faults of mapped windows (window_faults.h).
  uint64_t load_fault_count = 0;
  uint64_t store_fault_count = 0;    // of pages that were not there
  uint64_t upgrade_fault_count = 0;  // stores to pages that were there, to be read
  uint64_t refused_fault_count = 0;  // SIGBUS: no space, an I/O error, beyond the end
  Histogram load_fault_latency_ns;
  Histogram store_fault_latency_ns;  // and upgrades
};

}  // namespace fusefs
