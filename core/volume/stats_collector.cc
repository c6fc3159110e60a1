#include "core/volume/stats_collector.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace fusefs {
namespace {

Json kernel_section(const KernelFacts& kernel) {
  char flags[24];
  std::snprintf(flags, sizeof(flags), "0x%llx", static_cast<unsigned long long>(kernel.init_flags));
  Json json;
  json["protocol_minor"] = kernel.protocol_minor;
  json["libfuse_version"] = json_text(kernel.libfuse_version);
  json["transport"] = json_text(kernel.transport);
  json["init_flags"] = flags;
  json["handshake_raw"] = kernel.handshake_raw;
  json["fuseblk"] = kernel.fuseblk;
  json["max_write_bytes"] = kernel.max_write_bytes;
  json["max_readahead_bytes"] = kernel.max_readahead_bytes;
  json["max_pages"] = kernel.max_pages;
  json["max_background"] = kernel.max_background;
  json["congestion_threshold"] = kernel.congestion_threshold;
  json["mmap_dirty_bytes_max"] = kernel.mmap_dirty_bytes_max;
  json["async_read"] = kernel.async_read;
  json["async_dio"] = kernel.async_dio;
  json["parallel_direct_writes"] = kernel.parallel_direct_writes;
  json["direct_io_allow_mmap"] = kernel.direct_io_allow_mmap;
  json["killpriv_v2"] = kernel.killpriv_v2;
  json["parallel_dirops"] = kernel.parallel_dirops;
  json["readdirplus"] = kernel.readdirplus;
  json["readdirplus_auto"] = kernel.readdirplus_auto;
  json["cache_symlinks"] = kernel.cache_symlinks;
  json["posix_acl"] = kernel.posix_acl;
  json["setxattr_ext"] = kernel.setxattr_ext;
  json["writeback_cache"] = kernel.writeback_cache;
  json["export_support"] = kernel.export_support;
  json["passthrough"] = kernel.passthrough;
  json["create_supp_group"] = kernel.create_supp_group;
  json["allow_idmap"] = kernel.allow_idmap;
  json["syncfs"] = kernel.syncfs;
  json["statx"] = kernel.statx;
  json["tmpfile"] = kernel.tmpfile;
  json["copy_file_range"] = kernel.copy_file_range;
  json["copy_file_range_64"] = kernel.copy_file_range_64;
  return json;
}

void add_superblock(Json& json, const Superblock& superblock) {
  const auto* label = reinterpret_cast<const char*>(superblock.label);
  const char* label_end = std::find(label, label + kLabelBytesMax, '\0');
  json["uuid"] = uuid_text(superblock.uuid);
  json["label"] = json_text({label, static_cast<size_t>(label_end - label)});
  json["format_version"] = superblock.format_version.get();
  json["size_bytes"] = superblock.block_count * kBlockBytes;
  json["block_bytes"] = kBlockBytes;
}

void add_space(Json& json, const SpaceStats& space) {
  json["data_bytes"] = space.block_count * kBlockBytes;
  json["free_bytes"] = space.free_blocks * kBlockBytes;
  json["available_bytes"] = space.available_blocks * kBlockBytes;
  json["reserved_bytes"] = space.reserved_blocks * kBlockBytes;
  json["releasing_bytes"] = space.releasing_blocks * kBlockBytes;
  json["discarding_bytes"] = space.trimming_blocks * kBlockBytes;
  json["metadata_reserve_bytes"] = space.metadata_reserve_blocks * kBlockBytes;
  json["mmap_reserve_bytes"] = space.writeback_reserve_blocks * kBlockBytes;
  json["mmap_reserve_free_bytes"] = space.writeback_reserve_free_blocks * kBlockBytes;
  json["loaded_groups"] = space.loaded_groups;
  json["allocate_count"] = space.allocate_count;
}

Json recovery_part(const RecoveryStats& recovery) {
  Json json;
  json["was_clean"] = recovery.was_clean;
  json["replayed_transactions"] = recovery.replayed_transactions;
  json["replayed_bytes"] = recovery.replayed_bytes;
  json["orphans"] = recovery.orphans;
  json["duration_ns"] = recovery.duration_ns;
  return json;
}

Json volume_section(const StatsInput& input) {
  Json json;
  if (input.superblock != nullptr) add_superblock(json, *input.superblock);
  json["source"] = json_text(input.source);
  json["mount_point"] = json_text(input.mount_point);
  json["mount_unix_ns"] = unix_ns(input.mounted);
  json["read_only"] = !input.writable;
  if (input.health != nullptr) {
    json["failed"] = input.health->failed();
    json["failure"] = input.health->failed() ? json_text(input.health->reason()) : Json(nullptr);
  }
  if (input.space != nullptr) add_space(json, *input.space);
  if (input.inodes != nullptr) {
    json["cached_inodes"] = input.inodes->cached_inodes;
    json["inodes_known_to_kernel"] = input.inodes->known_to_kernel;
    json["dirty_inodes"] = input.inodes->dirty_inodes;
    json["inode_load_count"] = input.inodes->load_count;
  }
  if (input.recovery != nullptr) json["recovery"] = recovery_part(*input.recovery);
  return json;
}

Json file_section(const FileStats& file) {
  Json json;
  json["read_count"] = file.read_count;
  json["read_bytes"] = file.read_bytes;
  json["read_cached_bytes"] = file.read_cached_bytes;
  json["write_buffered_count"] = file.write_buffered_count;
  json["write_buffered_bytes"] = file.write_buffered_bytes;
  json["write_direct_count"] = file.write_direct_count;
  json["write_direct_bytes"] = file.write_direct_bytes;
  json["writeback_count"] = file.writeback_count;
  json["writeback_bytes"] = file.writeback_bytes;
  json["fsync_count"] = file.fsync_count;
  return json;
}

Json writethrough_section(const FileStats& file, const JournalStats* journal) {
  Json json;
  json["write_count"] = file.through_count;
  json["bytes"] = file.through_bytes;
  json["pages_not_dirtied_count"] = file.through_not_dirtied_pages;
  json["overlap_wait_count"] = file.through_overlap_wait_count;
  json["lone_count"] = file.lone_write_count;
  if (journal != nullptr) json["group_commit_size"] = json_histogram(journal->batch_joined);
  return json;
}

Json reflink_section(const FileStats& file, const StatsInput& input) {
  Json json;
  json["clone_count"] = file.clone_count;
  json["clone_bytes"] = file.clone_bytes;
  json["clone_stale_bytes"] = file.clone_stale_bytes;
  json["dedupe_count"] = file.dedupe_count;
  json["dedupe_bytes"] = file.dedupe_bytes;
  json["unshare_bytes"] = file.unshare_bytes;
  if (input.shared_blocks) json["shared_blocks"] = *input.shared_blocks;
  json["cow_break_count"] = file.cow_break_count;
  json["cow_break_bytes"] = file.cow_break_bytes;
  if (input.shared_pages != nullptr) {
    json["shared_page_hit_count"] = input.shared_pages->hit_count;
    json["shared_pages"] = input.shared_pages->page_count;
  }
  return json;
}

// What an operation lets go for; `forced` is of tests only.
Json restarts_by_reason(const std::array<uint64_t, kRestartReasonCount>& counts) {
  Json json;
  for (int i = 0; i < kRestartReasonCount; ++i) {
    const auto reason = static_cast<RestartReason>(i);
    if (reason == RestartReason::forced) continue;
    json[std::string(restart_reason_name(reason))] = counts[static_cast<size_t>(i)];
  }
  return json;
}

Json faults_section(const FaultStats& faults) {
  Json json;
  json["read_count"] = faults.read_count;
  json["write_count"] = faults.write_count;
  json["restart_count"] = faults.restart_count;
  json["restart_by_reason"] = restarts_by_reason(faults.restart_by_reason);
  json["stash_reused_count"] = faults.stash_reused_count;
  json["stash_discarded_count"] = faults.stash_discarded_count;
  json["page_gone_count"] = faults.page_gone_count;
  json["page_replaced_count"] = faults.page_replaced_count;
  json["latency_ns"] = json_histogram(faults.latency_ns);
  json["latency_restarted_ns"] = json_histogram(faults.latency_restarted_ns);
  return json;
}

Json direct_section(const DirectStats& direct) {
  Json json;
  json["read_count"] = direct.read_count;
  json["read_bytes"] = direct.read_bytes;
  json["write_count"] = direct.write_count;
  json["write_bytes"] = direct.write_bytes;
  json["unaligned_count"] = direct.unaligned_count;
  json["edge_read_count"] = direct.edge_read_count;
  json["edge_joined_count"] = direct.edge_joined_count;
  json["bounce_bytes"] = direct.bounce_bytes;
  json["folio_drop_count"] = direct.folio_drop_count;
  json["in_flight"] = direct.in_flight;
  json["in_flight_max"] = direct.in_flight_max;
  json["self_refused_count"] = direct.self_refused_count;
  json["self_retry_count"] = direct.self_retry_count;
  json["self_buffered_bytes"] = direct.self_buffered_bytes;
  json["pinned_read_bytes"] = direct.pinned_read_bytes;
  return json;
}

Json completion_section(const CompletionStats& completion) {
  Json json;
  json["issuer_count"] = completion.issuer_count;
  for (int i = 0; i < kDeferReasonCount; ++i) {
    const auto reason = static_cast<DeferReason>(i);
    json["deferred_count"][std::string(defer_reason_name(reason))] =
        completion.deferred_count[static_cast<size_t>(i)];
  }
  json["issuer_latency_ns"] = json_histogram(completion.issuer_latency_ns);
  json["deferred_latency_ns"] = json_histogram(completion.deferred_latency_ns);
  return json;
}

Json windows_section(const WindowStats& windows) {
  Json json;
  json["open"] = windows.open;
  json["holders"] = windows.holders;
  json["memory_bytes"] = windows.memory_bytes;
  json["huge_bytes"] = windows.huge_bytes;
  json["connections"] = windows.connections;
  json["opened_count"] = windows.opened_count;
  json["refused_count"] = windows.refused_count;
  json["ended_count"] = windows.ended_count;
  json["flush_count"] = windows.flush_count;
  json["refreshed_count"] = windows.refreshed_count;
  json["io_count"] = windows.io_count;
  json["io_read_bytes"] = windows.io_read_bytes;
  json["io_write_bytes"] = windows.io_write_bytes;
  json["open_latency_ns"] = json_histogram(windows.open_latency_ns);
  json["io_latency_ns"] = json_histogram(windows.io_latency_ns);
  json["load_fault_count"] = windows.load_fault_count;
  json["store_fault_count"] = windows.store_fault_count;
  json["upgrade_fault_count"] = windows.upgrade_fault_count;
  json["refused_fault_count"] = windows.refused_fault_count;
  json["load_fault_latency_ns"] = json_histogram(windows.load_fault_latency_ns);
  json["store_fault_latency_ns"] = json_histogram(windows.store_fault_latency_ns);
  return json;
}

Json pins_section(const PinStats& pins) {
  Json json;
  json["pinned_pages"] = pins.pinned_pages;
  json["pins"] = pins.pins;
  json["windows"] = pins.windows;
  json["skipped_count"] = pins.skipped_count;
  json["compared_count"] = pins.compared_count;
  json["bounced_count"] = pins.bounced_count;
  json["bounced_bytes"] = pins.bounced_bytes;
  json["redirtied_count"] = pins.redirtied_count;
  json["protected_pages"] = pins.protected_pages;
  json["late_pages"] = pins.late_pages;
  json["reservation_failed_count"] = pins.reservation_failed_count;
  return json;
}

Json readahead_section(const ReadaheadStats& readahead, const PageCacheStats* cache) {
  Json json;
  json["sequential_count"] = readahead.sequential_count;
  json["strided_count"] = readahead.strided_count;
  json["window_bytes"] = readahead.window_bytes;
  json["read_bytes"] = readahead.read_bytes;
  if (cache != nullptr) {
    json["hit_bytes"] = cache->read_ahead_hit_bytes;
    json["wasted_bytes"] = cache->read_ahead_wasted_bytes;
  }
  json["dropped_count"] = readahead.dropped_count;
  return json;
}

// As the mount option has it: 4, 0.25, inf.
std::string delay_text(uint64_t delay_ns) {
  if (delay_ns == kLockDelayInfinite) return "inf";
  std::string text = std::to_string(delay_ns / kNsPerMs);
  if (delay_ns % kNsPerMs == 0) return text;
  std::string part = std::to_string(kNsPerMs + delay_ns % kNsPerMs);
  part[0] = '.';
  return text + part.substr(0, part.find_last_not_of('0') + 1);
}

Json two_state_section(const TwoStateLocks& locks) {
  constexpr auto kAdder = static_cast<size_t>(TwoStateKind::adder);
  constexpr auto kBlocker = static_cast<size_t>(TwoStateKind::blocker);
  constexpr auto kLoner = static_cast<size_t>(TwoStateKind::loner);
  const TwoStateStats& stats = locks.stats;
  Json json;
  json["delay_ms"] = delay_text(locks.delay_ns);
  json["adder_count"] = stats.hold_count[kAdder];
  json["blocker_count"] = stats.hold_count[kBlocker];
  json["alone_count"] = stats.hold_count[kLoner];
  json["flip_count"] = stats.flip_count;
  json["bypass_count"] = stats.bypass_count;
  json["try_failed_count"] = stats.try_failed_count;
  json["adder_wait_ns"] = json_histogram(stats.wait_ns[kAdder]);
  json["blocker_wait_ns"] = json_histogram(stats.wait_ns[kBlocker]);
  json["alone_wait_ns"] = json_histogram(stats.wait_ns[kLoner]);
  return json;
}

Json memory_section(const StatsInput& input) {
  Json json = Json::object();
  if (input.resident_bytes) json["resident_bytes"] = *input.resident_bytes;
  if (const PageCacheStats* cache = input.page_cache) {
    json["cache_bytes_max"] = cache->cache_bytes;
    json["cache_bytes"] = cache->used_bytes;
    json["dirty_bytes"] = cache->dirty_bytes;
    json["writeback_bytes"] = cache->writeback_bytes;
    json["reclaimed_count"] = cache->reclaimed_count;
    json["reclaimed_main_count"] = cache->reclaimed_main_count;
    json["ghost_hit_count"] = cache->ghost_hit_count;
    json["throttled_count"] = cache->throttled_count;
  }
  if (const TreeStats* tree = input.tree) {
    json["node_cache_bytes_max"] = tree->cached_nodes_max * kNodeBytes;
    json["node_cache_bytes"] = tree->cached_nodes * kNodeBytes;
    json["dirty_node_bytes"] = tree->dirty_nodes * kNodeBytes;
  }
  return json;
}

Json tree_section(const TreeStats& tree, const StoreStats* store) {
  Json json;
  json["levels"] = tree.levels;
  json["hit_count"] = tree.hit_count;
  json["read_count"] = tree.read_count;
  json["evict_count"] = tree.evict_count;
  json["split_count"] = tree.split_count;
  json["merge_count"] = tree.merge_count;
  if (store == nullptr) return json;
  json["checkpoint_count"] = store->checkpoint_count;
  json["checkpoint_node_count"] = store->checkpoint_nodes_written;
  json["checkpoint_page_count"] = store->checkpoint_pages_written;
  json["checkpoint_latency_ns"] = json_histogram(store->checkpoint_duration_ns);
  return json;
}

void add_io_kind(Json& json, const std::string& name, const IoKindStats& stats, bool has_bytes) {
  json[name + "_count"] = stats.count;
  if (has_bytes) json[name + "_bytes"] = stats.bytes;
  json[name + "_errors_count"] = stats.errors_count;
  json[name + "_latency_ns"] = json_histogram(stats.latency_ns);
}

Json device_section(const StatsInput& input) {
  Json json;
  const DeviceGeometry& geometry = *input.device;
  json["name"] = json_text(geometry.name);
  json["size_bytes"] = geometry.size_bytes;
  json["logical_block_bytes"] = geometry.logical_block_bytes;
  json["io_bytes_max"] = geometry.io_bytes_max;
  json["is_block_device"] = geometry.is_block_device;
  json["has_volatile_cache"] = geometry.has_volatile_cache;
  json["has_fua"] = geometry.has_fua;
  json["can_discard"] = geometry.can_discard;
  if (const UringFacts* uring = input.uring) {
    json["direct_io"] = uring->direct_io;
    json["iopoll"] = uring->iopoll;
    json["registered_file"] = uring->registered_file;
    json["registered_buffers"] = uring->registered_buffers;
    json["registered_bytes"] = uring->registered_bytes;
    json["defer_taskrun"] = uring->defer_taskrun;
  }
  if (const DeviceStats* stats = input.device_stats) {
    add_io_kind(json, "read", stats->of(IoKind::read), true);
    add_io_kind(json, "write", stats->of(IoKind::write), true);
    add_io_kind(json, "flush", stats->of(IoKind::flush), false);
    add_io_kind(json, "discard", stats->of(IoKind::discard), true);
    add_io_kind(json, "write_zeroes", stats->of(IoKind::write_zeroes), true);
    json["fua_count"] = stats->fua_count;
    json["fixed_count"] = stats->fixed_count;
    json["split_count"] = stats->split_count;
    json["helped_count"] = stats->helped_count;
    json["in_flight"] = stats->in_flight;
    json["in_flight_max"] = stats->in_flight_max;
  }
  return json;
}

Json journal_section(const JournalStats& journal) {
  Json json;
  json["size_bytes"] = journal.size_bytes;
  json["used_bytes"] = journal.used_bytes;
  json["transaction_count"] = journal.transaction_count;
  json["batch_count"] = journal.batch_count;
  json["batch_transactions"] = json_histogram(journal.batch_transactions);
  json["write_bytes"] = journal.write_bytes;
  json["flush_count"] = journal.flush_count;
  json["space_wait_count"] = journal.space_wait_count;
  json["commit_latency_ns"] = json_histogram(journal.commit_latency_ns);
  return json;
}

Json fuse_section(const StatsInput& input) {
  Json json = Json::object();
  for (const auto& [name, op] : input.fuse) {
    Json& entry = json[std::string(name)];
    entry["count"] = op->count;
    entry["errors_count"] = op->errors_count;
    entry["bytes"] = op->bytes;
    entry["latency_ns"] = json_histogram(op->latency_ns);
  }
  return json;
}

Json engine_section(const StatsInput& input) {
  Json json;
  json["threads"] = input.threads;
  if (const SchedulerStats* scheduler = input.scheduler) {
    json["started_count"] = scheduler->started_count;
    json["finished_count"] = scheduler->finished_count;
    json["attempt_count"] = scheduler->attempt_count;
    json["restarts"] = restarts_by_reason(scheduler->restart_count);
    json["restarts_of_one_operation_max"] = scheduler->restarts_of_one_operation_max;
  }
  if (const MonitorStats* monitor = input.monitor) {
    json["monitor_enter_count"] = monitor->enter_count;
    json["monitor_held_ns"] = monitor->held_ns;
    json["monitor_waited_ns"] = monitor->waited_ns;
    json["monitor_held_ns_max"] = monitor->held_ns_max;
  }
  if (const ReactorStats* reactor = input.reactor) {
    json["wait_count"] = reactor->wait_count;
    json["receive_count"] = reactor->receive_count;
    json["request_count"] = reactor->request_count;
    json["timer_wake_count"] = reactor->timer_wake_count;
  }
  return json;
}

}  // namespace

