// Operations that do nothing but take two-state locks: Scene in production order, step by step;
// Storm at random, as a seed wants it.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "core/engine/scheduler.h"
#include "core/engine/two_state_lock.h"
#include "tests/support/sim_world.h"
#include "tests/support/test_operation.h"

#include <doctest/doctest.h>

namespace fusefs {

using Kind = TwoStateKind;
inline constexpr Kind kKinds[] = {Kind::adder, Kind::blocker, Kind::loner};
inline size_t at(Kind kind) { return static_cast<size_t>(kind); }

inline Attempt<TwoStateHold> acquire(TwoStateLock& lock, Kind kind) {
  switch (kind) {
    case Kind::adder:
      return lock.add();
    case Kind::blocker:
      return lock.block();
    case Kind::loner:
      return lock.block_alone();
  }
  return Error::invalid_argument;
}

// Who is inside, and whether they may be together.
struct Inside {
  std::array<int, kTwoStateKindCount> count = {};
  void enter(Kind kind) {
    ++count[at(kind)];
    const bool several_sides = (count[0] > 0) + (count[1] > 0) + (count[2] > 0) > 1;
    REQUIRE_FALSE(several_sides);
    REQUIRE(count[at(Kind::loner)] <= 1);
  }
  void leave(Kind kind) { --count[at(kind)]; }
};

// Operations that take the lock in production order, hold it until told, and note who got it.
struct Scene {
  explicit Scene(uint64_t delay_ns = 0) : locks(clock, delay_ns), lock(locks), scheduler(clock) {}
  ~Scene() { scheduler.abandon(); }

  // `kind` is taken by an operation named `name`, and held until `gate` is woken.
  void want(const std::string& name, Kind kind, Waitable& gate) {
    auto hold = std::make_shared<TwoStateHold>();
    scheduler.start(std::make_unique<TestOperation>(
        name, [this, kind, hold, &gate](TestOperation& self) -> Attempt<void> {
          if (hold->held()) return {};
          ATTEMPT(*hold, acquire(lock, kind));
          order += self.name();
          return restart_after(gate, RestartReason::data_io);
        }));
  }
  void start(const std::string& name, TestOperation::Fn fn) {
    scheduler.start(std::make_unique<TestOperation>(name, std::move(fn)));
  }
  void run() {
    Scheduler::Handout handout;
    while (scheduler.run(handout) || !handout.empty()) {
      scheduler.retire(handout.finished);
      for (Operation* operation : handout.outside) {
        Scheduler::run_outside(*operation);
        scheduler.outside_done(*operation);
      }
      handout.outside.clear();
    }
  }
  void let_go(Waitable& gate) {
    gate.wake_all();
    run();
  }
  void advance(uint64_t ns) { clock.advance_to(clock.monotonic_ns() + ns); }

  SimClock clock;
  TwoStateLocks locks;
  TwoStateLock lock;
  Scheduler scheduler;
  std::string order;
};

// Operations that take the lock for some time, again and again.
struct Storm {
  static constexpr uint64_t kHoldNsMax = 1000;

  Storm(SimWorld& the_world, TwoStateLock& the_lock) : world(the_world), lock(the_lock) {}

  void add(Kind kind, int rounds) {
    struct Stash {
      TwoStateHold hold;
      bool rested = false;
      int rounds_left;
      Waitable alarm;
    };
    auto stash = std::make_shared<Stash>();
    stash->rounds_left = rounds;
    world.spawn([this, kind, stash]() -> Attempt<void> {
      while (stash->rounds_left > 0) {
        if (!stash->hold.held()) {
          ATTEMPT(stash->hold, acquire(lock, kind));
          inside.enter(kind);
          ++acquired[at(kind)];
          stash->rested = false;
        }
        if (!stash->rested) {
          stash->rested = true;
          const uint64_t hold_ns = world.random().between(1, kHoldNsMax);
          world.scheduler().wake_at(world.clock().monotonic_ns() + hold_ns, stash->alarm);
          return restart_after(stash->alarm, RestartReason::data_io);
        }
        inside.leave(kind);
        stash->hold.release();
        --stash->rounds_left;
        Operation::current()->note_progress();
        if (world.random().chance(0.5)) return restart_now();
      }
      return {};
    });
  }

  SimWorld& world;
  TwoStateLock& lock;
  Inside inside;
  std::array<uint64_t, kTwoStateKindCount> acquired = {};
};

}  // namespace fusefs
