// Stepped: an operation that is attempted only as often as it is told to, so that a test can put
// something else between two of its attempts.
//
//     Stepped<size_t> write(sim.world(), [&] { return write_buffered(...); });
//     write.step();                 // its first attempt, which leaves for a read
//     REQUIRE(sim.truncate(...));   // happens meanwhile
//     write.finish();
//     CHECK(write.outcome().ok());
//
// Forced restarts are not counted as attempts: they are taken at once.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/support/sim_world.h"

namespace fusefs {

template <class T>
class Stepped {
 public:
  // Simulated time after which something that has not happened is taken to be waiting.
  static constexpr uint64_t kPatienceNs = 30 * kNsPerSecond;

  Stepped(SimWorld& world, std::function<Attempt<T>()> fn)
      : world_(world), state_(std::make_shared<State>()) {
    state_->fn = std::move(fn);
    world_.spawn([state = state_] { return attempt(*state); },
                 [state = state_](Result<T> result) {
                   state->fn = nullptr;
                   state->outcome.emplace(std::move(result));
                 });
  }
  // Nobody may be left waiting at the gate of something that is gone.
  ~Stepped() {
    if (!state_->outcome && !world_.dead()) finish();
  }
  Stepped(const Stepped&) = delete;
  Stepped& operator=(const Stepped&) = delete;

  // One more attempt. False if there was none: it has ended, or waits for something.
  bool step() {
    if (ended()) return false;
    const uint64_t before = state_->attempts;
    allow(1);
    wait([this, before] { return state_->attempts > before; });
    return state_->attempts > before;
  }
  // As many as it takes. False if it waits for something that does not happen.
  bool finish() {
    allow(uint64_t{1} << 40);
    if (!wait([this] { return ended(); })) return false;
    return world_.run_until([this] { return state_->outcome.has_value(); });
  }

  bool ended() const { return state_->ended; }
  uint64_t attempts() const { return state_->attempts; }
  // Why it has let go so far.
  const std::vector<RestartReason>& reasons() const { return state_->reasons; }
  // Requires that finish() was true.
  const Result<T>& outcome() const { return *state_->outcome; }

 private:
  struct State {
    std::function<Attempt<T>()> fn;
    uint64_t allowed = 0;
    uint64_t attempts = 0;
    std::vector<RestartReason> reasons;
    bool ended = false;  // the outcome may not have been told yet
    std::optional<Result<T>> outcome;
    Waitable gate;
  };

  static Attempt<T> attempt(State& state) {
    // As if its I/O took longer: whatever it holds may be held across that.
    if (state.allowed == 0) return restart_after(state.gate, RestartReason::data_io);
    Attempt<T> result = state.fn();
    if (result.must_restart() && result.restart().reason == RestartReason::forced) return result;
    --state.allowed;
    ++state.attempts;
    if (result.must_restart()) {
      state.reasons.push_back(result.restart().reason);
    } else {
      state.ended = true;
    }
    return result;
  }

  void allow(uint64_t attempts) {
    world_.inside([&] {
      state_->allowed += attempts;
      state_->gate.wake_all();
    });
  }
  bool wait(const std::function<bool()>& done) {
    const uint64_t end_ns = world_.clock().monotonic_ns() + kPatienceNs;
    world_.run_until([&] { return done() || world_.clock().monotonic_ns() >= end_ns; });
    return done();
  }

  SimWorld& world_;
  const std::shared_ptr<State> state_;
};

}  // namespace fusefs
