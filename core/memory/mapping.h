// Mapping: one inode's folios by page index; PageCache: all of them, and their bound.
//
// One more mapping holds the clean pages of shared blocks, by block (shared_blocks.h).
//
// Where the bytes lie on the device is the extent map's business and unknown here.
//
// Folios are found through leaves of 64 pages, each with a bitmap of what is dirty and what is
// under writeback, so that writeback walks what is dirty and nothing else. What is pinned has
// bitmaps of its own: who walks the dirty pages does not meet the storable ones.
//
//     leaves_: 0 -> [ ....DD..W.... ]   17 -> [ D............ ]   leaf number = index / 64
//     dirty_leaves_: 0, 17              writeback_leaves_: 0
//
// Monitor held for every call.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "core/base/error.h"
#include "core/memory/folio.h"
#include "core/memory/reclaim_policy.h"
#include "core/memory/translations.h"

namespace fusefs {

class SharedBlocks;

enum class MappingOf : uint8_t { file, shared_blocks };

// Is told of pages that who goes through the dirty pages first and through the storable ones then,
// and waits for those that somebody else writes, would miss; and of what comes of that waiting.
class WritebackWatch {
 public:
  // It is dirty, and was storable.
  virtual void became_ordinary(FileBlock index) = 0;
  // It is dirty or storable, and was under writeback that has been given up.
  virtual void given_up(FileBlock index) = 0;
  // The same, because the device or the volume has failed.
  virtual void failed(FileBlock index, Error error) = 0;

 protected:
  ~WritebackWatch() = default;
};

class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(MappingOf what) : of_(what) {}
  // `delayed_blocks` follows what the folios have reserved.
  explicit Mapping(BlockCount* delayed_blocks) : delayed_blocks_(delayed_blocks) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  // Drops what is left, dirty or not.
  ~Mapping();

  FolioRef find(FileBlock index) const;
  // The first folio at or after `index`.
  FolioRef at_or_after(FileBlock index) const;
  bool empty() const { return count_ == 0; }
  size_t size() const { return count_; }
  size_t dirty_count() const { return dirty_count_; }
  size_t writeback_count() const { return writeback_count_; }

  // Pinned at all, and for writing.
  size_t pinned_count() const { return pinned_count_; }
  size_t storable_count() const { return storable_count_; }

  // The first dirty folio at or after `index` (one under writeback is not dirty, nor is one that is
  // storable: see next_storable()).
  FolioRef next_dirty(FileBlock index) const;
  // The first folio under writeback in `range`, to wait for; null if there is none.
  FolioRef any_writeback(FileRange range) const;
  // A locked folio in `range`, to wait for. One that is only being read is not: it may be removed.
  FolioRef any_locked(FileRange range) const;
  bool any_dirty(FileRange range) const;
  FolioRef next_pinned(FileBlock index) const;
  FolioRef next_storable(FileBlock index) const;
  bool any_pinned(FileRange range) const;
  bool any_storable(FileRange range) const;
  MappingOf of() const { return of_; }

  // Until remove_watch().
  void add_watch(WritebackWatch& watch) { watches_.push_back(&watch); }
  void remove_watch(WritebackWatch& watch) { std::erase(watches_, &watch); }
  void note_given_up(FileBlock index) {
    for (WritebackWatch* watch : watches_) watch->given_up(index);
  }
  void note_failed(FileBlock index, Error error) {
    for (WritebackWatch* watch : watches_) watch->failed(index, error);
  }

  // Who is told when pages of this file move or go; null: nobody. Outlives the mapping.
  void set_translations(Translations* translations) { translations_ = translations; }
  // Told by PageCache when folios go; by a fault before a new one takes the place of a shared page.
  void unmap(FileRange range) const {
    if (translations_ != nullptr) translations_->unmap(range);
  }

 private:
  friend class PageCache;
  static constexpr uint64_t kLeafPages = 64;
  struct Leaf {
    std::array<Folio*, kLeafPages> slots = {};
    uint64_t present = 0;
    uint64_t dirty = 0;
    uint64_t writeback = 0;
    uint64_t pinned = 0;
    uint64_t storable = 0;
  };
  using LeafNumbers = std::set<uint64_t>;

