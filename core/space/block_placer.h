// BlockPlacer: where new blocks go.
//
// Data goes on exactly where the file's last extent ends, so that a file written in sequence is one
// extent, also across groups; small pieces else near it. A large file that begins, or cannot go on
// where it is, gets a run of its own to grow in; small new files are packed behind each other.
//
// Tree nodes are kept together in a zone at the low end, which data uses last: they would cut the
// free runs into pieces, and a checkpoint writes them faster side by side.
//
//      group 0 ... zone          | data ...
//      [nodes: next-fit, aligned | runs of large files | packed small files | ...        ]
//
// Data and nodes compete for whole chunks (bitmap.h): see find_data().
//
// It only finds places: taking them is the caller's. Monitor held for every call.
#pragma once

#include <optional>
#include <vector>

#include "core/space/group_table.h"

namespace fusefs {

class BlockPlacer {
 public:
  // `node_reserve` whole chunks are never given to data.
  BlockPlacer(GroupTable& groups, uint64_t node_reserve);

  // Up to `want` free blocks in one piece, at least one.
  //   Restarts  bitmap_load
  //   Errors    no_space: nothing that data may have is free
  // Data takes from broken chunks only, when no more than 3 * node_reserve whole ones are left; if
  // there are no broken ones, from whole ones down to node_reserve.
  Attempt<BlockRange> find_data(BlockCount want, std::optional<BlockNo> goal);
  // To be told when the range is taken: where the next new file goes.
  void took_data(BlockRange blocks, BlockCount want, std::optional<BlockNo> goal);

  // Loads the groups of the next `count` nodes. Requires that so many whole chunks are free.
  //   Restarts  bitmap_load;  Errors  no_space (in unreadable groups), io_failed, corrupt
  Attempt<void> prepare_nodes(uint64_t count);
  // A free chunk for the next node. Requires prepare_nodes() in this attempt.
  BlockNo find_node();

  // Free blocks for a discard: the first run of at least `min` in [from, end).
  //   Restarts  bitmap_load
  Attempt<std::optional<BlockRange>> find_trim(BlockNo from, BlockNo end, BlockCount min);

 private:
  // Only so many whole chunks may be broken.
  Attempt<BlockRange> find_in_runs(BlockCount want, std::optional<BlockNo> goal, uint64_t chunks);
  Attempt<BlockRange> find_in_broken(BlockCount want, std::optional<BlockNo> goal);
  Attempt<BlockNo> find_start(uint64_t want, std::optional<BlockNo> goal);
  Attempt<std::optional<BlockNo>> start_near(BlockNo near, uint64_t run,
                                             std::optional<BlockNo> goal);
  Attempt<std::optional<BlockNo>> start_in_level(int level, GroupNo from, bool zone);
  Attempt<BlockRange> extend(BlockNo start, uint64_t want);
  BlockRange limit_chunks(BlockRange blocks, uint64_t chunks) const;
  // Loads `group` if something is free there: false when it cannot be used.
  Attempt<bool> usable(GroupNo group);
  bool in_zone(GroupNo group) const { return group < zone_groups_; }
  BitRange find_run(GroupNo group, uint32_t min) const;
  std::optional<uint32_t> find_chunk(GroupNo group) const;
  void plan_nodes(uint64_t count);

  GroupTable& groups_;
  const uint64_t node_reserve_;
  // The node zone: whole groups, or the first bits of group 0 on a small volume.
  uint64_t zone_groups_ = 0;
  uint32_t zone_bits_ = 0;

  GroupNo stream_group_ = 0;  // where the next large new file looks for a run
  BlockNo small_next_;        // where the next small new file goes
  GroupNo broken_group_ = 0;

  std::vector<GroupNo> node_groups_;  // planned, in this order
  GroupNo node_group_ = 0;            // of the last node
  uint32_t node_bit_ = 0;             // behind the last node
};

}  // namespace fusefs
