// The delay of the two-state lock: who passes whom for how long, who is never kept out, and what it
// brings. docs/TWO_STATE_LOCK.md
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/engine/lock_checker.h"
#include "tests/support/test_options.h"
#include "tests/support/two_state_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kUs = 1000;
constexpr uint64_t kDelaysNs[] = {0, 2 * kUs, 8 * kUs, kLockDelayInfinite};

TEST_CASE("a newcomer passes who waits on the other side until that has waited for the delay") {
  Waitable first;
  Waitable second;
  Waitable third;
  Scene scene(4 * kNsPerMs);
  scene.want("A", Kind::adder, first);
  scene.run();
  scene.want("B", Kind::blocker, second);
  scene.run();
  scene.advance(4 * kNsPerMs - 1);
  scene.want("a", Kind::adder, first);
  scene.run();
  CHECK(scene.order == "Aa");
  scene.advance(1);
  scene.want("c", Kind::adder, third);
  scene.run();
  CHECK(scene.order == "Aa");
  scene.let_go(first);
  CHECK(scene.order == "AaB");
  scene.let_go(second);
  CHECK(scene.order == "AaBc");
  CHECK(scene.locks.stats.flip_count == 2);
  CHECK(scene.locks.stats.wait_ns[at(Kind::blocker)].max() == 4 * kNsPerMs);
  scene.let_go(third);
  CHECK(scene.scheduler.live_count() == 0);
}

TEST_CASE("with an infinite delay newcomers pass who waits for ever") {
  Waitable first;
  Waitable second;
  Scene scene(kLockDelayInfinite);
  scene.want("A", Kind::adder, first);
  scene.run();
  scene.want("B", Kind::blocker, second);
  for (int i = 0; i < 5; ++i) {
    scene.advance(1000 * kNsPerSecond);
    scene.want("a", Kind::adder, first);
    scene.run();
  }
  CHECK(scene.order == "Aaaaaa");
  scene.let_go(first);
  CHECK(scene.order == "AaaaaaB");
}

TEST_CASE("the time waited counts from the first refusal, also over wakes in vain") {
  Waitable first;
  Waitable second;
  Scene scene(4 * kNsPerMs);
  scene.want("B", Kind::blocker, first);
  scene.run();
  scene.want("L", Kind::loner, second);
  scene.want("A", Kind::adder, second);
  scene.run();
  scene.advance(3 * kNsPerMs);
  scene.let_go(first);  // the loner's turn; then the adder's
  CHECK(scene.order == "BL");
  scene.want("b", Kind::blocker, second);
  scene.run();
  scene.advance(1 * kNsPerMs);
  scene.let_go(second);
  CHECK(scene.order == "BLA");
  CHECK(scene.locks.stats.wait_ns[at(Kind::adder)].max() == 4 * kNsPerMs);
}

// What is called is attempted before newcomers only if nobody else is ready; threads and other
// locks see to it that somebody is.
TEST_CASE("a newcomer does not get in before those whose turn it is have been attempted") {
  for_each_seed(50, [](const TestSeed& seed) {
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    TwoStateLocks locks(world.clock(), world.random().chance(0.5) ? 0 : 10 * kUs);
    TwoStateLock lock(locks);
    TwoStateHold adder;
    TwoStateHold blocker;
    std::string order;
    REQUIRE(world
                .run([&]() -> Attempt<void> {
                  ATTEMPT_INTO(adder, lock.add());
                  return {};
                })
                .ok());
    world.spawn([&]() -> Attempt<void> {
      ATTEMPT_INTO(blocker, lock.block());
      order += 'B';
      return {};
    });
    REQUIRE(world.run_for(20 * kUs));
    std::vector<TwoStateHold> later(8);
    world.inside([&] { adder.release(); });
    for (TwoStateHold& hold : later) {
      world.spawn([&]() -> Attempt<void> {
        ATTEMPT_INTO(hold, lock.add());
        order += 'a';
        return {};
      });
    }
    REQUIRE(world.run_for(1 * kUs));
    CHECK(order == "B");
    world.inside([&] { blocker.release(); });
    REQUIRE(world.run_until_idle());
    CHECK(order == "Baaaaaaaa");
  });
}

TEST_CASE("who was called and does not ask again keeps nobody out") {
  enum class Then { ends, fails, waits_elsewhere, works_outside, goes };
  for (const Then then :
       {Then::ends, Then::fails, Then::waits_elsewhere, Then::works_outside, Then::goes}) {
    CAPTURE(static_cast<int>(then));
    Waitable first;
    Waitable second;
    Waitable never;
    Scene scene;
    scene.want("A", Kind::adder, first);
    scene.run();
    auto operation =
        std::make_unique<TestOperation>("B", [&](TestOperation& self) -> Attempt<void> {
          if (self.phase++ == 0) return Unfinished(scene.lock.block());
          switch (then) {
            case Then::fails:
              return Error::io_failed;
            case Then::waits_elsewhere:
              return restart_after(never, RestartReason::data_io);
            case Then::works_outside:
              if (self.phase == 2) return restart_after_outside([] {});
              return {};
            default:
              return {};
          }
        });
    operation->background = true;
    scene.scheduler.start(std::move(operation));
    scene.run();
    scene.want("a", Kind::adder, second);
    scene.run();
    CHECK(scene.order == "A");
    if (then == Then::goes) {
      scene.scheduler.drop_background();  // while it waits: "a" could join A now
      scene.run();
    } else {
      scene.let_go(first);
    }
    CHECK(scene.order == "Aa");
  }
}

