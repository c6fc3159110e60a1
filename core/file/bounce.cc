// Bouncing: writing storable pages, by copies, because their frames change while they are written.
//
//     pinner     stores    stores    stores    stores
//     page       |-------- under writeback ----------|  dirty all the time, or again, or clean
//     bounce          compare, copy -> write -> commit
//
// The writeback mark comes before the copy. With the copy first, an older copy could be written
// after a newer one that another fsync has made durable meanwhile.
#include <algorithm>
#include <cstring>
#include <utility>

#include "core/file/pinned_range.h"
#include "core/file/write.h"
#include "core/file/writeback_run.h"

namespace fusefs {
namespace {

using State = WritebackStash::State;
using Phase = WritebackStash::State::Phase;

constexpr BlockCount kOne{1};

// The storable folios from stash.cursor on, as many as make a run. Only the first is waited for.
Attempt<std::vector<FolioRef>> gather_storable(const Inode& inode, const WritebackStash& stash) {
  std::vector<FolioRef> folios;
  const FileBlock end = std::min(stash.state->end, file_block_end(inode.attr.size));
  FileBlock at = stash.cursor;
  while (folios.size() < kWritebackRunBytes / kPageBytes) {
    FolioRef folio = inode.mapping.next_storable(at);
    if (!folio || folio->index >= end) break;
    if (folio->locked || folio->writeback) {
      if (!folios.empty()) break;
      return restart_after(folio->changed,
                           folio->locked ? RestartReason::folio_locked : RestartReason::writeback);
    }
    at = folio->index + kOne;
    folios.push_back(std::move(folio));
  }
  return folios;
}

// Outside the monitor. The frames may change at any time; the rest is this run's alone.
//
// What is compared with the device's is in the end the copy, which nobody changes. A page that is
// likely to have stayed as it was is looked at before it is copied.
void copy_changed(State& state) {
  std::byte* copy = state.copies.data();
  for (size_t i = 0; i < state.folios.size(); ++i) {
    const Folio& folio = *state.folios[i];
    BouncedPage& page = state.bounced[i];
    const size_t valid = valid_bytes(folio.index, state.memory_size);
    if (!page.copy_first && page_sum(folio.frame, valid) == page.device_sum) continue;
    std::memcpy(copy, folio.frame, valid);
    std::memset(copy + valid, 0, kPageBytes - valid);
    page.sum = page_sum(copy, kPageBytes);
    if (page.sum == page.device_sum) continue;
    page.copy = copy;
    copy += kPageBytes;
  }
}

// Keeps the pages for which `keep(i)` is true; the others have been let go of.
template <class Keep>
void retain(State& state, Keep&& keep) {
  size_t kept = 0;
  for (size_t i = 0; i < state.folios.size(); ++i) {
    if (!keep(i)) continue;
    if (kept != i) {
      state.folios[kept] = std::move(state.folios[i]);
      state.bounced[kept] = state.bounced[i];
    }
    ++kept;
  }
  state.folios.resize(kept);
  state.bounced.resize(kept);
}

// Who maps a page may have been granted the right to store: while that is so the page is dirty.
PinnedPolicy policy_of(const FileContext& context, const Folio& folio) {
  return folio.is_mapped() ? PinnedPolicy::redirty : context.pins.policy;
}

void let_go_of_unchanged(FileContext& context, State& state) {
  retain(state, [&](size_t i) {
    const BouncedPage& page = state.bounced[i];
    Folio& folio = *state.folios[i];
    folio.pinned->was_stored = page.copy != nullptr;
    if (page.copy != nullptr) return true;
    if (policy_of(context, folio) == PinnedPolicy::unpin) {
      context.cache.take_reservation(folio).release();
      context.cache.end_bounce(folio, page.device_sum, false);
    } else {
      context.cache.end_bounce(folio, page.device_sum, folio.dirty);
    }
    return false;
  });
}

bool lacks_block(const Folio& folio, const FilePiece& piece) {
  return piece.needs_new_blocks() && folio.reservation.count() == BlockCount(0);
}

// Brings the placement's reservation to what pages lack, or as near as there is space.
Attempt<void> reserve_lacking(FileContext& context, State& state,
                              const std::vector<FilePiece>& pieces) {
  BlockCount lacking;
  for_each_page(state.folios, pieces, [&](const Folio& folio, const FilePiece& piece) {
    if (lacks_block(folio, piece)) lacking += kOne;
    return true;
  });
  Reservation& have = state.placement.reservation();
  bool singly = false;
  while (have.count() < lacking) {
    const BlockCount want = singly ? kOne : lacking - have.count();
    Attempt<Reservation> more = context.space.reserve(want, SpaceUse::writeback);
    if (more.ok()) {
      have.merge(std::move(more).value());
      continue;
    }
    if (more.must_restart() || more.error() != Error::no_space) return Unfinished(more);
    if (want == kOne) break;
    singly = true;
  }
  return {};
}

// The page's state while the copy is written.
void set_dirtiness(FileContext& context, Folio& folio, const FilePiece& piece) {
  const bool stays = !piece.needs_new_blocks() && piece.state == ExtentState::written;
  PageCache& cache = context.cache;
  switch (policy_of(context, folio)) {
    case PinnedPolicy::unpin:
      cache.set_storable_dirty(folio, false);
      break;
    case PinnedPolicy::keep:
      if (stays && folio.dirty) break;
      [[fallthrough]];
    case PinnedPolicy::redirty:
      // Its block is this file's alone from now on, or was: the next write goes there and needs no
      // other. Who shares it or cuts it reserves the next one first (pinned_range.h).
      cache.set_storable_dirty(folio, false);
      cache.set_storable_dirty(folio, true);
      ++context.pins.counters().redirtied_count;
      break;
  }
}

}  // namespace

Attempt<bool> begin_bounces(FileContext& context, Inode& inode, WritebackStash& stash) {
  State& state = *stash.state;
  TwoStateHold hold;
  if (!stash.caller_blocks) ATTEMPT_INTO(hold, inode.pages_lock.add());
  ATTEMPT(std::vector<FolioRef> folios, gather_storable(inode, stash));
  if (folios.empty()) return false;
  // From here on the run is under way: nothing restarts in this attempt.
  state.bounced.reserve(folios.size());
  for (const FolioRef& folio : folios) {
    context.cache.begin_bounce(*folio);
    const std::optional<uint64_t> device_sum = folio->pinned->device_sum;
    state.bounced.push_back({device_sum, !device_sum || folio->pinned->was_stored, 0, nullptr});
  }
  state.copies = context.bounce_memory.take(folios.size() * kPageBytes);
  context.pins.counters().compared_count += folios.size();
  stash.cursor = folios.back()->index + kOne;
  stash.hold = std::move(hold);
  state.placement.reset();
  state.memory_size = inode.attr.size;
  state.folios = std::move(folios);
  state.phase = Phase::copying;
  return true;
}

Attempt<void> copy_storable(State& state) {
  if (state.folios.size() > state.context.pins.bounce_inline_pages) {
    return restart_after_outside([&state] { copy_changed(state); });
  }
  copy_changed(state);
  return {};
}

Attempt<void> plan_bounces(FileContext& context, Inode& inode, WritebackStash& stash) {
  State& state = *stash.state;
  let_go_of_unchanged(context, state);
  if (state.folios.empty()) return {};
  ATTEMPT(const std::vector<FilePiece> pieces,
          pieces_of_run(context, inode, state.folios, stash.pins));
  ATTEMPT_OK(reserve_lacking(context, state, pieces));

  // Nothing restarts from here on.
  BlockCount spare = state.placement.reservation().count();
  std::vector<bool> refused(state.folios.size());
  size_t i = 0;
  for_each_page(state.folios, pieces, [&](Folio& folio, const FilePiece& piece) {
    const bool lacks = lacks_block(folio, piece);
    refused[i] = lacks && spare == BlockCount(0);
    if (lacks && !refused[i]) spare -= kOne;
    if (!refused[i]) {
      add_to_placement(context, folio, piece, state);
      set_dirtiness(context, folio, piece);
    }
    ++i;
    return true;
  });
  CHECK(i == state.folios.size());
  inode.delayed_blocks += state.delayed;  // they stay in st_blocks until they are mapped
  retain(state, [&](size_t page) {
    if (!refused[page]) return true;
    context.cache.end_bounce(*state.folios[page], state.bounced[page].device_sum, true);
    ++context.pins.counters().reservation_failed_count;
    return false;
  });
  if (std::find(refused.begin(), refused.end(), true) != refused.end()) {
    record_error(inode, state, Error::no_space);
  }
  touch_contents(context, inode);  // by who has stored, at some time since the last bounce
  state.phase = Phase::allocating;
  return {};
}

void end_page(State& state, size_t i, bool written) {
  Folio& folio = *state.folios[i];
  PageCache& cache = state.context.cache;
  if (!state.bouncing) return cache.end_writeback(folio, written);
  if (written) {
    cache.end_bounce(folio, state.bounced[i].sum, folio.dirty);
  } else {
    cache.end_bounce(folio, std::nullopt, true);
  }
}

}  // namespace fusefs
