// GroupTable: all groups of the volume: their summaries, and the bitmaps of those in use.
//
// A summary per group is always in memory (mount reads them); a bitmap page is read when it is
// needed, by restart, and dropped again when nothing in it differs from the device. It keeps the
// counts and the index over the groups in step with every change of a bit, and knows which slot of
// which page is the committed one. Who may have which block, and why, is unknown here.
//
//     absent --load()--> clean <--durable-- frozen <--freeze()-- dirty
//                          |                  |                    ^
//                          +---- change ------|------ change ------+   (frozen and dirty at once:
//                                             +------ failed ------+    for the next checkpoint)
//
// Invariants:
//   (1) `unavailable` has every bit of `committed`; `differences` counts the others.
//   (2) The counts and the index describe `unavailable`; of unreadable groups, nothing.
//   (3) A page is written to the slot that the committed superblock does not name.
//   (4) A group that is dirty, frozen, or has differences stays loaded.
//
// Monitor held for every call.
#pragma once

#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/engine/scheduler.h"
#include "core/format/superblock_format.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"
#include "core/io/health.h"
#include "core/space/bitmap.h"
#include "core/space/group_index.h"
#include "core/tree/space_map.h"

namespace fusefs {

// Loaded groups beyond this are dropped, least recently used first, ...
inline constexpr size_t kLoadedGroupsMax = 2048;
// ... but not those that an operation may have prepared and not used yet.
inline constexpr uint64_t kLoadedGroupKeepNs = 5 * kNsPerSecond;
// Bitmap pages read at the same time for one change of many groups.
inline constexpr size_t kGroupLoadsAtOnce = 256;

struct LoadedGroup {
  Bitmap committed;
  Bitmap unavailable;
  uint32_t differences = 0;
  bool dirty = false;   // changed since the last freeze
  bool frozen = false;  // in the checkpoint that is being written
  bool idle = false;    // in the list of those that may be dropped, at `position`
  std::list<GroupNo>::iterator position;
  uint64_t used_ns = 0;
};

struct GroupInfo {
  GroupSummary summary;       // counts as of the last freeze, flags as of the last durable one
  uint16_t free_count = 0;    // available blocks
  uint16_t free_run_max = 0;  // exact if run_exact, else an upper bound
  uint16_t free_chunks = 0;   // whole ones
  bool run_exact = true;
  bool unreadable = false;  // its bitmap could not be read: nothing is allocated there
  std::unique_ptr<LoadedGroup> loaded;
};

class GroupTable {
 public:
  GroupTable(Scheduler& scheduler, BlockDevice& device, Health& health,
             const Superblock& superblock);

  // Reads the summaries; does nothing when that has been done.
  //   Restarts on the read;  Errors io_failed, corrupt
  Attempt<void> load_summaries(Ref<IoTicket>& ticket);

  // ---- Places ----

  BlockNo data_first() const { return data_first_; }
  BlockNo data_end() const { return data_end_; }
  GroupNo group_count() const { return groups_.size(); }
  GroupNo group_of(BlockNo block) const { return (block - data_first_).value() / kGroupBlocks; }
  uint32_t bit_of(BlockNo block) const {
    return static_cast<uint32_t>((block - data_first_).value() % kGroupBlocks);
  }
  BlockNo block_at(GroupNo group, uint32_t bit) const {
    return data_first_ + BlockCount(group * kGroupBlocks + bit);
  }
  BlockRange blocks_of(GroupNo group, BitRange bits) const {
    return {block_at(group, bits.first), block_at(group, bits.end)};
  }
  // The bits of `group` that are blocks of the volume.
  BitRange bits_of(GroupNo group) const;
  bool inside(BlockRange blocks) const {
    return data_first_ <= blocks.first && blocks.first <= blocks.end && blocks.end <= data_end_;
  }
  // Calls `fn(group, bits)` for what each group has of `blocks`.
  template <class Fn>
  void for_each_piece(BlockRange blocks, Fn&& fn) const {
    while (!blocks.empty()) {
      const GroupNo group = group_of(blocks.first);
      const BlockNo end = std::min(blocks.end, block_at(group + 1, 0));
      const uint32_t bit = bit_of(blocks.first);
      fn(group, BitRange{bit, bit + static_cast<uint32_t>((end - blocks.first).value())});
      blocks.first = end;
    }
  }

  // ---- Looking ----

