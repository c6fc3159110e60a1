// GroupIndex: which groups have room of some kind, found without looking at all groups.
//
// A set of group numbers for each power of two: level k has the groups whose longest free run is
// at least 2^k blocks. Two more sets: groups with whole chunks, and groups with free blocks in
// broken chunks. Finding the next member of a set takes a few steps for any number of groups.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/space/bitmap.h"

namespace fusefs {

using GroupNo = uint64_t;

// A set of numbers below a bound, with a second level that says which words are not empty.
class GroupSet {
 public:
  void resize(uint64_t count);
  void put(uint64_t number, bool member);
  bool contains(uint64_t number) const { return ((words_[number / 64] >> (number % 64)) & 1) != 0; }
  bool empty() const { return count_ == 0; }
  // The first member at or after `from`, going around the end once.
  std::optional<uint64_t> next(uint64_t from) const;

 private:
  std::optional<uint64_t> next_in(uint64_t from) const;

  uint64_t count_ = 0;
  std::vector<uint64_t> words_;
  std::vector<uint64_t> upper_;  // one bit for each word
};

class GroupIndex {
 public:
  // 2^14 is the largest power of two that a group's run can reach.
  static constexpr int kLevels = std::bit_width(kGroupBlocks);

  explicit GroupIndex(uint64_t group_count);

  void update(GroupNo group, uint32_t free_count, uint32_t free_run_max, uint32_t free_chunks);

  // The next group at or after `from`, around the end, ...
  // ... whose longest free run is at least 2^level blocks;
  std::optional<GroupNo> with_run(int level, GroupNo from) const {
    return runs_[index(level)].next(from);
  }
  // ... with a whole chunk;
  std::optional<GroupNo> with_chunk(GroupNo from) const { return chunks_.next(from); }
  // ... with free blocks in broken chunks.
  std::optional<GroupNo> with_broken(GroupNo from) const { return broken_.next(from); }

 private:
  static size_t index(int level) { return static_cast<size_t>(level); }

  std::array<GroupSet, static_cast<size_t>(kLevels)> runs_;
  GroupSet chunks_;
  GroupSet broken_;
};

}  // namespace fusefs
