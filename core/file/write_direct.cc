// Direct writing, as much of the request at once as there is space for:
//
//     locking --> clearing ---> planning --(edges)--> reading --> filling
//     blocker     folios of        |                                 |
//     and range   the range go     +----------> placing <------------+
//                                                  |
//                          committing <-- writing <+
//
// Blocks written in part, and memory that the device cannot take, go through a buffer of our own:
// the edges' old bytes are read first, the whole is filled outside the monitor.
//
// An overwrite ends with its device write, on the thread that reaps it (core/io/completion.h).
//
// The blocker state and the range are held until the end. While they are, nobody adds a folio of
// the range, changes its extents or writes its blocks.
#include <algorithm>
#include <cstring>

#include "core/file/placement.h"
#include "core/file/write.h"
#include "core/file/writeback.h"

namespace fusefs {
namespace {

struct Direct final : WriteStash::Work, IoCompletion {
  Direct(FileContext& a_context, Inode& an_inode, const WriteRequest& request, WriteStash& a_stash)
      : context(a_context), inode(an_inode), wanted(request.data.size()), stash(a_stash) {}
  ~Direct() override { leave(); }
  void leave();
  void note_landed();
  bool has_folios() const {
    const FolioRef folio = inode.mapping.at_or_after(range().first);
    return folio && folio->index < range().end;
  }
  FinishNeeds release(const Result<void>& result) override;
  void finish() override;

  // The operation's, which outlives its stash's work.
  FileContext& context;
  Inode& inode;
  const uint64_t wanted;
  WriteStash& stash;

  TwoStateHold hold;
  BusyRangeHold busy;
  enum class Phase : uint8_t {
    locking,
    clearing,
    planning,
    reading,
    filling,
    placing,
    writing,
    committing
  } phase = Phase::locking;
  std::unique_ptr<WritebackStash> writeback;
  // What is written now.
  uint64_t pos = 0;
  uint64_t len = 0;
  Placement placement;
  const std::byte* source = nullptr;  // of the first block
  Ref<IoTicket> ticket;
  IoGuard guard;
  WriteStamp stamp = 0;
  bool in_flight = false;  // counted
  bool released = false;  // an overwrite that the device is done with: nothing is held any more
  // The buffer of our own; edges: the old content of the first and the last block.
  AlignedBuffer bounce;
  AlignedBuffer first_edge;
  AlignedBuffer last_edge;

