#include "core/file/dedupe.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/file/placement.h"
#include "core/file/truncate.h"

namespace fusefs {
namespace {

using Phase = DedupeStash::Phase;
using Pair = DedupeStash::Pair;

// After so many pieces that changed between comparison and sharing, others wait.
constexpr uint32_t kTriesLetGo = 2;
// A piece ends after so many extents, so that planning it is short.
constexpr int kPieceExtents = 256;

// One call's files and positions, with what is done so far taken off.
struct Ends {
  Inode& from;
  uint64_t from_pos;
  Inode& to;
  uint64_t to_pos;
};

struct Plan {
  std::vector<Pair> pairs;
  BlockCount blocks;  // of the piece
};

Attempt<void> check_dedupe(FileContext& context, const Ends& ends, uint64_t len) {
  if (!context.health.writable()) return Error::read_only_volume;
  if (ends.from.attr.is_directory() || ends.to.attr.is_directory()) return Error::is_a_directory;
  if (!ends.from.attr.is_regular() || !ends.to.attr.is_regular()) return Error::invalid_argument;
  if ((ends.to.attr.flags & kInodeImmutable) != 0) return Error::not_permitted;
  const auto outside = [len](uint64_t pos, uint64_t size) {
    return pos % kBlockBytes != 0 || pos > size || len > size - pos;
  };
  if (outside(ends.from_pos, ends.from.attr.size) || outside(ends.to_pos, ends.to.attr.size)) {
    return Error::invalid_argument;
  }
  if (ends.from.ino == ends.to.ino && ends.from_pos < ends.to_pos + len &&
      ends.to_pos < ends.from_pos + len) {
    return Error::overlapping_ranges;
  }
  return {};
}

// How much of the next `left` bytes there is on both sides, in whole blocks or to both ends.
uint64_t comparable(const Ends& ends, uint64_t left) {
  const auto rest = [](uint64_t pos, uint64_t size) { return size > pos ? size - pos : 0; };
  const uint64_t from_rest = rest(ends.from_pos, ends.from.attr.size);
  const uint64_t to_rest = rest(ends.to_pos, ends.to.attr.size);
  const uint64_t len = std::min({left, from_rest, to_rest});
  return len == from_rest && len == to_rest ? len : len - len % kBlockBytes;
}

FileRange blocks_of(uint64_t pos, uint64_t len) {
  return {file_block_at(pos), file_block_end(pos + len)};
}

bool is_written(const Extent& extent) { return extent.state == ExtentState::written; }

// Walks both maps side by side, until a buffer is full of blocks to compare.
Attempt<Plan> plan_piece(FileContext& context, const Ends& ends, BlockCount max, NodePins& pins) {
  Tree& tree = context.store.tree();
  const FileRange source = file_range(file_block_at(ends.from_pos), max);
  const FileRange target = file_range(file_block_at(ends.to_pos), max);
  constexpr BlockCount kCompareBlocks(kDedupePieceBytes / kBlockBytes);
  Plan plan;
  BlockCount compared;
  for (int extents = 0; extents < kPieceExtents && plan.blocks < max; ++extents) {
    ATTEMPT(const Extent a,
            extent_at(tree, ends.from.ino, source.first + plan.blocks, source.end, pins));
    ATTEMPT(const Extent b,
            extent_at(tree, ends.to.ino, target.first + plan.blocks, target.end, pins));
    BlockCount count = std::min(a.range.count(), b.range.count());
    const bool same_blocks =
        is_written(a) == is_written(b) && (!is_written(a) || a.start == b.start);
    if (!same_blocks) {
      count = std::min(count, kCompareBlocks - compared);
      if (count == BlockCount(0)) break;
      compared += count;
      plan.pairs.push_back({file_range(a.range.first, count), b.range.first, is_written(a),
                            is_written(b), a.start, b.start});
    }
    plan.blocks += count;
  }
  return plan;
}

// How far to look at once: a piece, or as much as is one block on both sides already.
Attempt<BlockCount> piece_bound(FileContext& context, const Ends& ends, uint64_t len,
                                NodePins& pins) {
  Tree& tree = context.store.tree();
  const FileRange source = blocks_of(ends.from_pos, len);
  const FileRange target = blocks_of(ends.to_pos, len);
  ATTEMPT(const Extent a, extent_at(tree, ends.from.ino, source.first, source.end, pins));
  ATTEMPT(const Extent b, extent_at(tree, ends.to.ino, target.first, target.end, pins));
  BlockCount bound(kDedupePieceBytes / kBlockBytes);
  if (is_written(a) && is_written(b) && a.start == b.start) {
    bound = std::max(bound, std::min(a.range.count(), b.range.count()));
  }
  return std::min(bound, source.count());
}

void submit_reads(FileContext& context, DedupeStash& stash) {
  if (!stash.from_bytes) {
    stash.from_bytes = AlignedBuffer(kDedupePieceBytes);
    stash.to_bytes = AlignedBuffer(kDedupePieceBytes);
  }
  stash.guard = context.space.guard_io();
  stash.ticket = make_ref<IoTicket>();
  IoGather from_reads(context.device, IoKind::read, stash.ticket);
  IoGather to_reads(context.device, IoKind::read, stash.ticket);
  size_t at = 0;
  for (const Pair& pair : stash.pairs) {
    const auto len = static_cast<size_t>(block_bytes(pair.source.count()));
    if (pair.from_mapped) from_reads.add(pair.from_start, stash.from_bytes.data() + at, len);
    if (pair.to_mapped) to_reads.add(pair.to_start, stash.to_bytes.data() + at, len);
    at += len;
  }
}

// Outside the monitor. `end` is where the source's range ends, perhaps within its last block.
void compare_bytes(DedupeStash& stash, uint64_t end) {
  size_t at = 0;
  for (const Pair& pair : stash.pairs) {
    const auto len = static_cast<size_t>(block_bytes(pair.source.count()));
    std::byte* const from = stash.from_bytes.data() + at;
    std::byte* const to = stash.to_bytes.data() + at;
    if (!pair.from_mapped) std::memset(from, 0, len);
    if (!pair.to_mapped) std::memset(to, 0, len);
    const uint64_t valid = std::min<uint64_t>(len, end - file_pos(pair.source.first));
    if (std::memcmp(from, to, valid) != 0) stash.differs = true;
    at += len;
  }
}

// Both files settled, nobody changes them: what is to be compared in the next piece.
Attempt<void> begin_piece(FileContext& context, const Ends& ends, DedupeStash& stash) {
  ATTEMPT_OK(hold_both(ends.from, ends.to, stash.hold));
  const uint64_t left = comparable(ends, stash.len - stash.done);
  stash.len = stash.done + left;
  stash.piece_len = 0;
  stash.pairs.clear();
  if (left == 0) return {};
  ATTEMPT(const BlockCount bound, piece_bound(context, ends, left, stash.names.pins));
  const uint64_t bytes = block_bytes(bound);
  if (!stash.settled) {
    // Once: while somebody stores into pinned pages there is always something new.
    ATTEMPT_OK(
        settle_folios(context, ends.from, blocks_of(ends.from_pos, bytes), stash.from_writeback));
    ATTEMPT_OK(settle_folios(context, ends.to, blocks_of(ends.to_pos, bytes), stash.to_writeback));
    stash.settled = true;
  }
  ATTEMPT(Plan plan, plan_piece(context, ends, bound, stash.names.pins));
  stash.pairs = std::move(plan.pairs);
  stash.piece_len = std::min(left, block_bytes(plan.blocks));
  stash.from_changes = ends.from.attr.change_count;
  stash.to_changes = ends.to.attr.change_count;
  stash.differs = false;
  if (stash.pairs.empty()) {
    stash.phase = Phase::sharing;
    return {};
  }
  submit_reads(context, stash);
  stash.phase = Phase::reading;
  stash.let_go = stash.tries < kTriesLetGo;
  if (stash.let_go) stash.hold.release();
  return {};
}

// Whether the files are still as they were compared.
Attempt<bool> verify(FileContext& context, const Ends& ends, DedupeStash& stash) {
  if (!stash.let_go) return true;
  if (ends.from.attr.change_count != stash.from_changes) return false;
  if (ends.to.attr.change_count != stash.to_changes) return false;
  const FileRange source = blocks_of(ends.from_pos, stash.piece_len);
  const FileRange target = blocks_of(ends.to_pos, stash.piece_len);
  for (const auto& [inode, range] : {std::pair{&ends.from, source}, std::pair{&ends.to, target}}) {
    if (inode->mapping.any_locked(range) || inode->mapping.any_dirty(range)) return false;
  }
  ATTEMPT(const Plan plan, plan_piece(context, ends, source.count(), stash.names.pins));
  return plan.blocks == source.count() && plan.pairs == stash.pairs;
}

Attempt<void> share_piece(FileContext& context, const Ends& ends, DedupeStash& stash) {
  for (; stash.next_pair < stash.pairs.size(); ++stash.next_pair) {
    const Pair& pair = stash.pairs[stash.next_pair];
    if (!pair.to_mapped) continue;
    stash.cursor = std::max(stash.cursor, pair.source.first);
    ATTEMPT_OK(await_folios(ends.to, file_range(pair.target, pair.source.count())));
    const Sharing sharing{pair.source, pair.target, 0, false};
    // Not an ATTEMPT: what it has shared is counted once.
    const Attempt<void> shared =
        share_blocks(context, ends.from, ends.to, sharing, stash.cursor, stash.names, stash.pinned);
    if (!shared.ok()) return shared;
    stash.pinned.reset();
    stash.shared += block_bytes(pair.source.count());
    context.stats.dedupe_bytes += block_bytes(pair.source.count());
  }
  return {};
}

void leave_piece(DedupeStash& stash) {
  stash.phase = Phase::start;
  stash.from_writeback.reset();
  stash.to_writeback.reset();
  stash.pairs.clear();
  stash.ticket.reset();
  stash.guard.release();
  stash.next_pair = 0;
  stash.cursor = FileBlock(0);
  stash.pinned.reset();
  stash.settled = false;
  stash.hold.release();
}

// One piece; nothing of it is left in the stash but the counts.
Attempt<void> dedupe_piece(FileContext& context, const Ends& ends, DedupeStash& stash) {
  if (stash.phase == Phase::planning) {
    ATTEMPT_OK(begin_piece(context, ends, stash));
    if (stash.piece_len == 0) return {};
  }
  if (stash.phase == Phase::reading) {
    ATTEMPT_OK(stash.ticket->wait());
    stash.guard.release();
    stash.phase = Phase::comparing;
  }
  if (stash.phase == Phase::comparing) {
    stash.phase = Phase::verifying;
    return restart_after_outside(
        [&stash, end = ends.from_pos + stash.piece_len] { compare_bytes(stash, end); });
  }
  if (stash.phase == Phase::verifying) {
    ATTEMPT_OK(hold_both(ends.from, ends.to, stash.hold));
    ATTEMPT(const bool unchanged, verify(context, ends, stash));
    if (!unchanged) {
      ++stash.tries;
      stash.piece_len = 0;
      return {};
    }
    if (stash.differs) {
      stash.same = false;
      return {};
    }
    stash.phase = Phase::sharing;
  }
  return share_piece(context, ends, stash);
}

Attempt<void> dedupe_pieces(FileContext& context, Inode& from, uint64_t from_pos, Inode& to,
                            uint64_t to_pos, DedupeStash& stash) {
  while (stash.same && stash.done < stash.len) {
    const Ends ends{from, from_pos + stash.done, to, to_pos + stash.done};
    if (stash.phase == Phase::start) stash.phase = Phase::planning;
    const Attempt<void> piece = dedupe_piece(context, ends, stash);
    if (piece.must_restart()) return piece;
    if (piece.ok() && stash.same) stash.done += stash.piece_len;
    if (piece.ok() && stash.same && stash.piece_len != 0) stash.tries = 0;
    leave_piece(stash);
    if (piece.failed()) return piece;
    note_progress();
  }
  return {};
}

// Most of what is dirty goes while others may still work on both files.
Attempt<void> flush(FileContext& context, const Ends& ends, DedupeStash& stash) {
  if (stash.phase == Phase::start) {
    stash.from_writeback = std::make_unique<WritebackStash>();
    stash.phase = Phase::flushing_source;
  }
  if (stash.phase == Phase::flushing_source) {
    ATTEMPT_OK(
        write_back(context, ends.from, blocks_of(ends.from_pos, stash.len), *stash.from_writeback));
    stash.from_writeback.reset();
    stash.to_writeback = std::make_unique<WritebackStash>();
    stash.phase = Phase::flushing_target;
  }
  ATTEMPT_OK(write_back(context, ends.to, blocks_of(ends.to_pos, stash.len), *stash.to_writeback));
  stash.to_writeback.reset();
  stash.phase = Phase::start;
  return {};
}

}  // namespace

Attempt<uint64_t> dedupe_range(FileContext& context, Inode& from, uint64_t from_pos, Inode& to,
                               uint64_t to_pos, uint64_t len, DedupeStash& stash) {
  if (!stash.begun) {
    const Ends ends{from, from_pos, to, to_pos};
    if (stash.phase == Phase::start) {
      ATTEMPT_OK(check_dedupe(context, ends, len));
      stash.len = comparable(ends, len);
    }
    ATTEMPT_OK(flush(context, ends, stash));
    stash.begun = true;
  }
  const Attempt<void> attempt = dedupe_pieces(context, from, from_pos, to, to_pos, stash);
  if (attempt.must_restart()) return attempt.restart();
  if (attempt.failed() && stash.done == 0) return attempt.error();
  if (attempt.ok() && stash.same) ++context.stats.dedupe_count;
  return stash.done;
}

}  // namespace fusefs
