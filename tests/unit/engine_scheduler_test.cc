// The scheduler: order, waiting, waking, timers, outside work and abandoning.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/engine/scheduler.h"
#include "tests/support/death.h"
#include "tests/support/test_operation.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// A scheduler in production order, and one thread that does what it hands out.
struct Engine {
  explicit Engine(SchedulerOptions options = {}) : scheduler(clock, options) {}

  TestOperation& start(std::string name, TestOperation::Fn fn, TestOperation::OnDone done = {}) {
    auto operation =
        std::make_unique<TestOperation>(std::move(name), std::move(fn), std::move(done));
    TestOperation& started = *operation;
    scheduler.start(std::move(operation));
    return started;
  }
  TestOperation& start_background(std::string name, TestOperation::Fn fn) {
    auto operation = std::make_unique<TestOperation>(std::move(name), std::move(fn));
    operation->background = true;
    TestOperation& started = *operation;
    scheduler.start(std::move(operation));
    return started;
  }
  void run() {
    Scheduler::Handout handout;
    while (scheduler.run(handout) || !handout.empty()) {
      for (auto& operation : handout.finished) Scheduler::finish(*operation);
      scheduler.retire(handout.finished);
      for (Operation* operation : handout.outside) {
        Scheduler::run_outside(*operation);
        scheduler.outside_done(*operation);
      }
      handout.outside.clear();
    }
  }

  SimClock clock;
  Scheduler scheduler;
};

// Waits once, then notes its name.
TestOperation::Fn wait_then_note(Waitable& waitable, std::vector<std::string>& order) {
  return [&](TestOperation& self) -> Attempt<void> {
    if (self.phase++ == 0) return restart_after(waitable, RestartReason::data_io);
    order.push_back(self.name());
    return {};
  };
}

TEST_CASE("without a choice operations are attempted in the order of their start") {
  Engine engine;
  std::vector<std::string> order;
  for (const char* name : {"a", "b", "c"}) {
    engine.start(name, [&](TestOperation& self) -> Attempt<void> {
      order.push_back(self.name());
      if (self.phase++ == 0) return restart_now();
      return {};
    });
  }
  engine.run();
  CHECK(order == std::vector<std::string>{"a", "b", "c", "a", "b", "c"});
}

TEST_CASE("a choice from a seed is another order, and the same one again") {
  auto order_of = [](uint64_t seed) {
    Random choice(seed);
    Engine engine({.choice = &choice});
    std::string order;
    for (char name = 'a'; name <= 'p'; ++name) {
      engine.start(std::string(1, name), [&](TestOperation& self) -> Attempt<void> {
        order += self.name();
        return {};
      });
    }
    engine.run();
    return order;
  };
  CHECK(order_of(1) == order_of(1));
  CHECK(order_of(1) != order_of(2));
  CHECK(order_of(1).size() == 16);
}

TEST_CASE("who waits first is attempted first") {
  Engine engine;
  Waitable waitable;
  std::vector<std::string> order;
  for (const char* name : {"a", "b", "c"}) engine.start(name, wait_then_note(waitable, order));
  engine.run();
  CHECK(order.empty());
  CHECK(waitable.waiter_count() == 3);
  CHECK(engine.scheduler.live_count() == 3);
  waitable.wake_all();
  CHECK_FALSE(waitable.has_waiters());
  engine.run();
  CHECK(order == std::vector<std::string>{"a", "b", "c"});
  CHECK(engine.scheduler.live_count() == 0);
}

TEST_CASE("those woken first go before what was ready already, in their order") {
  Engine engine;
  Waitable waitable;
  std::vector<std::string> order;
  engine.start("a", wait_then_note(waitable, order));
  engine.start("b", wait_then_note(waitable, order));
  engine.run();
  engine.start("newcomer", [&](TestOperation& self) -> Attempt<void> {
    order.push_back(self.name());
    return {};
  });
  waitable.wake_all_first();
  engine.run();
  CHECK(order == std::vector<std::string>{"a", "b", "newcomer"});
}

