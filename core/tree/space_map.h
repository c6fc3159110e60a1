// SpaceMap: what the tree and the transactions need of the allocator (core/space implements it).
#pragma once

#include <vector>

#include "core/base/units.h"
#include "core/engine/attempt.h"
#include "core/io/aligned_buffer.h"

namespace fusefs {

// A page that a checkpoint writes: sealed outside the monitor.
struct FrozenPage {
  BlockNo at;
  AlignedBuffer image;  // header set, checksum not yet
};

class SpaceMap {
 public:
  virtual ~SpaceMap() = default;

  // Makes sure that committing allocate or release of `blocks` needs no I/O in this attempt.
  //   Restarts  on bitmap pages;  Errors  io_failed, corrupt
  virtual Attempt<void> prepare_change(BlockRange blocks) = 0;
  // A transaction's changes, at its commit. Requires prepare_change() of the blocks in this
  // attempt.
  virtual void commit_allocate(BlockRange blocks) = 0;
  // The blocks may be allocated again once `seq` is durable.
  virtual void commit_release(BlockRange blocks, JournalSeq seq) = 0;

  // `blocks` have one owner left since `seq`: not to be overwritten in place before it is durable.
  virtual void commit_unshare(BlockRange blocks, JournalSeq seq) = 0;

  // While on, commit_allocate() and commit_release() accept blocks that are so already: replay
  // applies transactions of which a checkpoint may know. Releases are available at once.
  virtual void set_replaying(bool replaying) { (void)replaying; }

  // Makes sure that allocate_node() works `count` times in this attempt without I/O.
  //   Restarts  bitmap_load; space: chunks are about to become free
  //   Errors    no_space, io_failed, corrupt
  virtual Attempt<void> prepare_nodes(uint64_t count) = 0;
  // kNodeBlocks blocks, aligned in their group; from the reserve that reservations cannot touch.
  virtual BlockNo allocate_node() = 0;
  // A node that the checkpoint being made no longer contains. Reusable after checkpoint_durable().
  // Requires prepare_change() of its blocks in this attempt, like every change.
  virtual void release_node(BlockNo first) = 0;
  // How many dirty nodes the reserve allows for.
  virtual uint64_t node_reserve() const = 0;

  // Copies of all bitmap and summary pages changed since the last freeze, as of now, at the places
  // of their other slots. Called in the attempt that freezes the tree.
  // One checkpoint at a time: freeze() again only after checkpoint_durable() or _failed().
  virtual std::vector<FrozenPage> freeze(CheckpointNo checkpoint) = 0;
  // The slots of the summary pages that the superblock of this checkpoint names.
  virtual void write_summary_slots(unsigned char* slots) const = 0;
  virtual uint64_t free_blocks_frozen() const = 0;
  // The superblock is durable / was not written (its slots are still the old ones).
  virtual void checkpoint_durable(CheckpointNo checkpoint) = 0;
  virtual void checkpoint_failed(CheckpointNo checkpoint) = 0;
};

}  // namespace fusefs