  static uint64_t leaf_of(FileBlock index) { return index.value() / kLeafPages; }
  static uint64_t bit_of(FileBlock index) { return uint64_t{1} << (index.value() % kLeafPages); }
  const Leaf* leaf_at(uint64_t number) const;
  Folio* find_raw(FileBlock index) const;
  Folio* first_raw(FileBlock index) const;
  Folio* first_marked(const LeafNumbers& leaves, uint64_t Leaf::*bits, FileBlock index) const;
  void insert(Folio& folio);
  void erase(Folio& folio);
  void set_dirty(const Folio& folio, bool dirty);
  void set_writeback(const Folio& folio, bool writeback);
  void set_pins(const Folio& folio);
  void set_mark(LeafNumbers& leaves, uint64_t Leaf::*bits, size_t& count, const Folio& folio,
                bool mark);

  const MappingOf of_ = MappingOf::file;
  uint64_t id_ = 0;  // given by the cache; never used twice
  BlockCount* const delayed_blocks_ = nullptr;
  Translations* translations_ = nullptr;
  std::map<uint64_t, Leaf> leaves_;
  LeafNumbers dirty_leaves_;
  LeafNumbers writeback_leaves_;
  LeafNumbers pinned_leaves_;
  LeafNumbers storable_leaves_;
  std::vector<WritebackWatch*> watches_;
  mutable uint64_t last_number_ = ~uint64_t{0};  // of the leaf that was used last
  mutable Leaf* last_leaf_ = nullptr;
  size_t count_ = 0;
  size_t dirty_count_ = 0;
  size_t writeback_count_ = 0;
  size_t pinned_count_ = 0;
  size_t storable_count_ = 0;
  size_t locked_count_ = 0;  // those being read included
};

struct PageCacheStats {
  uint64_t cache_bytes = 0;  // bound
  uint64_t used_bytes = 0;
  uint64_t dirty_bytes = 0;
  uint64_t writeback_bytes = 0;
  uint64_t reclaimed_count = 0;
  uint64_t reclaimed_main_count = 0;  // of these, from the main queue
  uint64_t ghost_hit_count = 0;
  uint64_t throttled_count = 0;
  uint64_t read_ahead_hit_bytes = 0;     // read ahead, and then used
  uint64_t read_ahead_wasted_bytes = 0;  // dropped before anybody used it
};

inline constexpr uint64_t kCachePagesMin = 64;

// Outlives every mapping and every folio.
class PageCache {
 public:
  // `bytes`: the bound; at least kCachePagesMin pages.
  explicit PageCache(uint64_t bytes);
  ~PageCache();

  // A new folio in `mapping`, not uptodate; the caller fills it. Reclaims a clean one when the
  // arena is full. Requires that there is none at `index`.
  //   Restarts  memory: nothing clean is left; the flusher has been asked. Who holds folios in its
  //             stash must not wait for it: it goes on with those it has.
  Attempt<FolioRef> add(Mapping& mapping, FileBlock index);

  // The same from a free frame, or from that of a page nobody has used again; null if there is
  // neither. For what is done on suspicion only.
  FolioRef add_spare(Mapping& mapping, FileBlock index);

  // An uptodate page has been found and used / will hardly be used again. The first use of a page
  // read ahead is its last, unless its block is shared: the kernel above has it then.
  void note_use(Folio& folio);
  void note_spent(Folio& folio) { reclaim_.note_spent(folio); }

  // The page is there on suspicion, until its first use; there may be only so many of them.
  void mark_read_ahead(Folio& folio);
  // Whether there may be one more; the oldest of them is dropped for it.
  bool make_room_to_read_ahead();
  uint64_t read_ahead_bytes_max() const { return read_ahead_pages_max_ * kPageBytes; }

  // State changes; each wakes `changed` where others may wait.
  void lock(Folio& folio);
  void unlock(Folio& folio);
  void mark_uptodate(Folio& folio);
  // Locked by who reads the content from the device: it may be removed meanwhile. Requires neither
  // uptodate nor locked. Ends with or without success, also for a folio that has been removed.
  void begin_read(Folio& folio);
  void end_read(Folio& folio, bool uptodate);
  // Requires uptodate and not under writeback.
  void mark_dirty(Folio& folio);
  void begin_writeback(Folio& folio);  // dirty -> writeback, clean
  // The same for a page that need not be dirty: it is written as it is. Requires uptodate, and
  // somebody's reference.
  void begin_writethrough(Folio& folio);
  // Written: clean. Not written: dirty again.
  void end_writeback(Folio& folio, bool written);
  // The block a dirty folio will need; the delayed blocks of its file follow.
  void give_reservation(Folio& folio, Reservation reservation);
  Reservation take_reservation(Folio& folio);

