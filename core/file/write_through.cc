#include "core/file/write_through.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/file/durable_write.h"
#include "core/file/fault.h"
#include "core/file/pinned_range.h"
#include "core/file/write_pinned.h"
#include "core/file/writeback.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};
// Blocks of one piece: a request of 1 MiB is one piece, wherever it begins.
constexpr BlockCount kPieceBlocks{257};
// Copies up to this size are done at once: leaving and entering the monitor costs more.
constexpr uint64_t kInlineCopyBytes = 4 * kPageBytes;

struct Through final : WriteStash::Work, IoCompletion {
  Through(FileContext& a_context, Inode& an_inode, const WriteRequest& request, WriteStash& a_stash)
      : context(a_context), inode(an_inode), wanted(request.data.size()), stash(a_stash) {}
  ~Through() override {
    fail(Error::shut_down);
    disarm();
  }
  FinishNeeds release(const Result<void>& result) override;
  void finish() override;
  // Lets go of a piece that has not been written, or not completely.
  void fail(Error error);
  void leave();

  uint64_t end() const { return pos + len; }
  FileRange range() const { return {file_block_at(pos), file_block_end(end())}; }
  // Blocks that are written in part: none, one or both ends of the range.
  bool is_edge(FileBlock block) const {
    return (block == range().first && pos % kBlockBytes != 0) ||
           (block + kOne == range().end && end() % kBlockBytes != 0);
  }

  // The operation's, which outlives its stash's work.
  FileContext& context;
  Inode& inode;
  const uint64_t wanted;
  WriteStash& stash;

  enum class Phase : uint8_t {
    planning,
    copying,
    marking,
    placing,
    writing
  } phase = Phase::planning;
  bool released = false;  // an overwrite that the device is done with: nothing is held
  BlockCount blocks_max = kPieceBlocks;  // less where space is short
  bool counted_wait = false;
  bool cut_short = false;               // by an error after a piece
  FaultStash fault;                     // for the old bytes of one edge at a time
  std::optional<FileBlock> fault_page;  // under way
  std::array<FolioRef, 2> edges;        // so that they stay in memory
  DurableWrite device;

  // The piece.
  uint64_t pos = 0;
  uint64_t len = 0;
  TwoStateHold hold;
  BusyRangeHold busy;
  std::vector<FilePiece> pieces;
  Placement placement;
  std::vector<FolioRef> folios;          // ascending: what of the range is in memory
  std::vector<const std::byte*> blocks;  // where the bytes of each block are written from
  AlignedBuffer bounce;                  // for memory that the device cannot take
  struct Copy {
    std::byte* to;
    const std::byte* from;
    size_t len;
  };
  std::vector<Copy> copies;
  bool locked = false;  // the folios, while the copies are made outside
  bool marked = false;  // under writeback
  BlockCount delayed;   // of the folios, still in inode.delayed_blocks
};

using Phase = Through::Phase;

void Through::leave() {
  disarm();
  inode.delayed_blocks -= std::exchange(delayed, BlockCount(0));
  locked = marked = false;
  folios.clear();
  blocks.clear();
  copies.clear();
  pieces.clear();
  bounce = AlignedBuffer();
  placement.reset();
  busy.release();
  hold.release();
  phase = Phase::planning;
}

// What was in memory is dirty now, and stays so until it can be written. Beyond the end of the
// file, which has not moved, there is nothing.
void Through::fail(Error error) {
  PageCache& cache = context.cache;
  if (locked) {
    for (FolioRef& folio : folios) cache.unlock(*folio);
  }
  if (marked) {
    const uint64_t size = inode.attr.size;
    std::vector<FolioRef> kept;
    for (FolioRef& folio : folios) {
      const uint64_t page_pos = file_pos(folio->index);
      if (page_pos >= size) {
        cache.end_writeback(*folio, true);
        cache.remove(*folio);
        continue;
      }
      if (page_pos + kPageBytes > size) {
        std::memset(folio->frame + (size - page_pos), 0, page_pos + kPageBytes - size);
      }
      kept.push_back(folio);
    }
    dirty_again(context, placement, kept);
    for (const FolioRef& folio : kept) inode.mapping.note_failed(folio->index, error);
    if (!kept.empty()) context.inodes.mark_pages_dirty(inode);
  }
  leave();
}

