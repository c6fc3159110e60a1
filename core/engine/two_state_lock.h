// TwoStateLock: many adders or many blockers, never both.
//
// Adders put pages into a mapping (faults, buffered writes, writeback); blockers need that nobody
// does (direct writes, truncate, punch, clone). A blocker may ask to be alone (truncate, punch,
// clone): then no other blocker is inside either.
//
// A newcomer joins the present state unless somebody of another kind has waited for the delay D:
//
//      D = 0         as soon as anybody else waits, newcomers wait behind him (phase-fair)
//      D = 4 ms      for so long they still pass him (a deadline, as Linux's rwsem has it)
//      D = infinite  they pass him for ever (unfair)
//
// When the last holder leaves, the turn goes to the next kind that waits, and all of it who wait
// then are called (of loners, the oldest). Being called grants nothing: it means that until they
// have been attempted nobody else gets in whose turn it is not.
//
//      turns:  adders --> blockers --> loners --> adders     (who does not wait is passed over)
//
//      adders   ====A1====                      A2 waits, called with A3: ====A2==
//      blockers    B1 waits  called: ====B1===                            ==A3====
//                    A2 comes: joins A1 unless B1 has waited for D
//
// Only who holds no two-state lock is kept out by others who wait. Who holds one passes them
// (bypasses), on this inode and on any other: they may wait for what it holds (docs/ENGINE.md).
//
// Waiting is a restart, nothing is granted while asleep, and no timer is needed: D matters only
// when a newcomer comes.
//
// Invariant: while anybody has a claim (two_state_claim.h), the lock is held, or somebody has been
// called who is about to be attempted. So a wake is never lost.
//
// Never sleep on this lock with a locked folio in the stash: on a restart an operation first
// settles what its stash holds (fills, unlocks), then asks for the lock. Sleeping on a folio with
// this lock held is the right order.
//
// Order: inode -> two-state -> folio; of two inodes the one with the lower number first. A hold
// may be kept across a restart only by a direct write, a truncate, a punch, a clone, writeback,
// and a fault's own read if it must (docs/ENGINE.md).
//
// Monitor held for every call.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/base/clock.h"
#include "core/engine/attempt.h"
#include "core/engine/two_state_claim.h"
#include "core/engine/waitable.h"
#include "core/stats/histogram.h"

namespace fusefs {

class Operation;
class TwoStateLock;

enum class TwoState : uint8_t { adder, blocker };

// D when the mount does not say: what Linux's rwsem waits before it hands over.
inline constexpr uint64_t kLockDelayNs = 4 * kNsPerMs;
inline constexpr uint64_t kLockDelayInfinite = UINT64_MAX;

struct TwoStateStats {
  std::array<uint64_t, kTwoStateKindCount> hold_count = {};  // by kind
  std::array<Histogram, kTwoStateKindCount> wait_ns;         // of those that had to wait
  uint64_t flip_count = 0;        // the lock went to another kind, which waited for it
  uint64_t bypass_count = 0;      // passed others who waited, because it held a lock already
  uint64_t try_failed_count = 0;  // try_add() held nothing
};

// What all two-state locks of one volume have in common; it outlives them.
struct TwoStateLocks {
  explicit TwoStateLocks(const Clock& the_clock, uint64_t the_delay_ns = kLockDelayNs)
      : clock(the_clock), delay_ns(the_delay_ns) {}
  const Clock& clock;
  uint64_t delay_ns;
  TwoStateStats stats;
};

// One hold; dropped with the object. The lock must outlive it. It knows the operation that took
// it, for as long as that lives, and may be released without any: at an I/O's completion.
class TwoStateHold {
 public:
  TwoStateHold() = default;
  TwoStateHold(TwoStateHold&& other) noexcept { take(other); }
  TwoStateHold& operator=(TwoStateHold&& other) noexcept;
  ~TwoStateHold() { release(); }
  void release();
  bool held() const { return lock_ != nullptr; }
  // Who took it; null if that has ended, or if nobody did.
  const Operation* operation() const { return operation_; }

 private:
  friend class Operation;
  friend class TwoStateLock;
  TwoStateHold(TwoStateLock& lock, TwoStateKind kind, Operation* operation);
  void take(TwoStateHold& other) noexcept;
  void unlink();

  TwoStateLock* lock_ = nullptr;
  Operation* operation_ = nullptr;
  TwoStateHold* previous_ = nullptr;  // of the same operation
  TwoStateHold* next_ = nullptr;
  TwoStateKind kind_ = TwoStateKind::adder;
};

class TwoStateLock {
 public:
  // `order`: locks are taken in ascending order by who takes several; 0: this one is not compared.
  explicit TwoStateLock(TwoStateLocks& locks, uint64_t order = 0) : locks_(locks), order_(order) {}
  TwoStateLock(const TwoStateLock&) = delete;
  TwoStateLock& operator=(const TwoStateLock&) = delete;
  ~TwoStateLock();

  // Restarts  two_state: while others keep it out, as above
  Attempt<TwoStateHold> add() { return acquire(TwoStateKind::adder); }
  Attempt<TwoStateHold> block() { return acquire(TwoStateKind::blocker); }
  // Restarts  while anybody holds it, or somebody else is called
  Attempt<TwoStateHold> block_alone() { return acquire(TwoStateKind::loner); }
  // For what can as well be left undone: nothing is held where add() would restart.
  TwoStateHold try_add();

  uint32_t holder_count() const { return holders_; }
  TwoState state() const { return state_; }
  uint64_t order() const { return order_; }
  // The operation holds it, in this state.
  bool held_by(const Operation& operation, TwoState state) const;

 private:
  friend class TwoStateClaim;
  friend class TwoStateHold;
  // Who waits; there only while somebody does.
  struct Queue {
    TwoStateClaim* first = nullptr;  // oldest
    TwoStateClaim* last = nullptr;
    Waitable turn;
  };
  struct Contention {
    std::array<Queue, kTwoStateKindCount> queues;
    uint32_t called_count = 0;
    TwoStateKind called = TwoStateKind::adder;  // all of them are of this kind
  };

  Attempt<TwoStateHold> acquire(TwoStateKind kind);
  TwoStateHold enter(TwoStateKind kind, Operation* operation);
  Restart wait(TwoStateKind kind, Operation* operation);
  void release(TwoStateKind kind);
  bool is_compatible(TwoStateKind kind) const;
  bool is_kept_out(TwoStateKind kind, const Operation* operation) const;
  TwoStateClaim* claim_of(TwoStateKind kind, Operation* operation) const;
  Queue& queue(TwoStateKind kind) { return contention_->queues[static_cast<size_t>(kind)]; }
  const Queue& queue(TwoStateKind kind) const {
    return contention_->queues[static_cast<size_t>(kind)];
  }
  void call_next(TwoStateKind after);
  void call(TwoStateKind kind);
  void unlink(TwoStateClaim& claim);
  void drop(TwoStateClaim& claim);

  TwoStateLocks& locks_;
  const uint64_t order_;
  std::unique_ptr<Contention> contention_;
  uint32_t holders_ = 0;
  TwoState state_ = TwoState::adder;
  bool alone_ = false;
};

}  // namespace fusefs
