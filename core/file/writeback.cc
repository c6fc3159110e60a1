#include "core/file/writeback.h"

#include <algorithm>
#include <cstring>

#include "core/file/pinned_range.h"
#include "core/file/writeback_run.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};

}  // namespace

WritebackStash::WritebackStash() = default;
WritebackStash::~WritebackStash() = default;

void WritebackStash::State::set_range(FileRange range) {
  whole = range;
  first = range.first;
  end = range.end;
  inode.mapping.add_watch(*this);
}

//     this call                       end of a pin
//     page is storable: not dirty's
//                                     lets go of it: dirty
//     page is not storable
//     durable, without it
void WritebackStash::State::became_ordinary(FileBlock index) {
  if (!stash.bounce) return;
  if (index < whole.first || index >= whole.end) return;
  const bool in_round = index >= first && index < end;
  const bool passed = in_round && index < stash.cursor;
  // In what is gone through now: not met as dirty any more / as storable yet.
  if (in_round && passed != bouncing) missed.insert(index);
}

//     this call                       flusher
//                                     page is under writeback: waits for the right to store
//     page is not dirty
//     waits for writeback             right is late: gives up; storable
//     durable, without it
void WritebackStash::State::given_up(FileBlock index) {
  if (!stash.bounce) return;
  if (index < whole.first || index >= whole.end) return;
  const bool will_be_met = !bouncing && index >= stash.cursor && index < end;
  if (!will_be_met) missed.insert(index);
}

//     this call                       flusher, O_DSYNC write
//                                     page is under writeback
//     page is not dirty
//     waits for writeback             the device fails: dirty again
//     on the device, it says
void WritebackStash::State::failed(FileBlock index, Error a_error) {
  if (index >= whole.first && index < whole.end && !error) error = a_error;
}

bool WritebackStash::State::begin_missed() {
  if (missed.empty()) return false;
  first = end = *missed.begin();
  while (!missed.empty() && *missed.begin() == end) {
    missed.erase(missed.begin());
    end += kOne;
  }
  bouncing = false;
  return true;
}

void WritebackStash::State::abandon() {
  inode.mapping.remove_watch(*this);
  for (size_t i = 0; i < folios.size(); ++i) {
    if (folios[i]->writeback) end_page(*this, i, false);
  }
  inode.delayed_blocks -= std::exchange(delayed, BlockCount(0));
}

namespace {

using State = WritebackStash::State;
using Phase = WritebackStash::State::Phase;

// The dirty folios from stash.cursor on that make up the next run. Only the first may be waited
// for; a later one that is locked ends the run. Those whose rights are late become storable
// instead.
Attempt<std::vector<FolioRef>> gather_run(FileContext& context, Inode& inode,
                                          WritebackStash& stash) {
  RightsWait& wait = stash.state->granting;
  std::vector<FolioRef> folios;
  size_t pieces = 0;
  size_t looked_at = 0;
  FileBlock at = stash.cursor;
  for (; looked_at < kWritebackRunBytes / kPageBytes; ++looked_at) {
    FolioRef folio = inode.mapping.next_dirty(at);
    if (!folio || folio->index >= stash.state->end) break;
    if (folio->locked) {
      if (!folios.empty()) break;
      return restart_after(folio->changed, RestartReason::folio_locked);
    }
    if (folio->is_mapped()) {
      const std::shared_ptr<MappedRights>& rights = folio->pinned->rights;
      const bool granting = folio->is_granting_store();
      if (are_late(context, *rights) || (granting && wait.is_over(context, *rights))) {
        at = folio->index + kOne;
        make_storable(context, inode, *folio);
        continue;
      }
      if (granting && !folios.empty()) break;
      if (granting) return wait.restart(context, rights);
    }
    const bool follows = !folios.empty() && folios.back()->index + kOne == folio->index;
    if (!follows && ++pieces > kWritebackRunPieces) break;
    at = folio->index + kOne;
    folios.push_back(std::move(folio));
  }
  wait.reset();
  if (folios.empty() && looked_at != 0) {  // there may be more
    note_progress();
    return restart_now();
  }
  return folios;
}

}  // namespace

Attempt<std::vector<FilePiece>> pieces_of_run(FileContext& context, Inode& inode,
                                              const std::vector<FolioRef>& folios, NodePins& pins) {
  std::vector<FilePiece> pieces;
  for (size_t i = 0; i < folios.size();) {
    FileRange range = page_range(*folios[i]);
    for (++i; i < folios.size() && folios[i]->index == range.end; ++i) range.end += kOne;
    ATTEMPT_OK(find_pieces(context, inode, range, pins, pieces));
  }
  return pieces;
}

