#include "core/file/unshare.h"

#include <algorithm>

#include "core/file/remap.h"

namespace fusefs {
namespace {

using Phase = UnshareStash::Phase;

constexpr BlockCount kStepBlocks(kUnshareStepBytes / kBlockBytes);
// A step ends after so many pieces: each is a change of the map.
constexpr size_t kStepPieces = 64;

Attempt<void> check_unshare(FileContext& context, const Inode& inode) {
  if (!context.health.writable()) return Error::read_only_volume;
  if (inode.attr.is_directory()) return Error::is_a_directory;
  if (!inode.attr.is_regular()) return Error::invalid_argument;
  if ((inode.attr.flags & (kInodeImmutable | kInodeAppendOnly)) != 0) return Error::not_permitted;
  return {};
}

// The extent at `at`, cut to where its blocks are all shared or all private.
struct OwnedExtent {
  Extent extent;
  bool shared = false;
};
Attempt<OwnedExtent> owned_extent(FileContext& context, const Inode& inode, FileBlock at,
                                  FileBlock end, NodePins& pins) {
  Tree& tree = context.store.tree();
  ATTEMPT(Extent extent, extent_at(tree, inode.ino, at, end, pins));
  if (extent.state != ExtentState::written) return OwnedExtent{extent, false};
  ATTEMPT(const Ownership owned, ownership(tree, extent.blocks(), pins));
  extent.range.end = std::min(extent.range.end, extent.range.first + owned.count);
  return OwnedExtent{extent, owned.owners > 1};
}

// What it will take is known before the first block is copied: filling the volume only to say
// no_space would hurt everybody else on it.
Attempt<void> count_shared(FileContext& context, Inode& inode, UnshareStash& stash) {
  while (stash.cursor < stash.range.end) {
    ATTEMPT(const OwnedExtent owned,
            owned_extent(context, inode, stash.cursor, stash.range.end, stash.names.pins));
    if (owned.shared) stash.shared_blocks += owned.extent.range.count();
    if (owned.extent.state == ExtentState::hole) stash.has_holes = true;
    stash.cursor = owned.extent.range.end;
    note_progress();
  }
  if (stash.shared_blocks.value() > context.space.stats().available_blocks) return Error::no_space;
  stash.cursor = stash.range.first;
  stash.phase = Phase::planning;
  return {};
}

// The next pieces to copy, with blocks promised for them. None: everything up to step_end is
// private already.
Attempt<void> plan_step(FileContext& context, Inode& inode, UnshareStash& stash) {
  if (!stash.hold.held()) ATTEMPT_INTO(stash.hold, inode.pages_lock.block_alone());
  const FileBlock file_end = file_block_end(inode.attr.size);
  const FileRange left{stash.cursor, std::min(stash.range.end, file_end)};
  stash.step_end = std::max(left.first, left.end);
  if (left.first >= left.end) return {};
  // What is dirty over a shared block brings a block of its own.
  if (!stash.settled) {
    // Once: while somebody stores into pinned pages there is always something new.
    const Attempt<void> settled = settle_folios(context, inode, left, stash.writeback);
    if (!settled.ok()) return settled;
    stash.settled = true;
  }
  std::vector<Extent> pieces;
  BlockCount count;
  FileBlock at = left.first;
  while (at < left.end && count < kStepBlocks && pieces.size() < kStepPieces) {
    ATTEMPT(OwnedExtent owned, owned_extent(context, inode, at, left.end, stash.names.pins));
    if (owned.shared) {
      const BlockCount part = std::min(owned.extent.range.count(), kStepBlocks - count);
      owned.extent.range.end = owned.extent.range.first + part;
      count += part;
      pieces.push_back(owned.extent);
    }
    at = owned.extent.range.end;
    // Nothing to copy so far: that much need not be walked again.
    if (pieces.empty()) stash.cursor = at;
  }
  ATTEMPT(Reservation reservation, context.space.reserve(count));

  // Nothing restarts from here on.
  stash.step_end = at;
  stash.placement.reset();
  stash.placement.reservation() = std::move(reservation);
  for (const Extent& piece : pieces) {
    stash.placement.add({piece.range, ExtentState::hole, false, {}});
  }
  stash.pieces = std::move(pieces);
  stash.phase = Phase::placing;
  return {};
}

void read_old(FileContext& context, UnshareStash& stash) {
  stash.guard = context.space.guard_io();
  stash.ticket = make_ref<IoTicket>();
  IoGather reads(context.device, IoKind::read, stash.ticket);
  size_t at = 0;
  for (const Extent& piece : stash.pieces) {
    const auto len = static_cast<size_t>(block_bytes(piece.range.count()));
    reads.add(piece.start, stash.buffer.data() + at, len);
    at += len;
  }
}

void write_new(FileContext& context, UnshareStash& stash) {
  stash.ticket = make_ref<IoTicket>();
  IoGather writes(context.device, IoKind::write, stash.ticket);
  size_t at = 0;
  for (const Placement::Segment& segment : stash.placement.segments()) {
    const auto len = static_cast<size_t>(block_bytes(segment.range.count()));
    writes.add(segment.start, stash.buffer.data() + at, len);
    at += len;
  }
}

void leave_step(UnshareStash& stash) {
  stash.placement.reset();
  stash.pieces.clear();
  stash.ticket.reset();
  stash.guard.release();
  stash.writeback.reset();
  stash.settled = false;
  stash.hold.release();
}

Attempt<void> copy_step(FileContext& context, Inode& inode, UnshareStash& stash) {
  if (stash.phase == Phase::planning) ATTEMPT_OK(plan_step(context, inode, stash));
  if (stash.pieces.empty()) return {};
  if (stash.phase == Phase::placing) {
    ATTEMPT_OK(stash.placement.allocate(context, inode, stash.names.pins));
    if (!stash.buffer) stash.buffer = AlignedBuffer(kUnshareStepBytes);
    read_old(context, stash);
    stash.phase = Phase::reading;
  }
  if (stash.phase == Phase::reading) {
    ATTEMPT_OK(stash.ticket->wait());
    stash.guard.release();
    write_new(context, stash);
    stash.phase = Phase::writing;
  }
  if (stash.phase == Phase::writing) {
    ATTEMPT_OK(stash.ticket->wait());
    stash.stamp = context.write_cache.note_write();
    stash.phase = Phase::committing;
  }
  // Not an ATTEMPT: the caller counts the step once.
  return stash.placement.commit(context, inode, inode.disk_size, stash.stamp, stash.names.pins);
}

Attempt<void> copy_steps(FileContext& context, Inode& inode, UnshareStash& stash) {
  while (stash.cursor < stash.range.end) {
    const Attempt<void> step = copy_step(context, inode, stash);
    if (step.must_restart()) return step;
    if (step.ok()) {
      for (const Extent& piece : stash.pieces) {
        stash.copied += block_bytes(piece.range.count());
        context.stats.unshare_bytes += block_bytes(piece.range.count());
      }
      // The file has become shorter: that is the end.
      const bool ended = file_block_end(inode.attr.size) <= stash.step_end;
      stash.cursor = ended ? stash.range.end : stash.step_end;
      stash.phase = Phase::planning;
    }
    leave_step(stash);
    if (step.failed()) return step;
    note_progress();
  }
  leave_step(stash);  // a plan that found nothing to the end, and restarted
  return {};
}

}  // namespace

Attempt<uint64_t> unshare_range(FileContext& context, Inode& inode, uint64_t pos, uint64_t len,
                                bool keep_holes, UnshareStash& stash) {
  if (stash.phase == Phase::start) {
    ATTEMPT_OK(check_unshare(context, inode));
    const uint64_t size = inode.attr.size;
    const uint64_t rest = size > pos ? size - pos : 0;
    const uint64_t end = pos + (len == 0 ? rest : std::min(len, rest));
    stash.range = rest == 0 ? FileRange{} : FileRange{file_block_at(pos), file_block_end(end)};
    stash.cursor = stash.range.first;
    stash.writeback = std::make_unique<WritebackStash>();
    stash.phase = Phase::flushing;
  }
  if (stash.phase == Phase::flushing) {
    // Most of what is dirty goes while others may still work on the file.
    ATTEMPT_OK(write_back(context, inode, stash.range, *stash.writeback));
    stash.writeback.reset();
    stash.phase = Phase::counting;
  }
  if (stash.phase == Phase::counting) ATTEMPT_OK(count_shared(context, inode, stash));
  if (stash.phase < Phase::holes) {
    ATTEMPT_OK(copy_steps(context, inode, stash));
    stash.phase = stash.has_holes && !keep_holes ? Phase::holes : Phase::settling;
  }
  if (stash.phase == Phase::holes) {
    const uint64_t first = file_pos(stash.range.first);
    const uint64_t end = std::min(file_pos(stash.range.end), inode.attr.size);
    if (first < end) {
      ATTEMPT_OK(fallocate_range(context, inode, FallocateMode::allocate, first, end - first, true,
                                 stash.shape));
    }
    stash.phase = Phase::settling;
  }
  if (stash.phase == Phase::settling) {
    // Blocks that the other owners have left are this file's alone once that is durable.
    if (stash.names.seq == JournalSeq()) stash.names.seq = context.store.last_change().seq;
    ATTEMPT_OK(context.store.journal().wait_durable(stash.names.seq));
    stash.phase = Phase::done;
  }
  return stash.copied;
}

}  // namespace fusefs
