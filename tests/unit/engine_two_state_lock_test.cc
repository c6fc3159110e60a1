// The two-state lock: who is inside together, who waits, and that nobody waits for ever.
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/engine/scheduler.h"
#include "core/engine/two_state_lock.h"
#include "tests/support/sim_world.h"
#include "tests/support/test_operation.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

enum Kind { adder, blocker, loner };
constexpr int kKindCount = 3;

Attempt<TwoStateHold> acquire(TwoStateLock& lock, Kind kind) {
  switch (kind) {
    case adder:
      return lock.add();
    case blocker:
      return lock.block();
    case loner:
      return lock.block_alone();
  }
  return Error::invalid_argument;
}

// Who is inside, and whether they may be together.
struct Inside {
  std::array<int, kKindCount> count = {};
  void enter(Kind kind) {
    ++count[kind];
    const bool several_sides = (count[adder] > 0) + (count[blocker] > 0) + (count[loner] > 0) > 1;
    REQUIRE_FALSE(several_sides);
    REQUIRE(count[loner] <= 1);
  }
  void leave(Kind kind) { --count[kind]; }
};

TEST_CASE("many of one side are inside together, and never with the other") {
  TwoStateLock lock;
  {
    Attempt<TwoStateHold> one = lock.add();
    Attempt<TwoStateHold> two = lock.add();
    REQUIRE(one.ok());
    REQUIRE(two.ok());
    CHECK(lock.holder_count() == 2);
    CHECK(lock.state() == TwoState::adder);
    CHECK(lock.block().must_restart());
    CHECK(lock.block_alone().must_restart());
  }
  CHECK(lock.holder_count() == 0);
  {
    Attempt<TwoStateHold> one = lock.block();
    Attempt<TwoStateHold> two = lock.block();
    REQUIRE(one.ok());
    REQUIRE(two.ok());
    CHECK(lock.add().must_restart());
    CHECK(lock.block_alone().must_restart());
    CHECK(lock.add().restart().reason == RestartReason::two_state);
  }
  {
    Attempt<TwoStateHold> one = lock.block_alone();
    REQUIRE(one.ok());
    CHECK(lock.add().must_restart());
    CHECK(lock.block().must_restart());
    CHECK(lock.block_alone().must_restart());
  }
  CHECK(lock.block().ok());
}

TEST_CASE("a hold moves, and is let go once") {
  TwoStateLock lock;
  TwoStateHold kept;
  CHECK_FALSE(kept.held());
  {
    Attempt<TwoStateHold> hold = lock.add();
    REQUIRE(hold.ok());
    kept = std::move(hold).value();
  }
  CHECK(kept.held());
  CHECK(lock.holder_count() == 1);
  TwoStateHold moved = std::move(kept);
  CHECK(lock.holder_count() == 1);
  moved.release();
  moved.release();
  CHECK(lock.holder_count() == 0);
}

// Operations that take the lock in production order, hold it until told, and note who got it.
struct Scene {
  Scene() : scheduler(clock) {}
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
  void run() {
    Scheduler::Handout handout;
    while (scheduler.run(handout) || !handout.empty()) {
      scheduler.retire(handout.finished);
    }
  }
  void let_go(Waitable& gate) {
    gate.wake_all();
    run();
  }

  SimClock clock;
  TwoStateLock lock;
  Scheduler scheduler;
  std::string order;
};

TEST_CASE("a newcomer does not join its side while the other side waits") {
  Waitable first;
  Waitable second;
  Waitable third;
  Scene scene;
  scene.want("A", adder, first);
  scene.want("B", blocker, second);
  scene.want("a", adder, third);
  scene.run();
  CHECK(scene.order == "A");
  scene.let_go(first);
  CHECK(scene.order == "AB");
  scene.let_go(second);
  CHECK(scene.order == "ABa");
  scene.let_go(third);
  CHECK(scene.scheduler.live_count() == 0);
}

TEST_CASE("all who wait on one side get in together") {
  Waitable first;
  Waitable second;
  Scene scene;
  scene.want("B", blocker, first);
  for (const char* name : {"1", "2", "3"}) scene.want(name, adder, second);
  scene.run();
  scene.let_go(first);
  CHECK(scene.order == "B123");
  CHECK(scene.lock.holder_count() == 3);
}

TEST_CASE("a newcomer that was ready before the last hold ended does not overtake who waits") {
  Waitable first;
  Waitable second;
  Scene scene;
  scene.want("A", adder, first);
  scene.want("B", blocker, second);
  scene.run();
  first.wake_all();                // A is ready to end
  scene.want("a", adder, second);  // and behind it a newcomer of its side
  scene.run();
  CHECK(scene.order == "AB");
}

