// Store: tree, journal and checkpoints as one thing: durable ordered keys.
//
// A checkpoint runs in the background when the journal is half full, when half as many nodes are
// dirty as may be, when asked for (unmount, FITRIM) and after kCheckpointIntervalNs with something
// dirty:
//
//   1. one attempt: seal the journal's batch; freeze tree and bitmaps as they are
//   2. outside the monitor: checksums
//   3. write nodes and pages to new places; wait; wait for the sealed batch; flush
//   4. write the other superblock slot with FUA: the commit point
//   5. journal tail moves, replaced blocks become free
//
// A power cut before 4 leaves the previous checkpoint and its journal; after 4, the new one.
//
// Room for nodes: dirty nodes and those of the checkpoint under way are together at most what the
// allocator's node reserve allows (and what the cache may hold); a transaction that would exceed it
// waits for the checkpoint. So what a crash leaves in the journal makes no more nodes dirty than
// the reserve has room for, but for the few that merging differently may cost. Should it do so all
// the same, replay makes a checkpoint between two batches.
//
// Monitor held for every call.
#pragma once

#include <functional>
#include <memory>

#include "core/format/superblock_format.h"
#include "core/journal/journal.h"
#include "core/tree/space_map.h"
#include "core/tree/transaction.h"
#include "core/tree/tree.h"

namespace fusefs {

inline constexpr uint64_t kCheckpointIntervalNs = 30 * kNsPerSecond;

struct StoreStats {
  uint64_t checkpoint_count = 0;
  uint64_t checkpoint_nodes_written = 0;
  uint64_t checkpoint_pages_written = 0;
  Histogram checkpoint_duration_ns;
};

class Store {
 public:
  struct Options {
    uint64_t cached_nodes_max = 4096;
  };
  // `superblock` is what verify_superblock() accepted; `superblock_slot` where it was found.
  Store(Scheduler& scheduler, BlockDevice& device, WriteCache& write_cache, Health& health,
        const Superblock& superblock, int superblock_slot, const Options& options);
  ~Store();

  // The allocator; set once, before anything else is called.
  void set_space(SpaceMap& space);

  // Reapplies what the journal holds beyond the checkpoint. Mount calls it before start(); what was
  // replayed stays in the journal until the next checkpoint. On a volume that may not be written it
  // happens in memory only. Without it (norecovery) the volume is as of the last checkpoint and
  // must not be started.
  //   Restarts on reads, and on a checkpoint if too many nodes are dirty
  //   Errors   io_failed, corrupt
  // `on_inode` is told the number of every inode that is put, for next_inode.
  Attempt<void> replay(const std::function<void(InodeNo)>& on_inode);
  uint64_t replayed_transactions() const;
  uint64_t replayed_bytes() const;

  // Writes the superblock as "in use" (mount count, time; not clean) and starts journal writer and
  // checkpointer.
  //   Restarts on the write;  Errors io_failed
  Attempt<void> start(Timestamp now);

  Tree& tree();
  // Another one after replay().
  Journal& journal();

  // Asks for a checkpoint that contains everything committed until now, and waits for it.
  // `wanted` is the caller's stash: 0 at first.
  //   Restarts durable;  Errors read_only_volume, or why the volume became so
  Attempt<void> checkpoint(CheckpointNo& wanted);
  // A last checkpoint, with the superblock marked clean. Nothing may be committed once it has been
  // called. Does nothing on a store that was not started.
  Attempt<void> shut_down(CheckpointNo& wanted);

  // Changes the label; durable with the next checkpoint.
  void set_label(std::string_view label);
  // The superblock as the next checkpoint would write it (label, uuid, geometry for everyone else).
  const Superblock& superblock() const;
  // Kept by the inode layer, written by checkpoints.
  void set_next_inode(InodeNo next);
  // Blocks in `shared` items, as of the last transaction.
  uint64_t shared_blocks() const;

  // What has been done last, by anybody: when it is durable, everything until now is.
  struct LastChange {
    JournalSeq seq;
    WriteStamp stamp = 0;
  };
  LastChange last_change() const;

  const StoreStats& stats() const;

 private:
  friend class Transaction;
  class Impl;          // store_impl.h
  class Checkpoint;    // checkpoint.h
  class Checkpointer;  // store.cc
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
