// Direct writing, as much of the request at once as there is space for:
//
//     locking --> clearing ---> planning --(edges)--> reading --> filling
//     blocker     folios of        |                                 |
//     and range   the range go     +----------> placing <------------+
//                                                  |
//         committing <-- joining <-- writing <-----+
//
// Whole blocks go from the caller's memory to the device, unless that cannot take it: then through
// a buffer of our own, filled outside the monitor. A block written in part at either end is read,
// patched and written whole, from a buffer of one block. Until that goes to the device others who
// write the rest of the block may join (edge_blocks.h) instead of doing the same after us.
//
// Writes that share no block wait for each other nowhere: not when they extend the file nor when
// they fill holes. Size and blocks are theirs one by one, as each commits.
//
// An overwrite ends with its device write, on the thread that reaps it (core/io/completion.h).
//
// The blocker state and the range are held until the end. While they are, nobody adds a folio of
// the range, changes its extents or writes its blocks. What the caller wants durable is waited for
// after that (durable_write.h).
#include <algorithm>
#include <cstring>

#include "core/file/pinned_range.h"
#include "core/file/write_direct_part.h"
#include "core/file/write_pinned.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};
// Copies up to this size are done at once: leaving and entering the monitor costs more.
constexpr uint64_t kInlineCopyBytes = 4 * kBlockBytes;

using Phase = DirectPart::Phase;

// The open block `at` of another write, if ours may leave its part of it to that.
Ref<EdgeBlock> find_edge(const WriteRequest& request, const DirectPart& direct, FileBlock at) {
  if (direct.alone || direct.source != nullptr) return {};
  if (request.append) return {};  // of two that meet, both would begin at the same end of the file
  return direct.context.edges.find(direct.inode.ino, at);
}

// Gives our bytes of a block to another write.
void join(const WriteRequest& request, DirectPart& direct, FileBlock at, Edge& edge) {
  const uint64_t from = std::max(direct.pos, file_pos(at));
  const uint64_t to = std::min(direct.end(), file_pos(at + kOne));
  const ConstBytes bytes = data_at(request, direct, from).first(to - from);
  edge.joined->add(static_cast<uint32_t>(from % kBlockBytes), bytes);
}

Attempt<void> lock_range(FileContext& context, Inode& inode, const WriteRequest& request,
                         WriteStash& stash, DirectPart& direct) {
  const uint64_t pos = request.append ? inode.attr.size : request.pos + stash.done;
  if (may_clear_tail(inode, stash.tail)) {
    const uint64_t end = pos + (request.len() - stash.done);
    ATTEMPT_OK(clear_tail_before(context, inode, pos, end, Growth::device, stash.tail));
  }
  ATTEMPT(TwoStateHold hold, inode.pages_lock.block());
  direct.pos = pos;
  TRY(direct.len, clip_write(direct.pos, request.len() - stash.done));
  if (inode.mapping.any_pinned(direct.range())) {
    // What comes from pages of a mapping goes through pages in the end.
    direct.leave();
    if (request.source != nullptr) direct.phase = Phase::fetching;
    stash.over_pins = request.source == nullptr;
    return restart_now();
  }
  direct.own = direct.range();
  const FileBlock first = direct.own.first;
  const FileBlock last = direct.last_block();
  Ref<EdgeBlock> first_edge = direct.has_first_edge() ? find_edge(request, direct, first) : nullptr;
  Ref<EdgeBlock> last_edge = direct.has_last_edge() ? find_edge(request, direct, last) : nullptr;
  if (first_edge) direct.own.first += kOne;
  if (last_edge) direct.own.end = last;
  if (!direct.own.empty()) {
    const Attempt<void> taken = inode.busy_ranges.take(direct.own, direct.busy);
    if (!taken.ok()) return taken;
  }
  // Nothing restarts from here on.
  direct.first.joined = std::move(first_edge);
  direct.last.joined = std::move(last_edge);
  if (direct.first.joined) join(request, direct, first, direct.first);
  if (direct.last.joined) join(request, direct, last, direct.last);
  if (stash.done == 0) stash.pos = direct.pos;
  direct.unaligned =
      direct.unaligned || direct.pos % kBlockBytes != 0 || direct.end() % kBlockBytes != 0;
  direct.hold = std::move(hold);
  direct.phase = direct.own.empty() ? Phase::joining : Phase::clearing;
  return {};
}

// Writes and drops the folios of the range.
Attempt<void> clear_folios(FileContext& context, Inode& inode, DirectPart& direct) {
  const FileRange range = direct.own;
  while (true) {
    if (direct.writeback) {  // first: the pages under writeback may be our own
      ATTEMPT_OK(write_back(context, inode, range, *direct.writeback));
      direct.writeback.reset();
    }
    const size_t before = inode.mapping.size();
    const bool cleared = context.cache.drop_clean(inode.mapping, range);
    context.direct.folio_drop_count += before - inode.mapping.size();
    if (cleared) break;
    if (FolioRef folio = inode.mapping.any_locked(range)) {
      return restart_after(folio->changed, RestartReason::folio_locked);
    }
    direct.writeback = std::make_unique<WritebackStash>();
    direct.writeback->caller_blocks = true;
  }
  direct.phase = Phase::planning;
  return {};
}

