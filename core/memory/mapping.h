// Mapping: one inode's folios by page index; PageCache: all of them, and their bound.
//
// Where the bytes lie on the device is the extent map's business and unknown here.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "core/memory/folio.h"

namespace fusefs {

class Mapping {
 public:
  ~Mapping();

  FolioRef find(FileBlock index) const;
  // The first folio at or after `index`.
  FolioRef at_or_after(FileBlock index) const;
  bool empty() const { return folios_.empty(); }
  size_t size() const { return folios_.size(); }
  size_t dirty_count() const { return dirty_.size(); }
  size_t writeback_count() const { return writeback_.size(); }

  // The first dirty folio at or after `index` that is not under writeback.
  FolioRef next_dirty(FileBlock index) const;
  // A folio under writeback in `range`, to wait for; null if there is none.
  FolioRef any_writeback(FileRange range) const;
  bool any_dirty(FileRange range) const;

 private:
  friend class PageCache;
  // Ordered: writeback and truncate walk ranges.
  std::map<FileBlock, FolioRef> folios_;
  std::set<FileBlock> dirty_;
  std::set<FileBlock> writeback_;
};

struct PageCacheStats {
  uint64_t cache_bytes = 0;  // bound
  uint64_t used_bytes = 0;
  uint64_t dirty_bytes = 0;
  uint64_t writeback_bytes = 0;
  uint64_t reclaimed_count = 0;
  uint64_t throttled_count = 0;
};

class PageCache {
 public:
  // `bytes`: the bound; at least 64 pages.
  explicit PageCache(uint64_t bytes);
  ~PageCache();

  // A new folio in `mapping`, not uptodate; the caller fills it. Reclaims a clean one when the
  // arena is full.
  //   Restarts  memory: nothing clean is left; the flusher has been asked
  Attempt<FolioRef> add(Mapping& mapping, FileBlock index);

  // State changes; each wakes `changed` where others may wait.
  void lock(Folio& folio);
  void unlock(Folio& folio);
  void mark_uptodate(Folio& folio);
  void mark_dirty(Folio& folio);
  void begin_writeback(Folio& folio);  // dirty -> writeback, clean
  // Written (or not: then it is dirty again and keeps `error` for fsync's caller to report).
  void end_writeback(Folio& folio, bool written);
  // Takes the folio out of its mapping; its frame is freed with the last reference.
  void remove(Folio& folio);
  // Removes every clean, unlocked folio in `range`; false if another one is left.
  bool drop_clean(Mapping& mapping, FileRange range);
  // Removes everything in `range`, dirty or not. Requires that none is locked or under writeback.
  void discard(Mapping& mapping, FileRange range);
  void touch(Folio& folio);  // recently used

  // More dirty than the flusher should let stand / than writers may add to.
  bool wants_writeback() const;
  bool over_dirty_limit() const;
  // Counts a wait; woken when dirty memory has shrunk.
  Waitable& dirty_shrunk() { return dirty_shrunk_; }
  // Woken when wants_writeback() becomes true.
  Waitable& writeback_wanted() { return writeback_wanted_; }

  FrameArena& arena() { return arena_; }
  const PageCacheStats& stats();

 private:
  friend class Folio;
  FrameArena arena_;
  Waitable dirty_shrunk_;
  Waitable writeback_wanted_;
  PageCacheStats stats_;
  // Extended by the owner of page_cache.cc (LRU list).
  Folio* lru_head_ = nullptr;
  Folio* lru_tail_ = nullptr;
};

}  // namespace fusefs