  const GroupInfo& info(GroupNo group) const { return groups_[group]; }
  const GroupIndex& index() const { return index_; }
  uint64_t free_blocks() const { return free_blocks_; }
  uint64_t free_chunks() const { return free_chunks_; }
  // Free blocks that are in no whole chunk.
  uint64_t broken_blocks() const { return free_blocks_ - free_chunks_ * kNodeBlocks; }
  uint64_t loaded_count() const { return loaded_count_; }

  // `once`: used now and not again soon; dropped before any other.
  enum class Use : uint8_t { normal, once };
  // Makes the bitmap of `group` available to loaded() in this attempt.
  //   Restarts  bitmap_load;  Errors  io_failed, corrupt: the group is unreadable now
  Attempt<void> load(GroupNo group, Use use = Use::normal);
  // The same for all groups of `blocks`, reading many at a time.
  Attempt<void> load_all(BlockRange blocks);
  // Requires load() of the group in this attempt, or differences in it.
  const LoadedGroup& loaded(GroupNo group) const;
  // Replaces the upper bound of the longest run by what it is. Requires that the group is loaded.
  void measure_run(GroupNo group);

  // ---- Changing. All groups of the blocks are loaded ----

  // Free blocks become unavailable.
  void take(BlockRange blocks);
  // Blocks that are unavailable and not committed become free.
  void give(BlockRange blocks);
  // Unavailable blocks become committed; free ones of `committed` get differences. Return how many
  // were not so already.
  uint64_t commit_set(BlockRange blocks);
  uint64_t commit_clear(BlockRange blocks);
  // Replay: committed and unavailable, or neither, whatever they were before.
  void replay_set(BlockRange blocks);
  void replay_clear(BlockRange blocks);

  // ---- Checkpoints (group_pages.cc) ----

  std::vector<FrozenPage> freeze(CheckpointNo checkpoint);
  void write_summary_slots(unsigned char* slots) const;
  uint64_t free_blocks_frozen() const { return free_blocks_frozen_; }
  // The frozen pages are the committed ones now / were not written.
  void thaw(bool durable);
  bool checkpoint_under_way() const { return frozen_; }

 private:
  struct Loading {
    AlignedBuffer page;
    Ref<IoTicket> ticket;
  };

  Result<void> accept_summaries();
  bool summary_plausible(GroupNo group, const GroupSummary& summary) const;
  BlockNo bitmap_block(GroupNo group, bool slot) const {
    return bitmap_first_ + BlockCount(2 * group + (slot ? 1 : 0));
  }
  BlockNo summary_block(uint64_t page, bool slot) const {
    return summary_first_ + BlockCount(2 * page + (slot ? 1 : 0));
  }
  bool committed_slot(GroupNo group) const {
    return (groups_[group].summary.flags & kGroupSlot) != 0;
  }
  bool page_verifies(GroupNo group, ConstBytes page) const;
  LoadedGroup& change(GroupNo group);
  void install(GroupNo group, const Bitmap& bitmap, Use use);
  void refuse(GroupNo group, Error error);
  void touch(GroupNo group, Use use);
  void settle(GroupNo group);
  void drop_idle();
  void note_dirty(GroupNo group);
  void take_bits(GroupNo group, BitRange bits);
  void give_bits(GroupNo group, BitRange bits);
  void refresh_index(GroupNo group);
  FrozenPage freeze_bitmap(GroupNo group, CheckpointNo checkpoint);
  FrozenPage freeze_summary(uint64_t page, CheckpointNo checkpoint);

  Scheduler& scheduler_;
  BlockDevice& device_;
  Health& health_;
  const uint64_t checksum_seed_;
  const BlockNo summary_first_;
  const BlockNo bitmap_first_;
  const BlockNo data_first_;
  const BlockNo data_end_;

  std::vector<GroupInfo> groups_;
  GroupIndex index_;
  uint64_t free_blocks_ = 0;
  uint64_t free_chunks_ = 0;
  uint64_t committed_free_ = 0;

  AlignedBuffer summaries_;  // while they are read
  bool summaries_loaded_ = false;
  std::unordered_map<GroupNo, Loading> loading_;
  uint64_t loaded_count_ = 0;
  std::list<GroupNo> idle_;  // clean, without differences; least recently used first

  std::vector<GroupNo> dirty_;
  std::vector<bool> summary_slots_;   // committed
  std::vector<bool> summary_frozen_;  // being written to the other slot
  bool frozen_ = false;               // between freeze() and thaw()
  std::vector<GroupNo> frozen_groups_;
  std::vector<uint64_t> frozen_summaries_;
  uint64_t free_blocks_frozen_ = 0;
};

}  // namespace fusefs
