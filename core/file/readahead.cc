#include "core/file/readahead.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "core/file/page_reads.h"
#include "core/memory/shared_blocks.h"

namespace fusefs {
namespace {

class Readahead final : public Operation {
 public:
  Readahead(FileContext& context, const OpenFile& file, std::vector<FileRange> ranges)
      : context_(context),
        inode_(file.inode),
        streams_(file.read_streams),
        ranges_(std::move(ranges)) {}

  const char* name() const override { return "readahead"; }
  Attempt<void> attempt() override;

 private:
  // A block worth reading.
  struct Target {
    FileBlock index;
    BlockNo block;
    bool shared = false;
  };

  Attempt<std::vector<Target>> find_targets();
  Attempt<void> find_in(FileRange range, std::vector<Target>& targets);
  FolioRef add_page(const Target& target);
  void take_pages(const std::vector<Target>& targets);
  void zero_beyond_size();

  FileContext& context_;
  const InodeRef inode_;
  const std::shared_ptr<const ReadStreams> streams_;
  const std::vector<FileRange> ranges_;
  NodePins pins_;
  PageReads reads_;
  uint64_t size_ = 0;  // of the file when the pages were taken
};

Attempt<void> Readahead::find_in(FileRange range, std::vector<Target>& targets) {
  Tree& tree = context_.store.tree();
  FileBlock at = range.first;
  while (at < range.end) {
    ATTEMPT(const Extent extent, extent_at(tree, inode_->ino, at, range.end, pins_));
    if (extent.state != ExtentState::written) {
      at = extent.range.end;
      continue;
    }
    ATTEMPT(const Ownership owned, ownership(tree, extent.blocks(), pins_));
    for (uint64_t i = 0; i < owned.count.value(); ++i) {
      targets.push_back({at + BlockCount(i), extent.start + BlockCount(i), owned.owners > 1});
    }
    at += owned.count;
  }
  return {};
}

Attempt<std::vector<Readahead::Target>> Readahead::find_targets() {
  std::vector<Target> targets;
  const FileBlock end = file_block_end(inode_->attr.size);
  for (const FileRange& range : ranges_) {
    if (range.first < end) ATTEMPT_OK(find_in({range.first, std::min(range.end, end)}, targets));
  }
  return targets;
}

// Null when there is no memory to spare.
FolioRef Readahead::add_page(const Target& target) {
  if (!context_.cache.make_room_to_read_ahead()) return nullptr;
  return target.shared ? context_.cache.shared().add_spare(target.block)
                       : context_.cache.add_spare(inode_->mapping, target.index);
}

void Readahead::take_pages(const std::vector<Target>& targets) {
  size_ = inode_->attr.size;
  for (const Target& target : targets) {
    // Who came by meanwhile reads it already.
    if (streams_->has_passed(file_pos(target.index))) continue;
    if (inode_->mapping.find(target.index)) continue;
    const FileRange page = file_range(target.index, BlockCount(1));
    if (inode_->busy_ranges.free_end(page) != page.end) continue;  // it is being replaced
    if (target.shared && context_.cache.shared().has(target.block)) continue;
    FolioRef folio = add_page(target);
    if (!folio) {
      ++context_.readahead.dropped_count;
      break;
    }
    context_.cache.mark_read_ahead(*folio);
    reads_.add(context_, std::move(folio), target.block);
  }
}

// What the device has beyond the end of the file is nobody's. A page that the file was cut in
// meanwhile has been removed; what the file has grown by reads as zeroes.
void Readahead::zero_beyond_size() {
  for (const FolioRef& folio : reads_.folios()) {
    const uint64_t pos = file_pos(folio->index);
    if (folio->mapping != &inode_->mapping || pos + kPageBytes <= size_) continue;
    const size_t valid = size_ > pos ? size_ - pos : 0;
    std::memset(folio->frame + valid, 0, kPageBytes - valid);
  }
}

Attempt<void> Readahead::attempt() {
  if (reads_.empty()) {
    if (inode_->life != Inode::Life::live) return {};
    // Held until the pages are in the mapping: who blocks the file finds them.
    const TwoStateHold hold = inode_->pages_lock.try_add();
    if (!hold.held()) {
      ++context_.readahead.dropped_count;
      return {};
    }
    ATTEMPT(const std::vector<Target> targets, find_targets());
    // Nothing restarts from here on.
    take_pages(targets);
    if (reads_.empty()) return {};
    context_.readahead.read_bytes += reads_.folios().size() * kPageBytes;
    reads_.submit(context_);
  }
  const Attempt<void> read = reads_.wait();
  if (read.must_restart()) return read;
  zero_beyond_size();
  reads_.end(read.ok());  // who needs the page meets the error, if it lasts
  return {};
}

FileRange blocks_of(uint64_t pos, uint64_t len) {
  return {file_block_at(pos), file_block_end(pos + len)};
}

}  // namespace

void read_ahead(FileContext& context, OpenFile& file, uint64_t pos, uint64_t len) {
  Inode& inode = *file.inode;
  if (len == 0 || pos >= inode.attr.size || !inode.attr.is_regular()) return;
  // Half: the next window is begun while the one before it is still being read.
  const uint64_t window_max =
      std::min(context.readahead_bytes_max, context.cache.read_ahead_bytes_max() / 2);
  if (window_max == 0) return;
  if (!file.read_streams) file.read_streams = std::make_shared<ReadStreams>();
  const std::optional<ReadaheadPlan> plan = file.read_streams->note_read(pos, len, window_max);
  if (!plan || (!plan->is_strided() && plan->pos >= inode.attr.size)) return;
  ++(plan->is_strided() ? context.readahead.strided_count : context.readahead.sequential_count);
  context.readahead.window_bytes += plan->len * plan->count;

  constexpr BlockCount kStep{kReadaheadStepBytes / kBlockBytes};
  std::vector<FileRange> ranges;
  BlockCount blocks;
  const auto start = [&] {
    if (ranges.empty()) return;
    context.scheduler.start(std::make_unique<Readahead>(context, file, std::move(ranges)));
    ranges.clear();
    blocks = BlockCount(0);
  };
  for (uint64_t i = 0; i < plan->count; ++i) {
    const uint64_t at = plan->pos + static_cast<uint64_t>(plan->stride) * i;
    if (at >= inode.attr.size) break;
    FileRange left = blocks_of(at, plan->len);
    while (!left.empty()) {
      const FileBlock cut = std::min(left.end, left.first + (kStep - blocks));
      ranges.push_back({left.first, cut});
      blocks += cut - left.first;
      left.first = cut;
      if (blocks == kStep) start();
    }
  }
  start();
}

}  // namespace fusefs
