#include "fusefs/kernel_pages.h"

#include <algorithm>
#include <utility>

namespace fusefs {
namespace {

FileRange pages_of(uint64_t pos, uint64_t len) {
  const FileBlock end =
      len == 0 || len > UINT64_MAX - pos ? FileBlock(UINT64_MAX) : file_block_end(pos + len);
  return {file_block_at(pos), end};
}

}  // namespace

// ---- One inode ----

bool KernelPages::Ranges::any(FileRange range) const {
  const auto at =
      std::upper_bound(ranges_.begin(), ranges_.end(), range.first,
                       [](FileBlock first, const FileRange& r) { return first < r.end; });
  return at != ranges_.end() && at->first < range.end;
}

void KernelPages::Ranges::add(FileRange range) {
  // Those that overlap or touch it.
  auto first = std::lower_bound(ranges_.begin(), ranges_.end(), range.first,
                                [](const FileRange& r, FileBlock at) { return r.end < at; });
  auto last = first;
  for (; last != ranges_.end() && last->first <= range.end; ++last) {
    range.first = std::min(range.first, last->first);
    range.end = std::max(range.end, last->end);
  }
  if (first == last) {
    ranges_.insert(first, range);
  } else {
    *first = range;
    ranges_.erase(first + 1, last);
  }
  if (ranges_.size() <= kKernelRangesMax) return;
  size_t closest = 1;
  const auto gap = [this](size_t i) { return ranges_[i].first - ranges_[i - 1].end; };
  for (size_t i = 2; i < ranges_.size(); ++i) {
    if (gap(i) < gap(closest)) closest = i;
  }
  ranges_[closest - 1].end = ranges_[closest].end;
  ranges_.erase(ranges_.begin() + static_cast<ptrdiff_t>(closest));
}

void KernelPages::Ranges::remove(FileRange range) {
  std::vector<FileRange> left;
  for (const FileRange& r : ranges_) {
    const FileRange before{r.first, std::min(r.end, range.first)};
    const FileRange behind{std::max(r.first, range.end), r.end};
    if (before.first < before.end) left.push_back(before);
    if (behind.first < behind.end) left.push_back(behind);
  }
  ranges_ = std::move(left);
}

// ---- All ----

void KernelPages::note(InodeNo ino, uint64_t pos, uint64_t len) {
  const FileRange pages = pages_of(pos, len);
  noted_[ino].add(pages);
  for (Drop* const drop : drops_) {
    if (drop->ino_ == ino) drop->since_.add(pages);
  }
}

bool KernelPages::any(InodeNo ino, uint64_t pos, uint64_t len) const {
  const auto found = noted_.find(ino);
  return found != noted_.end() && found->second.any(pages_of(pos, len));
}

void KernelPages::begin(Drop& drop, InodeNo ino, uint64_t pos, uint64_t len) {
  drop.end(false);
  drop.owner_ = this;
  drop.ino_ = ino;
  drop.range_ = pages_of(pos, len);
  drops_.push_back(&drop);
}

void KernelPages::Drop::end(bool dropped) {
  if (owner_ == nullptr) return;
  KernelPages& owner = *std::exchange(owner_, nullptr);
  std::erase(owner.drops_, this);
  const Ranges since = std::exchange(since_, {});
  if (!dropped) return;
  const auto found = owner.noted_.find(ino_);
  if (found == owner.noted_.end()) return;
  found->second.remove(range_);
  for (const FileRange& range : since.all()) found->second.add(range);
  if (found->second.empty()) owner.noted_.erase(found);
}

}  // namespace fusefs
