// Shrinking a file, and the race that decides its order:
//
//     truncate to 100              power fails, later the file grows to 4096
//     size = 100 committed         bytes 100..4095 must read as zeroes,
//     block still holds old bytes  not as what was cut off
//
// So: zero the rest of the block on the device first, then commit the size with the first of the
// extents that go, and an orphan item if more are to follow.
#include "core/file/truncate.h"

#include <algorithm>

#include "core/file/pinned_range.h"
#include "core/file/write.h"

namespace fusefs {
namespace {

// Blocks that one step of an allocation asks for.
constexpr uint64_t kAllocateStepBlocks = 32768;
// No file has blocks beyond this.
constexpr FileBlock kFileBlocksEnd{(kFileBytesMax >> kBlockShift) + 1};

Attempt<void> check_shape_change(FileContext& context, const Inode& inode) {
  if (!context.health.writable()) return Error::read_only_volume;
  if (!inode.attr.is_regular()) {
    return inode.attr.is_directory() ? Error::is_a_directory : Error::invalid_argument;
  }
  if ((inode.attr.flags & kInodeImmutable) != 0) return Error::not_permitted;
  return {};
}

Attempt<void> take_alone(Inode& inode, TwoStateHold& hold) {
  if (hold.held()) return {};
  ATTEMPT(TwoStateHold taken, inode.pages_lock.block_alone());
  hold = std::move(taken);
  return {};
}

// The inode as one step of a change of its map leaves it on the device.
InodeAttr step_attr(FileContext& context, const Inode& inode, int64_t block_difference,
                    uint64_t disk_size) {
  InodeAttr attr = inode.attr;
  attr.block_count = BlockCount(attr.block_count.value() + static_cast<uint64_t>(block_difference));
  attr.mtime = attr.ctime = context.inodes.now();
  ++attr.change_count;
  attr.size = disk_size;
  return attr;
}

// Commits a step; `memory_size` is what stat shows from now on.
void commit_step(FileContext& context, Transaction& txn, Inode& inode, const InodeAttr& attr,
                 uint64_t memory_size, NamespaceStash& stash) {
  stash.seq = txn.commit();
  inode.attr = attr;
  inode.attr.size = memory_size;
  context.inodes.saved(inode, stash.seq, attr.size, true);
  Operation::current()->note_progress();
}

void stage_inode(Transaction& txn, const InodeAttr& attr) {
  const InodeValue value = attr.to_value();
  txn.put(inode_key(attr.ino), bytes_of(value));
}

// Removing an unlinked inode's name keeps its own orphan item: a crash removes the whole inode.
bool keeps_orphan_item(const Inode& inode) { return inode.attr.link_count == 0; }

// Unmaps [stash.cursor, end) step by step, then goes to `next`. With `new_size`, the first step
// sets the size, and an orphan item says so while more is to follow.
//
// Pages go with the step that takes what they are of: none before it is committed, which may fail,
// and what they have may be nowhere else.
Attempt<void> cut_blocks(FileContext& context, Inode& inode, FileBlock end,
                         std::optional<uint64_t> new_size, ShapeStash::Phase next,
                         ShapeStash& stash) {
  while (stash.phase == ShapeStash::Phase::cutting) {
    Transaction txn(context.store, stash.names.pins);
    ATTEMPT(const ExtentChange change, unmap_range(txn, inode.ino, {stash.cursor, end}));
    const bool finished = change.done >= end;
    const bool keeps_item = !new_size || keeps_orphan_item(inode);
    if (!keeps_item && finished) txn.erase(orphan_key(inode.ino));
    if (!keeps_item && !finished) {
      OrphanValue orphan{};
      orphan.kind = static_cast<unsigned char>(OrphanKind::truncate);
      txn.put(orphan_key(inode.ino), bytes_of(orphan));
    }
    // What dirty pages are still to bring stays beyond the size on the device.
    const uint64_t disk_size = std::min(inode.disk_size, new_size.value_or(inode.disk_size));
    const InodeAttr attr = step_attr(context, inode, change.block_difference, disk_size);
    stage_inode(txn, attr);
    ATTEMPT_OK(txn.prepare());
    commit_step(context, txn, inode, attr, new_size.value_or(inode.attr.size), stash.names);
    const FileRange gone{stash.cursor, new_size ? end : change.done};
    context.cache.discard(inode.mapping, gone);
    zero_cut(context, inode, gone, stash.next);
    if (new_size) inode.cut_pending = !finished;
    stash.cursor = change.done;
    if (finished) stash.phase = next;
  }
  return {};
}

// Gives every hole in [stash.allocate_cursor, end) unwritten blocks.
Attempt<void> allocate_holes(FileContext& context, Inode& inode, FileBlock end, ShapeStash& stash) {
  stash.space = &context.space;
  while (stash.allocate_cursor < end) {
    ATTEMPT(const Extent extent, extent_at(context.store.tree(), inode.ino, stash.allocate_cursor,
                                           end, stash.names.pins));
    if (extent.state != ExtentState::hole) {
      stash.allocate_cursor = extent.range.end;
      continue;
    }
    const BlockCount want(std::min(extent.range.count().value(), kAllocateStepBlocks));
    if (!stash.allocated) {
      if (stash.reservation.count() < want) {
        ATTEMPT(Reservation reserved, context.space.reserve(want - stash.reservation.count()));
        stash.reservation.merge(std::move(reserved));
      }
      const std::optional<BlockNo> goal = inode.allocation_goal == BlockNo(0)
                                              ? std::nullopt
                                              : std::optional<BlockNo>(inode.allocation_goal);
      ATTEMPT_INTO(stash.allocated, context.space.allocate(want, goal, stash.reservation));
    }
    const BlockRange blocks = *stash.allocated;
    if (blocks.count() > want) return Error::corrupt;
    Transaction txn(context.store, stash.names.pins);
    txn.allocate(blocks);
    const FileRange target = file_range(stash.allocate_cursor, blocks.count());
    ATTEMPT(const ExtentChange change,
            map_range(txn, inode.ino, target, blocks.first, ExtentState::unwritten));
    CHECK(change.done == target.end);
    const InodeAttr attr = step_attr(context, inode, change.block_difference, inode.disk_size);
    stage_inode(txn, attr);
    ATTEMPT_OK(txn.prepare());
    commit_step(context, txn, inode, attr, inode.attr.size, stash.names);
    stash.allocated.reset();
    inode.allocation_goal = blocks.end;
    stash.allocate_cursor = target.end;
  }
  stash.reservation.release();
  return {};
}

// Zeroes what [pos, end) has of blocks that it does not cover completely.
Attempt<void> zero_edges(FileContext& context, Inode& inode, uint64_t pos, uint64_t end,
                         ShapeStash& stash) {
  const uint64_t inner_first = file_pos(file_block_end(pos));
  const uint64_t inner_end = file_pos(file_block_at(end));
  if (inner_first > inner_end) {  // all in one block
    return zero_within_block(context, inode, pos, static_cast<uint32_t>(end - pos),
                             stash.first_edge);
  }
  if (pos < inner_first) {
    ATTEMPT_OK(zero_within_block(context, inode, pos, static_cast<uint32_t>(inner_first - pos),
                                 stash.first_edge));
  }
  if (inner_end < end) {
    ATTEMPT_OK(zero_within_block(context, inode, inner_end, static_cast<uint32_t>(end - inner_end),
                                 stash.last_edge));
  }
  return {};
}

// True when the volume cannot hold the range whatever becomes free meanwhile. Told before the first
// block is taken: filling the volume only to say no_space would hurt everybody else on it.
bool hopeless(const FileContext& context, const Inode& inode, FileRange range) {
  const SpaceStats space = context.space.stats();
  const uint64_t free_soon = space.free_blocks + space.releasing_blocks;
  const uint64_t mapped = inode.attr.block_count.value();
  return range.count().value() > mapped && range.count().value() - mapped > free_soon;
}

}  // namespace

Attempt<void> await_folios(Inode& inode, FileRange range) {
  FolioRef folio = inode.mapping.at_or_after(range.first);
  while (folio && folio->index < range.end) {
    if (folio->locked && !folio->reading)
      return restart_after(folio->changed, RestartReason::folio_locked);
    if (folio->writeback) return restart_after(folio->changed, RestartReason::writeback);
    folio = inode.mapping.at_or_after(folio->index + BlockCount(1));
  }
  return {};
}

Attempt<void> drop_folios(FileContext& context, Inode& inode, FileRange range) {
  ATTEMPT_OK(await_folios(inode, range));
  context.cache.discard(inode.mapping, range);
  return {};
}

ShapeStash::~ShapeStash() {
  if (allocated && space != nullptr) space->cancel(*allocated);
}

Attempt<void> set_size(FileContext& context, Inode& inode, uint64_t size, bool kill_suid,
                       ShapeStash& stash) {
  using Phase = ShapeStash::Phase;
  stash.space = &context.space;
  if (stash.phase == Phase::done) {  // a forced restart came between the last step and the end
    stash.hold.release();
    return {};
  }
  if (stash.phase == Phase::start) {
    ATTEMPT_OK(check_shape_change(context, inode));
    if ((inode.attr.flags & kInodeAppendOnly) != 0) return Error::not_permitted;
    if (size > kFileBytesMax) return Error::file_too_large;
    ATTEMPT_OK(context.names.kill_privileges(inode.ino, kill_suid, stash.names));
  }
  ATTEMPT_OK(take_alone(inode, stash.hold));

  if (stash.phase == Phase::start && size >= inode.attr.size) {
    if (size > inode.attr.size) ATTEMPT_OK(clear_tail(context, inode, stash.tail));
    // Growing changes memory only; what lies between is a hole, or zeroes in the last block.
    grow_over_pins(context, inode, size, size);
    inode.attr.size = size;
    touch_contents(context, inode);
    stash.phase = Phase::done;
    stash.hold.release();
    return {};
  }
  const FileBlock keep_end = file_block_end(size);
  if (stash.phase == Phase::start) {
    if (size % kBlockBytes != 0) {
      const uint64_t end =
          inode.tail_unknown ? file_pos(keep_end) : std::min(file_pos(keep_end), inode.attr.size);
      ATTEMPT_OK(zero_within_block(context, inode, size, static_cast<uint32_t>(end - size),
                                   stash.first_edge));
    }
    stash.cursor = keep_end;
    stash.phase = Phase::cutting;
  }
  ATTEMPT_OK(stash.protect.run(context, inode, {keep_end, kFileBlocksEnd}));
  ATTEMPT_OK(await_folios(inode, {keep_end, kFileBlocksEnd}));
  ATTEMPT_OK(cut_blocks(context, inode, kFileBlocksEnd, size, Phase::done, stash));
  if (inode.disk_size == size) inode.tail_unknown = false;
  stash.hold.release();
  return {};
}

Attempt<void> finish_cut(FileContext& context, Inode& inode, ShapeStash& stash) {
  using Phase = ShapeStash::Phase;
  const FileBlock keep_end = file_block_end(inode.attr.size);
  if (stash.phase == Phase::start) {
    stash.cursor = keep_end;
    stash.phase = Phase::cutting;
  }
  ATTEMPT_OK(await_folios(inode, {keep_end, kFileBlocksEnd}));
  return cut_blocks(context, inode, kFileBlocksEnd, inode.attr.size, Phase::done, stash);
}

Attempt<void> finish_truncate(FileContext& context, Inode& inode, ShapeStash& stash) {
  ATTEMPT_OK(take_alone(inode, stash.hold));
  ATTEMPT_OK(finish_cut(context, inode, stash));
  stash.hold.release();
  return {};
}

Attempt<void> fallocate_range(FileContext& context, Inode& inode, FallocateMode mode, uint64_t pos,
                              uint64_t len, bool keep_size, ShapeStash& stash) {
  using Phase = ShapeStash::Phase;
  stash.space = &context.space;
  if (stash.phase == Phase::done) {  // a forced restart came between the last step and the end
    stash.hold.release();
    return {};
  }
  const uint64_t end = pos + len;
  if (stash.phase == Phase::start) {
    ATTEMPT_OK(check_shape_change(context, inode));
    if (end < pos || end > kFileBytesMax) return Error::file_too_large;
    if (mode == FallocateMode::punch_hole && (inode.attr.flags & kInodeAppendOnly) != 0) {
      return Error::not_permitted;
    }
    ATTEMPT_OK(context.names.kill_privileges(inode.ino, false, stash.names));
  }
  ATTEMPT_OK(take_alone(inode, stash.hold));
  const FileRange whole{file_block_end(pos), file_block_at(end)};
  const FileRange touched{file_block_at(pos), file_block_end(end)};

  if (stash.phase == Phase::start) {
    const bool grows = mode != FallocateMode::punch_hole && !keep_size && end > inode.attr.size;
    if (grows || inode.cut_pending) ATTEMPT_OK(clear_tail(context, inode, stash.tail));
    if (mode != FallocateMode::allocate) {
      if (whole.first < whole.end) ATTEMPT_OK(stash.protect.run(context, inode, whole));
      ATTEMPT_OK(reserve_for_cut(context, inode, whole, stash.next));
      ATTEMPT_OK(zero_edges(context, inode, pos, end, stash));
      stash.cursor = whole.first;
      stash.phase = Phase::cutting;
    } else {
      if (hopeless(context, inode, touched)) return Error::no_space;
      stash.phase = Phase::allocating;
    }
  }
  if (stash.phase == Phase::cutting) {
    const Phase next = mode == FallocateMode::zero_range ? Phase::allocating : Phase::finishing;
    if (whole.first < whole.end) {
      ATTEMPT_OK(await_folios(inode, {stash.cursor, whole.end}));
      ATTEMPT_OK(cut_blocks(context, inode, whole.end, std::nullopt, next, stash));
    }
    stash.phase = next;
  }
  if (stash.phase == Phase::allocating) {
    stash.allocate_cursor = std::max(stash.allocate_cursor, touched.first);
    ATTEMPT_OK(allocate_holes(context, inode, touched.end, stash));
    if (!keep_size && end > inode.attr.size) {
      grow_over_pins(context, inode, end, end);
      inode.attr.size = end;
    }
  }
  touch_contents(context, inode);
  stash.phase = Phase::done;
  stash.hold.release();
  return {};
}

}  // namespace fusefs