void record_error(Inode& inode, State& state, Error error) {
  ++inode.write_error_count;
  inode.write_error = error;
  if (!state.error) state.error = error;
}

namespace {

// Reserves for pages whose extent has become shared since they became dirty. Where there is no
// space, cuts the run down to what has its blocks.
Attempt<Reservation> reserve_missing(FileContext& context, std::vector<FolioRef>& folios,
                                     const std::vector<FilePiece>& pieces) {
  BlockCount missing;
  for_each_page(folios, pieces, [&](const Folio& folio, const FilePiece& piece) {
    if (piece.needs_new_blocks() && folio.reservation.count() == BlockCount(0)) missing += kOne;
    return true;
  });
  if (missing == BlockCount(0)) return Reservation();
  Attempt<Reservation> reserved = context.space.reserve(missing, SpaceUse::writeback);
  if (!reserved.failed() || reserved.error() != Error::no_space) return reserved;
  size_t provided = 0;
  for_each_page(folios, pieces, [&](const Folio& folio, const FilePiece& piece) {
    if (piece.needs_new_blocks() && folio.reservation.count() == BlockCount(0)) return false;
    ++provided;
    return true;
  });
  folios.resize(provided);
  return Reservation();
}

}  // namespace

void add_to_placement(FileContext& context, Folio& folio, const FilePiece& piece, State& state) {
  Reservation reservation = context.cache.take_reservation(folio);
  state.delayed += reservation.count();
  // What an overwrite in place does not need is given back with the variable.
  if (piece.needs_new_blocks()) state.placement.reservation().merge(std::move(reservation));
  FilePiece page = piece;
  page.range = page_range(folio);
  page.start = piece.start + (folio.index - piece.range.first);
  state.placement.add(page);
}

