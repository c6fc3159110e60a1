// Worker and Monitor: real threads around one scheduler.
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "core/base/clock.h"
#include "core/engine/monitor.h"
#include "core/engine/scheduler.h"
#include "core/engine/worker.h"
#include "tests/support/test_operation.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr int kThreads = 4;
constexpr int kOperations = 2000;
constexpr int kRounds = 4;

TEST_CASE("several threads attempt one at a time, work outside at once, and lose nothing") {
  const SystemClock clock;
  Monitor monitor(clock);
  Scheduler scheduler(clock);
  std::atomic<int> inside = 0;
  std::atomic<int> overlaps = 0;
  std::atomic<int> outside_runs = 0;
  std::atomic<int> outcomes = 0;
  int plain_count = 0;  // safe only because of the monitor

  auto attempt = [&](TestOperation& self) -> Attempt<void> {
    if (inside.fetch_add(1) != 0) ++overlaps;
    ++plain_count;
    inside.fetch_sub(1);
    if (self.phase++ < kRounds) return restart_after_outside([&] { ++outside_runs; });
    return {};
  };
  auto work = [&](int first) {
    Worker worker(monitor, scheduler);
    for (int i = first; i < kOperations; i += kThreads) {
      worker.run_ready([&] {
        scheduler.start(
            std::make_unique<TestOperation>("a", attempt, [&](Result<void>) { ++outcomes; }));
      });
    }
    while (outcomes < kOperations) {
      worker.run_ready([] {});
      std::this_thread::yield();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();

  CHECK(overlaps == 0);
  CHECK(outcomes == kOperations);
  CHECK(outside_runs == kOperations * kRounds);
  CHECK(plain_count == kOperations * (kRounds + 1));
  CHECK(scheduler.live_count() == 0);
  CHECK(monitor.stats().enter_count > 0);
}

TEST_CASE("the monitor knows how long it was held") {
  SimClock clock;
  Monitor monitor(clock);
  for (const uint64_t held_ns : {100u, 700u, 200u}) {
    MonitorHold hold(monitor);
    clock.advance_to(clock.monotonic_ns() + held_ns);
  }
  CHECK(monitor.stats().enter_count == 3);
  CHECK(monitor.stats().held_ns == 1000);
  CHECK(monitor.stats().held_ns_max == 700);
  CHECK(monitor.stats().waited_ns == 0);
}

}  // namespace
}  // namespace fusefs