  // One more pin / one less. Requires uptodate; for writing not under writeback, and dirty with the
  // block it will need. The first for writing takes the folio from the dirty ones, the last gives
  // it back to them if it is `dirty` still.
  void pin(Folio& folio, bool for_writing);
  void unpin(Folio& folio, bool for_writing);
  // The same for the one pin of a page that is mapped, until unpin(folio, false). Between
  // begin_grant() and end_grant() somebody is given a right to it: nobody unpins it, nor cleans it
  // if it is the right to store.
  void pin_mapped(Folio& folio, std::shared_ptr<MappedRights> rights);
  void begin_grant(Folio& folio, bool store);
  void end_grant(Folio& folio, bool store);
  // A copy of the frame is about to be written, and nobody else writes the block meanwhile.
  // Requires a storable folio, not locked.
  void begin_bounce(Folio& folio);
  // `device_sum`: of what the device has now, if that is known. The folio is as `dirty` as it is
  // told to be.
  void end_bounce(Folio& folio, std::optional<uint64_t> device_sum, bool dirty);
  // A storable folio is not dirty any more, or dirty again, while it keeps its place.
  void set_storable_dirty(Folio& folio, bool dirty);
  // Another folio takes the place of `folio`, with its bytes, its dirtiness and its reservation, in
  // `frame`, which `owner` keeps alive. Requires uptodate, unlocked, unpinned, not under writeback.
  FolioRef move_out(Folio& folio, std::byte* frame, std::shared_ptr<void> owner);
  // Ends the last pin of a folio in somebody else's frame, and moves it into a frame of ours.
  //   Restarts  memory, like add(): nothing has changed
  Attempt<FolioRef> unpin_and_move_in(Folio& folio, bool for_writing);

  // Takes the folio out of its mapping; its frame is freed with the last reference. Requires that
  // it is neither locked, unless for reading, nor under writeback, nor pinned.
  void remove(Folio& folio);
  // Removes every clean folio in `range` that is not locked, or only for reading; false if another
  // one is left that is not pinned. References keep nothing from being removed: who holds one sees
  // `mapping` null.
  bool drop_clean(Mapping& mapping, FileRange range);
  // Removes everything in `range` that is not pinned, dirty or not. Requires that none is locked,
  // unless for reading, or under writeback.
  void discard(Mapping& mapping, FileRange range);
  // Pages that are pinned, in all files.
  uint64_t pinned_pages() const { return pinned_pages_; }

  // More dirty than the flusher should let stand / than writers may add to.
  bool wants_writeback() const { return dirty_pages_ >= background_pages_; }
  bool over_dirty_limit() const { return dirty_pages_ + writeback_pages_ >= limit_pages_; }
  // Woken when over_dirty_limit() has become false. Counted as a wait by note_throttled().
  Waitable& dirty_shrunk() { return dirty_shrunk_; }
  void note_throttled() { ++stats_.throttled_count; }
  // Woken when wants_writeback() becomes true, and when somebody waits for memory.
  Waitable& writeback_wanted() { return writeback_wanted_; }

  // The clean pages of shared blocks.
  SharedBlocks& shared() { return *shared_; }

  FrameArena& arena() { return arena_; }
  const PageCacheStats& stats();

 private:
  friend class Folio;
  friend class Mapping;
  friend class SharedBlocks;
  void unreferenced(Folio& folio);
  FolioRef insert_new(Mapping& mapping, FileBlock index, std::byte* frame,
                      std::shared_ptr<void> frame_owner = nullptr);
  FolioRef move(Folio& folio, std::byte* frame, std::shared_ptr<void> owner);
  // Puts the folio into or out of the queues of what may be reclaimed, as its state says.
  void settle(Folio& folio);
  void set_locked(Folio& folio);
  void unset_locked(Folio& folio);
  // A frame, free or made free; null if there is none.
  std::byte* take_frame(ReclaimPolicy::Reach reach);
  void count_dirty(Folio& folio, bool dirty);
  void detach(Folio& folio);
  void end_read_ahead(Folio& folio, bool used);
  // Takes everything in `range` out of its mapping, whatever its state.
  void detach_all(Mapping& mapping, FileRange range);

  FrameArena arena_;
  const uint64_t background_pages_;
  const uint64_t limit_pages_;
  const uint64_t read_ahead_pages_max_;
  uint64_t dirty_pages_ = 0;
  uint64_t writeback_pages_ = 0;
  uint64_t read_ahead_pages_ = 0;
  uint64_t pinned_pages_ = 0;
  Waitable dirty_shrunk_;
  Waitable writeback_wanted_;
  Waitable memory_freed_;  // a frame is free, or a folio can be reclaimed
  PageCacheStats stats_;
  ReclaimPolicy reclaim_;
  uint64_t last_mapping_id_ = 0;
  std::unique_ptr<SharedBlocks> shared_;
};

}  // namespace fusefs