namespace {

// Begins a run. False when nothing dirty is left before the end.
Attempt<bool> begin_run(FileContext& context, Inode& inode, WritebackStash& stash) {
  State& state = *stash.state;
  TwoStateHold hold;
  if (!stash.caller_blocks) ATTEMPT_INTO(hold, inode.pages_lock.add());
  if (inode.tail_unknown) {  // it comes before what another run brings to the device
    const FolioRef tail = inode.mapping.find(file_block_at(inode.disk_size));
    if (tail && tail->writeback) return restart_after(tail->changed, RestartReason::writeback);
  }
  ATTEMPT(std::vector<FolioRef> folios, gather_run(context, inode, stash));
  if (folios.empty()) return false;
  const FileBlock first = folios.front()->index;
  ATTEMPT(const std::vector<FilePiece> pieces, pieces_of_run(context, inode, folios, stash.pins));
  ATTEMPT(Reservation missing, reserve_missing(context, folios, pieces));

  if (folios.empty()) {
    record_error(inode, state, Error::no_space);
    stash.cursor = first + kOne;
    return true;
  }
  // From here on the run is under way: nothing restarts in this attempt.
  state.placement.reset();
  state.placement.reservation() = std::move(missing);
  for_each_page(folios, pieces, [&](Folio& folio, const FilePiece& piece) {
    context.cache.begin_writeback(folio);
    add_to_placement(context, folio, piece, state);
    return true;
  });
  inode.delayed_blocks += state.delayed;  // they stay in st_blocks until they are mapped
  stash.cursor = folios.back()->index + kOne;
  stash.hold = std::move(hold);
  state.folios = std::move(folios);
  state.taken.ask(context, state.folios);
  state.phase = Phase::protecting;
  return true;
}

// Who maps some of the pages may store into them as before: whoever bounces writes those. The run
// begins again with the others.
void give_up_late(FileContext& context, Inode& inode, WritebackStash& stash) {
  State& state = *stash.state;
  stash.cursor = state.folios.front()->index;
  dirty_again(context, state.placement, state.folios);
  for (const FolioRef& folio : state.folios) {
    if (folio->is_mapped() && folio->dirty && !state.taken.has(*folio)) {
      make_storable(context, inode, *folio);
    }
    inode.mapping.note_given_up(folio->index);
  }
  state.folios.clear();
}

// Bytes beyond the end of the file are zero on the device. Copies have been made that way.
void zero_beyond_size(const State& state) {
  if (state.bouncing) return;
  Folio& last = *state.folios.back();
  const size_t valid = valid_bytes(last.index, state.memory_size);
  std::memset(last.frame + valid, 0, kPageBytes - valid);
}

void submit_run(FileContext& context, Inode& inode, State& state) {
  state.memory_size = inode.attr.size;
  zero_beyond_size(state);
  state.ticket = make_ref<IoTicket>();
  IoGather writes(context.device, IoKind::write, state.ticket);
  size_t i = 0;
  for (const Placement::Segment& segment : state.placement.segments()) {
    for (FileBlock at = segment.range.first; at < segment.range.end; ++at, ++i) {
      CHECK(state.folios[i]->index == at);
      const std::byte* source = state.bouncing ? state.bounced[i].copy : state.folios[i]->frame;
      writes.add(segment.start + (at - segment.range.first), source, kPageBytes);
    }
  }
  if (state.bouncing) {
    ++context.pins.counters().bounced_count;
    context.pins.counters().bounced_bytes += state.folios.size() * kPageBytes;
  }
  ++context.stats.writeback_count;
  context.stats.writeback_bytes += state.folios.size() * kPageBytes;
}

// What the size on the device becomes with this run: no byte beyond what it has written.
uint64_t disk_size_after(const Inode& inode, const State& state) {
  const uint64_t written_end = file_pos(state.folios.back()->index + kOne);
  return std::max(inode.disk_size, std::min(state.memory_size, written_end));
}

Attempt<void> advance_run(FileContext& context, Inode& inode, WritebackStash& stash) {
  State& state = *stash.state;
  if (state.phase == Phase::protecting) {
    ATTEMPT(const bool taken, state.taken.wait(context));
    state.phase = Phase::allocating;
    if (!taken) give_up_late(context, inode, stash);
  }
  if (state.phase == Phase::copying) {
    state.phase = Phase::planning;
    ATTEMPT_OK(copy_storable(state));
  }
  if (state.phase == Phase::planning) ATTEMPT_OK(plan_bounces(context, inode, stash));
  if (state.folios.empty()) return {};  // nothing to bounce, or late
  if (state.phase == Phase::allocating) {
    ATTEMPT_OK(state.placement.allocate(context, inode, stash.pins));
    submit_run(context, inode, state);
    state.phase = Phase::writing;
  }
  if (state.phase == Phase::writing) {
    ATTEMPT_OK(state.ticket->wait());
    state.stamp = context.write_cache.note_write();
    state.phase = Phase::committing;
  }
  const uint64_t disk_size = disk_size_after(inode, state);
  if (state.placement.needs_commit(inode, disk_size)) {
    ATTEMPT_OK(state.placement.commit(context, inode, disk_size, state.stamp, stash.pins));
  } else {
    inode.data_stamp = state.stamp;
  }
  return {};
}

void leave_run(WritebackStash& stash) {
  State& state = *stash.state;
  state.inode.delayed_blocks -= std::exchange(state.delayed, BlockCount(0));
  state.folios.clear();
  state.taken.reset();
  state.bounced.clear();
  state.copies.release();
  state.placement.reset();
  state.ticket.reset();
  state.phase = Phase::walking;
  stash.hold.release();
  note_progress();
}

void end_run(FileContext& context, WritebackStash& stash) {
  State& state = *stash.state;
  for (size_t i = 0; i < state.folios.size(); ++i) end_page(state, i, true);
  if (!state.folios.empty()) context.failed_runs_in_row = 0;
  leave_run(stash);
}

void fail_run(FileContext& context, Inode& inode, WritebackStash& stash, Error error) {
  State& state = *stash.state;
  if (state.bouncing) {  // perhaps half of a copy is there
    for (const FolioRef& folio : state.folios) folio->pinned->device_sum.reset();
  }
  dirty_again(context, state.placement, state.folios);
  record_error(inode, state, error);
  for (const FolioRef& folio : state.folios) inode.mapping.note_failed(folio->index, error);
  ++context.failed_runs_in_row;
  context.cache.dirty_shrunk().wake_all();  // writers look whether there is still hope
  leave_run(stash);
}

}  // namespace

