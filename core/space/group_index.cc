#include "core/space/group_index.h"

#include <bit>

namespace fusefs {
namespace {

// The first 1 at or after `from` in `words`.
std::optional<uint64_t> find_one(const std::vector<uint64_t>& words, uint64_t from) {
  uint64_t index = from / 64;
  if (index >= words.size()) return std::nullopt;
  uint64_t word = words[index] & (~uint64_t{0} << (from % 64));
  while (word == 0) {
    if (++index == words.size()) return std::nullopt;
    word = words[index];
  }
  return index * 64 + static_cast<uint64_t>(std::countr_zero(word));
}

}  // namespace

void GroupSet::resize(uint64_t count) {
  words_.assign((count + 63) / 64, 0);
  upper_.assign((words_.size() + 63) / 64, 0);
}

void GroupSet::put(uint64_t number, bool member) {
  if (contains(number) == member) return;
  const uint64_t at = number / 64;
  words_[at] ^= uint64_t{1} << (number % 64);
  count_ = member ? count_ + 1 : count_ - 1;
  const uint64_t bit = uint64_t{1} << (at % 64);
  if (words_[at] != 0) {
    upper_[at / 64] |= bit;
  } else {
    upper_[at / 64] &= ~bit;
  }
}

std::optional<uint64_t> GroupSet::next_in(uint64_t from) const {
  const uint64_t at = from / 64;
  if (at >= words_.size()) return std::nullopt;
  const uint64_t word = words_[at] & (~uint64_t{0} << (from % 64));
  if (word != 0) return at * 64 + static_cast<uint64_t>(std::countr_zero(word));
  const std::optional<uint64_t> later = find_one(upper_, at + 1);
  if (!later) return std::nullopt;
  return *later * 64 + static_cast<uint64_t>(std::countr_zero(words_[*later]));
}

std::optional<uint64_t> GroupSet::next(uint64_t from) const {
  if (empty()) return std::nullopt;
  const std::optional<uint64_t> found = next_in(from);
  return found ? found : next_in(0);
}

GroupIndex::GroupIndex(uint64_t group_count) {
  for (GroupSet& set : runs_) set.resize(group_count);
  chunks_.resize(group_count);
  broken_.resize(group_count);
}

void GroupIndex::update(GroupNo group, uint32_t free_count, uint32_t free_run_max,
                        uint32_t free_chunks) {
  for (int level = 0; level < kLevels; ++level) {
    runs_[index(level)].put(group, free_run_max >= (1u << level));
  }
  chunks_.put(group, free_chunks != 0);
  broken_.put(group, free_count > free_chunks * kNodeBlocks);
}

}  // namespace fusefs
