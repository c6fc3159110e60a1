// IoCompletion: what is released at once, what ends inline, what is attempted again, and by whom.
#include <memory>
#include <optional>

#include "core/io/completion.h"
#include "tests/support/test_operation.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

struct Probe final : IoCompletion {
  ~Probe() { disarm(); }
  FinishNeeds release(const Result<void>& result) override {
    released = true;
    CHECK(Operation::current() == nullptr);
    FinishNeeds needs = wanted;
    needs.error = !result.ok();
    return needs;
  }
  void finish() override {
    CHECK(released);
    finished = true;
  }
  FinishNeeds wanted;
  bool released = false;
  bool finished = false;
};

// One operation that submits one request and waits for it.
struct Rig {
  explicit Rig(CompletionPolicy policy) : scheduler(clock), completions(scheduler, policy) {}

  void start() {
    scheduler.start(std::make_unique<TestOperation>(
        "waiter",
        [this](TestOperation& operation) -> Attempt<void> {
          ++attempts;
          if (operation.phase == 0) {
            operation.phase = 1;
            ticket->begin_one();
            probe.arm(completions, ticket);
          }
          return ticket->wait();
        },
        [this](Result<void> result) { outcome = result; }));
    run();
  }
  bool run(Scheduler::Serves serves = Scheduler::Serves::ready) {
    Scheduler::Handout handout;
    const bool more = scheduler.run(handout, 64, serves);
    for (auto& operation : handout.finished) Scheduler::finish(*operation);
    scheduler.retire(handout.finished);
    return more;
  }
  uint64_t deferred(DeferReason reason) const {
    return completions.stats().deferred_count[static_cast<size_t>(reason)];
  }

  SimClock clock;
  Scheduler scheduler;
  Completions completions;
  Ref<IoTicket> ticket = make_ref<IoTicket>();
  Probe probe;
  int attempts = 0;
  std::optional<Result<void>> outcome;
};

TEST_CASE("with nothing left to do the operation ends at its completion, with one attempt in all") {
  Rig rig(CompletionPolicy::issuer);
  rig.start();
  CHECK(!rig.outcome);
  rig.ticket->complete_one({});
  CHECK(rig.probe.released);
  CHECK(rig.probe.finished);
  CHECK(rig.scheduler.has_ready());
  rig.run();
  REQUIRE(rig.outcome);
  CHECK(rig.outcome->ok());
  CHECK(rig.attempts == 1);
  CHECK(rig.completions.stats().issuer_count == 1);
  CHECK(rig.scheduler.live_count() == 0);
}

TEST_CASE("whatever is left to do, the release is not put off") {
  for (const DeferReason reason :
       {DeferReason::transaction, DeferReason::flush, DeferReason::invalidation}) {
    Rig rig(CompletionPolicy::issuer);
    rig.probe.wanted.transaction = reason == DeferReason::transaction;
    rig.probe.wanted.flush = reason == DeferReason::flush;
    rig.probe.wanted.invalidation = reason == DeferReason::invalidation;
    rig.start();
    rig.ticket->complete_one({});
    CHECK(rig.probe.released);
    CHECK(!rig.probe.finished);
    CHECK(!rig.outcome);
    rig.run();
    REQUIRE(rig.outcome);
    CHECK(rig.attempts == 2);
    CHECK(rig.deferred(reason) == 1);
    CHECK(rig.completions.stats().issuer_count == 0);
  }
}

TEST_CASE("an error is told by an attempt") {
  Rig rig(CompletionPolicy::issuer);
  rig.start();
  rig.ticket->complete_one(Error::io_failed);
  CHECK(rig.probe.released);
  CHECK(!rig.probe.finished);
  rig.run();
  REQUIRE(rig.outcome);
  CHECK(rig.outcome->error() == Error::io_failed);
  CHECK(rig.deferred(DeferReason::error) == 1);
}

TEST_CASE("deferred work is left to the thread that serves it, and to anyone once there is none") {
  for (const bool goes : {false, true}) {
    Rig rig(CompletionPolicy::deferred);
    rig.scheduler.set_serves_deferred(true);
    rig.start();
    rig.ticket->complete_one({});
    CHECK(rig.probe.released);
    CHECK(rig.scheduler.has_deferred());
    CHECK(!rig.scheduler.has_ready());
    rig.run();
    CHECK(!rig.outcome);
    if (goes) {
      rig.scheduler.set_serves_deferred(false);
      rig.run();
    } else {
      rig.run(Scheduler::Serves::deferred_too);
    }
    REQUIRE(rig.outcome);
    CHECK(rig.attempts == 2);
    CHECK(rig.deferred(DeferReason::policy) == 1);
  }
}

TEST_CASE("an operation that was made ready meanwhile ends all the same, and only once") {
  Rig rig(CompletionPolicy::issuer);
  rig.start();
  rig.ticket->completion().wake_all();  // for no reason
  rig.ticket->complete_one({});
  rig.run();
  REQUIRE(rig.outcome);
  CHECK(rig.attempts == 1);
  CHECK(!rig.scheduler.has_ready());
}

TEST_CASE("who disarms is not called") {
  Rig rig(CompletionPolicy::issuer);
  rig.start();
  rig.probe.disarm();
  rig.ticket->complete_one({});
  CHECK(!rig.probe.released);
  rig.run();
  CHECK(rig.attempts == 2);
  CHECK(rig.outcome);
}

}  // namespace
}  // namespace fusefs