TEST_CASE("the turn goes round: adders, blockers, loners") {
  Waitable first;
  Waitable rest;
  Scene scene;
  scene.want("A", adder, first);
  scene.run();
  scene.want("L", loner, rest);
  scene.want("a", adder, rest);
  scene.want("B", blocker, rest);
  scene.run();
  scene.let_go(first);
  CHECK(scene.order == "AB");
  scene.let_go(rest);
  CHECK(scene.order == "ABL");
  scene.let_go(rest);
  CHECK(scene.order == "ABLa");
}

// An operation that takes the lock for some time, again and again.
struct Storm {
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
          ++acquired[kind];
          stash->rested = false;
        }
        if (!stash->rested) {
          stash->rested = true;
          const uint64_t until_ns = world.clock().monotonic_ns() + world.random().between(1, 1000);
          world.scheduler().wake_at(until_ns, stash->alarm);
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
  std::array<uint64_t, kKindCount> acquired = {};
};

TEST_CASE("in a storm of all kinds the sides never meet and everybody gets through") {
  for_each_seed(20, [](const TestSeed& seed) {
    TwoStateLock lock;
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    Storm storm(world, lock);
    for (int i = 0; i < 30; ++i) storm.add(static_cast<Kind>(world.random().below(kKindCount)), 10);
    REQUIRE(world.run_until_idle());
    CHECK(storm.acquired[adder] + storm.acquired[blocker] + storm.acquired[loner] == 300);
    CHECK(lock.holder_count() == 0);
  });
}

TEST_CASE("trying to add holds the lock where adding would, and nothing where it would wait") {
  TwoStateLock lock;
  Attempt<TwoStateHold> one = lock.add();
  REQUIRE(one.ok());
  TwoStateHold two = lock.try_add();
  CHECK(two.held());
  CHECK(lock.holder_count() == 2);
  one.value().release();
  two.release();
  Attempt<TwoStateHold> blocking = lock.block();
  REQUIRE(blocking.ok());
  CHECK_FALSE(lock.try_add().held());
  blocking.value().release();
  Attempt<TwoStateHold> alone = lock.block_alone();
  REQUIRE(alone.ok());
  CHECK_FALSE(lock.try_add().held());
  alone.value().release();

  // Nor ahead of a blocker that waits.
  SimWorld world(1);
  Attempt<TwoStateHold> adding = lock.add();
  REQUIRE(adding.ok());
  TwoStateHold waited;
  world.spawn([&]() -> Attempt<void> {
    ATTEMPT_INTO(waited, lock.block());
    return {};
  });
  world.run_for(1'000);
  CHECK_FALSE(lock.try_add().held());
  world.inside([&] { adding.value().release(); });
  REQUIRE(world.run_until_idle());
  CHECK(waited.held());
}

TEST_CASE("no kind is starved by any number of the others") {
  for_each_seed(6, [](const TestSeed& seed) {
    constexpr int kForEver = 1'000'000;
    TwoStateLock lock;
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    Storm storm(world, lock);
    const auto rare = static_cast<Kind>(seed.seed % kKindCount);
    for (const Kind kind : {adder, blocker, loner}) {
      for (int i = 0; i < (kind == rare ? 1 : 8); ++i) storm.add(kind, kForEver);
    }
    REQUIRE(world.run_for(500'000));  // holds last 500 ns on average
    CAPTURE(storm.acquired[adder]);
    CAPTURE(storm.acquired[blocker]);
    CAPTURE(storm.acquired[loner]);
    CHECK(storm.acquired[rare] > 10);
    world.abandon();
  });
}

// In production order nothing is left to chance: three busy operations, one of each kind, each
// starting over as soon as it has let go.
TEST_CASE("in production order three busy kinds take turns") {
  SimClock clock;
  TwoStateLock lock;
  Scheduler scheduler(clock);
  std::string order;
  Waitable gate;
  for (const Kind kind : {adder, blocker, loner}) {
    auto hold = std::make_shared<TwoStateHold>();
    scheduler.start(std::make_unique<TestOperation>(
        std::string(1, "abl"[kind]), [&, kind, hold](TestOperation& self) -> Attempt<void> {
          hold->release();
          ATTEMPT(*hold, acquire(lock, kind));
          order += self.name();
          return restart_after(gate, RestartReason::data_io);
        }));
  }
  Scheduler::Handout handout;
  while (order.size() < 30) {
    while (scheduler.run(handout)) {
    }
    gate.wake_all();
  }
  for (size_t i = 0; i < order.size(); ++i) CHECK(order[i] == "abl"[i % kKindCount]);
  scheduler.abandon();
}

}  // namespace
}  // namespace fusefs
