#include "core/space/settling_blocks.h"

#include <algorithm>
#include <iterator>

namespace fusefs {

// Takes `blocks` out of the ranges there are.
void SettlingBlocks::cut(BlockRange blocks) {
  auto at = ranges_.upper_bound(blocks.first);
  if (at != ranges_.begin()) --at;
  while (at != ranges_.end() && at->first < blocks.end) {
    const BlockNo first = at->first;
    const Entry entry = at->second;
    if (entry.end <= blocks.first) {
      ++at;
      continue;
    }
    at = ranges_.erase(at);
    if (first < blocks.first) ranges_[first] = {blocks.first, entry.seq};
    if (blocks.end < entry.end)
      at = ranges_.insert_or_assign(blocks.end, Entry{entry.end, entry.seq}).first;
  }
}

void SettlingBlocks::add(BlockRange blocks, JournalSeq seq) {
  cut(blocks);
  ranges_[blocks.first] = {blocks.end, seq};
}

SettlingBlocks::Answer SettlingBlocks::at(BlockRange blocks, JournalSeq durable) const {
  auto next = ranges_.upper_bound(blocks.first);
  if (next != ranges_.begin()) {
    const auto& [first, entry] = *std::prev(next);
    if (entry.end > blocks.first && entry.seq > durable) {
      return {std::min(entry.end, blocks.end) - blocks.first, true};
    }
  }
  while (next != ranges_.end() && next->second.seq <= durable) ++next;
  const BlockNo end = next == ranges_.end() ? blocks.end : std::min(next->first, blocks.end);
  return {end - blocks.first, false};
}

void SettlingBlocks::prune(JournalSeq durable) {
  std::erase_if(ranges_, [durable](const auto& range) { return range.second.seq <= durable; });
}

}  // namespace fusefs