// A pure overwrite is let go of here, and nothing is left to do but, perhaps, to make it durable.
// A piece that maps or converts blocks, or moves the end of the file, goes on to its commit with
// what it holds; one that the device has refused, to fail(), which takes space.
FinishNeeds Through::release(const Result<void>& result) {
  FinishNeeds needs;
  needs.error = !result.ok();
  if (result.ok()) {
    needs.transaction = placement.needs_commit(inode, end());
    device.landed(context, inode, !needs.transaction);
    needs.flush = device.owes(context);
  } else {
    device.refused(context, result.error());
  }
  if (!needs.error && !needs.transaction) {
    for (FolioRef& folio : folios) context.cache.end_writeback(*folio, true);
    context.stats.through_bytes += len;
    leave();
    released = true;
  }
  if (stash.done + len < wanted) needs.transaction = true;
  needs.attempt = stash.end == nullptr;
  needs.invalidation = stash.end != nullptr && stash.end->must_invalidate();
  return needs;
}

void Through::finish() {
  stash.done += len;
  ++context.stats.through_count;
  stash.end->ended(stash.done);
}

// ---- Planning ----

// Somebody else is writing one of the blocks.
void count_wait(FileContext& context, Through& through) {
  if (std::exchange(through.counted_wait, true)) return;
  ++context.stats.through_overlap_wait_count;
}

Attempt<void> wait_turn(FileContext& context, Inode& inode, Through& through) {
  const Attempt<void> free = inode.busy_ranges.wait_free(through.range());
  if (free.must_restart()) count_wait(context, through);
  return free;
}

// Brings the old bytes of what is written in part into memory. `blank` gets the folios that need
// none.
Attempt<void> fetch_edges(FileContext& context, Inode& inode, const WriteRequest& request,
                          Through& through, std::vector<FolioRef>& blank) {
  // An appending write may find that its edge has moved.
  if (through.fault_page && !through.is_edge(*through.fault_page)) {
    const Attempt<std::vector<FaultPage>> old =
        fault_for_write(context, inode, file_range(*through.fault_page, kOne), {}, through.fault);
    if (old.must_restart()) return old.restart();
    through.fault.reset();
    through.fault_page.reset();
  }
  const FileRange range = through.range();
  const FileBlock ends[] = {range.first, range.end - kOne};
  for (size_t i = 0; i < (range.count() == kOne ? 1u : 2u); ++i) {
    const FileBlock block = ends[i];
    if (!through.is_edge(block)) continue;
    FolioRef folio = inode.mapping.find(block);
    if (!folio || !folio->uptodate || through.fault_page == block) {
      through.fault.space_use = request.kernel_writeback ? SpaceUse::writeback : SpaceUse::ordinary;
      through.fault.leaves_hold = true;
      through.fault_page = block;
      Attempt<std::vector<FaultPage>> pages = fault_for_write(
          context, inode, file_range(block, kOne), {through.pos, through.end()}, through.fault);
      if (pages.must_restart()) {
        if (inode.busy_ranges.free_end(range) != range.end) count_wait(context, through);
        return pages.restart();
      }
      through.fault_page.reset();
      if (pages.failed()) {
        through.fault.reset();
        return pages.error();
      }
      folio = pages.value().front().folio;
      if (pages.value().front().blank) blank.push_back(folio);
    }
    through.edges[i] = std::move(folio);
  }
  return {};
}