TEST_CASE("a waitable that goes away wakes whoever waits for it") {
  Engine engine;
  auto waitable = std::make_unique<Waitable>();
  std::vector<std::string> order;
  engine.start("a", wait_then_note(*waitable, order));
  engine.run();
  waitable.reset();
  engine.run();
  CHECK(order.size() == 1);
}

TEST_CASE("a wake while the attempt leaves is not missed") {
  Engine engine;
  Waitable waitable;
  bool done = false;
  engine.start("a", [&](TestOperation& self) -> Attempt<void> {
    if (self.phase++ > 0) {
      done = true;
      return {};
    }
    struct WakeOnLeaving {
      Waitable& waitable;
      ~WakeOnLeaving() { waitable.wake_all(); }
    } hold{waitable};
    return restart_after(waitable, RestartReason::space);
  });
  engine.run();
  CHECK(done);
}

TEST_CASE("a waitable may end while the attempt that waits for it leaves") {
  Engine engine;
  bool done = false;
  engine.start("a", [&](TestOperation& self) -> Attempt<void> {
    if (self.phase++ > 0) {
      done = true;
      return {};
    }
    const auto waitable = std::make_unique<Waitable>();
    return restart_after(*waitable, RestartReason::node_load);
  });
  engine.run();
  CHECK(done);
}

TEST_CASE("a restart that was asked for and not returned leaves no trace") {
  Engine engine;
  Waitable ignored;
  Waitable waitable;
  engine.start("replaced", [&](TestOperation&) -> Attempt<void> {
    if (waitable.has_waiters()) return {};
    const Restart wanted = restart_after(waitable, RestartReason::data_io);
    (void)restart_after(ignored, RestartReason::node_load);
    return wanted;
  });
  engine.start("done", [&](TestOperation&) -> Attempt<void> {
    (void)restart_after(ignored, RestartReason::node_load);
    (void)restart_after_outside([] {});
    return {};
  });
  engine.run();
  CHECK_FALSE(ignored.has_waiters());
  CHECK(waitable.waiter_count() == 1);
  engine.scheduler.abandon();
}

TEST_CASE("forced restarts end, and begin again with progress") {
  Random forced(1);
  Engine engine({.forced = &forced, .forced_restart_probability = 1.0});
  auto step = []() -> Attempt<void> { return {}; };
  int attempts = 0;
  engine.start("a", [&](TestOperation& self) -> Attempt<void> {
    ++attempts;
    if (self.phase == 0) {
      ATTEMPT_OK(step());
      self.phase = 1;
      self.note_progress();
    }
    ATTEMPT_OK(step());
    return {};
  });
  engine.run();
  CHECK(attempts == 1 + 2 * static_cast<int>(kForcedRestartsMax));
}

TEST_CASE("an operation that restarts without progress stops the program with its name") {
  const std::string words = last_words([] {
    Engine engine({.restarts_max = 100});
    engine.start("spinner", [](TestOperation&) -> Attempt<void> { return restart_now(); });
    engine.run();
  });
  CHECK(words.find("spinner: too many restarts, the last for again") != std::string::npos);

  Engine engine({.restarts_max = 100});
  bool done = false;
  engine.start("worker", [&](TestOperation& self) -> Attempt<void> {
    if (self.phase++ % 100 == 99) self.note_progress();
    if (self.phase < 1000) return restart_now();
    done = true;
    return {};
  });
  engine.run();
  CHECK(done);
}

TEST_CASE("outside work runs once, in no attempt, before the next attempt") {
  Engine engine;
  std::vector<std::string> order;
  engine.start("a", [&](TestOperation& self) -> Attempt<void> {
    order.push_back("attempt");
    CHECK(Operation::current() == &self);
    if (self.phase++ > 0) return {};
    return restart_after_outside([&] {
      CHECK(Operation::current() == nullptr);
      order.push_back("outside");
    });
  });
  engine.run();
  CHECK(order == std::vector<std::string>{"attempt", "outside", "attempt"});
}

