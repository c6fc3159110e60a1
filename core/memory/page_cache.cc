#include <algorithm>
#include <cstring>
#include <utility>

#include "core/engine/lock_checker.h"
#include "core/memory/mapping.h"
#include "core/memory/shared_blocks.h"

namespace fusefs {
namespace {

// Shares of the cache that may be dirty: the flusher starts at the first, writers wait at the
// second. The rest is for pages being written, being copied into, and clean.
constexpr uint64_t kBackgroundShare = 4;
constexpr uint64_t kLimitShare = 2;
// Share of the cache that may hold pages read ahead and not used yet.
constexpr uint64_t kReadAheadShare = 8;

}  // namespace

// ---- Folio ----

Folio::Folio(PageCache& cache, Mapping& in, FileBlock at, std::byte* memory)
    : mapping(&in),
      index(at),
      frame(memory),
      of_shared_block(in.of() == MappingOf::shared_blocks),
      cache_(cache) {}

Folio::~Folio() {
  CHECK(mapping == nullptr && !ReclaimPolicy::is_queued(*this));
  if (is_external()) return;
  cache_.arena_.give_back(frame);
  cache_.memory_freed_.wake_all();
}

void Folio::last_reference_dropped() { cache_.unreferenced(*this); }

// ---- PageCache ----

PageCache::PageCache(uint64_t bytes)
    : arena_(std::max(bytes, kCachePagesMin * kPageBytes)),
      background_pages_(arena_.frames_total() / kBackgroundShare),
      limit_pages_(arena_.frames_total() / kLimitShare),
      read_ahead_pages_max_(arena_.frames_total() / kReadAheadShare),
      reclaim_(arena_.frames_total()),
      shared_(std::make_unique<SharedBlocks>(*this)) {}

PageCache::~PageCache() {
  shared_.reset();
  CHECK_MSG(arena_.frames_used() == 0, "folios outlive the page cache");
}

const PageCacheStats& PageCache::stats() {
  stats_.cache_bytes = arena_.frames_total() * kPageBytes;
  stats_.used_bytes = arena_.frames_used() * kPageBytes;
  stats_.dirty_bytes = dirty_pages_ * kPageBytes;
  stats_.writeback_bytes = writeback_pages_ * kPageBytes;
  const ReclaimStats& reclaim = reclaim_.stats();
  stats_.reclaimed_count =
      reclaim.spent_count + reclaim.ahead_count + reclaim.small_count + reclaim.main_count;
  stats_.reclaimed_main_count = reclaim.main_count;
  stats_.ghost_hit_count = reclaim.ghost_hit_count;
  return stats_;
}

std::byte* PageCache::take_frame(ReclaimPolicy::Reach reach) {
  if (std::byte* frame = arena_.take()) return frame;
  Folio* victim = reclaim_.take_victim(reach);
  if (victim == nullptr) return nullptr;
  victim->reclaimed = true;
  detach(*victim);
  return arena_.take();
}

FolioRef PageCache::insert_new(Mapping& mapping, FileBlock index, std::byte* frame,
                               std::shared_ptr<void> frame_owner) {
  if (mapping.id_ == 0) mapping.id_ = ++last_mapping_id_;
  FolioRef folio(new Folio(*this, mapping, index, frame));
  if (frame_owner) {
    folio->pinned = std::make_unique<Folio::Pinned>();
    folio->pinned->frame_owner = std::move(frame_owner);
  }
  folio->reclaim_.key = ReclaimPolicy::key_of(mapping.id_, index);
  mapping.insert(*folio);
  return folio;
}

Attempt<FolioRef> PageCache::add(Mapping& mapping, FileBlock index) {
  CHECK(mapping.find_raw(index) == nullptr);
  if (std::byte* frame = take_frame(ReclaimPolicy::Reach::all)) {
    return insert_new(mapping, index, frame);
  }
  writeback_wanted_.wake_all();
  return restart_after(memory_freed_, RestartReason::memory);
}

FolioRef PageCache::add_spare(Mapping& mapping, FileBlock index) {
  CHECK(mapping.find_raw(index) == nullptr);
  std::byte* frame = take_frame(ReclaimPolicy::Reach::cheap);
  return frame != nullptr ? insert_new(mapping, index, frame) : FolioRef();
}

void PageCache::unreferenced(Folio& folio) {
  if (folio.mapping == nullptr) {
    delete &folio;
  } else if (!folio.uptodate && !folio.locked) {
    detach(folio);
  } else {
    settle(folio);
  }
}

void PageCache::settle(Folio& folio) {
  const bool clean = folio.mapping != nullptr && folio.uptodate && !folio.dirty &&
                     !folio.writeback && !folio.locked && !folio.is_pinned();
  if (!clean) return reclaim_.leave(folio);
  if (folio.ref_count() != 0 || ReclaimPolicy::is_queued(folio)) return;
  reclaim_.enter(folio);
  memory_freed_.wake_all();
}

// Takes the folio out of everything, whatever its state, and frees it if nobody refers to it.
void PageCache::detach(Folio& folio) {
  Mapping& mapping = *folio.mapping;
  mapping.unmap(file_range(folio.index, BlockCount(1)));  // who is told may still look at it
  reclaim_.leave(folio);
  end_read_ahead(folio, false);
  take_reservation(folio).release();
  if (folio.is_pinned()) --pinned_pages_;  // with its inode: nobody pins any more
  if (folio.dirty && !folio.is_storable()) count_dirty(folio, false);
  if (folio.writeback) --writeback_pages_;
  if (lock_checking) LockChecker::instance().release(LockClass::writeback_mark, &folio.changed);
  if (folio.locked) --mapping.locked_count_;  // only being read
  mapping.erase(folio);
  folio.dirty = folio.writeback = false;
  folio.mapping = nullptr;
  if (!over_dirty_limit()) dirty_shrunk_.wake_all();
  folio.changed.wake_all();
  if (folio.ref_count() == 0) delete &folio;
}

void PageCache::note_use(Folio& folio) {
  if (!folio.read_ahead) return reclaim_.note_use(folio);
  end_read_ahead(folio, true);
  folio.of_shared_block ? reclaim_.note_wanted(folio) : reclaim_.note_spent(folio);
}

bool PageCache::make_room_to_read_ahead() {
  if (read_ahead_pages_ < read_ahead_pages_max_) return true;
  Folio* oldest = reclaim_.take_oldest_ahead();
  if (oldest == nullptr) return false;
  oldest->reclaimed = true;
  detach(*oldest);
  return true;
}

void PageCache::mark_read_ahead(Folio& folio) {
  CHECK(!folio.read_ahead && !folio.uptodate);
  folio.read_ahead = true;
  ++read_ahead_pages_;
  reclaim_.note_ahead(folio);
}

void PageCache::end_read_ahead(Folio& folio, bool used) {
  if (!folio.read_ahead) return;
  folio.read_ahead = false;
  --read_ahead_pages_;
  (used ? stats_.read_ahead_hit_bytes : stats_.read_ahead_wasted_bytes) += kPageBytes;
}

void PageCache::lock(Folio& folio) {
  if (lock_checking) LockChecker::instance().ask_and_take(LockClass::folio_lock, &folio.changed);
  set_locked(folio);
}

void PageCache::set_locked(Folio& folio) {
  CHECK(!folio.locked && !folio.writeback);
  folio.locked = true;
  if (folio.mapping != nullptr) ++folio.mapping->locked_count_;
  settle(folio);
}

void PageCache::unlock(Folio& folio) {
  CHECK(folio.locked);
  if (lock_checking) LockChecker::instance().release(LockClass::folio_lock, &folio.changed);
  unset_locked(folio);
}

void PageCache::unset_locked(Folio& folio) {
  folio.locked = false;
  if (folio.mapping != nullptr) --folio.mapping->locked_count_;
  settle(folio);
  folio.changed.wake_all();
}

void PageCache::begin_read(Folio& folio) {
  CHECK(!folio.uptodate);
  if (lock_checking) LockChecker::instance().ask_and_take(LockClass::folio_read, &folio.changed);
  set_locked(folio);
  folio.reading = true;
}

void PageCache::end_read(Folio& folio, bool uptodate) {
  CHECK(folio.reading);
  folio.reading = false;
  if (uptodate) mark_uptodate(folio);
  if (lock_checking) LockChecker::instance().release(LockClass::folio_read, &folio.changed);
  unset_locked(folio);
}

void PageCache::mark_uptodate(Folio& folio) {
  if (folio.uptodate) return;
  folio.uptodate = true;
  folio.changed.wake_all();
}

void PageCache::count_dirty(Folio& folio, bool dirty) {
  folio.dirty = dirty;
  if (!dirty) {
    --dirty_pages_;
    return;
  }
  if (++dirty_pages_ == background_pages_) writeback_wanted_.wake_all();
}

void PageCache::mark_dirty(Folio& folio) {
  CHECK(folio.uptodate && !folio.writeback && !folio.of_shared_block);
  if (folio.dirty || folio.mapping == nullptr) return;
  end_read_ahead(folio, true);
  if (folio.is_storable()) {
    folio.dirty = true;
    return;
  }
  count_dirty(folio, true);
  folio.mapping->set_dirty(folio, true);
  settle(folio);
}

void PageCache::begin_writeback(Folio& folio) {
  CHECK(folio.dirty);
  begin_writethrough(folio);
}

void PageCache::begin_writethrough(Folio& folio) {
  CHECK(folio.uptodate && !folio.locked && !folio.writeback && !folio.of_shared_block);
  if (lock_checking) {
    LockChecker::instance().ask_and_take(LockClass::writeback_mark, &folio.changed);
  }
  CHECK(!folio.is_storable() && !folio.is_granting_store());
  end_read_ahead(folio, true);
  if (folio.dirty) {
    count_dirty(folio, false);
    folio.mapping->set_dirty(folio, false);
  }
  folio.writeback = true;
  settle(folio);
  ++writeback_pages_;
  folio.mapping->set_writeback(folio, true);
}

void PageCache::end_writeback(Folio& folio, bool written) {
  if (lock_checking) LockChecker::instance().release(LockClass::writeback_mark, &folio.changed);
  if (!folio.writeback) {
    CHECK(folio.mapping == nullptr);  // its inode went meanwhile
    return;
  }
  folio.writeback = false;
  --writeback_pages_;
  folio.mapping->set_writeback(folio, false);
  if (!written) mark_dirty(folio);
  settle(folio);
  folio.changed.wake_all();
  if (!over_dirty_limit()) dirty_shrunk_.wake_all();
}

void PageCache::pin(Folio& folio, bool for_writing) {
  CHECK(folio.uptodate && folio.mapping != nullptr && !folio.of_shared_block);
  end_read_ahead(folio, true);
  if (!folio.is_pinned()) ++pinned_pages_;
  if (!folio.pinned) folio.pinned = std::make_unique<Folio::Pinned>();
  if (for_writing && folio.pinned->write_count == 0) {
    CHECK(folio.dirty && !folio.writeback);
    count_dirty(folio, false);
    folio.dirty = true;
    folio.mapping->set_dirty(folio, false);
    if (!over_dirty_limit()) dirty_shrunk_.wake_all();
  }
  ++(for_writing ? folio.pinned->write_count : folio.pinned->read_count);
  folio.mapping->set_pins(folio);
  settle(folio);
}

void PageCache::unpin(Folio& folio, bool for_writing) {
  CHECK(folio.is_pinned() && folio.mapping != nullptr);
  const bool last = folio.pinned->read_count + folio.pinned->write_count == 1;
  CHECK(!last || !folio.is_granting());
  if (for_writing && folio.pinned->write_count == 1) CHECK(!folio.writeback);
  --(for_writing ? folio.pinned->write_count : folio.pinned->read_count);
  folio.mapping->set_pins(folio);
  if (for_writing && !folio.is_storable() && folio.dirty) {
    count_dirty(folio, true);
    folio.mapping->set_dirty(folio, true);
    for (WritebackWatch* watch : folio.mapping->watches_) watch->became_ordinary(folio.index);
  }
  if (!folio.is_pinned()) {
    --pinned_pages_;
    folio.pinned->rights.reset();
    if (!folio.is_external()) folio.pinned.reset();
  }
  settle(folio);
}

void PageCache::pin_mapped(Folio& folio, std::shared_ptr<MappedRights> rights) {
  CHECK(!folio.is_pinned() && rights != nullptr);
  pin(folio, false);
  folio.pinned->rights = std::move(rights);
}

void PageCache::begin_grant(Folio& folio, bool store) {
  CHECK(folio.is_mapped());
  ++(store ? folio.pinned->granting_stores : folio.pinned->granting_loads);
}

void PageCache::end_grant(Folio& folio, bool store) {
  uint32_t& count = store ? folio.pinned->granting_stores : folio.pinned->granting_loads;
  CHECK(count != 0);
  --count;
  folio.changed.wake_all();
}

void PageCache::begin_bounce(Folio& folio) {
  CHECK(folio.is_storable() && !folio.locked && !folio.writeback);
  if (lock_checking) {
    LockChecker::instance().ask_and_take(LockClass::writeback_mark, &folio.changed);
  }
  folio.writeback = true;
  ++writeback_pages_;
  folio.mapping->set_writeback(folio, true);
}

void PageCache::end_bounce(Folio& folio, std::optional<uint64_t> device_sum, bool dirty) {
  if (!folio.writeback) {
    CHECK(folio.mapping == nullptr);  // its inode went meanwhile
    return;
  }
  CHECK(folio.is_storable());
  if (lock_checking) LockChecker::instance().release(LockClass::writeback_mark, &folio.changed);
  folio.pinned->device_sum = device_sum;
  folio.dirty = dirty;
  folio.writeback = false;
  --writeback_pages_;
  folio.mapping->set_writeback(folio, false);
  folio.changed.wake_all();
  if (!over_dirty_limit()) dirty_shrunk_.wake_all();
}

void PageCache::set_storable_dirty(Folio& folio, bool dirty) {
  CHECK(folio.is_storable());
  folio.dirty = dirty;
}

FolioRef PageCache::move_out(Folio& folio, std::byte* frame, std::shared_ptr<void> owner) {
  CHECK(owner != nullptr);
  return move(folio, frame, std::move(owner));
}

Attempt<FolioRef> PageCache::unpin_and_move_in(Folio& folio, bool for_writing) {
  if (std::byte* frame = take_frame(ReclaimPolicy::Reach::all)) {
    unpin(folio, for_writing);
    return move(folio, frame, nullptr);
  }
  writeback_wanted_.wake_all();
  return restart_after(memory_freed_, RestartReason::memory);
}

FolioRef PageCache::move(Folio& folio, std::byte* frame, std::shared_ptr<void> owner) {
  CHECK(folio.mapping != nullptr && folio.uptodate);
  CHECK(!folio.locked && !folio.writeback && !folio.is_pinned());
  const FolioRef old(&folio);
  Mapping& mapping = *folio.mapping;
  const bool dirty = folio.dirty;
  Reservation reservation = take_reservation(folio);
  detach(folio);
  FolioRef moved = insert_new(mapping, old->index, frame, std::move(owner));
  std::memcpy(moved->frame, old->frame, kPageBytes);
  mark_uptodate(*moved);
  if (dirty) mark_dirty(*moved);
  give_reservation(*moved, std::move(reservation));
  return moved;
}

void PageCache::give_reservation(Folio& folio, Reservation reservation) {
  if (folio.mapping == nullptr) return;
  if (BlockCount* delayed = folio.mapping->delayed_blocks_) *delayed += reservation.count();
  folio.reservation.merge(std::move(reservation));
}

Reservation PageCache::take_reservation(Folio& folio) {
  if (folio.mapping != nullptr && folio.mapping->delayed_blocks_ != nullptr) {
    *folio.mapping->delayed_blocks_ -= folio.reservation.count();
  }
  return std::move(folio.reservation);
}

void PageCache::remove(Folio& folio) {
  CHECK(!folio.writeback && (!folio.locked || folio.reading) && !folio.is_pinned());
  if (folio.mapping != nullptr) detach(folio);
}

bool PageCache::drop_clean(Mapping& mapping, FileRange range) {
  mapping.unmap(range);  // shared pages too, which are in no file's mapping
  bool all = true;
  FileBlock at = range.first;
  while (Folio* folio = mapping.first_raw(at)) {
    if (folio->index >= range.end) break;
    at = folio->index + BlockCount(1);
    if (folio->is_pinned()) continue;
    if (folio->dirty || folio->writeback || (folio->locked && !folio->reading)) {
      all = false;
    } else {
      detach(*folio);
    }
  }
  return all;
}

void PageCache::discard(Mapping& mapping, FileRange range) {
  CHECK(!mapping.any_locked(range) && !mapping.any_writeback(range));
  mapping.unmap(range);
  detach_all(mapping, range);
}

void PageCache::detach_all(Mapping& mapping, FileRange range) {
  FileBlock at = range.first;
  while (Folio* folio = mapping.first_raw(at)) {
    if (folio->index >= range.end) break;
    at = folio->index + BlockCount(1);
    if (!folio->is_pinned()) detach(*folio);
  }
}

}  // namespace fusefs