std::string uuid_text(const unsigned char (&uuid)[16]) {
  std::string text;
  for (size_t i = 0; i < sizeof(uuid); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char hex[3];
    std::snprintf(hex, sizeof(hex), "%02x", uuid[i]);
    text += hex;
  }
  return text;
}

Json collect_stats(const StatsInput& input) {
  Json data;
  if (input.kernel != nullptr) data["kernel"] = kernel_section(*input.kernel);
  data["volume"] = volume_section(input);
  if (input.file != nullptr) data["file"] = file_section(*input.file);
  if (input.file != nullptr) {
    data["writethrough"] = writethrough_section(*input.file, input.journal);
  }
  if (input.faults != nullptr) data["faults"] = faults_section(*input.faults);
  if (input.direct != nullptr) data["direct"] = direct_section(*input.direct);
  if (input.completion != nullptr) data["completion"] = completion_section(*input.completion);
  if (input.file != nullptr) data["reflink"] = reflink_section(*input.file, input);
  if (input.readahead != nullptr) {
    data["readahead"] = readahead_section(*input.readahead, input.page_cache);
  }
  if (input.pages_locks != nullptr) {
    data["two_state_lock"] = two_state_section(*input.pages_locks);
  }
  if (input.pins != nullptr) data["pins"] = pins_section(*input.pins);
  if (input.windows != nullptr) data["windows"] = windows_section(*input.windows);
  data["memory"] = memory_section(input);
  if (input.tree != nullptr) data["tree"] = tree_section(*input.tree, input.store);
  if (input.device != nullptr) data["device"] = device_section(input);
  if (input.journal != nullptr) data["journal"] = journal_section(*input.journal);
  data["fuse"] = fuse_section(input);
  data["engine"] = engine_section(input);
  return data;
}

}  // namespace fusefs
