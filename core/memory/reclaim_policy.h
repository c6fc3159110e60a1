// ReclaimPolicy: which clean page is dropped when a frame is needed. S3-FIFO: three queues without
// reordering on use, and a memory of what was dropped lately.
//
//                          used again meanwhile
//     new page --> small ------------------------> main --+  used again: once more round
//                    |                             ^ |  <-+
//                    | not used again              | +----> dropped
//                    v                             |
//                 dropped ....> ghosts ............+ seen again soon: straight to main
//
//     spent: pages of which no further use is expected (a stream's, once read); dropped first
//     ahead: pages read ahead and not asked for yet; the small queue's share is for both
//
// A stream passes through the small queue, a tenth of the pages, and leaves the main queue alone.
// A shared block's page needs one use to get there, a file's own two: those the kernel's cache
// above keeps as well.
//
// In a queue are only pages that could be dropped at once: clean, uptodate, unlocked. One that is
// referenced when its turn comes leaves its queue until its last reference is dropped, so that no
// page is passed over twice for the same reason. Uses are counted only within a queue: what fills a
// page by many small writes is no sign of use.
//
// Needs no memory after its construction. Source: Yang et al., "FIFO queues are all you need for
// cache eviction", SOSP 2023. Monitor held for every call.
#pragma once

#include <cstdint>
#include <vector>

#include "core/memory/folio.h"

namespace fusefs {

// What was dropped from the small queue lately, as fingerprints: may forget, and may rarely claim
// to remember what it never saw.
class GhostTable {
 public:
  // Remembers the last `capacity` keys.
  explicit GhostTable(uint64_t capacity);
  void insert(uint64_t key);
  // Whether it is remembered; then it is forgotten.
  bool take(uint64_t key);

 private:
  static constexpr size_t kWays = 4;
  struct Entry {
    uint32_t fingerprint = 0;
    uint32_t inserted = 0;  // number of the insertion
  };
  struct Bucket {
    Entry ways[kWays];
  };
  Bucket& bucket_of(uint64_t key) { return buckets_[(key >> 32) % buckets_.size()]; }
  bool is_remembered(const Entry& entry) const { return now_ - entry.inserted <= capacity_; }

  const uint32_t capacity_;
  uint32_t now_;
  std::vector<Bucket> buckets_;
};

struct ReclaimStats {
  uint64_t spent_count = 0;  // dropped from each queue
  uint64_t ahead_count = 0;
  uint64_t small_count = 0;
  uint64_t main_count = 0;
  uint64_t ghost_hit_count = 0;
};

class ReclaimPolicy {
 public:
  // `pages`: how many there can be.
  explicit ReclaimPolicy(uint64_t pages) : ghosts_(pages) {}

  // Names a page for the ghosts.
  static uint64_t key_of(uint64_t mapping_id, FileBlock index);

  // The page can be dropped from now on / can no longer.
  void enter(Folio& folio);
  void leave(Folio& folio);
  static bool is_queued(const Folio& folio) { return folio.reclaim_.queue != Folio::Queue::none; }

  void note_use(Folio& folio);
  // No further use is expected.
  void note_spent(Folio& folio);
  // It is there on suspicion / somebody has asked for it now.
  void note_ahead(Folio& folio) { folio.reclaim_.home = Folio::Queue::ahead; }
  void note_wanted(Folio& folio);

  enum class Reach : uint8_t {
    all,
    cheap,  // what is spent, and what nobody has used again
  };
  // Takes out the page to drop now; null if there is none within reach.
  Folio* take_victim(Reach reach);
  // Takes out the page that has waited longest for somebody to ask for it; null if there is none.
  Folio* take_oldest_ahead();

  const ReclaimStats& stats() const { return stats_; }
  size_t small_size() const { return small_.size; }
  size_t main_size() const { return main_.size; }
  size_t spent_size() const { return spent_.size; }

 private:
  struct List {
    Folio* first = nullptr;  // dropped first
    Folio* last = nullptr;
    size_t size = 0;
  };
  using Queue = Folio::Queue;
  List& list_of(Queue queue);
  void push(Folio& folio, Queue queue);
  void unlink(Folio& folio);
  Queue next_queue(Reach reach) const;
  Queue young_queue() const;
  // True if it goes; else it has been given another place.
  bool is_due(Folio& folio);
  void count_dropped(const Folio& folio);

  List spent_;
  List ahead_;
  List small_;
  List main_;
  GhostTable ghosts_;
  ReclaimStats stats_;
};

}  // namespace fusefs