BlockCount new_blocks(const std::vector<FilePiece>& pieces) {
  BlockCount count;
  for (const FilePiece& piece : pieces) {
    if (piece.needs_new_blocks()) count += piece.range.count();
  }
  return count;
}

// Less than was locked: up to `end`, or a whole block before it.
void cut(DirectPart& direct, uint64_t end) {
  const uint64_t block_pos = end - end % kBlockBytes;
  if (block_pos > direct.pos) end = block_pos;
  direct.len = end - direct.pos;
  direct.own.end = file_block_end(end);
  direct.last.joined.reset();  // it gets the bytes a second time
}

// Opens the block for others and starts reading what it holds now.
void begin_edge(FileContext& context, const std::vector<FilePiece>& pieces, FileBlock at,
                Edge& edge, DirectPart& direct) {
  edge.own = context.edges.open(direct.inode.ino, at);
  edge.bytes = AlignedBuffer(kBlockBytes);
  if (file_pos(at) >= direct.file_size) return;
  for (const FilePiece& piece : pieces) {
    if (!piece.range.contains(at) || piece.state != ExtentState::written) continue;
    if (!direct.ticket) direct.ticket = make_ref<IoTicket>();
    const BlockNo block = piece.start + (at - piece.range.first);
    context.device.submit(IoRequest::read(block_addr(block), edge.bytes.data(), kBlockBytes),
                          direct.ticket);
    ++context.direct.edge_read_count;
    direct.phase = Phase::reading;
  }
}

Attempt<void> plan(FileContext& context, Inode& inode, WriteStash& stash, DirectPart& direct) {
  if (direct.source != nullptr) {
    const uint64_t held = direct.source->hold(stash.done, direct.len);
    if (held == 0) {
      direct.leave();
      direct.phase = Phase::fetching;
      return restart_now();
    }
    if (held < direct.len) cut(direct, direct.pos + held);
  }
  std::vector<FilePiece> pieces;
  ATTEMPT_OK(find_pieces(context, inode, direct.own, stash.names.pins, pieces));
  Attempt<Reservation> reserved = context.space.reserve(new_blocks(pieces));
  if (reserved.failed() && reserved.error() == Error::no_space && direct.own.count() > kOne) {
    cut(direct, file_pos(direct.own.first + BlockCount(direct.own.count().value() / 2)));
    return restart_now();
  }
  ATTEMPT(Reservation reservation, std::move(reserved));

  // Nothing restarts from here on.
  grow_over_pins(context, inode, direct.pos, direct.end());
  direct.placement.reset();
  direct.placement.reservation() = std::move(reservation);
  for (const FilePiece& piece : pieces) direct.placement.add(piece);
  direct.guard = context.space.guard_io();
  direct.file_size = inode.attr.size;
  direct.phase = Phase::filling;
  if (direct.has_first_edge()) begin_edge(context, pieces, direct.own.first, direct.first, direct);
  if (direct.has_last_edge()) begin_edge(context, pieces, direct.last_block(), direct.last, direct);
  return {};
}

// Copies the whole blocks if they need it. True if that is left to be done outside.
bool begin_bounce(FileContext& context, const WriteRequest& request, DirectPart& direct) {
  if (can_take_middle(request, direct, context.device.geometry().logical_block_bytes)) return false;
  const FileRange middle = direct.middle();
  const uint64_t bytes = block_bytes(middle.count());
  context.direct.bounce_bytes += bytes;
  direct.bounce = AlignedBuffer(bytes);
  if (bytes > kInlineCopyBytes && direct.source == nullptr) return true;
  copy_data(request, direct, file_pos(middle.first), direct.bounce.bytes());
  return false;
}

void submit(FileContext& context, Inode& inode, const WriteRequest& request, DirectPart& direct) {
  if (direct.has_first_edge()) fill_edge(request, direct, direct.own.first, direct.first);
  if (direct.has_last_edge()) fill_edge(request, direct, direct.last_block(), direct.last);
  IoGather writes =
      direct.device.begin(context, inode, direct.sync, direct.placement, direct.size_end());
  if (direct.source != nullptr && direct.source->may_change()) writes.set_may_change();
  for (const Placement::Segment& segment : direct.placement.segments()) {
    for (FileBlock at = segment.range.first; at < segment.range.end;) {
      const ConstBytes run = memory_of(request, direct, at);
      const size_t part = std::min<uint64_t>(run.size(), block_bytes(segment.range.end - at));
      writes.add(segment.start + (at - segment.range.first), run.data(), part);
      at += BlockCount(part / kBlockBytes);
    }
  }
  writes.submit();
  direct.arm(context.completions, direct.device.ticket());
  direct.in_flight = true;
  DirectStats& stats = context.direct;
  stats.in_flight_max = std::max(stats.in_flight_max, ++stats.in_flight);
}

