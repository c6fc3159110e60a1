// Volume: a mounted volume. Opens and recovers it, owns every part, and takes it down again.
//
// What programs do with it goes to its parts: names() for names and attributes, files() with
// core/file/*.h for contents. Everything runs inside the monitor, as operations of the scheduler.
//
//     mount():    superblock --> summaries --> replay --> orphans --> background operations
//     unmount():  dirty data --> journal --> last checkpoint, marked clean
#pragma once

#include <memory>
#include <string>

#include "core/file/copy_range.h"
#include "core/file/fsync.h"
#include "core/file/pin.h"
#include "core/file/read.h"
#include "core/file/readahead.h"
#include "core/file/truncate.h"
#include "core/file/write.h"

namespace fusefs {

struct VolumeOptions {
  bool read_only = false;
  bool skip_recovery = false;  // norecovery: do not replay; implies read_only
  bool discard = false;        // tell the device what becomes free
  bool lazytime = false;
  AtimePolicy atime = AtimePolicy::relatime;
  FaultPolicy fault_policy = FaultPolicy::restart;
  CompletionPolicy completion = CompletionPolicy::issuer;
  SelfIoPolicy self_io = SelfIoPolicy::buffered;
  uint64_t lock_delay_ns = kLockDelayNs;  // of the two-state locks (two_state_lock.h)
  uint64_t cache_bytes = 256ull << 20;
  uint64_t readahead_bytes = kReadaheadBytesMax;
  uint64_t pin_limit_bytes = kPinLimitBytes;
  uint64_t pin_limit_bytes_per_user = kPinLimitBytesPerUser;
  PinnedPolicy pinned_policy = PinnedPolicy::redirty;
  uint64_t cached_nodes_max = 4096;
};

struct VolumeStat {  // statfs
  uint64_t block_count = 0;
  uint64_t free_blocks = 0;
  uint64_t available_blocks = 0;
  uint64_t inode_count_free = 0;
};

struct RecoveryStats {
  bool was_clean = true;
  uint64_t replayed_transactions = 0;
  uint64_t replayed_bytes = 0;
  uint64_t orphans = 0;
  uint64_t duration_ns = 0;
};

class Volume {
 public:
  // `report` gets sentences for the log.
  Volume(Scheduler& scheduler, BlockDevice& device, const Clock& clock,
         const VolumeOptions& options, std::function<void(const std::string&)> report);
  ~Volume();

  // The stash is in the volume: one mount, one unmount.
  //   Errors  not_a_volume, corrupt, newer_version, truncated_volume, io_failed,
  //           read_only_volume (needs recovery but the device is read-only)
  // error_detail() names the thing.
  Attempt<void> mount();
  // Writes everything; the volume is clean afterwards. Requires that no other operation is live.
  // Dropped, unfinished: the next mount recovers.
  Attempt<void> unmount();
  const std::string& error_detail() const;

  bool writable() const;
  const VolumeOptions& options() const;
  Namespace& names();
  InodeTable& inodes();
  Space& space();
  Store& store();
  Health& health();
  PageCache& cache();
  FileContext& files();
  const RecoveryStats& recovery() const;

  // An opener or the kernel let go of the inode: removes it in the background if it is an orphan.
  void release_inode(InodeNo ino);

  // After a read at relatime or strict: whether the access time is to change, and changes it.
  void touch_atime(Inode& inode);

  Attempt<VolumeStat> stat_volume();

  struct TrimStash {
    CheckpointNo checkpoint;
    BlockNo cursor;
    std::optional<BlockRange> busy;  // being discarded
    Ref<IoTicket> ticket;
    uint64_t trimmed_bytes = 0;
    bool started = false;
  };
  // Discards free ranges of at least `min_bytes` within [pos, pos + len) of the data area.
  //   Errors not_supported
  Attempt<uint64_t> trim(uint64_t pos, uint64_t len, uint64_t min_bytes, TrimStash& stash);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