TEST_CASE("who asks for the lock in another way gives up his place") {
  Waitable first;
  Waitable second;
  Scene scene;
  scene.want("A", Kind::adder, first);
  scene.run();
  TwoStateHold hold;
  scene.start("x", [&](TestOperation& self) -> Attempt<void> {
    if (self.phase++ == 0) (void)scene.lock.block_alone();
    ATTEMPT_INTO(hold, scene.lock.add());
    scene.order += "x";
    return {};
  });
  scene.run();
  CHECK(scene.order == "Ax");
  scene.let_go(first);
  CHECK(scene.lock.holder_count() == 1);
  hold.release();
}

// Fairness that knew no nesting would be a deadlock here: A waits for its own end, behind B.
TEST_CASE("an adder that adds once more is not kept out by a blocker that waits for it") {
  Waitable gate;
  Scene scene;
  TwoStateHold inner;
  auto outer = std::make_shared<TwoStateHold>();
  scene.start("A", [&, outer](TestOperation& self) -> Attempt<void> {
    if (!outer->held()) {
      ATTEMPT_INTO(*outer, scene.lock.add());
      return restart_after(gate, RestartReason::data_io);
    }
    ATTEMPT_INTO(inner, scene.lock.add());
    scene.order += self.name();
    inner.release();
    outer->release();
    return {};
  });
  scene.run();
  scene.want("B", Kind::blocker, gate);
  scene.run();
  scene.let_go(gate);
  CHECK(scene.order == "AB");
  CHECK(scene.locks.stats.bypass_count == 1);
}

TEST_CASE("two tasks that add to each other's file pass the blockers that wait on both") {
  Waitable gate;
  Scene scene;  // for its scheduler
  TwoStateLock lock[2] = {TwoStateLock(scene.locks), TwoStateLock(scene.locks)};
  TwoStateHold own[2];
  TwoStateHold others[2];
  for (const int i : {0, 1}) {
    scene.start("add", [&, i](TestOperation&) -> Attempt<void> {
      if (!own[i].held()) {
        ATTEMPT_INTO(own[i], lock[i].add());
        return restart_after(gate, RestartReason::data_io);
      }
      if (!others[i].held()) {
        ATTEMPT_INTO(others[i], lock[1 - i].add());
        scene.order += 'a';
        return restart_after(gate, RestartReason::data_io);
      }
      own[i].release();
      others[i].release();
      return {};
    });
  }
  scene.run();
  for (const int i : {0, 1}) {
    scene.start("block", [&, i](TestOperation&) -> Attempt<void> {
      ATTEMPT(TwoStateHold hold, lock[i].block());
      scene.order += 'b';
      return {};
    });
  }
  scene.run();
  CHECK(scene.order.empty());
  scene.let_go(gate);
  CHECK(scene.order == "aa");
  CHECK(scene.locks.stats.bypass_count == 2);
  scene.let_go(gate);
  CHECK(scene.order == "aabb");
  CHECK(scene.scheduler.live_count() == 0);
}

TEST_CASE("a hold may be released without an operation, and outlive the one that took it") {
  SimWorld world(1);
  TwoStateLocks locks(world.clock());
  TwoStateLock lock(locks);
  TwoStateHold kept;
  Waitable never;
  world.spawn([&]() -> Attempt<void> {
    if (!kept.held()) {
      ATTEMPT_INTO(kept, lock.block());
      CHECK(kept.operation() == Operation::current());
      CHECK(lock.held_by(*Operation::current(), TwoState::blocker));
      CHECK_FALSE(lock.held_by(*Operation::current(), TwoState::adder));
    }
    return restart_after(never, RestartReason::data_io);
  });
  REQUIRE(world.run_for(kUs));
  const Operation* taker = kept.operation();
  REQUIRE(taker != nullptr);
  world.inside([&] {
    kept.release();  // as the completion of an I/O does
    CHECK_FALSE(taker->holds_two_state_lock());
    never.wake_all();
  });
  REQUIRE(world.run_for(kUs));
  CHECK(kept.held());  // taken again
  world.abandon();
  CHECK(kept.held());
  CHECK(kept.operation() == nullptr);
  kept.release();
  CHECK(lock.holder_count() == 0);
}

// ---- Properties, by seed ----

