#include "fusefs/stats_text.h"

#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/memory/shared_blocks.h"
#include "core/volume/stats_collector.h"

namespace fusefs {
namespace {

// Pages of this process that are in memory, by the kernel's count.
std::optional<uint64_t> resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return std::nullopt;
  unsigned long long total = 0;
  unsigned long long resident = 0;
  const bool read = std::fscanf(file, "%llu %llu", &total, &resident) == 2;
  std::fclose(file);
  if (!read) return std::nullopt;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

Json collect(Server& server) {
  Volume& volume = server.volume();
  const Server::Engine& engine = server.engine();
  const FuseCounters::Snapshot requests = server.counters().snapshot();
  const SpaceStats space = volume.space().stats();
  const InodeTableStats inodes = volume.inodes().stats();
  const TreeStats tree = volume.store().tree().stats();

  StatsInput input;
  input.kernel = &server.kernel();
  input.superblock = &volume.store().superblock();
  input.source = server.facts().source;
  input.mount_point = server.facts().mount_point;
  input.mounted = server.facts().mounted_at;
  input.writable = volume.writable();
  input.health = &volume.health();
  input.space = &space;
  input.inodes = &inodes;
  input.recovery = &volume.recovery();
  input.file = &volume.files().stats;
  input.faults = &volume.files().faults;
  input.direct = &volume.files().direct;
  input.completion = &volume.files().completions.stats();
  input.pins = &volume.files().pins.stats();
  input.windows = &server.windows().stats();
  input.readahead = &volume.files().readahead;
  input.pages_locks = &volume.inodes().pages_locks();
  input.page_cache = &volume.cache().stats();
  const SharedPageStats shared_pages{volume.cache().shared().size(),
                                     volume.cache().shared().hit_count()};
  input.shared_pages = &shared_pages;
  input.resident_bytes = resident_bytes();
  input.tree = &tree;
  input.store = &volume.store().stats();
  input.shared_blocks = volume.store().shared_blocks();
  input.journal = &volume.store().journal().stats();
  UringFacts uring;
  if (engine.device != nullptr) {
    uring = engine.device->facts();
    input.device = &engine.device->geometry();
    input.uring = &uring;
    input.device_stats = &engine.device->stats();
  }
  for (const auto& [name, stats] : requests.opcodes) input.fuse.emplace_back(name, &stats);
  input.threads = engine.threads;
  input.scheduler = &server.scheduler().stats();
  const MonitorStats monitor = server.monitor().stats();
  input.monitor = &monitor;
  ReactorStats reactor;
  if (engine.reactors != nullptr) {
    reactor = engine.reactors->stats();
    input.reactor = &reactor;
  }
  return collect_stats(input);
}

}  // namespace

Attempt<std::string> stats_text(Server& server, StatsStash& stash) {
  if (!stash.model) stash.model = std::make_shared<Json>(collect(server));
  if (!stash.text) {
    stash.text = std::make_shared<std::string>();
    // Both are the work's too: it may outlive an operation that is dropped.
    return restart_after_outside(
        [model = stash.model, text = stash.text] { *text = dump_json(*model, JsonLayout::line); });
  }
  return *stash.text;
}

}  // namespace fusefs
