// Collects the numbers of every part into the JSON model of `fusefs stats` (docs/STATS.md).
//
// Every pointer may be null: what depends on it is left out, as for a volume that is not mounted.
// Copies what it needs; monitor held for the call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/engine/monitor.h"
#include "core/engine/scheduler.h"
#include "core/file/file_context.h"
#include "core/inode/inode.h"
#include "core/io/health.h"
#include "core/io/reactor.h"
#include "core/io/uring_device.h"
#include "core/journal/journal.h"
#include "core/memory/mapping.h"
#include "core/space/space.h"
#include "core/stats/fuse_stats.h"
#include "core/stats/json.h"
#include "core/stats/window_stats.h"
#include "core/tree/store.h"
#include "core/volume/volume.h"

namespace fusefs {

// Of the pages that clones have in common (core/memory/shared_blocks.h).
struct SharedPageStats {
  uint64_t page_count = 0;
  uint64_t hit_count = 0;
};

struct StatsInput {
  const KernelFacts* kernel = nullptr;

  const Superblock* superblock = nullptr;
  std::string source;
  std::string mount_point;
  Timestamp mounted;
  bool writable = false;
  const Health* health = nullptr;
  const SpaceStats* space = nullptr;
  const InodeTableStats* inodes = nullptr;
  const RecoveryStats* recovery = nullptr;

  const FileStats* file = nullptr;
  const FaultStats* faults = nullptr;
  const DirectStats* direct = nullptr;
  const CompletionStats* completion = nullptr;
  const PinStats* pins = nullptr;
  const WindowStats* windows = nullptr;
  const ReadaheadStats* readahead = nullptr;
  const TwoStateLocks* pages_locks = nullptr;
  const PageCacheStats* page_cache = nullptr;
  const SharedPageStats* shared_pages = nullptr;
  std::optional<uint64_t> resident_bytes;  // of the process
  const TreeStats* tree = nullptr;
  const StoreStats* store = nullptr;
  std::optional<uint64_t> shared_blocks;  // with two owners or more

  const DeviceGeometry* device = nullptr;
  const UringFacts* uring = nullptr;
  const DeviceStats* device_stats = nullptr;
  const JournalStats* journal = nullptr;

  // Name of the opcode, lower case ("read", "copy_file_range"), of those that have come.
  std::vector<std::pair<std::string_view, const FuseOpStats*>> fuse;

  uint32_t threads = 0;
  const SchedulerStats* scheduler = nullptr;
  const MonitorStats* monitor = nullptr;
  const ReactorStats* reactor = nullptr;
};

// The `data` of the envelope kStatsSchema.
Json collect_stats(const StatsInput& input);

// "0f8fad5b-d9cb-469f-a165-70867728950e".
std::string uuid_text(const unsigned char (&uuid)[16]);

}  // namespace fusefs