Attempt<void> write_back(FileContext& context, Inode& inode, FileRange range,
                         WritebackStash& stash) {
  if (!stash.state) {
    stash.state = std::make_unique<State>(context, inode, stash);
    // No size goes to the device past a tail that is only in memory.
    const FileBlock first =
        inode.tail_unknown ? std::min(range.first, file_block_at(inode.disk_size)) : range.first;
    // An appending writer must not be followed for ever.
    stash.state->set_range({first, std::min(range.end, file_block_end(inode.attr.size))});
    stash.cursor = first;
    const bool to_the_end = range.first <= file_block_at(inode.disk_size) &&
                            range.end >= file_block_end(inode.attr.size);
    if (stash.bounce && to_the_end) stash.bounced_size = inode.attr.size;
  }
  State& state = *stash.state;
  while (true) {
    if (state.phase != Phase::walking) {
      const Attempt<void> run = advance_run(context, inode, stash);
      if (run.must_restart()) return run;
      if (run.ok()) {
        end_run(context, stash);
      } else {
        fail_run(context, inode, stash, run.error());
      }
    }
    if (stash.cursor >= state.end) {
      if (stash.bounce && !state.bouncing) {
        state.bouncing = true;
      } else if (!state.begin_missed()) {
        break;
      }
      stash.cursor = state.first;
      continue;
    }
    if (!context.health.writable()) {
      const FileRange left{stash.cursor, state.end};
      const bool pending = inode.mapping.any_dirty(left) ||
                           (stash.bounce && inode.mapping.any_storable(state.whole));
      if (pending && !state.error) {
        state.error = context.health.failed() ? context.health.error() : Error::read_only_volume;
      }
      context.cache.dirty_shrunk().wake_all();  // writers look whether there is still hope
      break;
    }
    ATTEMPT(const bool begun, state.bouncing ? begin_bounces(context, inode, stash)
                                             : begin_run(context, inode, stash));
    if (!begun) stash.cursor = state.end;
  }
  const bool has_range = state.whole.first < state.whole.end;
  if (has_range) {
    if (FolioRef folio = inode.mapping.any_writeback(state.whole)) {
      return restart_after(folio->changed, RestartReason::writeback);
    }
  }
  if (!stash.bounce && has_range && inode.mapping.any_storable(state.whole)) {
    ++context.pins.counters().skipped_count;
  }
  if (state.error) return *state.error;
  return {};
}

void dirty_again(FileContext& context, Placement& placement, const std::vector<FolioRef>& folios) {
  for (const FolioRef& folio : folios) context.cache.end_writeback(*folio, false);
  const BlockCount wanted = placement.uncommitted_blocks();
  placement.cancel();
  Reservation& kept = placement.reservation();
  if (kept.count() < wanted) {
    Attempt<Reservation> again = context.space.reserve(wanted - kept.count(), SpaceUse::writeback);
    if (again.ok()) kept.merge(std::move(again).value());
  }
  for (const Placement::Segment& segment : placement.segments()) {
    if (segment.kind != Placement::Kind::fresh) continue;
    for (const FolioRef& folio : folios) {
      if (!segment.range.contains(folio->index) || kept.count() == BlockCount(0)) continue;
      context.cache.give_reservation(*folio, kept.split(kOne));
    }
  }
}

void note_pending_size(FileContext& context, Inode& inode) {
  if (inode.mapping.storable_count() == 0 || inode.attr.size == inode.disk_size) return;
  context.inodes.mark_attr_dirty(inode);
}

Attempt<void> save_attr(FileContext& context, Inode& inode, NodePins& pins, uint64_t bounced_size) {
  if (!inode.attr_dirty || context.names.is_reapable(inode)) return {};
  const FileRange beyond{file_block_at(inode.disk_size), kFileBlocksMax};
  const bool more_to_come = inode.attr.is_regular() && (inode.mapping.any_dirty(beyond) ||
                                                        inode.mapping.any_writeback(beyond));
  uint64_t size = more_to_come ? inode.disk_size : inode.attr.size;
  const bool storable = inode.attr.is_regular() && inode.mapping.any_storable(beyond);
  if (storable) size = std::min(size, std::max(inode.disk_size, bounced_size));
  Transaction txn(context.store, pins);
  context.inodes.put_inode(txn, inode, size);
  if (size > inode.disk_size) txn.shows_data(inode.tail_stamp);
  ATTEMPT_OK(txn.prepare());
  const JournalSeq seq = txn.commit();
  // What makes a grown file readable to its end is part of its data.
  context.inodes.saved(inode, seq, size, size != inode.disk_size);
  // The rest of the size is for fsync, and for who ends the pin: nobody else has to come again.
  if (storable && !more_to_come) inode.attr_dirty = false;
  return {};
}

}  // namespace fusefs