TEST_CASE("outside work that is handed on is waited for, whoever is ready first") {
  for (const bool early : {false, true}) {
    Engine engine;
    std::vector<OutsideTicket> tickets;
    int attempts = 0;
    engine.start("a", [&](TestOperation&) -> Attempt<void> {
      if (++attempts == 2) return {};
      return restart_after_outside([&] {
        tickets = {hand_on_outside(), hand_on_outside()};
        if (early) tickets[0].done();
        hand_on_outside().take_back();
      });
    });
    engine.run();
    CHECK(attempts == 1);
    if (!early) tickets[0].done();
    engine.run();
    CHECK(attempts == 1);
    tickets[1].done();
    engine.run();
    CHECK(attempts == 2);
    CHECK(engine.scheduler.live_count() == 0);
  }
}

TEST_CASE("each outcome is told once, to its own operation") {
  Engine engine;
  std::vector<std::optional<Error>> told;
  for (const bool fails : {false, true}) {
    engine.start(
        "a",
        [fails](TestOperation&) -> Attempt<void> {
          if (fails) return Error::timed_out;
          return {};
        },
        [&](Result<void> outcome) {
          told.push_back(outcome.ok() ? std::nullopt : std::optional(outcome.error()));
        });
  }
  engine.run();
  REQUIRE(told.size() == 2);
  CHECK_FALSE(told[0].has_value());
  CHECK(told[1] == Error::timed_out);
}

TEST_CASE("timers fire when they are due, in order, and never after they were cancelled") {
  Engine engine;
  Waitable first;
  Waitable second;
  Waitable cancelled;
  std::vector<std::string> order;
  engine.start("second", wait_then_note(second, order));
  engine.start("first", wait_then_note(first, order));
  engine.start("cancelled", wait_then_note(cancelled, order));
  engine.run();
  engine.scheduler.wake_at(200, second);
  engine.scheduler.wake_at(100, first);
  const Scheduler::TimerId id = engine.scheduler.wake_at(50, cancelled);
  engine.scheduler.cancel_timer(id);
  CHECK(engine.scheduler.next_deadline_ns() == 100);
  engine.clock.advance_to(99);
  engine.scheduler.fire_timers();
  CHECK_FALSE(engine.scheduler.has_ready());
  engine.clock.advance_to(1000);
  engine.scheduler.fire_timers();
  engine.run();
  CHECK(order == std::vector<std::string>{"first", "second"});
  CHECK_FALSE(engine.scheduler.next_deadline_ns().has_value());
  CHECK(cancelled.has_waiters());
  engine.scheduler.abandon();
}

TEST_CASE("a background operation is not live, has no bound, and waits for its own waitable") {
  int deaths = 0;
  struct Cleaner final : Operation {
    explicit Cleaner(int& deaths) : deaths_(deaths) {}
    ~Cleaner() override { ++deaths_; }
    const char* name() const override { return "cleaner"; }
    bool is_background() const override { return true; }
    Attempt<void> attempt() override {
      if (++turns_ < 50) return restart_now();
      return restart_after(work_, RestartReason::idle);
    }
    int& deaths_;
    int turns_ = 0;
    Waitable work_;
  };
  {
    Engine engine({.restarts_max = 10});
    engine.scheduler.start(std::make_unique<Cleaner>(deaths));
    engine.scheduler.start(std::make_unique<Cleaner>(deaths));
    engine.run();
    CHECK(engine.scheduler.live_count() == 0);
    CHECK(engine.scheduler.describe_operations() ==
          "\n  cleaner: waits for idle, after 50 restarts (background)"
          "\n  cleaner: waits for idle, after 50 restarts (background)");
    engine.scheduler.drop_background();
    CHECK(deaths == 2);
    CHECK_FALSE(engine.scheduler.has_ready());  // nobody was woken by his own end
    engine.run();
  }
}