// Until what others write of our blocks is written. False if they have failed.
Attempt<bool> await_joined(FileContext& context, Inode& inode, DirectPart& direct) {
  for (Edge* edge : {&direct.first, &direct.last}) {
    if (!edge->joined) continue;
    ATTEMPT(const bool written, edge->joined->wait());
    if (!written) return false;
  }
  direct.device.joined(context, inode, direct.sync);
  return true;
}

// One round: as much as was reserved for.
Attempt<void> write_round(FileContext& context, Inode& inode, const WriteRequest& request,
                          WriteStash& stash, DirectPart& direct) {
  NodePins& pins = stash.names.pins;
  if (direct.phase == Phase::locking) {
    ATTEMPT_OK(lock_range(context, inode, request, stash, direct));
  }
  if (direct.phase == Phase::clearing) ATTEMPT_OK(clear_folios(context, inode, direct));
  if (direct.phase == Phase::planning) ATTEMPT_OK(plan(context, inode, stash, direct));
  if (direct.phase == Phase::reading) {
    ATTEMPT_OK(direct.ticket->wait());
    direct.phase = Phase::filling;
  }
  if (direct.phase == Phase::filling) {
    direct.phase = Phase::placing;
    if (direct.source == nullptr && begin_bounce(context, request, direct)) {
      return restart_after_outside([&direct, request] {
        copy_data(request, direct, file_pos(direct.middle().first), direct.bounce.bytes());
      });
    }
  }
  if (direct.phase == Phase::placing) {
    ATTEMPT_OK(direct.placement.allocate(context, inode, pins));
    if (direct.source != nullptr) {
      const Attempt<void> locked = direct.source->lock();
      if (!locked.ok()) return locked;
      begin_bounce(context, request, direct);
    }
    submit(context, inode, request, direct);
    direct.phase = Phase::writing;
  }
  // What follows an error, or what could not be done at once: see release().
  if (direct.phase == Phase::writing) {
    // An error is told once.
    const Attempt<void> written =
        direct.device.await_data(context, inode, direct.placement, direct.size_end(), pins);
    if (!written.ok()) return written;
    direct.phase = direct.has_joined() ? Phase::joining : Phase::committing;
  }
  if (direct.phase == Phase::joining) {
    ATTEMPT(const bool written, await_joined(context, inode, direct));
    if (!written) {
      direct.leave();
      direct.alone = true;
      return restart_now();
    }
    direct.phase = Phase::committing;
  }
  const Attempt<void> committed =
      direct.device.advance(context, inode, direct.placement, direct.size_end(), pins);
  if (!committed.ok()) return committed;
  direct.end_edges();
  return {};
}

}  // namespace

Attempt<size_t> write_direct(FileContext& context, Inode& inode, const WriteRequest& request,
                             WriteStash& stash) {
  ATTEMPT_OK(check_write(context, inode, request, stash));
  if (stash.over_pins) return write_over_pins(context, inode, request, stash);
  if (!stash.work) stash.work = std::make_unique<DirectPart>(context, inode, request, stash);
  DirectPart& direct = static_cast<DirectPart&>(*stash.work);
  while (stash.done < request.len() && !direct.cut_short) {
    if (direct.phase == Phase::fetching) {
      Attempt<bool> fetched = direct.source->fetch(stash.done);
      if (fetched.must_restart() || (fetched.failed() && stash.done == 0)) {
        return Unfinished(fetched);
      }
      if (fetched.failed() || !fetched.value()) {
        direct.cut_short = true;
        break;
      }
      direct.phase = Phase::locking;
    }
    const Attempt<void> round = write_round(context, inode, request, stash, direct);
    if (stash.over_pins) {
      stash.work.reset();
      return write_over_pins(context, inode, request, stash);
    }
    if (round.must_restart()) return round.restart();
    if (round.ok()) {
      stash.done += direct.len;
      count_part(context, direct.len);
      const bool is_known = stash.watch == nullptr || direct.released;
      if (!is_known) stash.watch->written(direct.pos, direct.len);
    } else {
      note_failed_write(inode, direct.pos, direct.size_end());
    }
    direct.leave();
    note_progress();
    if (round.ok()) continue;
    if (stash.done == 0) return round.error();
    direct.cut_short = true;
  }
  ATTEMPT_OK(direct.device.settle(context));
  count_write(context, direct);
  return stash.done;
}

}  // namespace fusefs
