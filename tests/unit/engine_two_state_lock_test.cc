// The two-state lock: who is inside together, who waits, and that nobody waits for ever.
#include <string>
#include <utility>
#include <vector>

#include "core/engine/scheduler.h"
#include "core/engine/two_state_lock.h"
#include "tests/support/test_operation.h"
#include "tests/support/test_options.h"
#include "tests/support/two_state_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("many of one side are inside together, and never with the other") {
  SimClock clock;
  TwoStateLocks locks(clock, 0);
  TwoStateLock lock(locks);
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
  SimClock clock;
  TwoStateLocks locks(clock, 0);
  TwoStateLock lock(locks);
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

TEST_CASE("a newcomer does not join its side while the other side waits") {
  Waitable first;
  Waitable second;
  Waitable third;
  Scene scene;
  scene.want("A", Kind::adder, first);
  scene.want("B", Kind::blocker, second);
  scene.want("a", Kind::adder, third);
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
  scene.want("B", Kind::blocker, first);
  for (const char* name : {"1", "2", "3"}) scene.want(name, Kind::adder, second);
  scene.run();
  scene.let_go(first);
  CHECK(scene.order == "B123");
  CHECK(scene.lock.holder_count() == 3);
}

TEST_CASE("a newcomer that was ready before the last hold ended does not overtake who waits") {
  Waitable first;
  Waitable second;
  Scene scene;
  scene.want("A", Kind::adder, first);
  scene.want("B", Kind::blocker, second);
  scene.run();
  first.wake_all();                      // A is ready to end
  scene.want("a", Kind::adder, second);  // and behind it a newcomer of its side
  scene.run();
  CHECK(scene.order == "AB");
}

TEST_CASE("the turn goes round: adders, blockers, loners") {
  Waitable first;
  Waitable rest;
  Scene scene;
  scene.want("A", Kind::adder, first);
  scene.run();
  scene.want("L", Kind::loner, rest);
  scene.want("a", Kind::adder, rest);
  scene.want("B", Kind::blocker, rest);
  scene.run();
  scene.let_go(first);
  CHECK(scene.order == "AB");
  scene.let_go(rest);
  CHECK(scene.order == "ABL");
  scene.let_go(rest);
  CHECK(scene.order == "ABLa");
}

TEST_CASE("in a storm of all kinds the sides never meet and everybody gets through") {
  for_each_seed(20, [](const TestSeed& seed) {
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    TwoStateLocks locks(world.clock(), 0);
    TwoStateLock lock(locks);
    Storm storm(world, lock);
    for (int i = 0; i < 30; ++i) storm.add(kKinds[world.random().below(kTwoStateKindCount)], 10);
    REQUIRE(world.run_until_idle());
    CHECK(storm.acquired[0] + storm.acquired[1] + storm.acquired[2] == 300);
    CHECK(lock.holder_count() == 0);
  });
}

TEST_CASE("trying to add holds the lock where adding would, and nothing where it would wait") {
  SimWorld world(1);
  TwoStateLocks locks(world.clock(), 0);
  TwoStateLock lock(locks);
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
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    TwoStateLocks locks(world.clock(), 0);
    TwoStateLock lock(locks);
    Storm storm(world, lock);
    const auto rare = kKinds[seed.seed % kTwoStateKindCount];
    for (const Kind kind : kKinds) {
      for (int i = 0; i < (kind == rare ? 1 : 8); ++i) storm.add(kind, kForEver);
    }
    REQUIRE(world.run_for(500'000));  // holds last 500 ns on average
    CAPTURE(storm.acquired[0]);
    CAPTURE(storm.acquired[1]);
    CAPTURE(storm.acquired[2]);
    CHECK(storm.acquired[at(rare)] > 10);
    world.abandon();
  });
}

// In production order nothing is left to chance: three busy operations, one of each kind, each
// starting over as soon as it has let go.
TEST_CASE("in production order three busy kinds take turns") {
  SimClock clock;
  TwoStateLocks locks(clock, 0);
  TwoStateLock lock(locks);
  Scheduler scheduler(clock);
  std::string order;
  Waitable gate;
  for (const Kind kind : kKinds) {
    auto hold = std::make_shared<TwoStateHold>();
    scheduler.start(std::make_unique<TestOperation>(
        std::string(1, "abl"[at(kind)]), [&, kind, hold](TestOperation& self) -> Attempt<void> {
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
  for (size_t i = 0; i < order.size(); ++i) CHECK(order[i] == "abl"[i % kTwoStateKindCount]);
  scheduler.abandon();
}

}  // namespace
}  // namespace fusefs
