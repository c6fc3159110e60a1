#include "core/space/block_placer.h"

#include <algorithm>
#include <bit>

namespace fusefs {
namespace {

// The node zone is this part of the volume.
constexpr uint64_t kZoneFraction = 32;
// An allocation as large as this belongs to a file that will grow: it looks for a run to grow in.
constexpr uint64_t kLargeBlocks = 256;
// 32 MiB: what a large file is offered to grow in, if there is such a run.
constexpr int kStreamLevel = 13;
// Groups whose chunks are mostly taken are left alone by nodes while others have more: nodes that
// are written together shall lie together.
constexpr uint32_t kRoomyChunks = kGroupChunks / 8;

int level_of(uint64_t run) {
  const auto level = static_cast<int>(std::bit_width(std::max<uint64_t>(run, 1) - 1));
  return std::min(level, GroupIndex::kLevels - 1);
}

}  // namespace

BlockPlacer::BlockPlacer(GroupTable& groups, uint64_t node_reserve)
    : groups_(groups), node_reserve_(node_reserve) {
  const uint64_t blocks = (groups.data_end() - groups.data_first()).value();
  const uint64_t zone = std::max(blocks / kZoneFraction, 2 * node_reserve * kNodeBlocks);
  if (zone >= kGroupBlocks && groups.group_count() > 2) {
    zone_groups_ = std::min(zone / kGroupBlocks, groups.group_count() / 2);
  } else {
    zone_bits_ = static_cast<uint32_t>(std::min<uint64_t>(zone, groups.bits_of(0).count() / 2)) /
                 kNodeBlocks * kNodeBlocks;
  }
  small_next_ = groups.block_at(zone_groups_, zone_bits_);
  stream_group_ = std::min(zone_groups_ + 1, groups.group_count() - 1);
  broken_group_ = zone_groups_;
}

// ---- Data ----

Attempt<BlockRange> BlockPlacer::find_data(BlockCount want, std::optional<BlockNo> goal) {
  // A goal behind the last block is as good as none.
  if (goal && !groups_.inside(block_range(*goal, BlockCount(1)))) goal.reset();
  const uint64_t soft_floor = 3 * node_reserve_;
  if (groups_.free_chunks() > soft_floor) {
    return find_in_runs(want, goal, groups_.free_chunks() - soft_floor);
  }
  if (groups_.broken_blocks() > 0) return find_in_broken(want, goal);
  if (groups_.free_chunks() > node_reserve_) {
    return find_in_runs(want, goal, groups_.free_chunks() - node_reserve_);
  }
  return Error::no_space;
}

void BlockPlacer::took_data(BlockRange blocks, BlockCount want, std::optional<BlockNo> goal) {
  broken_group_ = groups_.group_of(blocks.first);
  if (want.value() >= kLargeBlocks) {
    if (goal != blocks.first) stream_group_ = (broken_group_ + 1) % groups_.group_count();
  } else if (!goal) {
    small_next_ = blocks.end;
  }
}

Attempt<BlockRange> BlockPlacer::find_in_runs(BlockCount want, std::optional<BlockNo> goal,
                                              uint64_t chunks) {
  Attempt<BlockNo> start = find_start(want.value(), goal);
  if (!start.ok()) return Unfinished(start);
  Attempt<BlockRange> blocks = extend(start.value(), want.value());
  if (!blocks.ok()) return blocks;
  return limit_chunks(blocks.value(), chunks);
}

Attempt<BlockNo> BlockPlacer::find_start(uint64_t want, std::optional<BlockNo> goal) {
  const bool large = want >= kLargeBlocks;
  const int enough = level_of(want);
  if (goal || !large) {
    // A large file that cannot go on where it is does not look nearby: whoever is in its way would
    // be in its way again, and two files that grow at once would be cut into each other.
    const uint64_t run = large ? kGroupBlocks : want;
    Attempt<std::optional<BlockNo>> found = start_near(goal.value_or(small_next_), run, goal);
    if (!found.ok()) return Unfinished(found);
    if (found.value()) return *found.value();
  }
  GroupNo from = stream_group_;
  if (!large) {
    const BlockNo near = goal.value_or(small_next_);
    from = groups_.group_of(std::min(near, groups_.data_end() - BlockCount(1)));
  }
  const int first = large ? std::max(enough, kStreamLevel) : enough;
  // First outside the node zone, then in it, before the data is cut into pieces.
  for (const bool zone : {false, true}) {
    for (int level = first; level >= enough; --level) {
      Attempt<std::optional<BlockNo>> found = start_in_level(level, from, zone);
      if (!found.ok()) return Unfinished(found);
      if (found.value()) return *found.value();
    }
  }
  for (int level = enough - 1; level >= 0; --level) {
    for (const bool zone : {false, true}) {
      Attempt<std::optional<BlockNo>> found = start_in_level(level, from, zone);
      if (!found.ok()) return Unfinished(found);
      if (found.value()) return *found.value();
    }
  }
  return Error::no_space;
}

// `goal` if it is free, however little; else a run of at least `run` blocks in the group of `near`,
// behind it first.
Attempt<std::optional<BlockNo>> BlockPlacer::start_near(BlockNo near, uint64_t run,
                                                        std::optional<BlockNo> goal) {
  if (near >= groups_.data_end()) return std::optional<BlockNo>();
  const GroupNo group = groups_.group_of(near);
  Attempt<bool> loaded = usable(group);
  if (!loaded.ok()) return Unfinished(loaded);
  if (!loaded.value()) return std::optional<BlockNo>();
  const Bitmap& bitmap = groups_.loaded(group).unavailable;
  const uint32_t bit = groups_.bit_of(near);
  if (goal && !bitmap.test(bit)) return goal;
  if (run > groups_.info(group).free_run_max) return std::optional<BlockNo>();
  const auto min = static_cast<uint32_t>(run);
  const BitRange behind = bitmap.find_run({bit, kGroupBlocks}, min);
  if (behind.count() >= min) return std::optional(groups_.block_at(group, behind.first));
  const BitRange anywhere = find_run(group, min);
  if (anywhere.count() >= min) return std::optional(groups_.block_at(group, anywhere.first));
  return std::optional<BlockNo>();
}

Attempt<std::optional<BlockNo>> BlockPlacer::start_in_level(int level, GroupNo from, bool zone) {
  const uint32_t min = 1u << level;
  while (true) {
    std::optional<GroupNo> group = groups_.index().with_run(level, from);
    if (group && in_zone(*group) != zone) {
      group = groups_.index().with_run(level, zone ? 0 : zone_groups_);
    }
    if (!group || in_zone(*group) != zone) return std::optional<BlockNo>();
    Attempt<bool> loaded = usable(*group);
    if (!loaded.ok()) return Unfinished(loaded);
    if (!loaded.value()) continue;  // the index no longer has it
    const BitRange run = find_run(*group, min);
    if (run.count() >= min) return std::optional(groups_.block_at(*group, run.first));
    groups_.measure_run(*group);  // the bound was too high: now the index knows
  }
}

Attempt<bool> BlockPlacer::usable(GroupNo group) {
  if (groups_.info(group).free_count == 0 || groups_.info(group).unreadable) return false;
  const Attempt<void> loaded = groups_.load(group);
  if (loaded.must_restart()) return loaded.restart();
  return loaded.ok();
}

BitRange BlockPlacer::find_run(GroupNo group, uint32_t min) const {
  const Bitmap& bitmap = groups_.loaded(group).unavailable;
  const uint32_t first = group == 0 ? zone_bits_ : 0;
  const BitRange run = bitmap.find_run({first, kGroupBlocks}, min);
  if (run.count() >= min || first == 0) return run;
  return bitmap.find_run({0, kGroupBlocks}, min);
}

// From `start`, which is free, as far as blocks are free, into the next groups too.
Attempt<BlockRange> BlockPlacer::extend(BlockNo start, uint64_t want) {
  const BlockNo limit = std::min(start + BlockCount(want), groups_.data_end());
  BlockRange blocks{start, start};
  while (blocks.end < limit) {
    const GroupNo group = groups_.group_of(blocks.end);
    Attempt<bool> loaded = usable(group);
    if (!loaded.ok()) return Unfinished(loaded);
    if (!loaded.value()) break;
    const BlockNo stop = std::min(limit, groups_.block_at(group + 1, 0));
    const uint32_t bit = groups_.bit_of(blocks.end);
    const auto bits = static_cast<uint32_t>((stop - blocks.end).value());
    const uint32_t end = groups_.loaded(group).unavailable.find_used({bit, bit + bits});
    blocks.end += BlockCount(end - bit);
    if (end < bit + bits) break;
  }
  CHECK(!blocks.empty());
  return blocks;
}

// Cuts `blocks`, which are free, so that taking them breaks at most `chunks` whole chunks.
BlockRange BlockPlacer::limit_chunks(BlockRange blocks, uint64_t chunks) const {
  CHECK(chunks > 0);
  if (blocks.count().value() / kNodeBlocks + 2 <= chunks) return blocks;
  uint64_t broken = 0;
  BlockNo at = blocks.first;
  while (at < blocks.end) {
    const uint32_t bit = groups_.bit_of(at);
    const uint32_t next = (bit / kNodeBlocks + 1) * kNodeBlocks;
    const Bitmap& bitmap = groups_.loaded(groups_.group_of(at)).unavailable;
    broken += bitmap.whole_chunks({bit, bit + 1});
    if (broken > chunks) return {blocks.first, at};
    at = std::min(at + BlockCount(next - bit), blocks.end);
  }
  return blocks;
}

Attempt<BlockRange> BlockPlacer::find_in_broken(BlockCount want, std::optional<BlockNo> goal) {
  const GroupNo from = goal ? groups_.group_of(*goal) : broken_group_;
  while (true) {
    const std::optional<GroupNo> group = groups_.index().with_broken(from);
    if (!group) return Error::no_space;
    Attempt<bool> loaded = usable(*group);
    if (!loaded.ok()) return Unfinished(loaded);
    if (!loaded.value()) continue;
    const Bitmap& bitmap = groups_.loaded(*group).unavailable;
    const uint32_t first = goal && *group == from ? groups_.bit_of(*goal) : 0;
    BitRange bits = bitmap.find_broken({first, kGroupBlocks});
    if (bits.empty()) bits = bitmap.find_broken({0, kGroupBlocks});
    CHECK(!bits.empty());
    if (bits.count() > want.value()) bits.end = bits.first + static_cast<uint32_t>(want.value());
    return groups_.blocks_of(*group, bits);
  }
}

// ---- Nodes ----

Attempt<void> BlockPlacer::prepare_nodes(uint64_t count) {
  plan_nodes(count);
  std::optional<Restart> restart;
  uint64_t chunks = 0;
  for (GroupNo group : node_groups_) {
    const Attempt<void> loaded = groups_.load(group);
    if (loaded.failed()) return loaded.error();
    if (loaded.must_restart()) restart = loaded.restart();
    chunks += groups_.info(group).free_chunks;
  }
  if (restart) return *restart;
  if (chunks < count) return Error::no_space;
  return {};
}

// Groups with `count` whole chunks together: the one in use, the zone's, then any.
void BlockPlacer::plan_nodes(uint64_t count) {
  node_groups_.clear();
  uint64_t chunks = 0;
  const auto add = [&](GroupNo group) {
    const GroupInfo& info = groups_.info(group);
    if (info.unreadable || info.free_chunks == 0) return;
    node_groups_.push_back(group);
    chunks += info.free_chunks;
  };
  const GroupNo zone_end = std::max<GroupNo>(zone_groups_, 1);
  add(node_group_);
  for (const bool roomy : {true, false}) {
    for (GroupNo group = 0; group < zone_end && chunks < count; ++group) {
      const bool is_roomy = groups_.info(group).free_chunks >= kRoomyChunks;
      if (group != node_group_ && is_roomy == roomy) add(group);
    }
  }
  GroupNo from = zone_end;
  while (chunks < count) {
    const std::optional<GroupNo> group = groups_.index().with_chunk(from);
    if (!group || *group < from) break;
    if (*group != node_group_) add(*group);
    from = *group + 1;
  }
}

BlockNo BlockPlacer::find_node() {
  for (GroupNo group : node_groups_) {
    const std::optional<uint32_t> bit = find_chunk(group);
    if (!bit) continue;
    node_group_ = group;
    node_bit_ = *bit + kNodeBlocks;
    return groups_.block_at(group, *bit);
  }
  CHECK_MSG(false, "more nodes are allocated than were prepared");
}

// Behind the last node first; on a small volume within the zone, before leaving it.
std::optional<uint32_t> BlockPlacer::find_chunk(GroupNo group) const {
  const Bitmap& bitmap = groups_.loaded(group).unavailable;
  const uint32_t from = group == node_group_ ? node_bit_ : 0;
  const uint32_t end = group == 0 && zone_bits_ != 0 ? zone_bits_ : kGroupBlocks;
  const BitRange parts[] = {{std::min(from, end), end}, {0, end}, {end, kGroupBlocks}};
  for (const BitRange& part : parts) {
    const uint32_t bit = bitmap.find_whole_chunk(part);
    if (bit < part.end) return bit;
  }
  return std::nullopt;
}

// ---- Trim ----

Attempt<std::optional<BlockRange>> BlockPlacer::find_trim(BlockNo from, BlockNo end,
                                                          BlockCount min) {
  from = std::max(from, groups_.data_first());
  end = std::min(end, groups_.data_end());
  while (from < end) {
    const GroupNo group = groups_.group_of(from);
    const BlockNo next = std::min(groups_.block_at(group + 1, 0), end);
    const GroupInfo& info = groups_.info(group);
    if (info.free_run_max >= std::max<uint64_t>(min.value(), 1) && !info.unreadable) {
      const Attempt<void> loaded = groups_.load(group, GroupTable::Use::once);
      if (loaded.must_restart()) return loaded.restart();
      if (loaded.ok()) {
        const uint32_t first = groups_.bit_of(from);
        const BitRange bits{first, first + static_cast<uint32_t>((next - from).value())};
        const auto least = static_cast<uint32_t>(std::max<uint64_t>(min.value(), 1));
        const BitRange run = groups_.loaded(group).unavailable.find_run(bits, least);
        if (run.count() >= least) return std::optional(groups_.blocks_of(group, run));
        if (!info.run_exact) groups_.measure_run(group);
      }
    }
    from = next;
  }
  return std::optional<BlockRange>();
}

}  // namespace fusefs
