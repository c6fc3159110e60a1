// FileContext: what the operations on file contents work with; one per mounted volume.
#pragma once

#include <array>
#include <memory>

#include "core/file/bounce_memory.h"
#include "core/file/edge_blocks.h"
#include "core/file/pins.h"
#include "core/file/read_streams.h"
#include "core/inode/extent_map.h"
#include "core/inode/namespace.h"
#include "core/io/completion.h"
#include "core/io/health.h"
#include "core/io/write_cache.h"
#include "core/memory/mapping.h"
#include "core/stats/histogram.h"

namespace fusefs {

struct FileStats {
  uint64_t read_count = 0;
  uint64_t read_bytes = 0;
  uint64_t read_cached_bytes = 0;  // served from folios
  uint64_t write_buffered_count = 0;
  uint64_t write_buffered_bytes = 0;
  uint64_t write_direct_count = 0;
  uint64_t write_direct_bytes = 0;
  uint64_t through_count = 0;  // writethroughs (write_through.h)
  uint64_t through_bytes = 0;
  uint64_t through_not_dirtied_pages = 0;
  uint64_t through_overlap_wait_count = 0;
  uint64_t lone_write_count = 0;
  uint64_t writeback_count = 0;  // runs of pages written together
  uint64_t writeback_bytes = 0;
  uint64_t cow_break_count = 0;
  uint64_t cow_break_bytes = 0;
  uint64_t clone_count = 0;
  uint64_t clone_bytes = 0;
  uint64_t clone_stale_bytes = 0;  // came from pages that a clone had replaced
  uint64_t dedupe_count = 0;
  uint64_t dedupe_bytes = 0;
  uint64_t unshare_bytes = 0;
  uint64_t fsync_count = 0;
};

// Pages that faults (fault.h) got into memory. A fault is for one page or a run of neighbours.
struct FaultStats {
  uint64_t read_count = 0;
  uint64_t write_count = 0;
  uint64_t restart_count = 0;  // each time a fault let go
  std::array<uint64_t, kRestartReasonCount> restart_by_reason = {};
  // Pages that were read or copied before a restart: found again and used; not there any more, or
  // not wanted; gone although nothing had happened to the file.
  uint64_t stash_reused_count = 0;
  uint64_t stash_discarded_count = 0;
  uint64_t page_gone_count = 0;
  uint64_t page_replaced_count = 0;  // shared pages that a write made private
  Histogram latency_ns;              // of faults that never let go
  Histogram latency_restarted_ns;    // of the others
};

// What a fault does with the hold of the two-state lock while it waits for the device.
enum class FaultPolicy : uint8_t {
  restart,  // lets it go
  hold,     // keeps it: to measure what that costs the others
};

// Direct I/O: past every cache (write.h, read.h).
struct DirectStats {
  uint64_t read_count = 0;
  uint64_t read_bytes = 0;
  uint64_t write_count = 0;
  uint64_t write_bytes = 0;
  uint64_t unaligned_count = 0;    // writes that begin or end within a block
  uint64_t edge_read_count = 0;    // blocks read because they were written in part
  uint64_t edge_joined_count = 0;  // blocks written once for two writes that share them
  uint64_t bounce_bytes = 0;       // copied: the device cannot take the caller's memory
  uint64_t folio_drop_count = 0;
  uint32_t in_flight = 0;  // writes at the device
  uint32_t in_flight_max = 0;
  // Buffers that are a mapping of the core's (mapped_io.h).
  uint64_t self_refused_count = 0;
  uint64_t self_retry_count = 0;
  uint64_t self_buffered_bytes = 0;
  uint64_t pinned_read_bytes = 0;  // that the device has put into pinned pages
};

// Direct I/O whose buffer cannot be got while the file is blocked, because it is the file.
enum class SelfIoPolicy : uint8_t {
  buffered,  // goes through pages instead
  error,     // bad_address
};

struct ReadaheadStats {
  uint64_t sequential_count = 0;  // windows
  uint64_t strided_count = 0;
  uint64_t window_bytes = 0;   // of these
  uint64_t read_bytes = 0;     // that were neither there nor holes, and found room
  uint64_t dropped_count = 0;  // steps given up, wholly or in part
};

struct FileContext {
  Scheduler& scheduler;
  BlockDevice& device;
  WriteCache& write_cache;
  Health& health;
  Store& store;
  Space& space;
  InodeTable& inodes;
  Namespace& names;
  PageCache& cache;
  Completions completions;
  FileStats stats = {};
  DirectStats direct = {};
  EdgeBlocks edges = {};
  SelfIoPolicy self_io = SelfIoPolicy::buffered;
  FaultStats faults = {};
  FaultPolicy fault_policy = FaultPolicy::restart;
  // Writeback runs that failed since the last good one (writeback.h).
  uint32_t failed_runs_in_row = 0;
  // Largest window; 0 switches readahead off.
  uint64_t readahead_bytes_max = kReadaheadBytesMax;
  ReadaheadStats readahead = {};
  Pins pins{cache};
  BounceMemory bounce_memory = {};
};

// One open(2). The daemon keeps it by its handle.
struct OpenFile {
  InodeRef inode;
  int flags = 0;  // as open(2)
  bool writable = false;
  uint64_t write_errors_seen = 0;  // of inode->write_error_count: fsync reports each once
  std::shared_ptr<ReadStreams> read_streams = {};  // since the first read that may read ahead
};

}  // namespace fusefs
