#include "core/memory/reclaim_policy.h"

#include <algorithm>

namespace fusefs {
namespace {

constexpr uint8_t kUsesMax = 3;
// Share of the pages that may wait in the small queue while there is something in main.
constexpr size_t kSmallShare = 10;
// Uses within the small queue that lead to main.
constexpr uint8_t kUsesForMain = 2;
constexpr uint8_t kUsesForMainShared = 1;
// Pages given another place in one search, which would else go through all that was used: about
// 100 us. Then the next page goes, used or not.
constexpr int kChancesMax = 1024;

uint8_t uses_for_main(const Folio& folio) {
  return folio.of_shared_block ? kUsesForMainShared : kUsesForMain;
}

}  // namespace

// ---- GhostTable ----

GhostTable::GhostTable(uint64_t capacity)
    : capacity_(static_cast<uint32_t>(std::clamp<uint64_t>(capacity, 1, UINT32_MAX / 2))),
      now_(capacity_ + 1),  // what is zero was never remembered
      buckets_((capacity_ + kWays - 1) / kWays) {}

void GhostTable::insert(uint64_t key) {
  Bucket& bucket = bucket_of(key);
  Entry* oldest = &bucket.ways[0];
  for (Entry& entry : bucket.ways) {
    if (now_ - entry.inserted > now_ - oldest->inserted) oldest = &entry;
  }
  *oldest = {static_cast<uint32_t>(key), ++now_};
}

bool GhostTable::take(uint64_t key) {
  for (Entry& entry : bucket_of(key).ways) {
    if (entry.fingerprint != static_cast<uint32_t>(key) || !is_remembered(entry)) continue;
    entry.inserted = now_ - capacity_ - 1;
    return true;
  }
  return false;
}

// ---- ReclaimPolicy ----

// The finalizer of splitmix64, twice.
uint64_t ReclaimPolicy::key_of(uint64_t mapping_id, FileBlock index) {
  const auto mix = [](uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
  };
  return mix(mix(mapping_id) + index.value());
}

ReclaimPolicy::List& ReclaimPolicy::list_of(Queue queue) {
  CHECK(queue != Queue::none);
  if (queue == Queue::spent) return spent_;
  if (queue == Queue::ahead) return ahead_;
  return queue == Queue::small ? small_ : main_;
}

void ReclaimPolicy::push(Folio& folio, Queue queue) {
  List& list = list_of(queue);
  Folio::Reclaim& links = folio.reclaim_;
  links.queue = queue;
  links.previous = list.last;
  links.next = nullptr;
  (list.last != nullptr ? list.last->reclaim_.next : list.first) = &folio;
  list.last = &folio;
  ++list.size;
}

void ReclaimPolicy::unlink(Folio& folio) {
  Folio::Reclaim& links = folio.reclaim_;
  List& list = list_of(links.queue);
  (links.previous != nullptr ? links.previous->reclaim_.next : list.first) = links.next;
  (links.next != nullptr ? links.next->reclaim_.previous : list.last) = links.previous;
  links.previous = links.next = nullptr;
  links.queue = Queue::none;
  --list.size;
}

void ReclaimPolicy::enter(Folio& folio) {
  if (is_queued(folio)) return;
  Folio::Reclaim& links = folio.reclaim_;
  if (links.home == Queue::none) {
    const bool seen = ghosts_.take(links.key);
    if (seen) ++stats_.ghost_hit_count;
    links.home = seen ? Queue::main : Queue::small;
  }
  push(folio, links.home);
}

void ReclaimPolicy::leave(Folio& folio) {
  if (!is_queued(folio)) return;
  unlink(folio);
  // It is locked or written to: nobody knows any more that it is not needed.
  const Queue home = folio.reclaim_.home;
  if (home == Queue::spent || home == Queue::ahead) folio.reclaim_.home = Queue::small;
}

void ReclaimPolicy::note_use(Folio& folio) {
  Folio::Reclaim& links = folio.reclaim_;
  if (!is_queued(folio)) return;
  if (links.queue == Queue::spent) {
    unlink(folio);
    push(folio, links.home = Queue::small);
  }
  links.uses = std::min<uint8_t>(links.uses + 1, kUsesMax);
}

void ReclaimPolicy::note_spent(Folio& folio) {
  Folio::Reclaim& links = folio.reclaim_;
  if (links.home == Queue::main) return;
  links.home = Queue::spent;
  links.uses = 0;
  if (!is_queued(folio)) return;
  unlink(folio);
  push(folio, Queue::spent);
}

void ReclaimPolicy::note_wanted(Folio& folio) {
  Folio::Reclaim& links = folio.reclaim_;
  if (links.home != Queue::ahead) return;
  links.home = Queue::small;
  if (!is_queued(folio)) return;
  unlink(folio);
  push(folio, Queue::small);
}

// Of what has not proved itself.
ReclaimPolicy::Queue ReclaimPolicy::young_queue() const {
  if (small_.size + ahead_.size == 0) return Queue::none;
  return ahead_.size > small_.size ? Queue::ahead : Queue::small;
}

ReclaimPolicy::Queue ReclaimPolicy::next_queue(Reach reach) const {
  if (spent_.size != 0) return Queue::spent;
  if (reach == Reach::cheap || main_.size == 0) return young_queue();
  const size_t young = small_.size + ahead_.size;
  return young * kSmallShare > young + main_.size ? young_queue() : Queue::main;
}

bool ReclaimPolicy::is_due(Folio& folio) {
  Folio::Reclaim& links = folio.reclaim_;
  if (links.queue == Queue::small && links.uses >= uses_for_main(folio)) {
    unlink(folio);
    links.uses = 0;
    push(folio, links.home = Queue::main);
    return false;
  }
  if (links.queue == Queue::main && links.uses > 0) {
    unlink(folio);
    --links.uses;
    push(folio, Queue::main);
    return false;
  }
  return true;
}

void ReclaimPolicy::count_dropped(const Folio& folio) {
  switch (folio.reclaim_.queue) {
    case Queue::none:
      break;
    case Queue::spent:
      ++stats_.spent_count;
      break;
    case Queue::ahead:
      ++stats_.ahead_count;
      break;
    case Queue::small:
      ++stats_.small_count;
      ghosts_.insert(folio.reclaim_.key);
      break;
    case Queue::main:
      ++stats_.main_count;
      break;
  }
}

Folio* ReclaimPolicy::take_oldest_ahead() {
  while (Folio* folio = ahead_.first) {
    const bool referenced = folio->ref_count() != 0;
    if (!referenced) count_dropped(*folio);
    unlink(*folio);
    if (!referenced) return folio;
  }
  return nullptr;
}

Folio* ReclaimPolicy::take_victim(Reach reach) {
  int chances = 0;
  while (true) {
    const Queue queue = next_queue(reach);
    if (queue == Queue::none) return nullptr;
    Folio& folio = *list_of(queue).first;
    if (folio.ref_count() != 0) {
      unlink(folio);  // enters again when its last reference is dropped
      continue;
    }
    if (chances == kChancesMax && reach == Reach::cheap) return nullptr;
    if (chances < kChancesMax && !is_due(folio)) {
      ++chances;
      continue;
    }
    count_dropped(folio);
    unlink(folio);
    return &folio;
  }
}

}  // namespace fusefs
