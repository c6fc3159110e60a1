// What is behind Space: the groups, where to put what, who was promised what, what waits.
//
// Only for the .cc files of Space.
#pragma once

#include <memory>
#include <vector>

#include "core/space/block_placer.h"
#include "core/space/discard_queue.h"
#include "core/space/group_table.h"
#include "core/space/release_queue.h"
#include "core/space/space.h"

namespace fusefs {

// Dirty nodes that a checkpoint may hold: a node for 256 blocks, within these bounds.
inline constexpr uint64_t kNodeReserveMin = 96;
inline constexpr uint64_t kNodeReserveMax = 2048;

class Space::Impl {
 public:
  Impl(Scheduler& scheduler, BlockDevice& device, Health& health_of_volume,
       const Superblock& superblock);

  // Blocks that nobody was promised and no checkpoint may need; below zero when the tree has grown
  // into its reserve. `soon`: what is free once everything under way has ended.
  int64_t reservable() const;
  int64_t reservable(SpaceUse use) const {
    return reservable() - (use == SpaceUse::ordinary ? static_cast<int64_t>(writeback_reserve) : 0);
  }
  uint64_t soon() const { return releases.blocks().value() + trimming; }
  // Takes back what has become reusable.
  void settle_releases();
  // For who found too little: waits for what is under way.
  //   Errors  no_space when nothing is; the volume's when it failed
  Attempt<void> wait_for_space();
  // Makes sure that `count` blocks can be promised: no_space at once when what is under way would
  // not be enough either.
  Attempt<void> want_blocks(uint64_t count, SpaceUse use);
  // Allocated blocks become free in the committed bitmaps and stay unavailable. False, and the
  // volume has failed, when they were not all allocated: two owners have been given one block by a
  // damaged tree, and nothing more may be made of it.
  bool clear_allocated(BlockRange blocks);
  void tell_no_longer_shared(BlockRange blocks) {
    if (owners_listener != nullptr) owners_listener->no_longer_shared(blocks);
  }

  Health& health;
  GroupTable groups;
  const uint64_t node_reserve;
  BlockPlacer placer;
  ReleaseQueue releases;
  SettlingBlocks settling;
  std::unique_ptr<Durability> journal;  // what set_journal() was given
  Durability* durability = nullptr;
  BlockOwnersListener* owners_listener = nullptr;
  bool replaying = false;

  uint64_t reserved = 0;
  uint64_t writeback_reserve = 0;
  uint64_t trimming = 0;
  Waitable trim_ended;
  bool keep_discards = false;
  DiscardQueue discards;
  Waitable discards_changed;
  std::vector<BlockNo> nodes_released;  // since the last freeze
  std::vector<BlockNo> nodes_frozen;    // free when the checkpoint under way is durable
  Waitable checkpoint_ended;
  uint64_t allocate_count = 0;
};

}  // namespace fusefs
