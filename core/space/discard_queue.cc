#include "core/space/discard_queue.h"

#include <algorithm>
#include <iterator>

namespace fusefs {

void DiscardQueue::add(BlockRange blocks) {
  if (blocks.empty()) return;
  auto at = ranges_.upper_bound(blocks.first);
  if (at != ranges_.begin() && std::prev(at)->second >= blocks.first) --at;
  while (at != ranges_.end() && at->first <= blocks.end) {
    blocks.first = std::min(blocks.first, at->first);
    blocks.end = std::max(blocks.end, at->second);
    at = ranges_.erase(at);
  }
  if (ranges_.size() < kDiscardRangesMax) ranges_.emplace_hint(at, blocks.first, blocks.end);
}

void DiscardQueue::drop_before(BlockNo end) {
  while (!ranges_.empty() && ranges_.begin()->first < end) {
    const BlockNo range_end = ranges_.begin()->second;
    ranges_.erase(ranges_.begin());
    if (range_end > end) ranges_.emplace_hint(ranges_.begin(), end, range_end);
  }
}

}  // namespace fusefs