// Every folio of the range, when nobody else is at work on any.
Attempt<std::vector<FolioRef>> find_folios(FileContext& context, Inode& inode, Through& through) {
  std::vector<FolioRef> folios;
  const FileRange range = through.range();
  FolioRef folio = inode.mapping.at_or_after(range.first);
  while (folio && folio->index < range.end) {
    if (folio->locked) return restart_after(folio->changed, RestartReason::folio_locked);
    if (folio->writeback) {
      count_wait(context, through);
      return restart_after(folio->changed, RestartReason::writeback);
    }
    folios.push_back(folio);
    folio = inode.mapping.at_or_after(folio->index + kOne);
  }
  return folios;
}

// The folio of block `at`, or null; `next` walks along.
Folio* folio_at(const std::vector<FolioRef>& folios, size_t& next, FileBlock at) {
  while (next < folios.size() && folios[next]->index < at) ++next;
  return next < folios.size() && folios[next]->index == at ? folios[next].get() : nullptr;
}

// Blocks to be reserved: dirty pages have theirs.
BlockCount missing_blocks(const std::vector<FilePiece>& pieces,
                          const std::vector<FolioRef>& folios) {
  BlockCount missing;
  size_t next = 0;
  for (const FilePiece& piece : pieces) {
    if (!piece.needs_new_blocks()) continue;
    for (FileBlock at = piece.range.first; at < piece.range.end; ++at) {
      const Folio* folio = folio_at(folios, next, at);
      if (folio == nullptr || folio->reservation.count() == BlockCount(0)) missing += kOne;
    }
  }
  return missing;
}

// Where each block is written from, and what has to be copied there first.
void plan_copies(FileContext& context, Through& through, const std::byte* data,
                 const std::vector<FolioRef>& blank) {
  const FileRange range = through.range();
  const size_t align = context.device.geometry().logical_block_bytes;
  const auto data_at = [&](uint64_t at) { return data + (at - through.pos); };
  // All whole blocks lie alike in memory.
  const uint64_t whole_pos = file_pos(file_block_end(through.pos));
  const bool takes_memory =
      whole_pos < through.end() && reinterpret_cast<uintptr_t>(data_at(whole_pos)) % align == 0;
  through.blocks.reserve(range.count().value());
  size_t next = 0;
  for (FileBlock at = range.first; at < range.end; ++at) {
    const uint64_t block_pos = file_pos(at);
    const uint64_t from = std::max(through.pos, block_pos);
    const size_t len = std::min(through.end(), block_pos + kBlockBytes) - from;
    if (Folio* folio = folio_at(through.folios, next, at)) {
      std::byte* const frame = folio->frame;
      if (!folio->uptodate && len < kPageBytes) {
        CHECK(std::find(blank.begin(), blank.end(), through.folios[next]) != blank.end());
        std::memset(frame, 0, from - block_pos);
        std::memset(frame + (from - block_pos) + len, 0, kPageBytes - (from - block_pos) - len);
      }
      through.copies.push_back({frame + (from - block_pos), data_at(from), len});
      through.blocks.push_back(frame);
      continue;
    }
    CHECK(len == kBlockBytes);
    if (takes_memory) {
      through.blocks.push_back(data_at(block_pos));
      continue;
    }
    if (!through.bounce) {
      through.bounce = AlignedBuffer(static_cast<size_t>(block_bytes(range.count())));
    }
    std::byte* const to = through.bounce.data() + (block_pos - file_pos(range.first));
    through.copies.push_back({to, data_at(block_pos), kBlockBytes});
    through.blocks.push_back(to);
  }
}

// Space for less than was asked for: less is tried.
bool cut_down(Through& through) {
  const uint64_t count = through.range().count().value();
  if (count <= 1) return false;
  through.blocks_max = BlockCount(count / 2);
  return true;
}

