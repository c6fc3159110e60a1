#include <algorithm>

#include "core/memory/mapping.h"
#include "core/memory/shared_blocks.h"

namespace fusefs {
namespace {

// Shares of the cache that may be dirty: the flusher starts at the first, writers wait at the
// second. The rest is for pages being written, being copied into, and clean.
constexpr uint64_t kBackgroundShare = 4;
constexpr uint64_t kLimitShare = 2;

}  // namespace

// ---- Folio ----

Folio::Folio(PageCache& cache, Mapping& in, FileBlock at, std::byte* memory)
    : mapping(&in),
      index(at),
      frame(memory),
      of_shared_block(in.of() == MappingOf::shared_blocks),
      cache_(cache) {}

Folio::~Folio() {
  CHECK(mapping == nullptr && !idle_);
  cache_.arena_.give_back(frame);
  cache_.memory_freed_.wake_all();
}

void Folio::last_reference_dropped() { cache_.unreferenced(*this); }

// ---- PageCache ----

PageCache::PageCache(uint64_t bytes)
    : arena_(std::max(bytes, kCachePagesMin * kPageBytes)),
      background_pages_(arena_.frames_total() / kBackgroundShare),
      limit_pages_(arena_.frames_total() / kLimitShare),
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
  return stats_;
}

Attempt<FolioRef> PageCache::add(Mapping& mapping, FileBlock index) {
  CHECK(mapping.find_raw(index) == nullptr);
  std::byte* frame = arena_.take();
  if (frame == nullptr && reclaim_one() != nullptr) frame = arena_.take();
  if (frame == nullptr) {
    writeback_wanted_.wake_all();
    return restart_after(memory_freed_, RestartReason::memory);
  }
  FolioRef folio(new Folio(*this, mapping, index, frame));
  mapping.insert(*folio);
  return folio;
}

void PageCache::unreferenced(Folio& folio) {
  if (folio.mapping == nullptr) {
    delete &folio;
  } else if (!folio.uptodate && !folio.locked) {
    detach(folio);
  } else {
    unlink_idle(folio);  // to the young end
    settle(folio);
    if (folio.idle_) memory_freed_.wake_all();
  }
}

void PageCache::settle(Folio& folio) {
  const bool idle = folio.mapping != nullptr && folio.ref_count() == 0 && folio.uptodate &&
                    !folio.dirty && !folio.writeback && !folio.locked;
  if (idle == folio.idle_) return;
  if (!idle) return unlink_idle(folio);
  folio.idle_ = true;
  folio.idle_previous_ = idle_tail_;
  folio.idle_next_ = nullptr;
  (idle_tail_ != nullptr ? idle_tail_->idle_next_ : idle_head_) = &folio;
  idle_tail_ = &folio;
}

void PageCache::unlink_idle(Folio& folio) {
  if (!folio.idle_) return;
  folio.idle_ = false;
  (folio.idle_previous_ != nullptr ? folio.idle_previous_->idle_next_ : idle_head_) =
      folio.idle_next_;
  (folio.idle_next_ != nullptr ? folio.idle_next_->idle_previous_ : idle_tail_) =
      folio.idle_previous_;
}

// Frees the frame of one folio. The returned pointer says whether, and is dead.
Folio* PageCache::reclaim_one() {
  while (idle_head_ != nullptr) {
    Folio& folio = *idle_head_;
    if (folio.ref_count() != 0) {
      unlink_idle(folio);  // comes back when its last reference is dropped
      continue;
    }
    ++stats_.reclaimed_count;
    detach(folio);
    return &folio;
  }
  return nullptr;
}

// Takes the folio out of everything, whatever its state, and frees it if nobody refers to it.
void PageCache::detach(Folio& folio) {
  Mapping& mapping = *folio.mapping;
  unlink_idle(folio);
  take_reservation(folio).release();
  if (folio.dirty) count_dirty(folio, false);
  if (folio.writeback) --writeback_pages_;
  mapping.erase(folio);
  folio.dirty = folio.writeback = false;
  folio.mapping = nullptr;
  if (!over_dirty_limit()) dirty_shrunk_.wake_all();
  folio.changed.wake_all();
  if (folio.ref_count() == 0) delete &folio;
}

void PageCache::lock(Folio& folio) {
  CHECK(!folio.locked && !folio.writeback);
  folio.locked = true;
  settle(folio);
}

void PageCache::unlock(Folio& folio) {
  CHECK(folio.locked);
  folio.locked = false;
  settle(folio);
  folio.changed.wake_all();
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
  count_dirty(folio, true);
  folio.mapping->set_dirty(folio, true);
  settle(folio);
}

void PageCache::begin_writeback(Folio& folio) {
  CHECK(folio.dirty && !folio.locked && !folio.writeback);
  count_dirty(folio, false);
  folio.mapping->set_dirty(folio, false);
  folio.writeback = true;
  ++writeback_pages_;
  folio.mapping->set_writeback(folio, true);
}

void PageCache::end_writeback(Folio& folio, bool written) {
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
  CHECK(!folio.writeback && !folio.locked);
  if (folio.mapping != nullptr) detach(folio);
}

bool PageCache::drop_clean(Mapping& mapping, FileRange range) {
  bool all = true;
  FileBlock at = range.first;
  while (Folio* folio = mapping.first_raw(at)) {
    if (folio->index >= range.end) break;
    at = folio->index + BlockCount(1);
    if (folio->dirty || folio->writeback || folio->locked) {
      all = false;
    } else {
      detach(*folio);
    }
  }
  return all;
}

void PageCache::discard(Mapping& mapping, FileRange range) {
  CHECK(!mapping.any_locked(range) && !mapping.any_writeback(range));
  detach_all(mapping, range);
}

void PageCache::detach_all(Mapping& mapping, FileRange range) {
  while (Folio* folio = mapping.first_raw(range.first)) {
    if (folio->index >= range.end) break;
    detach(*folio);
  }
}

}  // namespace fusefs