TEST_CASE("in a storm with any delay the sides never meet and everybody gets through") {
  for_each_seed(12, [](const TestSeed& seed) {
    for (const uint64_t delay_ns : kDelaysNs) {
      SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
      TwoStateLocks locks(world.clock(), delay_ns);
      TwoStateLock lock(locks);
      Storm storm(world, lock);
      for (int i = 0; i < 24; ++i) storm.add(kKinds[world.random().below(kTwoStateKindCount)], 8);
      REQUIRE(world.run_until_idle());
      CHECK(storm.acquired[0] + storm.acquired[1] + storm.acquired[2] == 24 * 8);
      for (const Kind kind : kKinds) {
        CHECK(locks.stats.hold_count[at(kind)] >= storm.acquired[at(kind)]);
      }
    }
  });
}

// Nobody new joins the others once the rare one has waited for the delay: then those inside end,
// and each other kind has at most one turn.
TEST_CASE("nobody waits longer than a finite delay, the present holds and a turn of each kind") {
  for_each_seed(9, [](const TestSeed& seed) {
    for (const uint64_t delay_ns : {uint64_t{0}, 2 * kUs, 8 * kUs}) {
      SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
      TwoStateLocks locks(world.clock(), delay_ns);
      TwoStateLock lock(locks);
      Storm storm(world, lock);
      const Kind rare = kKinds[seed.seed % kTwoStateKindCount];
      for (const Kind kind : kKinds) {
        for (int i = 0; i < (kind == rare ? 1 : 8); ++i) storm.add(kind, 1'000'000);
      }
      REQUIRE(world.run_for(400 * kUs));
      CAPTURE(delay_ns);
      CAPTURE(seed.seed);
      CHECK(storm.acquired[at(rare)] > 10);
      CHECK(locks.stats.wait_ns[at(rare)].max() <= delay_ns + 3 * Storm::kHoldNsMax);
      world.abandon();
    }
  });
}

TEST_CASE("the longer the delay, the more the larger side gets done; for ever starves the other") {
  for_each_seed(6, [](const TestSeed& seed) {
    const bool adders = seed.seed % 2 == 0;
    const Kind many = adders ? Kind::adder : Kind::blocker;
    const Kind few = adders ? Kind::blocker : Kind::adder;
    uint64_t done_before = 0;
    for (const uint64_t delay_ns : kDelaysNs) {
      SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
      TwoStateLocks locks(world.clock(), delay_ns);
      TwoStateLock lock(locks);
      Storm storm(world, lock);
      for (int i = 0; i < 9; ++i) storm.add(many, 1'000'000);
      storm.add(few, 1'000'000);
      REQUIRE(world.run_for(400 * kUs));
      CAPTURE(delay_ns);
      CAPTURE(done_before);
      CHECK(storm.acquired[at(many)] > done_before + done_before / 20);
      done_before = storm.acquired[at(many)];
      if (delay_ns == kLockDelayInfinite) {
        CHECK(storm.acquired[at(few)] <= 2);
      } else {
        CHECK(storm.acquired[at(few)] > 20);
      }
      world.abandon();
    }
  });
}

// The lock gets by with more than the core's rules allow.
struct Unchecked {
  Unchecked() { lock_checking = false; }
  ~Unchecked() { lock_checking = true; }
};

// Adders of several files that take the locks in any order, one in another, among blockers of each:
// would deadlock within moments if those who hold a lock were kept out by those who wait.
TEST_CASE("adders nested over several files in any order never deadlock with blockers that wait") {
  const Unchecked unchecked;
  for_each_seed(12, [](const TestSeed& seed) {
    constexpr size_t kLocks = 3;
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    TwoStateLocks locks(world.clock(), kDelaysNs[seed.seed % 3]);
    TwoStateLock lock[kLocks] = {TwoStateLock(locks), TwoStateLock(locks), TwoStateLock(locks)};
    struct Stash {
      std::vector<size_t> wanted;
      std::vector<TwoStateHold> holds;
      int rounds = 20;
      Waitable alarm;
    };
    for (int i = 0; i < 12; ++i) {
      auto stash = std::make_shared<Stash>();
      const bool nests = i % 2 == 0;
      world.spawn([&world, &lock, stash, nests]() -> Attempt<void> {
        while (stash->rounds > 0) {
          if (stash->wanted.empty()) {
            const size_t depth = nests ? world.random().between(2, 4) : 1;
            for (size_t k = 0; k < depth; ++k)
              stash->wanted.push_back(world.random().below(kLocks));
          }
          if (stash->holds.size() < stash->wanted.size()) {
            TwoStateLock& next = lock[stash->wanted[stash->holds.size()]];
            TwoStateHold taken;
            ATTEMPT_INTO(taken, nests ? next.add() : next.block());
            stash->holds.push_back(std::move(taken));
            const uint64_t until_ns = world.clock().monotonic_ns() + world.random().between(1, 900);
            world.scheduler().wake_at(until_ns, stash->alarm);
            return restart_after(stash->alarm, RestartReason::data_io);
          }
          stash->holds.clear();
          stash->wanted.clear();
          --stash->rounds;
          Operation::current()->note_progress();
        }
        return {};
      });
    }
    REQUIRE(world.run_until_idle());  // stops the program at a deadlock
    CHECK(locks.stats.bypass_count > 0);
    for (const TwoStateLock& each : lock) CHECK(each.holder_count() == 0);
  });
}

}  // namespace
}  // namespace fusefs