Attempt<void> plan(FileContext& context, Inode& inode, const WriteRequest& request,
                   WriteStash& stash, Through& through) {
  through.pos = request.append ? inode.attr.size : request.pos + stash.done;
  TRY(const uint64_t left, clip_write(through.pos, request.data.size() - stash.done));
  const FileBlock last = file_block_at(through.pos) + through.blocks_max;
  through.len = std::min(through.pos + left, file_pos(last)) - through.pos;

  const FileRange range = through.range();
  // A fault under way comes first: it settles what it has in the stash.
  if (!through.fault_page) {
    if (may_clear_tail(inode, stash.tail)) {
      const uint64_t end = through.end();
      ATTEMPT_OK(clear_tail_before(context, inode, through.pos, end, Growth::device, stash.tail));
    }
    ATTEMPT_OK(wait_turn(context, inode, through));
  }
  std::vector<FolioRef> blank;
  const Attempt<void> fetched = fetch_edges(context, inode, request, through, blank);
  if (fetched.failed() && fetched.error() == Error::no_space && cut_down(through)) {
    return restart_now();
  }
  ATTEMPT_OK(fetched);
  // Between the fault of an edge and this nobody may come who takes the edge away: he could do so
  // for ever.
  TwoStateHold hold = through.fault.take_hold();
  if (!hold.held()) ATTEMPT_INTO(hold, inode.pages_lock.add());
  if (inode.mapping.any_pinned(range)) {
    stash.over_pins = true;
    return restart_now();
  }
  ATTEMPT_OK(wait_turn(context, inode, through));
  ATTEMPT(std::vector<FolioRef> folios, find_folios(context, inode, through));
  std::vector<FilePiece> pieces;
  ATTEMPT_OK(find_pieces(context, inode, range, stash.names.pins, pieces));
  const BlockCount missing = missing_blocks(pieces, folios);
  Reservation reservation = std::move(through.fault.reservation);
  if (reservation.count() < missing) {
    const SpaceUse use = request.kernel_writeback ? SpaceUse::writeback : SpaceUse::ordinary;
    Attempt<Reservation> more = context.space.reserve(missing - reservation.count(), use);
    if (more.failed() && more.error() == Error::no_space && cut_down(through)) {
      return restart_now();
    }
    if (!more.ok()) return Unfinished(more);
    reservation.merge(std::move(more).value());
  }

  // Nothing restarts from here on.
  if (stash.done == 0) stash.pos = through.pos;
  CHECK(inode.busy_ranges.take(range, through.busy).ok());
  grow_over_pins(context, inode, through.pos, through.end());
  through.hold = std::move(hold);
  through.fault.reset();
  through.edges = {};
  through.placement.reset();
  through.placement.reservation() = std::move(reservation);
  for (const FilePiece& piece : pieces) through.placement.add(piece);
  through.pieces = std::move(pieces);
  through.folios = std::move(folios);
  plan_copies(context, through, request.data.data() + stash.done, blank);
  through.phase = Phase::copying;
  return {};
}

// ---- Writing ----

void make_copies(const Through& through) {
  for (const Through::Copy& copy : through.copies) std::memcpy(copy.to, copy.from, copy.len);
}

// The bytes are where they are written from: the folios are stable from here on.
void mark_folios(FileContext& context, Inode& inode, Through& through) {
  uint64_t dirty = 0;
  size_t next = 0;
  for (const FilePiece& piece : through.pieces) {
    for (FileBlock at = piece.range.first; at < piece.range.end; ++at) {
      Folio* folio = folio_at(through.folios, next, at);
      if (folio == nullptr) continue;
      if (folio->dirty) ++dirty;
      context.cache.mark_uptodate(*folio);
      context.cache.begin_writethrough(*folio);
      Reservation reservation = context.cache.take_reservation(*folio);
      through.delayed += reservation.count();
      if (piece.needs_new_blocks()) {
        through.placement.reservation().merge(std::move(reservation));
      }
    }
  }
  inode.delayed_blocks += through.delayed;  // they stay in st_blocks until they are mapped
  through.marked = true;
  context.stats.through_not_dirtied_pages += through.range().count().value() - dirty;
}

void submit(FileContext& context, Inode& inode, const WriteRequest& request, Through& through) {
  IoGather writes =
      through.device.begin(context, inode, request.sync, through.placement, through.end());
  const FileBlock first = through.range().first;
  for (const Placement::Segment& segment : through.placement.segments()) {
    for (FileBlock at = segment.range.first; at < segment.range.end; ++at) {
      writes.add(segment.start + (at - segment.range.first), through.blocks[(at - first).value()],
                 kBlockBytes);
    }
  }
  writes.submit();
  through.arm(context.completions, through.device.ticket());
}

