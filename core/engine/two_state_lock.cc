#include "core/engine/two_state_lock.h"

#include <utility>

#include "core/engine/operation.h"

namespace fusefs {
namespace {

TwoState other(TwoState side) {
  return side == TwoState::adder ? TwoState::blocker : TwoState::adder;
}

}  // namespace

void TwoStateHold::release() {
  if (TwoStateLock* lock = std::exchange(lock_, nullptr)) lock->release(side_);
}

bool TwoStateLock::must_yield() const {
  const Operation* current = Operation::current();
  return current != nullptr && current == let_go_by_ && current->restart_count() == let_go_attempt_;
}

bool TwoStateLock::may_join(TwoState side) const {
  if (holders_ == 0) return true;
  if (state_ != side || alone_) return false;
  // Joining would let a steady stream of one side keep the others out for ever.
  return !queue(other(side)).has_waiters() && !loners_.has_waiters();
}

TwoStateHold TwoStateLock::try_add() {
  if (must_yield() || !may_join(TwoState::adder)) return {};
  state_ = TwoState::adder;
  ++holders_;
  return TwoStateHold(*this, TwoState::adder);
}

Attempt<TwoStateHold> TwoStateLock::acquire(TwoState side) {
  if (must_yield()) return Restart{nullptr, RestartReason::two_state};
  if (!may_join(side)) return restart_after(queue(side), RestartReason::two_state);
  state_ = side;
  ++holders_;
  return TwoStateHold(*this, side);
}

Attempt<TwoStateHold> TwoStateLock::block_alone() {
  if (must_yield()) return Restart{nullptr, RestartReason::two_state};
  if (holders_ != 0) return restart_after(loners_, RestartReason::two_state);
  state_ = TwoState::blocker;
  alone_ = true;
  ++holders_;
  return TwoStateHold(*this, TwoState::blocker);
}

void TwoStateLock::release(TwoState side) {
  CHECK(holders_ > 0 && state_ == side);
  if (--holders_ != 0) return;
  const bool was_alone = std::exchange(alone_, false);
  if (!adders_.has_waiters() && !blockers_.has_waiters() && !loners_.has_waiters()) return;
  if ((let_go_by_ = Operation::current()) != nullptr) {
    let_go_attempt_ = let_go_by_->restart_count();
  }
  // The turn goes round: adders, blockers, loners, adders. With a fixed preference two kinds that
  // always wait would keep the third out for ever. And all of them go before newcomers that are
  // ready already, who would find the lock free and take it for their side.
  Waitable* turn[] = {&adders_, &blockers_, &loners_};
  const size_t next = was_alone ? 0 : side == TwoState::adder ? 1 : 2;
  for (size_t i = 3; i-- > 0;) turn[(next + i) % 3]->wake_all_first();
}

}  // namespace fusefs
