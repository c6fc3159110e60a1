// TwoStateLock: many adders or many blockers, never both.
//
// Adders put pages into a mapping (faults, buffered writes, writeback); blockers need that nobody
// does (direct writes, truncate, punch, clone). A newcomer joins the present state unless the
// other side waits; when the last holder leaves, everybody who waits is attempted next, before
// newcomers, and those first whose turn it is. Waiting is a restart: nothing is granted while
// asleep.
//
// A blocker may ask to be alone (truncate, punch, clone): then no other blocker is inside either.
//
//      turns:  adders --> blockers --> loners --> adders     (who does not wait is passed over)
//
// Never sleep on this lock with a locked folio in the stash: on a restart an operation first
// settles what its stash holds (fills, unlocks), then asks for the lock. Sleeping on a folio with
// this lock held is the right order.
//
// Order: inode -> two-state -> folio. A hold may be kept across a restart only by a direct write,
// a truncate, a punch, a clone, writeback, and a fault's own read if it must, none of which waits
// for another two-state lock, for cache memory, or for an adder that does (docs/ENGINE.md).
#pragma once

#include <cstdint>

#include "core/engine/attempt.h"
#include "core/engine/waitable.h"

namespace fusefs {

class Operation;
class TwoStateLock;

enum class TwoState : uint8_t { adder, blocker };

// One hold; dropped with the object. The lock must outlive it.
class TwoStateHold {
 public:
  TwoStateHold() = default;
  TwoStateHold(TwoStateHold&& other) noexcept
      : lock_(std::exchange(other.lock_, nullptr)), side_(other.side_) {}
  TwoStateHold& operator=(TwoStateHold&& other) noexcept {
    std::swap(lock_, other.lock_);
    std::swap(side_, other.side_);
    return *this;
  }
  ~TwoStateHold() { release(); }
  void release();
  bool held() const { return lock_ != nullptr; }

 private:
  friend class TwoStateLock;
  TwoStateHold(TwoStateLock& lock, TwoState side) : lock_(&lock), side_(side) {}
  TwoStateLock* lock_ = nullptr;
  TwoState side_ = TwoState::adder;
};

class TwoStateLock {
 public:
  ~TwoStateLock() { CHECK(holders_ == 0); }

  // Restarts  while the other side or a loner holds it, or waits for it while ours holds it; at
  //           once if this very attempt let others in by letting go
  Attempt<TwoStateHold> add() { return acquire(TwoState::adder); }
  Attempt<TwoStateHold> block() { return acquire(TwoState::blocker); }
  // Restarts  while anybody holds it
  Attempt<TwoStateHold> block_alone();
  // For what can as well be left undone: nothing is held where add() would restart.
  TwoStateHold try_add();

  uint32_t holder_count() const { return holders_; }
  TwoState state() const { return state_; }

 private:
  friend class TwoStateHold;
  Attempt<TwoStateHold> acquire(TwoState side);
  void release(TwoState side);
  bool must_yield() const;
  bool may_join(TwoState side) const;
  Waitable& queue(TwoState side) { return side == TwoState::adder ? adders_ : blockers_; }
  const Waitable& queue(TwoState side) const {
    return side == TwoState::adder ? adders_ : blockers_;
  }

  TwoState state_ = TwoState::adder;
  uint32_t holders_ = 0;
  Waitable adders_;    // adders that wait
  Waitable blockers_;  // blockers that wait
  Waitable loners_;    // blockers that wait to be alone
  bool alone_ = false;
  // Whose attempt woke those who wait. The same attempt would be first to ask again; it leaves
  // instead, and they are attempted before it. Compared only: it may be gone.
  const Operation* let_go_by_ = nullptr;
  uint32_t let_go_attempt_ = 0;
};

}  // namespace fusefs