// It is on the device, and part of the file. If it has been released, nothing of it is left here.
void end_piece(FileContext& context, Inode& inode, WriteStash& stash, Through& through) {
  for (FolioRef& folio : through.folios) context.cache.end_writeback(*folio, true);
  const bool moved = std::any_of(through.pieces.begin(), through.pieces.end(),
                                 [](const FilePiece& piece) { return piece.shared; });
  // Who has a page of a block that is not the file's any more looks again.
  if (moved) inode.mapping.unmap(through.range());
  stash.done += through.len;
  if (!through.released) context.stats.through_bytes += through.len;
  through.counted_wait = false;
  through.leave();
  through.released = false;
  note_progress();
}

Attempt<void> write_piece(FileContext& context, Inode& inode, const WriteRequest& request,
                          WriteStash& stash, Through& through) {
  if (through.phase == Phase::planning && !through.released) {
    // Not an ATTEMPT: nobody keeps others away from the folios until they are locked or marked.
    const Attempt<void> planned = plan(context, inode, request, stash, through);
    if (!planned.ok()) return planned;
  }
  if (through.phase == Phase::copying) {
    uint64_t bytes = 0;
    for (const Through::Copy& copy : through.copies) bytes += copy.len;
    through.phase = Phase::marking;
    if (bytes > kInlineCopyBytes) {
      for (FolioRef& folio : through.folios) context.cache.lock(*folio);
      through.locked = true;
      return restart_after_outside([&through] { make_copies(through); });
    }
    make_copies(through);
  }
  if (through.phase == Phase::marking) {
    if (std::exchange(through.locked, false)) {
      for (FolioRef& folio : through.folios) context.cache.unlock(*folio);
    }
    mark_folios(context, inode, through);
    through.phase = Phase::placing;
  }
  if (through.phase == Phase::placing) {
    ATTEMPT_OK(through.placement.allocate(context, inode, stash.names.pins));
    submit(context, inode, request, through);
    through.phase = Phase::writing;
  }
  // What follows an error, or what could not be done at once: see release().
  return through.device.advance(context, inode, through.placement, through.end(), stash.names.pins);
}

}  // namespace

Attempt<size_t> write_through(FileContext& context, Inode& inode, const WriteRequest& request,
                              WriteStash& stash) {
  if (stash.to_memory) return write_buffered(context, inode, request, stash);
  ATTEMPT_OK(check_write(context, inode, request, stash));
  if (stash.over_pins) return write_over_pins(context, inode, request, stash);
  if (!stash.work) stash.work = std::make_unique<Through>(context, inode, request, stash);
  Through& through = static_cast<Through&>(*stash.work);
  while (stash.done < request.data.size() && !through.cut_short) {
    const Attempt<void> piece = write_piece(context, inode, request, stash, through);
    if (stash.over_pins) {
      stash.work.reset();
      return write_over_pins(context, inode, request, stash);
    }
    if (piece.must_restart()) return piece.restart();
    if (piece.ok()) {
      end_piece(context, inode, stash, through);
      continue;
    }
    if (through.phase == Phase::writing) note_failed_write(inode, through.pos, through.end());
    through.fail(piece.error());
    through.released = false;
    if (request.kernel_writeback && piece.error() != Error::no_space) {
      // Somebody stored these bytes and has gone: they stay in memory, to be tried again.
      stash.work.reset();
      stash.to_memory = true;
      return write_buffered(context, inode, request, stash);
    }
    if (stash.done == 0) return piece.error();
    through.cut_short = true;  // settle() may restart: the piece has failed once and for all
  }
  ATTEMPT_OK(through.device.settle(context));
  ++context.stats.through_count;
  return stash.done;
}

}  // namespace fusefs
