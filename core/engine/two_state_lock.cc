#include "core/engine/two_state_lock.h"

#include <utility>

namespace fusefs {
namespace {

TwoState other(TwoState side) {
  return side == TwoState::adder ? TwoState::blocker : TwoState::adder;
}

}  // namespace

void TwoStateHold::release() {
  if (TwoStateLock* lock = std::exchange(lock_, nullptr)) lock->release(side_);
}

Attempt<TwoStateHold> TwoStateLock::acquire(TwoState side) {
  const bool same = holders_ == 0 || (state_ == side && !alone_);
  // Joining would let a steady stream of one side keep the others out for ever.
  const bool gated = holders_ != 0 && (queue(other(side)).has_waiters() || loners_.has_waiters());
  if (!same || gated) return restart_after(queue(side), RestartReason::two_state);
  state_ = side;
  ++holders_;
  return TwoStateHold(*this, side);
}

Attempt<TwoStateHold> TwoStateLock::block_alone() {
  if (holders_ != 0) return restart_after(loners_, RestartReason::two_state);
  state_ = TwoState::blocker;
  alone_ = true;
  ++holders_;
  return TwoStateHold(*this, TwoState::blocker);
}

void TwoStateLock::release(TwoState side) {
  CHECK(holders_ > 0 && state_ == side);
  if (--holders_ != 0) return;
  alone_ = false;
  // The other side first: what is woken now is attempted before what arrives later.
  queue(other(side)).wake_all();
  loners_.wake_all();
  queue(side).wake_all();
}

}  // namespace fusefs