TEST_CASE("background operations may wake each other while they are dropped") {
  Engine engine;
  auto shared = std::make_shared<Waitable>();
  for (int i = 0; i < 3; ++i) {
    struct WakeAtEnd {
      std::shared_ptr<Waitable> waitable;
      ~WakeAtEnd() {
        if (waitable) waitable->wake_all();
      }
    };
    auto hold = std::shared_ptr<WakeAtEnd>(new WakeAtEnd{shared});
    engine.start_background("b", [hold, shared](TestOperation&) -> Attempt<void> {
      return restart_after(*shared, RestartReason::idle);
    });
  }
  engine.run();
  engine.scheduler.drop_background();
  CHECK_FALSE(engine.scheduler.has_ready());
}

TEST_CASE("to abandon is to destroy everything where it stands and to tell nobody") {
  Engine engine;
  Waitable waitable;
  int told = 0;
  auto tell = [&](Result<void>) { ++told; };
  auto stash = std::make_shared<int>(1);
  auto wait = [&, stash](TestOperation&) -> Attempt<void> {
    return restart_after(waitable, RestartReason::durable);
  };
  engine.start("waiting", wait, tell);
  engine.start_background("background", wait);
  engine.start("outside", [stash](TestOperation&) -> Attempt<void> {
    return restart_after_outside([] { FAIL("work of the dead"); });
  });
  Scheduler::Handout handout;
  engine.scheduler.run(handout);
  REQUIRE(handout.outside.size() == 1);
  engine.start("ready", wait, tell);
  engine.scheduler.wake_at(10, waitable);
  CHECK(engine.scheduler.live_count() == 3);
  CHECK(stash.use_count() > 1);

  engine.scheduler.abandon();
  CHECK(engine.scheduler.live_count() == 0);
  CHECK_FALSE(engine.scheduler.has_ready());
  CHECK_FALSE(waitable.has_waiters());
  CHECK_FALSE(engine.scheduler.next_deadline_ns().has_value());
  CHECK(engine.scheduler.describe_operations().empty());
  CHECK(told == 0);

  bool done = false;  // and life goes on
  engine.start("next", [&](TestOperation&) -> Attempt<void> {
    done = true;
    return {};
  });
  engine.run();
  CHECK(done);
}

TEST_CASE("what the end of an abandoned operation starts is abandoned too") {
  Engine engine;
  Waitable waitable;
  bool attempted = false;
  struct StartAtEnd {
    Engine& engine;
    bool& attempted;
    ~StartAtEnd() {
      engine.start("late", [&flag = attempted](TestOperation&) -> Attempt<void> {
        flag = true;
        return {};
      });
    }
  };
  auto hold = std::shared_ptr<StartAtEnd>(new StartAtEnd{engine, attempted});
  engine.start("a", [hold, &waitable](TestOperation&) -> Attempt<void> {
    return restart_after(waitable, RestartReason::durable);
  });
  hold.reset();
  engine.run();
  engine.scheduler.abandon();
  engine.run();
  CHECK(engine.scheduler.live_count() == 0);
  CHECK_FALSE(attempted);
}

TEST_CASE("a scheduler with live operations ends with their names") {
  const std::string words = last_words([] {
    Waitable waitable;
    Engine engine;
    engine.start("sleeper", [&](TestOperation&) -> Attempt<void> {
      return restart_after(waitable, RestartReason::folio_locked);
    });
    engine.run();
  });
  CHECK(words.find("sleeper: waits for folio_locked") != std::string::npos);
}

TEST_CASE("the counters add up") {
  Engine engine;
  Waitable waitable;
  for (int i = 0; i < 1000; ++i) {
    engine.start("a", [&](TestOperation& self) -> Attempt<void> {
      if (self.phase++ < 3) return restart_after(waitable, RestartReason::data_io);
      return {};
    });
  }
  while (engine.scheduler.live_count() > 0) {
    engine.run();
    waitable.wake_all();
  }
  const SchedulerStats& stats = engine.scheduler.stats();
  CHECK(stats.started_count == 1000);
  CHECK(stats.finished_count == 1000);
  CHECK(stats.attempt_count == 4000);
  CHECK(stats.restart_count[static_cast<size_t>(RestartReason::data_io)] == 3000);
  CHECK(stats.restarts_of_one_operation_max == 3);
}

}  // namespace
}  // namespace fusefs
