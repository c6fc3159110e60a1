#include "core/file/placement.h"

#include <algorithm>

namespace fusefs {
namespace {

// One device request has at most so many bytes, so that several are under way in a large run.
constexpr uint64_t kRequestBytesMax = 1 << 20;

Placement::Kind kind_of(const FilePiece& piece) {
  if (piece.needs_new_blocks()) return Placement::Kind::fresh;
  return piece.state == ExtentState::unwritten ? Placement::Kind::convert
                                               : Placement::Kind::in_place;
}

}  // namespace

void note_progress() {
  if (Operation* operation = Operation::current()) operation->note_progress();
}

Attempt<void> find_pieces(FileContext& context, const Inode& inode, FileRange range, NodePins& pins,
                          std::vector<FilePiece>& pieces) {
  Tree& tree = context.store.tree();
  FileBlock at = range.first;
  while (at < range.end) {
    ATTEMPT(const Extent extent, extent_at(tree, inode.ino, at, range.end, pins));
    FilePiece piece{extent.range, extent.state, false, extent.start};
    // Unwritten extents are never shared: a clone takes them as holes.
    if (extent.state == ExtentState::written) {
      ATTEMPT(const InPlace same, in_place(tree, context.space, extent.blocks(), pins));
      piece.range.end = std::min(extent.range.end, extent.range.first + same.count);
      piece.shared = !same.allowed;
    }
    pieces.push_back(piece);
    at = piece.range.end;
  }
  return {};
}

// ---- Placement ----

// What one transaction commits.
struct Placement::Step {
  size_t first = 0;  // segment
  size_t end = 0;    // segments before it are done, and of it
  FileBlock done;    // everything before this block
  int64_t block_difference = 0;
  bool partial() const { return done != FileBlock(0); }
};

void Placement::reset() {
  cancel();
  segments_.clear();
  reservation_.release();
  next_to_place_ = next_to_commit_ = 0;
  committed_ = false;
  replaced_blocks_ = 0;
}

void Placement::add(const FilePiece& piece) {
  const Kind kind = kind_of(piece);
  if (piece.shared) replaced_blocks_ += piece.range.count().value();
  if (!segments_.empty()) {
    Segment& last = segments_.back();
    const bool follows = last.range.end == piece.range.first && last.kind == kind;
    if (follows && (kind == Kind::fresh || last.start + last.range.count() == piece.start)) {
      last.range.end = piece.range.end;
      return;
    }
  }
  segments_.push_back({piece.range, kind, piece.start, kind != Kind::fresh});
}

Attempt<void> Placement::allocate(FileContext& context, Inode& inode, NodePins& pins) {
  space_ = &context.space;
  for (; next_to_place_ < segments_.size(); ++next_to_place_) {
    const FileRange range = segments_[next_to_place_].range;
    if (segments_[next_to_place_].placed) continue;
    if (inode.allocation_goal == BlockNo(0) && range.first != FileBlock(0)) {
      // First allocation since the inode was loaded: near what comes before it in the file.
      ATTEMPT(const Extent before, extent_at(context.store.tree(), inode.ino,
                                             range.first - BlockCount(1), range.first, pins));
      if (before.state != ExtentState::hole) {
        inode.allocation_goal = before.start + BlockCount(1);
      }
    }
    std::optional<BlockNo> goal;
    if (inode.allocation_goal != BlockNo(0)) goal = inode.allocation_goal;
    BlockRange blocks{};
    {
      Attempt<BlockRange> handed_out = context.space.allocate(range.count(), goal, reservation_);
      if (!handed_out.ok()) return Unfinished(handed_out);
      blocks = handed_out.value();
    }
    CHECK(!blocks.empty() && blocks.count() <= range.count());
    Segment rest = segments_[next_to_place_];
    Segment& placed = segments_[next_to_place_];
    placed.range.end = placed.range.first + blocks.count();
    placed.start = blocks.first;
    placed.placed = true;
    inode.allocation_goal = blocks.end;
    rest.range.first = placed.range.end;
    if (!rest.range.empty()) {
      segments_.insert(segments_.begin() + static_cast<ptrdiff_t>(next_to_place_) + 1, rest);
    }
  }
  return {};
}

bool Placement::needs_commit(const Inode& inode, uint64_t disk_size) const {
  if (disk_size > inode.disk_size) return true;
  return std::any_of(segments_.begin(), segments_.end(),
                     [](const Segment& segment) { return segment.kind != Kind::in_place; });
}

// Stages as many segments as fit: the extent map leaves room for the inode.
Attempt<void> Placement::stage(Transaction& txn, const Inode& inode, Step& step) const {
  for (; step.end < segments_.size(); ++step.end) {
    const Segment& segment = segments_[step.end];
    if (segment.kind == Kind::in_place) continue;
    ExtentChange change{segment.range.first, 0};
    if (segment.kind == Kind::fresh) {
      ATTEMPT(change,
              map_range(txn, inode.ino, segment.range, segment.start, ExtentState::written));
      const BlockCount count = change.done - segment.range.first;
      if (count != BlockCount(0)) txn.allocate(block_range(segment.start, count));
    } else {
      ATTEMPT(change, mark_written(txn, inode.ino, segment.range));
    }
    step.block_difference += change.block_difference;
    if (change.done < segment.range.end) {
      if (change.done > segment.range.first) step.done = change.done;
      return {};
    }
  }
  return {};
}

// Every block of the write before it is mapped once the step is committed, and has its data. The
// size follows from step to step: no written block lies beyond it, to show when the file grows.
FileBlock Placement::mapped_until(const Step& step) const {
  return step.partial() ? step.done : segments_[step.end].range.first;
}

void Placement::step_committed(const Step& step) {
  next_to_commit_ = step.end;
  if (!step.partial()) return;
  Segment& segment = segments_[step.end];
  segment.start += step.done - segment.range.first;
  segment.range.first = step.done;
}

void Placement::note_cow_break(FileContext& context) const {
  if (replaced_blocks_ == 0) return;
  ++context.stats.cow_break_count;
  context.stats.cow_break_bytes += replaced_blocks_ * kBlockBytes;
}

Attempt<void> Placement::commit(FileContext& context, Inode& inode, uint64_t disk_size,
                                WriteStamp data_stamp, NodePins& pins) {
  while (!committed_) {
    Transaction txn(context.store, pins);
    Step step{next_to_commit_, next_to_commit_, FileBlock(0), 0};
    ATTEMPT_OK(stage(txn, inode, step));
    const bool last = step.end == segments_.size();
    CHECK(last || step.partial() || step.end != step.first);
    InodeAttr attr = inode.attr;
    attr.block_count =
        BlockCount(attr.block_count.value() + static_cast<uint64_t>(step.block_difference));
    const uint64_t mapped_end =
        last ? disk_size : std::min(disk_size, file_pos(mapped_until(step)));
    attr.size = std::max(inode.disk_size, mapped_end);
    InodeTable::put_attr(txn, attr, attr.size);
    txn.shows_data(data_stamp);
    if (attr.size > inode.disk_size) txn.shows_data(inode.tail_stamp);
    ATTEMPT_OK(txn.prepare());
    const JournalSeq seq = txn.commit();

    inode.attr.block_count = attr.block_count;
    inode.attr.size = std::max(inode.attr.size, attr.size);
    context.inodes.saved(inode, seq, attr.size, true);
    step_committed(step);
    committed_ = last;
    if (last) note_cow_break(context);
    note_progress();
  }
  return {};
}

void Placement::cancel() {
  if (space_ == nullptr || committed_) return;
  for (size_t i = next_to_commit_; i < segments_.size(); ++i) {
    Segment& segment = segments_[i];
    if (segment.kind != Kind::fresh || !segment.placed) continue;
    space_->cancel(block_range(segment.start, segment.range.count()));
    segment.placed = false;
  }
}

BlockCount Placement::uncommitted_blocks() const {
  BlockCount count;
  if (committed_) return count;
  for (size_t i = next_to_commit_; i < segments_.size(); ++i) {
    if (segments_[i].kind == Kind::fresh) count += segments_[i].range.count();
  }
  return count;
}

// ---- IoGather ----

IoGather::IoGather(BlockDevice& device, IoKind kind, Ref<IoTicket> ticket, bool fua)
    : device_(device), kind_(kind), fua_(fua), ticket_(std::move(ticket)) {}

void IoGather::add(BlockNo start, const std::byte* data, size_t len) {
  while (len > 0) {
    const bool follows = request_.len != 0 && request_.addr + request_.len == block_addr(start);
    if (!follows || request_.len == kRequestBytesMax) submit();
    if (request_.len == 0) request_ = {kind_, fua_, block_addr(start), 0, {}, may_change_};
    const size_t part = std::min<size_t>(len, kRequestBytesMax - request_.len);
    void* memory = const_cast<std::byte*>(data);
    if (!request_.buffers.empty() && static_cast<std::byte*>(request_.buffers.back().iov_base) +
                                             request_.buffers.back().iov_len ==
                                         data) {
      request_.buffers.back().iov_len += part;
    } else {
      request_.buffers.push_back({memory, part});
    }
    request_.len += part;
    data += part;
    len -= part;
    start += BlockCount(part / kBlockBytes);
  }
}

void IoGather::submit() {
  if (request_.len == 0) return;
  device_.submit(std::move(request_), ticket_);
  request_ = {};
}

}  // namespace fusefs
