// BusyRanges: which blocks of one file writes to the device are working on, writethroughs and
// direct writes. No two of them share a block: the device never sees two writes of one block at
// once, and a read-modify-write of part of a block loses nobody's bytes.
//
// A writethrough lets others into the file meanwhile. Whoever would add a page of a busy block, to
// read or to change it, waits: the page would have the old bytes when the write is done.
//
// Order: two-state lock -> busy range -> folio. A hold is kept across the device write; its owner
// waits for nothing but that, places for its blocks, a commit, and (a direct write) folios.
//
// Monitor held for every call.
#pragma once

#include <algorithm>
#include <utility>

#include "core/base/units.h"
#include "core/engine/attempt.h"
#include "core/engine/lock_checker.h"
#include "core/engine/waitable.h"

namespace fusefs {

class BusyRanges;

// One range; given back with the object. The BusyRanges must outlive it.
class BusyRangeHold {
 public:
  BusyRangeHold() = default;
  BusyRangeHold(const BusyRangeHold&) = delete;
  BusyRangeHold& operator=(const BusyRangeHold&) = delete;
  ~BusyRangeHold() { release(); }
  inline void release();
  bool held() const { return owner_ != nullptr; }

 private:
  friend class BusyRanges;
  BusyRanges* owner_ = nullptr;
  FileRange range_{};
  BusyRangeHold* previous_ = nullptr;
  BusyRangeHold* next_ = nullptr;
};

class BusyRanges {
 public:
  ~BusyRanges() { CHECK(head_ == nullptr); }

  // Fills `hold`, which must be empty.
  //   Restarts  busy_range: while somebody has a block of `range`
  Attempt<void> take(FileRange range, BusyRangeHold& hold) {
    CHECK(!hold.held());
    const Attempt<void> free = wait_free(range);
    if (!free.ok()) return free;
    hold.owner_ = this;
    hold.range_ = range;
    hold.previous_ = nullptr;
    hold.next_ = head_;
    if (head_ != nullptr) head_->previous_ = &hold;
    head_ = &hold;
    if (lock_checking) LockChecker::instance().take(LockClass::busy_range, &hold);
    return {};
  }

  //   Restarts  as take()
  Attempt<void> wait_free(FileRange range) {
    if (lock_checking) check_wait(range);
    if (free_end(range) < range.end) return restart_after(released_, RestartReason::busy_range);
    return {};
  }
  // The first busy block of `range`, or its end.
  FileBlock free_end(FileRange range) const {
    FileBlock end = range.end;
    for (const BusyRangeHold* at = head_; at != nullptr; at = at->next_) {
      if (at->range_.overlaps(range)) end = std::min(end, std::max(at->range_.first, range.first));
    }
    return end;
  }

 private:
  friend class BusyRangeHold;
  void check_wait(FileRange range) const {
    LockChecker::instance().ask(LockClass::busy_range, this);
    for (const BusyRangeHold* at = head_; at != nullptr; at = at->next_) {
      if (at->range_.overlaps(range)) LockChecker::instance().wait(LockClass::busy_range, at);
    }
  }

  BusyRangeHold* head_ = nullptr;
  Waitable released_;
};

inline void BusyRangeHold::release() {
  BusyRanges* owner = std::exchange(owner_, nullptr);
  if (owner == nullptr) return;
  if (lock_checking) LockChecker::instance().release(LockClass::busy_range, this);
  (previous_ != nullptr ? previous_->next_ : owner->head_) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
  owner->released_.wake_all();
}

}  // namespace fusefs
