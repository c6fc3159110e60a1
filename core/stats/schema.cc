#include "core/stats/schema.h"

#include <array>

namespace fusefs {
namespace {

using enum StatType;
using enum StatKind;

// What the kernel's side of the mount can do, from the self-test.
constexpr StatEntry kKernel[] = {
    {"kernel.protocol_minor", integer, fact, "FUSE protocol 7.N in use"},
    {"kernel.libfuse_version", text, fact, "version of libfuse at run time"},
    {"kernel.transport", text, fact, "how requests arrive: dev_fuse or io_uring"},
    {"kernel.init_flags", text, fact, "flags answered to INIT, hexadecimal"},
    {"kernel.handshake_raw", boolean, fact, "INIT was answered by hand, with flags libfuse lacks"},
    {"kernel.fuseblk", boolean, fact, "mounted as fuseblk: sync(2) and umount(2) wait"},
    {"kernel.max_write_bytes", integer, fact, "largest write request"},
    {"kernel.max_readahead_bytes", integer, fact, "largest readahead"},
    {"kernel.max_pages", integer, fact, "pages in a request"},
    {"kernel.max_background", integer, fact, "requests of readahead and writeback at a time"},
    {"kernel.congestion_threshold", integer, fact, "of these, when the kernel holds back"},
    {"kernel.mmap_dirty_bytes_max", integer, fact, "pages of mappings it keeps back; 0: unknown"},
    {"kernel.async_read", boolean, fact, "several reads of one file at a time"},
    {"kernel.async_dio", boolean, fact, "asynchronous direct I/O stays asynchronous"},
    {"kernel.parallel_direct_writes", boolean, fact, "direct writes of one file run in parallel"},
    {"kernel.direct_io_allow_mmap", boolean, fact, "files opened for direct I/O can be mapped"},
    {"kernel.killpriv_v2", boolean, fact, "the daemon clears suid, sgid and capabilities"},
    {"kernel.parallel_dirops", boolean, fact, "lookups in one directory run in parallel"},
    {"kernel.readdirplus", boolean, fact, "directory listings carry attributes"},
    {"kernel.readdirplus_auto", boolean, fact, "only when somebody looks at them"},
    {"kernel.cache_symlinks", boolean, fact, "the kernel keeps the targets of symbolic links"},
    {"kernel.posix_acl", boolean, fact, "the kernel enforces POSIX ACLs"},
    {"kernel.setxattr_ext", boolean, fact, "setting an ACL may clear sgid"},
    {"kernel.writeback_cache", boolean, fact, "the kernel keeps what is written to files"},
    {"kernel.export_support", boolean, fact, "file handles survive eviction (NFS)"},
    {"kernel.passthrough", boolean, fact, "memory of windows is opened as files of the mount"},
    {"kernel.create_supp_group", boolean, fact, "the caller's group of a setgid directory is told"},
    {"kernel.allow_idmap", boolean, fact, "idmapped mounts"},
    {"kernel.syncfs", boolean, fact, "SYNCFS is served"},
    {"kernel.statx", boolean, fact, "STATX is served: birth times"},
    {"kernel.tmpfile", boolean, fact, "TMPFILE is served: O_TMPFILE"},
    {"kernel.copy_file_range", boolean, fact, "COPY_FILE_RANGE is served: clones"},
    {"kernel.copy_file_range_64", boolean, fact, "and of more than 4 GiB at once"},
};

constexpr StatEntry kVolume[] = {
    {"volume.uuid", text, fact, "of the volume, lower case"},
    {"volume.label", text, gauge, "of the volume"},
    {"volume.source", text, fact, "image file or block device"},
    {"volume.mount_point", text, fact, "directory"},
    {"volume.mount_unix_ns", integer, fact, "when it was mounted: counters count from here"},
    {"volume.format_version", integer, fact, "of the superblock"},
    {"volume.read_only", boolean, gauge, "mounted read-only, or read-only since an error"},
    {"volume.failed", boolean, gauge, "an error has made it read-only"},
    {"volume.failure", text, gauge, "that error, with its place; null without one"},
    {"volume.size_bytes", integer, fact, "of the volume, metadata included"},
    {"volume.block_bytes", integer, fact, "of a block"},
    {"volume.data_bytes", integer, fact, "of the area for data and tree nodes"},
    {"volume.free_bytes", integer, gauge, "neither in use nor about to be"},
    {"volume.available_bytes", integer, gauge, "what df offers"},
    {"volume.reserved_bytes", integer, gauge, "promised to data that is not yet placed"},
    {"volume.releasing_bytes", integer, gauge, "freed, not yet reusable"},
    {"volume.discarding_bytes", integer, gauge, "free, and being discarded"},
    {"volume.metadata_reserve_bytes", integer, gauge, "kept for metadata"},
    {"volume.mmap_reserve_bytes", integer, gauge, "kept for pages stored to through mappings"},
    {"volume.mmap_reserve_free_bytes", integer, gauge, "of these, there; less: refilled first"},
    {"volume.loaded_groups", integer, gauge, "allocation groups whose bitmap is in memory"},
    {"volume.allocate_count", integer, counter, "extents handed out"},
    {"volume.cached_inodes", integer, gauge, "inodes in memory"},
    {"volume.inodes_known_to_kernel", integer, gauge, "inodes that the kernel holds references to"},
    {"volume.dirty_inodes", integer, gauge, "inodes with changes not yet committed"},
    {"volume.inode_load_count", integer, counter, "inodes read from the tree"},
    {"volume.recovery.was_clean", boolean, fact, "nothing had to be replayed"},
    {"volume.recovery.replayed_transactions", integer, fact, "from the journal at this mount"},
    {"volume.recovery.replayed_bytes", integer, fact, "of journal read for it"},
    {"volume.recovery.orphans", integer, fact, "unlinked files found, removed since"},
    {"volume.recovery.duration_ns", integer, fact, "of the recovery"},
};

constexpr StatEntry kFile[] = {
    {"file.read_count", integer, counter, "reads of files"},
    {"file.read_bytes", integer, counter, "read from files"},
    {"file.read_cached_bytes", integer, counter, "of these, found in the page cache"},
    {"file.write_buffered_count", integer, counter, "writes into the page cache"},
    {"file.write_buffered_bytes", integer, counter, "written into it"},
    {"file.write_direct_count", integer, counter, "writes straight to the device"},
    {"file.write_direct_bytes", integer, counter, "written by them"},
    {"file.writeback_count", integer, counter, "runs of dirty pages written together"},
    {"file.writeback_bytes", integer, counter, "written by them"},
    {"file.fsync_count", integer, counter, "fsyncs of files and directories"},
};

constexpr StatEntry kWritethrough[] = {
    {"writethrough.write_count", integer, counter, "writes that were never dirty"},
    {"writethrough.bytes", integer, counter, "written by them"},
    {"writethrough.pages_not_dirtied_count", integer, counter,
     "pages that they did not make dirty"},
    {"writethrough.overlap_wait_count", integer, counter, "waits for a write of the same blocks"},
    {"writethrough.lone_count", integer, counter, "that shared no flush, direct writes with them"},
    {"writethrough.group_commit_size", histogram, counter,
     "durable writes that waited for one batch of the journal"},
};

constexpr StatEntry kFaults[] = {
    {"faults.read_count", integer, counter, "read faults: reads that wanted shared pages"},
    {"faults.write_count", integer, counter, "write faults: runs of pages that a write got"},
    {"faults.restart_count", integer, counter, "times a fault let go to wait, and began again"},
    {"faults.restart_by_reason.*", integer, counter, "of these, for this reason"},
    {"faults.stash_reused_count", integer, counter, "pages read before a restart, used after it"},
    {"faults.stash_discarded_count", integer, counter, "of no use then: the file had changed"},
    {"faults.page_gone_count", integer, counter, "lost to reclaim meanwhile; to stay 0"},
    {"faults.page_replaced_count", integer, counter, "shared pages made private for a write"},
    {"faults.latency_ns", histogram, counter, "of faults that never let go"},
    {"faults.latency_restarted_ns", histogram, counter, "of those that did, waits included"},
};

constexpr StatEntry kDirect[] = {
    {"direct.read_count", integer, counter, "O_DIRECT reads: past the kernel's cache"},
    {"direct.read_bytes", integer, counter, "read by them"},
    {"direct.write_count", integer, counter,
     "O_DIRECT writes, those of whole blocks with O_DSYNC too"},
    {"direct.write_bytes", integer, counter, "written by them"},
    {"direct.unaligned_count", integer, counter, "writes that begin or end within a block"},
    {"direct.edge_read_count", integer, counter, "blocks read because they were written in part"},
    {"direct.edge_joined_count", integer, counter,
     "blocks written once for two writes that share them"},
    {"direct.bounce_bytes", integer, counter,
     "copied for the device: memory not aligned as it needs it"},
    {"direct.folio_drop_count", integer, counter, "cached pages dropped for writes"},
    {"direct.in_flight", integer, gauge, "writes at the device"},
    {"direct.in_flight_max", integer, counter, "the most of them at a time"},
    {"direct.self_refused_count", integer, counter,
     "faults refused: the buffer is a file blocked by the write"},
    {"direct.self_retry_count", integer, counter, "writes begun again for that"},
    {"direct.self_buffered_bytes", integer, counter, "that went through pages in the end"},
    {"direct.pinned_read_bytes", integer, counter, "read by the device into pinned pages"},
};

constexpr StatEntry kCompletion[] = {
    {"completion.issuer_count", integer, counter,
     "operations that ended with their device write, where it was reaped"},
    {"completion.deferred_count.*", integer, counter, "those that did not, for this reason"},
    {"completion.issuer_latency_ns", histogram, counter,
     "of the former, from submission to answer"},
    {"completion.deferred_latency_ns", histogram, counter, "of the latter"},
};

constexpr StatEntry kReflink[] = {
    {"reflink.clone_count", integer, counter, "ranges cloned"},
    {"reflink.clone_bytes", integer, counter, "of files, shared by them or taken as holes"},
    {"reflink.clone_stale_bytes", integer, counter,
     "written back by the kernel from pages that a clone had replaced, and left out"},
    {"reflink.dedupe_count", integer, counter,
     "ranges deduplicated that were found to be the same"},
    {"reflink.dedupe_bytes", integer, counter, "newly shared by them, or freed for a hole"},
    {"reflink.unshare_bytes", integer, counter, "copied by unshare to blocks of one owner"},
    {"reflink.shared_blocks", integer, gauge, "blocks with two owners or more"},
    {"reflink.cow_break_count", integer, counter, "shared extents replaced before a write"},
    {"reflink.cow_break_bytes", integer, counter, "of these"},
    {"reflink.shared_page_hit_count", integer, counter, "pages of shared blocks found in memory"},
    {"reflink.shared_pages", integer, gauge, "of these in memory, each once for all owners"},
};

// Pages in the hands of somebody else, and how they get to the device.
constexpr StatEntry kPins[] = {
    {"pins.pinned_pages", integer, gauge, "pages that are pinned, each once"},
    {"pins.pins", integer, gauge, "ranges that are pinned"},
    {"pins.windows", integer, gauge, "of these, in memory of a program's"},
    {"pins.skipped_count", integer, counter, "writebacks that passed pinned pages by"},
    {"pins.compared_count", integer, counter, "pinned pages that were compared with the device's"},
    {"pins.bounced_count", integer, counter, "runs of copies of them written together"},
    {"pins.bounced_bytes", integer, counter, "written by them"},
    {"pins.redirtied_count", integer, counter, "pages that were clean and dirty again"},
    {"pins.protected_pages", integer, counter,
     "times that a mapped page was protected from stores"},
    {"pins.late_pages", integer, counter,
     "times that one could not be in time, and is copied when it is written"},
    {"pins.reservation_failed_count", integer, counter, "without space for their next write"},
};

// Windows: ranges of files as memory of programs.
constexpr StatEntry kWindows[] = {
    {"windows.open", integer, gauge, "windows that there are"},
    {"windows.holders", integer, gauge, "who holds them: a window may have several"},
    {"windows.memory_bytes", integer, gauge, "memory of them"},
    {"windows.huge_bytes", integer, gauge, "of it in huge pages that the daemon made"},
    {"windows.connections", integer, gauge, "connections to the socket"},
    {"windows.opened_count", integer, counter, "times a window was opened"},
    {"windows.refused_count", integer, counter, "times it was refused"},
    {"windows.ended_count", integer, counter, "holders that have gone"},
    {"windows.flush_count", integer, counter, "flushes: stores shown to other readers"},
    {"windows.refreshed_count", integer, counter,
     "times the kernel was told to drop what it had cached"},
    {"windows.io_count", integer, counter, "direct reads and writes whose memory is a window"},
    {"windows.io_read_bytes", integer, counter, "from files to windows"},
    {"windows.io_write_bytes", integer, counter, "from windows to files"},
    {"windows.open_latency_ns", histogram, counter, "of opening a window"},
    {"windows.io_latency_ns", histogram, counter, "of a direct read or write"},
    {"windows.load_fault_count", integer, counter, "pages of mapped windows that a load brought"},
    {"windows.store_fault_count", integer, counter, "and a store"},
    {"windows.upgrade_fault_count", integer, counter, "stores to pages that were there to be read"},
    {"windows.refused_fault_count", integer, counter, "faults that ended in SIGBUS"},
    {"windows.load_fault_latency_ns", histogram, counter, "of a load, in the daemon"},
    {"windows.store_fault_latency_ns", histogram, counter, "of a store"},
};

// Pages read before anybody asked for them.
constexpr StatEntry kReadahead[] = {
    {"readahead.sequential_count", integer, counter, "windows of sequential streams"},
    {"readahead.strided_count", integer, counter, "windows of strided streams"},
    {"readahead.window_bytes", integer, counter, "of these windows"},
    {"readahead.read_bytes", integer, counter, "of it, read: neither cached nor a hole"},
    {"readahead.hit_bytes", integer, counter, "of it, then asked for"},
    {"readahead.wasted_bytes", integer, counter, "of it, dropped before anybody asked"},
    {"readahead.dropped_count", integer, counter, "steps given up: no memory, or the file blocked"},
};

// The lock between who adds pages to a file and who needs that nobody does.
constexpr StatEntry kTwoState[] = {
    {"two_state_lock.delay_ms", text, fact, "how long newcomers pass who waits; or inf"},
    {"two_state_lock.adder_count", integer, counter, "holds by faults, buffered I/O, writeback"},
    {"two_state_lock.blocker_count", integer, counter, "holds by direct writes"},
    {"two_state_lock.alone_count", integer, counter, "holds by truncate, punch, clone"},
    {"two_state_lock.flip_count", integer, counter, "times it went to another kind that waited"},
    {"two_state_lock.bypass_count", integer, counter,
     "holds that passed others who waited: the holder had a lock already"},
    {"two_state_lock.try_failed_count", integer, counter, "optional work not done for it"},
    {"two_state_lock.adder_wait_ns", histogram, counter, "of adders that had to wait"},
    {"two_state_lock.blocker_wait_ns", histogram, counter, "of direct writes that had to wait"},
    {"two_state_lock.alone_wait_ns", histogram, counter, "of truncate, punch, clone, if they did"},
};

constexpr StatEntry kMemory[] = {
    {"memory.resident_bytes", integer, gauge, "of the daemon"},
    {"memory.cache_bytes_max", integer, fact, "bound of the page cache"},
    {"memory.cache_bytes", integer, gauge, "page cache in use"},
    {"memory.dirty_bytes", integer, gauge, "of it, not yet written"},
    {"memory.writeback_bytes", integer, gauge, "of it, being written"},
    {"memory.reclaimed_count", integer, counter, "clean pages dropped to make room"},
    {"memory.reclaimed_main_count", integer, counter, "of these, pages that had been used again"},
    {"memory.ghost_hit_count", integer, counter, "pages that came back soon after being dropped"},
    {"memory.throttled_count", integer, counter, "waits of writers for dirty pages to be written"},
    {"memory.node_cache_bytes_max", integer, fact, "bound of the cache of tree nodes"},
    {"memory.node_cache_bytes", integer, gauge, "tree nodes in memory"},
    {"memory.dirty_node_bytes", integer, gauge, "of these, changed since the last checkpoint"},
};

constexpr StatEntry kTree[] = {
    {"tree.levels", integer, gauge, "height of the tree"},
    {"tree.hit_count", integer, counter, "nodes found in memory"},
    {"tree.read_count", integer, counter, "nodes read from the device"},
    {"tree.evict_count", integer, counter, "nodes dropped to make room"},
    {"tree.split_count", integer, counter, "nodes that became two"},
    {"tree.merge_count", integer, counter, "nodes that became one"},
    {"tree.checkpoint_count", integer, counter, "checkpoints made"},
    {"tree.checkpoint_node_count", integer, counter, "nodes written by them"},
    {"tree.checkpoint_page_count", integer, counter, "bitmap and summary pages written by them"},
    {"tree.checkpoint_latency_ns", histogram, counter, "of a checkpoint"},
};

constexpr StatEntry kDevice[] = {
    {"device.name", text, fact, "path"},
    {"device.size_bytes", integer, fact, "of the device or file"},
    {"device.logical_block_bytes", integer, fact, "unit of its addresses"},
    {"device.io_bytes_max", integer, fact, "largest single command"},
    {"device.is_block_device", boolean, fact, "false: a file"},
    {"device.has_volatile_cache", boolean, fact, "writes need a flush to be durable"},
    {"device.has_fua", boolean, fact, "a write can be durable by itself"},
    {"device.can_discard", boolean, fact, "freed space can be given back"},
    {"device.direct_io", boolean, fact, "O_DIRECT is in force"},
    {"device.iopoll", boolean, fact, "completions are polled for"},
    {"device.registered_file", boolean, fact, "the kernel holds the file for the rings"},
    {"device.registered_buffers", boolean, fact, "and the page cache's memory"},
    {"device.registered_bytes", integer, fact, "of that memory"},
    {"device.defer_taskrun", boolean, fact, "completions run in the issuer's context"},
    {"device.read_count", integer, counter, "reads completed"},
    {"device.read_bytes", integer, counter, "read"},
    {"device.read_errors_count", integer, counter, "reads failed"},
    {"device.read_latency_ns", histogram, counter, "from submission to completion"},
    {"device.write_count", integer, counter, "writes completed"},
    {"device.write_bytes", integer, counter, "written"},
    {"device.write_errors_count", integer, counter, "writes failed"},
    {"device.write_latency_ns", histogram, counter, "from submission to completion"},
    {"device.flush_count", integer, counter, "flushes completed"},
    {"device.flush_errors_count", integer, counter, "flushes failed"},
    {"device.flush_latency_ns", histogram, counter, "from submission to completion"},
    {"device.discard_count", integer, counter, "discards completed"},
    {"device.discard_bytes", integer, counter, "given back"},
    {"device.discard_errors_count", integer, counter, "discards failed"},
    {"device.discard_latency_ns", histogram, counter, "from submission to completion"},
    {"device.write_zeroes_count", integer, counter, "zeroings completed"},
    {"device.write_zeroes_bytes", integer, counter, "zeroed"},
    {"device.write_zeroes_errors_count", integer, counter, "zeroings failed"},
    {"device.write_zeroes_latency_ns", histogram, counter, "from submission to completion"},
    {"device.fua_count", integer, counter, "writes durable by themselves"},
    {"device.fixed_count", integer, counter, "reads and writes of registered memory"},
    {"device.split_count", integer, counter, "requests that took several commands"},
    {"device.helped_count", integer, counter, "transfers that several threads took part in"},
    {"device.in_flight", integer, gauge, "requests under way"},
    {"device.in_flight_max", integer, gauge, "most of them at a time"},
};

constexpr StatEntry kJournal[] = {
    {"journal.size_bytes", integer, fact, "of the ring"},
    {"journal.used_bytes", integer, gauge, "of the ring, until the next checkpoint"},
    {"journal.transaction_count", integer, counter, "transactions appended"},
    {"journal.batch_count", integer, counter, "batches written"},
    {"journal.batch_transactions", histogram, counter, "transactions in a batch"},
    {"journal.write_bytes", integer, counter, "written, padding included"},
    {"journal.flush_count", integer, counter, "batches that waited for a flush of data"},
    {"journal.space_wait_count", integer, counter, "waits for a checkpoint to free the ring"},
    {"journal.commit_latency_ns", histogram, counter, "from closing a batch to durable"},
};

constexpr StatEntry kFuse[] = {
    {"fuse.*.count", integer, counter, "requests of this opcode, once one has come"},
    {"fuse.*.errors_count", integer, counter, "of these, answered with an error"},
    {"fuse.*.bytes", integer, counter, "of data moved by the others"},
    {"fuse.*.latency_ns", histogram, counter, "from receiving the request to the answer"},
};

constexpr StatEntry kEngine[] = {
    {"engine.threads", integer, fact, "reactor threads"},
    {"engine.started_count", integer, counter, "operations started"},
    {"engine.finished_count", integer, counter, "operations ended"},
    {"engine.attempt_count", integer, counter, "attempts of operations"},
    {"engine.restarts.*", integer, counter, "restarts for this reason"},
    {"engine.restarts_of_one_operation_max", integer, gauge, "most restarts that one needed"},
    {"engine.monitor_enter_count", integer, counter, "times a thread entered the monitor"},
    {"engine.monitor_held_ns", integer, counter, "time somebody was inside"},
    {"engine.monitor_waited_ns", integer, counter, "time threads waited to enter"},
    {"engine.monitor_held_ns_max", integer, gauge, "longest stay"},
    {"engine.wait_count", integer, counter, "times a thread went to sleep or to submit"},
    {"engine.receive_count", integer, counter, "times requests were asked for"},
    {"engine.request_count", integer, counter, "requests received"},
    {"engine.timer_wake_count", integer, counter, "times a timer woke a thread"},
};

template <size_t... N>
constexpr auto joined(const StatEntry (&... parts)[N]) {
  std::array<StatEntry, (N + ...)> all{};
  size_t at = 0;
  const auto add = [&](const StatEntry* entries, size_t count) {
    for (size_t i = 0; i < count; ++i) all[at++] = entries[i];
  };
  (add(parts, N), ...);
  return all;
}

constexpr auto kSchema = joined(kKernel, kVolume, kFile, kWritethrough, kDirect, kCompletion,
                                kFaults, kReflink, kReadahead, kTwoState, kPins, kWindows, kMemory,
                                kTree, kDevice, kJournal, kFuse, kEngine);

constexpr std::string_view kTypeNames[] = {"integer", "boolean", "text", "histogram"};
constexpr std::string_view kKindNames[] = {"fact", "gauge", "counter"};

}  // namespace

std::span<const StatEntry> stats_schema() { return kSchema; }
std::string_view stat_type_name(StatType type) { return kTypeNames[static_cast<size_t>(type)]; }
std::string_view stat_kind_name(StatKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

}  // namespace fusefs
