// Store: tree, journal and checkpoints as one thing: durable ordered keys.
//
// A checkpoint runs in the background when the journal is half full, when too many nodes are
// dirty, when asked for (unmount, FITRIM) and after kCheckpointIntervalNs with something dirty:
//
//   1. one attempt: seal the journal's batch; freeze tree and bitmaps as they are
//   2. outside the monitor: checksums
//   3. write nodes and pages to new places; wait; wait for the sealed batch; flush
//   4. write the other superblock slot with FUA: the commit point
//   5. journal tail moves, replaced blocks become free
//
// A power cut before 4 leaves the previous checkpoint and its journal; after 4, the new one.
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
  // `journal_head` and `next_seq` are what replay found (Store::replay()).
  Store(Scheduler& scheduler, BlockDevice& device, WriteCache& write_cache, Health& health,
        const Superblock& superblock, int superblock_slot, const Options& options);
  ~Store();

  // The allocator; set once, before anything else is called.
  void set_space(SpaceMap& space);

  // Reapplies what the journal holds beyond the checkpoint. Mount calls it before start().
  //   Restarts on reads and, when the dirty nodes are too many, on nothing: it checkpoints never.
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
  Journal& journal();

  // Asks for a checkpoint that contains everything committed until now, and waits for it.
  // `wanted` is the caller's stash: 0 at first.
  Attempt<void> checkpoint(CheckpointNo& wanted);
  // A last checkpoint, and the superblock marked clean. Nothing may be committed after it.
  Attempt<void> shut_down(CheckpointNo& wanted);

  // Changes the label; durable with the next checkpoint.
  void set_label(std::string_view label);
  // The superblock as the next checkpoint would write it (label, uuid, geometry for everyone else).
  const Superblock& superblock() const;
  // Kept by the inode layer, written by checkpoints.
  void set_next_inode(InodeNo next);
  void set_shared_blocks(uint64_t blocks);

  const StoreStats& stats() const;

 private:
  friend class Transaction;
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