  uint64_t end() const { return pos + len; }
  FileRange range() const { return {file_block_at(pos), file_block_end(end())}; }
  bool first_partial() const { return pos % kBlockBytes != 0; }
  bool last_partial() const { return end() % kBlockBytes != 0; }
};

using Phase = Direct::Phase;

// Counts what has been written; the last part counts the write.
void count_part(FileContext& context, uint64_t len) {
  context.stats.write_direct_bytes += len;
  context.direct.write_bytes += len;
}
void count_write(FileContext& context) {
  ++context.stats.write_direct_count;
  ++context.direct.write_count;
}

// Lets go of everything, written or not.
void Direct::leave() {
  disarm();
  note_landed();
  released = false;
  placement.reset();
  writeback.reset();
  ticket.reset();
  guard.release();
  bounce = AlignedBuffer();
  first_edge = AlignedBuffer();
  last_edge = AlignedBuffer();
  busy.release();
  hold.release();
  phase = Phase::locking;
}

void Direct::note_landed() {
  if (!std::exchange(in_flight, false)) return;
  --context.direct.in_flight;
}

// A write that maps or converts blocks, or moves the end of the file, goes on to its commit with
// what it holds: until then the range still reads as it was, and a page of it added now would stay
// that way.
FinishNeeds Direct::release(const Result<void>& result) {
  FinishNeeds needs;
  note_landed();
  needs.error = !result.ok();
  if (result.ok()) {
    stamp = context.write_cache.note_write();
    touch_contents(context, inode);
    phase = Phase::committing;
    needs.transaction = placement.needs_commit(inode, end());
    if (!needs.transaction) {
      CHECK(!has_folios());  // dropped under the blocker state, which is still held
      inode.data_stamp = stamp;
      released = true;
    }
  }
  if (!needs.transaction) {
    busy.release();
    hold.release();
    guard.release();
  }
  if (stash.done + len < wanted) needs.transaction = true;
  needs.attempt = stash.end == nullptr;
  needs.invalidation = stash.end != nullptr && stash.end->must_invalidate();
  return needs;
}

void Direct::finish() {
  stash.done += len;
  count_part(context, len);
  count_write(context);
  stash.end->ended(stash.done);
}

Attempt<void> lock_range(Inode& inode, const WriteRequest& request, WriteStash& stash,
                         Direct& direct) {
  ATTEMPT(TwoStateHold hold, inode.pages_lock.block());
  direct.pos = request.append ? inode.attr.size : request.pos + stash.done;
  TRY(direct.len, clip_write(direct.pos, request.data.size() - stash.done));
  const Attempt<void> taken = inode.busy_ranges.take(direct.range(), direct.busy);
  if (!taken.ok()) return taken;
  if (stash.done == 0) stash.pos = direct.pos;
  direct.hold = std::move(hold);
  direct.phase = Phase::clearing;
  return {};
}

// Writes and drops the folios of the range.
Attempt<void> clear_folios(FileContext& context, Inode& inode, Direct& direct) {
  const FileRange range = direct.range();
  while (true) {
    if (direct.writeback) {  // first: the pages under writeback may be our own
      ATTEMPT_OK(write_back(context, inode, range, *direct.writeback));
      direct.writeback.reset();
    }
    if (context.cache.drop_clean(inode.mapping, range)) break;
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

// Starts reading what block `at` holds now, for a write of a part of it.
void read_edge(FileContext& context, const std::vector<FilePiece>& pieces, FileBlock at,
               AlignedBuffer& edge, Direct& direct) {
  edge = AlignedBuffer(kBlockBytes);
  for (const FilePiece& piece : pieces) {
    if (!piece.range.contains(at) || piece.state != ExtentState::written) continue;
    if (!direct.ticket) direct.ticket = make_ref<IoTicket>();
    const BlockNo block = piece.start + (at - piece.range.first);
    context.device.submit(IoRequest::read(block_addr(block), edge.data(), kBlockBytes),
                          direct.ticket);
    direct.phase = Phase::reading;
  }
}

Attempt<void> plan(FileContext& context, Inode& inode, const WriteRequest& request,
                   WriteStash& stash, Direct& direct) {
  std::vector<FilePiece> pieces;
  ATTEMPT_OK(find_pieces(context, inode, direct.range(), stash.names.pins, pieces));
  Attempt<Reservation> reserved = context.space.reserve(new_blocks(pieces));
  if (reserved.failed() && reserved.error() == Error::no_space &&
      direct.range().count() > BlockCount(1)) {
    const FileRange half =
        file_range(direct.range().first, BlockCount(direct.range().count().value() / 2));
    direct.len = file_pos(half.end) - direct.pos;
    return restart_now();
  }
  ATTEMPT(Reservation reservation, std::move(reserved));

  // Nothing restarts from here on.
  direct.placement.reset();
  direct.placement.reservation() = std::move(reservation);
  for (const FilePiece& piece : pieces) direct.placement.add(piece);
  direct.guard = context.space.guard_io();
  direct.source = request.data.data() + stash.done;
  const uint64_t align = context.device.geometry().logical_block_bytes;
  const bool edges = direct.first_partial() || direct.last_partial();
  if (!edges && reinterpret_cast<uintptr_t>(direct.source) % align == 0) {
    direct.phase = Phase::placing;
    return {};
  }
  direct.phase = Phase::filling;
  const FileRange range = direct.range();
  const FileBlock last = range.end - BlockCount(1);
  if (direct.first_partial()) read_edge(context, pieces, range.first, direct.first_edge, direct);
  const bool one_edge = direct.first_partial() && last == range.first;
  if (direct.last_partial() && !one_edge) {
    read_edge(context, pieces, last, direct.last_edge, direct);
  }
  return {};
}

// The blocks as they will be on the device. `file_size` as it was before.
void fill_bounce(Direct& direct, uint64_t file_size) {
  const FileRange range = direct.range();
  const uint64_t base = file_pos(range.first);
  AlignedBuffer bounce(static_cast<size_t>(block_bytes(range.count())));
  const auto put_edge = [&](const AlignedBuffer& edge, uint64_t edge_pos) {
    if (!edge || edge_pos >= file_size) return;
    // Beyond the end of the file are zeroes, whatever the device has.
    const size_t valid = std::min<uint64_t>(kBlockBytes, file_size - edge_pos);
    std::memcpy(bounce.data() + (edge_pos - base), edge.data(), valid);
  };
  put_edge(direct.first_edge, base);
  put_edge(direct.last_edge, file_pos(range.end) - kBlockBytes);
  std::memcpy(bounce.data() + (direct.pos - base), direct.source, direct.len);
  direct.bounce = std::move(bounce);
  direct.source = direct.bounce.data();
}

void submit(FileContext& context, Direct& direct) {
  direct.ticket = make_ref<IoTicket>();
  IoGather writes(context.device, IoKind::write, direct.ticket);
  const FileBlock first = direct.range().first;
  for (const Placement::Segment& segment : direct.placement.segments()) {
    writes.add(segment.start, direct.source + block_bytes(segment.range.first - first),
               static_cast<size_t>(block_bytes(segment.range.count())));
  }
  writes.submit();
  direct.arm(context.completions, direct.ticket);
  direct.in_flight = true;
  DirectStats& stats = context.direct;
  stats.in_flight_max = std::max(stats.in_flight_max, ++stats.in_flight);
}

// One round: as much as was reserved for.
Attempt<void> write_round(FileContext& context, Inode& inode, const WriteRequest& request,
                          WriteStash& stash, Direct& direct) {
  NodePins& pins = stash.names.pins;
  if (direct.phase == Phase::locking) ATTEMPT_OK(lock_range(inode, request, stash, direct));
  if (direct.phase == Phase::clearing) ATTEMPT_OK(clear_folios(context, inode, direct));
  if (direct.phase == Phase::planning) ATTEMPT_OK(plan(context, inode, request, stash, direct));
  if (direct.phase == Phase::reading) {
    ATTEMPT_OK(direct.ticket->wait());
    direct.phase = Phase::filling;
  }
  if (direct.phase == Phase::filling) {
    direct.phase = Phase::placing;
    return restart_after_outside(
        [&direct, file_size = inode.attr.size] { fill_bounce(direct, file_size); });
  }
  if (direct.phase == Phase::placing) {
    ATTEMPT_OK(direct.placement.allocate(context, inode, pins));
    submit(context, direct);
    direct.phase = Phase::writing;
  }
  // What follows an error, or nothing that could be done at once: see release().
  if (direct.phase == Phase::writing) ATTEMPT_OK(direct.ticket->wait());
  if (!direct.released) {
    ATTEMPT_OK(direct.placement.commit(context, inode, direct.end(), direct.stamp, pins));
  }
  return {};
}

}  // namespace

Attempt<size_t> write_direct(FileContext& context, Inode& inode, const WriteRequest& request,
                             WriteStash& stash) {
  ATTEMPT_OK(check_write(context, inode, request, stash));
  if (!stash.work) stash.work = std::make_unique<Direct>(context, inode, request, stash);
  Direct& direct = static_cast<Direct&>(*stash.work);
  while (stash.done < request.data.size()) {
    const Attempt<void> round = write_round(context, inode, request, stash, direct);
    if (round.must_restart()) return round.restart();
    if (round.ok()) {
      stash.done += direct.len;
      count_part(context, direct.len);
    }
    direct.leave();
    note_progress();
    if (round.ok()) continue;
    if (stash.done == 0) return round.error();
    break;
  }
  count_write(context);
  return stash.done;
}

}  // namespace fusefs
