// Server: what every request needs: the volume, the channel, and what the kernel knows of us.
//
//     FuseSource (fuse_source.h) --> operations (operation.h, ops_*.cc) --> Reply (reply.h)
//                                          |
//                                          v
//                                        Server
//
// Invariants:
//   (1) The kernel's lookup count of an inode is what lookups() has: it is added in the attempt
//       that settles the answer and taken back if the answer does not arrive.
//   (2) An inode with no link left whose last user in the kernel has gone is released to the
//       volume, which removes it.
#pragma once

#include <atomic>
#include <string>
#include <unordered_set>

#include "core/file/fsync.h"
#include "core/io/reactor.h"
#include "core/volume/volume.h"
#include "fusefs/caller_files.h"
#include "fusefs/fuse_counters.h"
#include "fusefs/kernel_pages.h"
#include "fusefs/mount_options.h"
#include "fusefs/notifier.h"
#include "fusefs/open_files.h"
#include "fusefs/replaced_ranges.h"
#include "fusefs/request.h"
#include "fusefs/snapshots.h"
#include "fusefs/window_socket.h"
#include "fusefs/windows.h"

namespace fusefs {

// What statistics and `info` say about the mount.
struct MountFacts {
  std::string source;
  std::string mount_point;
  Timestamp mounted_at;
};

class Server {
 public:
  Server(Volume& volume, Monitor& monitor, Scheduler& scheduler, Channel& channel,
         const Clock& clock, const MountOptions& options, MountFacts facts);
  ~Server() { fault_gate_->close(); }

  // For the whole time, any thread.
  Channel& channel() { return channel_; }
  const Clock& clock() const { return clock_; }
  Monitor& monitor() { return monitor_; }
  const MountOptions& options() const { return options_; }
  const MountFacts& facts() const { return facts_; }
  FuseCounters& counters() { return counters_; }
  BufferPool& buffers() { return buffers_; }
  Notifier& notifier() { return notifier_; }
  // Set by the handshake, before the first request.
  KernelFacts& kernel() { return kernel_; }
  RequestLayout layout() const { return {kernel_.setxattr_ext}; }

  // What the statistics also look at: the device behind the volume and the threads that serve.
  // Null in tests without them.
  struct Engine {
    UringDevice* device = nullptr;
    ReactorGroup* reactors = nullptr;
    uint32_t threads = 0;
  };
  void set_engine(const Engine& engine) { engine_ = engine; }
  const Engine& engine() const { return engine_; }

  // Null until the mount answers, and where they cannot be seen. Monitor held for the call, not
  // for the use.
  const CallerFiles* caller_files() const { return caller_files_.get(); }
  void set_caller_files(std::unique_ptr<CallerFiles> files) { caller_files_ = std::move(files); }

  // The rest with the monitor held.
  Volume& volume() { return volume_; }
  Scheduler& scheduler() { return scheduler_; }
  OpenFiles& open_files() { return open_files_; }
  Snapshots& snapshots() { return snapshots_; }
  ReplacedRanges& replaced_ranges() { return replaced_ranges_; }
  Windows& windows() { return windows_; }
  // For threads that serve the faults of programs. Closed before the mount's threads go.
  const std::shared_ptr<FaultGate>& fault_gate() const { return fault_gate_; }
  WindowSocket& window_socket() { return window_socket_; }

  // The kernel knows the inode, or the control file of a window, once more / so many times less.
  void add_lookup(InodeNo ino);
  void forget(InodeNo ino, uint64_t count);
  void close_file(uint64_t handle);
  // The kernel is gone: nothing is open any more.
  void close_all_files() { open_files_.close_all(); }
  // To be called with every inode that has lost a link.
  void note_unlinked(const Inode& inode);

  // The kernel's page cache may hold pages of the inode, by reads that went into it, or by writes
  // that left theirs there.
  void note_kernel_read(InodeNo ino, uint64_t pos, uint64_t len) {
    kernel_reads_.insert(ino);
    kernel_pages_.note(ino, pos, len);
  }
  void note_kernel_write(InodeNo ino, uint64_t pos, uint64_t len) {
    kernel_pages_.note(ino, pos, len);
  }
  bool has_kernel_reads(InodeNo ino) const { return kernel_reads_.contains(ino); }
  // `len` 0: to the end.
  bool has_kernel_pages(InodeNo ino, uint64_t pos, uint64_t len) const {
    return kernel_.writeback_cache || kernel_pages_.any(ino, pos, len);
  }

  // For -o sync and dirsync, and the inode flags of that name: after a change of `inode`, or of
  // names in `directory`.
  //   Restarts  until `seq` is durable, if it must be before the answer
  Attempt<void> settle(JournalSeq seq, const Inode& inode);
  Attempt<void> settle_names(JournalSeq seq, InodeNo directory);
  // How durable a write is before it is answered, by flags as of open(2), the file and the mount.
  SyncLevel sync_level(int open_flags, const Inode& inode) const;
  // After a change of a file's contents that was no write: as durable as a write by `file` would
  // be.
  //   Restarts  as fsync();  Errors  of it
  Attempt<void> settle_contents(OpenFile& file, FsyncStash& stash);

 private:
  Volume& volume_;
  Monitor& monitor_;
  Scheduler& scheduler_;
  Channel& channel_;
  const Clock& clock_;
  const MountOptions options_;
  const MountFacts facts_;
  KernelFacts kernel_;
  Engine engine_;
  FuseCounters counters_;
  BufferPool buffers_;
  KernelPages kernel_pages_;
  Notifier notifier_;
  OpenFiles open_files_;
  Snapshots snapshots_;
  ReplacedRanges replaced_ranges_;
  const std::shared_ptr<FaultGate> fault_gate_;
  Windows windows_;
  WindowSocket window_socket_;
  std::unique_ptr<CallerFiles> caller_files_;
  std::unordered_set<InodeNo> unlinked_;      // no link left, known to the kernel
  std::unordered_set<InodeNo> kernel_reads_;  // until forgotten
};

// Bytes of one write or read: 256 pages, what the kernel allows without a changed sysctl.
inline constexpr size_t kMaxWriteBytes = 1 << 20;

}  // namespace fusefs
