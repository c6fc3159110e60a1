// The collector, the schema and docs/STATS.md name the same keys.
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "core/stats/schema.h"
#include "core/volume/stats_collector.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

struct Everything {
  KernelFacts kernel;
  Superblock superblock{};
  Health health{false};
  SpaceStats space;
  InodeTableStats inodes;
  RecoveryStats recovery;
  FileStats file;
  FaultStats faults;
  DirectStats direct;
  CompletionStats completion;
  PinStats pins;
  WindowStats windows;
  ReadaheadStats readahead;
  SimClock clock;
  TwoStateLocks pages_locks{clock};
  PageCacheStats page_cache;
  SharedPageStats shared_pages;
  TreeStats tree;
  StoreStats store;
  DeviceGeometry device;
  UringFacts uring;
  DeviceStats device_stats;
  JournalStats journal;
  FuseOpStats read;
  FuseOpStats write;
  SchedulerStats scheduler;
  MonitorStats monitor;
  ReactorStats reactor;

  StatsInput input() const {
    StatsInput input;
    input.kernel = &kernel;
    input.superblock = &superblock;
    input.health = &health;
    input.space = &space;
    input.inodes = &inodes;
    input.recovery = &recovery;
    input.file = &file;
    input.faults = &faults;
    input.direct = &direct;
    input.completion = &completion;
    input.pins = &pins;
    input.windows = &windows;
    input.readahead = &readahead;
    input.pages_locks = &pages_locks;
    input.page_cache = &page_cache;
    input.shared_pages = &shared_pages;
    input.resident_bytes = 1;
    input.tree = &tree;
    input.store = &store;
    input.shared_blocks = 5;
    input.device = &device;
    input.uring = &uring;
    input.device_stats = &device_stats;
    input.journal = &journal;
    input.fuse = {{"read", &read}, {"write", &write}};
    input.scheduler = &scheduler;
    input.monitor = &monitor;
    input.reactor = &reactor;
    return input;
  }
};

std::string type_of(const Json& value) {
  if (is_histogram(value)) return "histogram";
  if (value.is_boolean()) return "boolean";
  if (value.is_number_integer()) return "integer";
  return value.is_string() || value.is_null() ? "text" : "other";
}

// Path -> type of every leaf; `*` for opcodes and reasons.
void flatten(const Json& at, const std::string& path, std::map<std::string, std::string>& leaves) {
  if (!at.is_object() || is_histogram(at)) {
    leaves[path] = type_of(at);
    return;
  }
  const bool wildcard = path == "fuse" || path == "engine.restarts" ||
                        path == "faults.restart_by_reason" || path == "completion.deferred_count";
  for (const auto& [key, value] : at.items()) {
    flatten(value, path.empty() ? key : path + "." + (wildcard ? "*" : key), leaves);
  }
}

std::map<std::string, std::string> schema_types() {
  std::map<std::string, std::string> types;
  for (const StatEntry& entry : stats_schema()) {
    CHECK(types.emplace(entry.path, stat_type_name(entry.type)).second);
  }
  return types;
}

TEST_CASE("the collector fills in every key of the schema, with its type, and no other") {
  const Everything everything;
  std::map<std::string, std::string> leaves;
  flatten(collect_stats(everything.input()), "", leaves);
  CHECK(leaves == schema_types());
}

TEST_CASE("docs/STATS.md lists every key of the schema as it is, and no other") {
  std::set<std::string> expected;
  for (const StatEntry& entry : stats_schema()) {
    expected.insert("| `data." + std::string(entry.path) + "` | " +
                    std::string(stat_type_name(entry.type)) + " | " +
                    std::string(stat_kind_name(entry.kind)) + " | " + std::string(entry.meaning) +
                    " |");
  }
  std::ifstream document(FUSEFS_SOURCE_DIR "/docs/STATS.md");
  REQUIRE(document.is_open());
  std::set<std::string> found;
  for (std::string line; std::getline(document, line);) {
    if (line.starts_with("| `data.")) found.insert(line);
  }
  CHECK(found == expected);
}

TEST_CASE("counters are named after what is counted, and only counters are") {
  for (const StatEntry& entry : stats_schema()) {
    CAPTURE(entry.path);
    const bool counted = entry.path.ends_with("_count") || entry.path.ends_with(".count");
    if (counted) CHECK(entry.kind == StatKind::counter);
    CHECK(entry.path.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_.*") ==
          std::string_view::npos);
  }
}

TEST_CASE("what is not there is left out, and nothing else is") {
  const Json data = collect_stats({});
  CHECK_FALSE(data.contains("journal"));
  CHECK_FALSE(data.contains("device"));
  CHECK(data.at("volume").contains("read_only"));
}

TEST_CASE("numbers arrive under the keys that name them") {
  Everything everything;
  everything.space.free_blocks = 3;
  everything.superblock.label[0] = 'h';
  everything.superblock.label[1] = 'i';
  everything.superblock.uuid[15] = 0xab;
  everything.device_stats.note_submitted();
  everything.device_stats.note_completed(IoKind::write, 4096, true, 2000);
  everything.scheduler.restart_count[static_cast<size_t>(RestartReason::node_load)] = 4;
  everything.read.errors_count = 2;
  everything.pages_locks.delay_ns = 1'500'000;
  everything.pages_locks.stats.hold_count[2] = 9;
  everything.kernel.init_flags = 0x10ull << 32;
  everything.health.fail(Error::io_failed, "journal, block 7");
  const Json data = collect_stats(everything.input());
  CHECK(data["volume"]["free_bytes"] == 3 * kBlockBytes);
  CHECK(data["volume"]["label"] == "hi");
  CHECK(data["reflink"]["shared_blocks"] == 5);
  CHECK(data["volume"]["uuid"] == "00000000-0000-0000-0000-0000000000ab");
  CHECK(data["volume"]["failure"].get<std::string>().find("journal, block 7") == 0);
  CHECK(data["two_state_lock"]["delay_ms"] == "1.5");
  CHECK(data["two_state_lock"]["alone_count"] == 9);
  CHECK(data["device"]["write_bytes"] == 4096);
  CHECK(data["device"]["write_latency_ns"]["max"] == 2000);
  CHECK(data["device"]["read_count"] == 0);
  CHECK(data["engine"]["restarts"]["node_load"] == 4);
  CHECK(data["fuse"]["read"]["errors_count"] == 2);
  CHECK(data["kernel"]["init_flags"] == "0x1000000000");
}

}  // namespace
}  // namespace fusefs
