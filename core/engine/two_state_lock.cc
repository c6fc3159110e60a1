#include "core/engine/two_state_lock.h"

#include <utility>

#include "core/base/check.h"
#include "core/engine/lock_checker.h"
#include "core/engine/operation.h"

namespace fusefs {
namespace {

TwoState state_of(TwoStateKind kind) {
  return kind == TwoStateKind::adder ? TwoState::adder : TwoState::blocker;
}

TwoStateKind next_in_turn(TwoStateKind kind) {
  return static_cast<TwoStateKind>((static_cast<int>(kind) + 1) % kTwoStateKindCount);
}

LockClass class_of(TwoStateKind kind) {
  static_assert(static_cast<int>(LockClass::alone) == static_cast<int>(TwoStateKind::loner));
  return static_cast<LockClass>(kind);
}

size_t index_of(TwoStateKind kind) { return static_cast<size_t>(kind); }

}  // namespace

// ---- TwoStateHold ----

TwoStateHold::TwoStateHold(TwoStateLock& lock, TwoStateKind kind, Operation* operation)
    : lock_(&lock), operation_(operation), kind_(kind) {
  if (operation_ == nullptr) return;
  next_ = std::exchange(operation_->two_state_holds_, this);
  if (next_ != nullptr) next_->previous_ = this;
}

TwoStateHold& TwoStateHold::operator=(TwoStateHold&& other) noexcept {
  TwoStateHold mine(std::move(*this));
  take(other);
  other.take(mine);
  return *this;
}

// Requires that this one holds nothing.
void TwoStateHold::take(TwoStateHold& other) noexcept {
  lock_ = std::exchange(other.lock_, nullptr);
  operation_ = std::exchange(other.operation_, nullptr);
  previous_ = std::exchange(other.previous_, nullptr);
  next_ = std::exchange(other.next_, nullptr);
  kind_ = other.kind_;
  if (operation_ == nullptr) return;
  (previous_ != nullptr ? previous_->next_ : operation_->two_state_holds_) = this;
  if (next_ != nullptr) next_->previous_ = this;
}

void TwoStateHold::unlink() {
  if (operation_ == nullptr) return;
  (previous_ != nullptr ? previous_->next_ : operation_->two_state_holds_) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
  operation_ = nullptr;
  previous_ = next_ = nullptr;
}

void TwoStateHold::release() {
  if (lock_ == nullptr) return;
  if (lock_checking && operation_ != nullptr) {
    LockChecker::instance().release_two_state(class_of(kind_), lock_, *operation_);
  }
  unlink();
  std::exchange(lock_, nullptr)->release(kind_);
}

// ---- TwoStateClaim ----

void TwoStateClaim::drop_pending() { lock_->drop(*this); }

bool TwoStateClaim::outlasts(const Attempt<void>& attempt) const {
  if (!attempt.must_restart()) return false;
  const Restart& restart = attempt.restart();
  if (restart.on != nullptr) return restart.on == &lock_->queue(kind_).turn;
  return restart.reason != RestartReason::outside;  // at once: it is not kept from asking again
}

// ---- TwoStateLock ----

TwoStateLock::~TwoStateLock() {
  CHECK(holders_ == 0);
  if (!contention_) return;
  for (Queue& queue : contention_->queues) {
    for (TwoStateClaim* claim = queue.first; claim != nullptr; claim = claim->next_) {
      claim->lock_ = nullptr;
    }
  }
}

bool TwoStateLock::held_by(const Operation& operation, TwoState state) const {
  for (const TwoStateHold* at = operation.two_state_holds_; at != nullptr; at = at->next_) {
    if (at->lock_ == this) return state_ == state;
  }
  return false;
}

bool TwoStateLock::is_compatible(TwoStateKind kind) const {
  if (holders_ == 0) return true;
  return state_ == state_of(kind) && !alone_ && kind != TwoStateKind::loner;
}

TwoStateClaim* TwoStateLock::claim_of(TwoStateKind kind, Operation* operation) const {
  if (operation == nullptr) return nullptr;
  TwoStateClaim& claim = operation->claim_;
  return claim.lock_ == this && claim.kind_ == kind ? &claim : nullptr;
}

// Whether a newcomer that could come in waits all the same, for the sake of others.
bool TwoStateLock::is_kept_out(TwoStateKind kind, const Operation* operation) const {
  if (!contention_) return false;
  const Contention& others = *contention_;
  const TwoStateClaim* mine = operation != nullptr ? &operation->claim_ : nullptr;
  if (mine != nullptr && mine->lock_ == this && mine->kind_ == kind && mine->called_) return false;
  // Not before those whose turn it is; nor is it the turn of more than one loner.
  if (others.called_count != 0 && (others.called != kind || kind == TwoStateKind::loner)) {
    return true;
  }
  if (locks_.delay_ns == kLockDelayInfinite) return false;
  uint64_t now_ns = 0;
  for (TwoStateKind other = next_in_turn(kind); other != kind; other = next_in_turn(other)) {
    const TwoStateClaim* oldest = queue(other).first;
    if (oldest != nullptr && oldest == mine) oldest = oldest->next_;  // wants another kind now
    if (oldest == nullptr) continue;
    if (locks_.delay_ns == 0) return true;
    if (now_ns == 0) now_ns = locks_.clock.monotonic_ns();
    if (now_ns - oldest->since_ns_ >= locks_.delay_ns) return true;
  }
  return false;
}

TwoStateHold TwoStateLock::try_add() {
  Operation* operation = Operation::current();
  if (!is_compatible(TwoStateKind::adder) || is_kept_out(TwoStateKind::adder, operation)) {
    ++locks_.stats.try_failed_count;
    return {};
  }
  return enter(TwoStateKind::adder, operation);
}

Attempt<TwoStateHold> TwoStateLock::acquire(TwoStateKind kind) {
  Operation* operation = Operation::current();
  if (lock_checking) LockChecker::instance().ask(class_of(kind), this, order_);
  if (!is_compatible(kind)) return wait(kind, operation);
  if (is_kept_out(kind, operation)) {
    // Others who wait here may wait for what it holds: behind them it would wait for itself.
    if (operation == nullptr || !operation->holds_two_state_lock()) return wait(kind, operation);
    ++locks_.stats.bypass_count;
  }
  return enter(kind, operation);
}

TwoStateHold TwoStateLock::enter(TwoStateKind kind, Operation* operation) {
  if (TwoStateClaim* claim = claim_of(kind, operation)) {
    locks_.stats.wait_ns[index_of(kind)].record(locks_.clock.monotonic_ns() - claim->since_ns_);
    unlink(*claim);
  }
  state_ = state_of(kind);
  alone_ = kind == TwoStateKind::loner;
  ++holders_;
  ++locks_.stats.hold_count[index_of(kind)];
  if (lock_checking) LockChecker::instance().take(class_of(kind), this, order_);
  return TwoStateHold(*this, kind, operation);
}

Restart TwoStateLock::wait(TwoStateKind kind, Operation* operation) {
  if (operation == nullptr) return Restart{nullptr, RestartReason::two_state};
  TwoStateClaim& claim = operation->claim_;
  if (TwoStateClaim* old = claim_of(kind, operation)) {
    // Called, and somebody who holds another lock was faster. Its turn comes again.
    if (std::exchange(old->called_, false)) --contention_->called_count;
  } else {
    claim.drop();
    if (!contention_) contention_ = std::make_unique<Contention>();
    claim.lock_ = this;
    claim.kind_ = kind;
    claim.since_ns_ = locks_.clock.monotonic_ns();
    Queue& in = queue(kind);
    claim.previous_ = in.last;
    (in.last != nullptr ? in.last->next_ : in.first) = &claim;
    in.last = &claim;
  }
  return restart_after(queue(kind).turn, RestartReason::two_state);
}

void TwoStateLock::release(TwoStateKind kind) {
  CHECK(holders_ > 0 && state_ == state_of(kind));
  if (--holders_ != 0) return;
  alone_ = false;
  // Some of those who were called may not have been attempted yet: it is still their turn.
  if (contention_ && contention_->called_count == 0) call_next(kind);
}

// Gives the turn to the kind that is next after `after` among those who wait.
void TwoStateLock::call_next(TwoStateKind after) {
  TwoStateKind kind = next_in_turn(after);
  while (queue(kind).first == nullptr) kind = next_in_turn(kind);
  if (kind != after) ++locks_.stats.flip_count;
  call(kind);
}

void TwoStateLock::call(TwoStateKind kind) {
  Contention& contention = *contention_;
  Queue& in = queue(kind);
  contention.called = kind;
  for (TwoStateClaim* claim = in.first; claim != nullptr; claim = claim->next_) {
    claim->called_ = true;
    ++contention.called_count;
    if (kind == TwoStateKind::loner) break;
  }
  if (kind != TwoStateKind::loner) {
    in.turn.wake_all_first();
  } else if (in.turn.has_waiter(in.first->operation_)) {  // else it is ready already
    in.turn.wake_first(in.first->operation_);
  }
}

void TwoStateLock::unlink(TwoStateClaim& claim) {
  Queue& in = queue(claim.kind_);
  (claim.previous_ != nullptr ? claim.previous_->next_ : in.first) = claim.next_;
  (claim.next_ != nullptr ? claim.next_->previous_ : in.last) = claim.previous_;
  claim.previous_ = claim.next_ = nullptr;
  claim.lock_ = nullptr;
  if (std::exchange(claim.called_, false)) --contention_->called_count;
  for (const Queue& queue : contention_->queues) {
    if (queue.first != nullptr) return;
  }
  contention_.reset();
}

// One who waited does not want it any more, or not now.
void TwoStateLock::drop(TwoStateClaim& claim) {
  const TwoStateKind kind = claim.kind_;
  unlink(claim);
  if (!contention_ || contention_->called_count != 0) return;
  if (holders_ == 0) {
    call_next(kind);
  } else if (queue(kind).first == nullptr) {
    // For its sake some may wait who could be inside: they look again, each with its place.
    queue(static_cast<TwoStateKind>(state_)).turn.wake_all();
  }
}

}  // namespace fusefs
