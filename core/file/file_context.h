// FileContext: what the operations on file contents work with; one per mounted volume.
#pragma once

#include "core/inode/extent_map.h"
#include "core/inode/namespace.h"
#include "core/io/health.h"
#include "core/io/write_cache.h"
#include "core/memory/mapping.h"

namespace fusefs {

struct FileStats {
  uint64_t read_count = 0;
  uint64_t read_bytes = 0;
  uint64_t read_cached_bytes = 0;  // served from folios
  uint64_t write_buffered_count = 0;
  uint64_t write_buffered_bytes = 0;
  uint64_t write_direct_count = 0;
  uint64_t write_direct_bytes = 0;
  uint64_t writeback_count = 0;  // runs of pages written together
  uint64_t writeback_bytes = 0;
  uint64_t cow_break_count = 0;
  uint64_t cow_break_bytes = 0;
  uint64_t clone_count = 0;
  uint64_t clone_bytes = 0;
  uint64_t fsync_count = 0;
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
  FileStats stats = {};
  // Writeback runs that failed since the last good one (writeback.h).
  uint32_t failed_runs_in_row = 0;
};

// One open(2). The daemon keeps it by its handle.
struct OpenFile {
  InodeRef inode;
  int flags = 0;  // as open(2)
  bool writable = false;
  uint64_t write_errors_seen = 0;  // of inode->write_error_count: fsync reports each once
};

}  // namespace fusefs
