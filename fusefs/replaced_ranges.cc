#include "fusefs/replaced_ranges.h"

#include <algorithm>

namespace fusefs {

void ReplacedRanges::Stash::end() {
  if (owner_ != nullptr) std::exchange(owner_, nullptr)->ranges_.erase(at_);
}

void ReplacedRanges::begin(InodeNo ino, uint64_t pos, Stash& stash) {
  stash.end();
  stash.at_ = ranges_.emplace(ino, Range{pos, pos, {}});
  stash.owner_ = this;
}

void ReplacedRanges::set_replaced(Stash& stash, uint64_t len) {
  Range& range = stash.at_->second;
  const uint64_t end = std::max(range.end, range.pos + len);
  // Of the page that was replaced in part the kernel may have the old rest.
  if (end > range.end) range.fresh.erase(file_block_at(range.end));
  range.end = end;
}

void ReplacedRanges::note_kernel_has(InodeNo ino, uint64_t pos, uint64_t len) {
  if (ranges_.empty()) return;
  const auto [first, last] = ranges_.equal_range(ino);
  for (auto at = first; at != last; ++at) {
    Range& range = at->second;
    const FileBlock begin = std::max(file_block_end(pos), file_block_at(range.pos));
    const FileBlock end = std::min(file_block_at(pos + len), file_block_end(range.end));
    for (FileBlock page = begin; page < end; ++page) range.fresh.insert(page);
  }
}

ReplacedRanges::Part ReplacedRanges::part_at(InodeNo ino, uint64_t pos, uint64_t end) const {
  Part part{pos, false};
  const auto [first, last] = ranges_.equal_range(ino);
  // From one border to the next: of a page, or of a range.
  while (part.end < end) {
    uint64_t border = std::min(end, file_pos(file_block_at(part.end) + BlockCount(1)));
    bool stale = false;
    for (auto at = first; at != last; ++at) {
      const Range& range = at->second;
      for (const uint64_t edge : {range.pos, range.end}) {
        if (edge > part.end) border = std::min(border, edge);
      }
      const bool inside = part.end >= range.pos && part.end < range.end;
      if (inside && !range.fresh.contains(file_block_at(part.end))) stale = true;
    }
    if (part.end > pos && stale != part.stale) return part;
    part = {border, stale};
  }
  return part;
}

bool ReplacedRanges::any_stale(InodeNo ino, uint64_t pos, uint64_t end) const {
  if (ranges_.empty()) return false;
  const Part part = part_at(ino, pos, end);
  return part.stale || part.end < end;
}

}  // namespace fusefs
