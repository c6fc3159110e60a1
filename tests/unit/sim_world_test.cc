// The simulated world: it replays, it finds deadlocks, and it survives the end of its power.
#include "tests/support/sim_world.h"

#include <cstdlib>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/base/checksum.h"
#include "core/io/aligned_buffer.h"
#include "tests/support/death.h"
#include "tests/support/test_operation.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// Writes one block and flushes: the stash of the smallest durable operation.
struct WriteStash {
  explicit WriteStash(int value) : buffer(kBlockBytes) {
    std::fill_n(buffer.data(), kBlockBytes, static_cast<std::byte>(value));
  }
  AlignedBuffer buffer;
  Ref<IoTicket> write;
  Ref<IoTicket> flush;
};

Attempt<void> write_durably(SimWorld& world, uint64_t addr, WriteStash& stash) {
  if (!stash.write) {
    stash.write = make_ref<IoTicket>();
    world.device().submit(IoRequest::write(addr, stash.buffer.data(), kBlockBytes), stash.write);
  }
  ATTEMPT_OK(stash.write->wait());
  if (!stash.flush) {
    stash.flush = make_ref<IoTicket>();
    world.device().submit(IoRequest::flush(), stash.flush);
  }
  return stash.flush->wait();
}

int first_byte(const SimImage& image, uint64_t addr) {
  std::byte value{};
  image.read(addr, Bytes(&value, 1));
  return static_cast<int>(value);
}

TEST_CASE("an operation is driven through its waits to its value") {
  for_each_seed(5, [](const TestSeed& seed) {
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    WriteStash stash(7);
    const Result<int> outcome = world.run([&]() -> Attempt<int> {
      ATTEMPT_OK(write_durably(world, 0, stash));
      return 42;
    });
    REQUIRE(outcome.ok());
    CHECK(outcome.value() == 42);
    CHECK(world.device().stats().submitted(IoKind::write) == 1);
    CHECK(first_byte(world.power_cut(), 0) == 7);
  });
}

TEST_CASE("outcomes may be errors, nothing, or what can only be moved") {
  SimWorld world(1);
  CHECK(world.run([]() -> Attempt<void> { return Error::exists; }).error() == Error::exists);
  CHECK(world.run([]() -> Attempt<void> { return {}; }).ok());
  auto moved =
      world.run([]() -> Attempt<std::unique_ptr<int>> { return std::make_unique<int>(5); });
  REQUIRE(moved.ok());
  CHECK(*moved.value() == 5);
}

TEST_CASE("operations run at the same time, and each is told its own outcome") {
  SimWorld world(3);
  std::set<int> done;
  std::vector<std::unique_ptr<WriteStash>> stashes;
  for (int i = 0; i < 20; ++i) {
    stashes.push_back(std::make_unique<WriteStash>(i));
    world.spawn(
        [&world, i, &stash = *stashes.back()]() -> Attempt<int> {
          ATTEMPT_OK(write_durably(world, static_cast<uint64_t>(i) * kBlockBytes, stash));
          return i;
        },
        [&](Result<int> outcome) { done.insert(outcome.value()); });
  }
  REQUIRE(world.run_until_idle());
  CHECK(done.size() == 20);
  CHECK(world.device().stats().in_flight_max > 1);
}

TEST_CASE("an attempt and an outcome may start further operations") {
  SimWorld world(1);
  std::vector<int> order;
  world.spawn(
      [&]() -> Attempt<void> {
        world.spawn([&]() -> Attempt<void> {
          order.push_back(1);
          return {};
        });
        return {};
      },
      [&](Result<void>) {
        world.spawn([&]() -> Attempt<void> {
          order.push_back(2);
          return {};
        });
      });
  REQUIRE(world.run_until_idle());
  CHECK(std::set<int>(order.begin(), order.end()) == std::set<int>{1, 2});
}

// Everything that happens, in order, as one number.
uint64_t history_of(uint64_t seed) {
  SimWorld world(seed, {.forced_restart_probability = 0.2});
  uint64_t print = 0;
  std::vector<std::unique_ptr<WriteStash>> stashes;
  for (uint64_t i = 0; i < 30; ++i) {
    stashes.push_back(std::make_unique<WriteStash>(static_cast<int>(i)));
    world.spawn([&, i, &stash = *stashes.back()]() -> Attempt<void> {
      print = checksum_seeded(bytes_of(i), print ^ world.clock().monotonic_ns());
      ATTEMPT_OK(write_durably(world, i * kBlockBytes, stash));
      if (!world.random().chance(0.5)) return {};
      return restart_after_outside([&print, i] { print = checksum_seeded(bytes_of(i), print); });
    });
  }
  CHECK(world.run_until_idle());
  return print ^ world.power_cut().fingerprint();
}

TEST_CASE("one seed is one history, another seed another") {
  std::set<uint64_t> histories;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const uint64_t history = history_of(seed);
    CHECK(history == history_of(seed));
    histories.insert(history);
  }
  CHECK(histories.size() == 10);
}

TEST_CASE("wherever the power is cut, what was told durable is there after it") {
  for_each_seed(5, [](const TestSeed& seed) {
    for (uint64_t cut = 0;; ++cut) {
      SimWorldOptions options;
      options.forced_restart_probability = seed.forced_restart_probability;
      options.device.cut_after_writes = cut;
      SimWorld world(seed.seed, options);
      std::vector<std::unique_ptr<WriteStash>> stashes;
      int durable = 0;
      Result<void> outcome;
      for (int i = 1; i <= 10 && outcome.ok(); ++i) {
        stashes.push_back(std::make_unique<WriteStash>(i));
        outcome =
            world.run([&]() -> Attempt<void> { return write_durably(world, 0, *stashes.back()); });
        if (outcome.ok()) durable = i;
      }
      CHECK(world.dead() == (cut < 10));
      if (!world.dead()) break;
      CHECK(outcome.error() == Error::device_gone);
      CHECK(durable == static_cast<int>(cut));
      CHECK(world.scheduler().live_count() == 0);

      SimWorld again(seed.seed, {}, world.power_cut());
      const int value = first_byte(again.device().snapshot(), 0);
      CHECK(value >= durable);
      CHECK(value <= durable + 1);
    }
  });
}

TEST_CASE("nobody is attempted or told anything after the power cut") {
  SimWorld world(1);
  bool told = false;
  auto stash = std::make_shared<WriteStash>(1);
  world.spawn([&world, stash]() -> Attempt<void> { return write_durably(world, 0, *stash); },
              [&](Result<void>) { told = true; });
  REQUIRE(world.run_for(5'000));  // less than any write takes
  CHECK(world.device().in_flight_count() == 1);
  world.power_cut();
  CHECK(stash.use_count() == 1);
  CHECK_FALSE(world.run_until_idle());
  CHECK_FALSE(world.run_for(kNsPerSecond));
  CHECK(world.run([]() -> Attempt<int> { return 1; }).error() == Error::device_gone);
  CHECK_FALSE(told);
}

TEST_CASE("a killed process leaves its device, which finishes what was in flight") {
  SimWorld world(1);
  {
    auto stash = std::make_shared<WriteStash>(9);
    world.spawn([&world, stash]() -> Attempt<void> { return write_durably(world, 0, *stash); });
    REQUIRE(world.run_for(5'000));
  }
  world.abandon();  // frees the buffer of the write
  REQUIRE(world.run_until_idle());
  CHECK_FALSE(world.dead());
  CHECK(first_byte(world.device().snapshot(), 0) == 9);
}

TEST_CASE("time passes while nothing is ready, and stops where it was told to") {
  SimWorld world(1);
  Waitable alarm;
  const uint64_t start_ns = world.clock().monotonic_ns();
  bool armed = false;
  const Result<uint64_t> woken = world.run([&]() -> Attempt<uint64_t> {
    if (!std::exchange(armed, true)) {
      world.scheduler().wake_at(start_ns + 10 * kNsPerSecond, alarm);
      return restart_after(alarm, RestartReason::durable);
    }
    return world.clock().monotonic_ns();
  });
  CHECK(woken.value() == start_ns + 10 * kNsPerSecond);
  REQUIRE(world.run_for(123));
  CHECK(world.clock().monotonic_ns() == woken.value() + 123);
}

TEST_CASE("a background operation with a timer does not keep the world from being idle") {
  SimWorld world(1);
  Waitable alarm;
  int turns = 0;
  auto ticker = std::make_unique<TestOperation>("ticker", [&](TestOperation&) -> Attempt<void> {
    ++turns;
    world.scheduler().wake_at(world.clock().monotonic_ns() + kNsPerSecond, alarm);
    return restart_after(alarm, RestartReason::idle);
  });
  ticker->background = true;
  world.start(std::move(ticker));
  REQUIRE(world.run_until_idle());
  CHECK(turns == 1);
  REQUIRE(world.run_for(10 * kNsPerSecond + 1));
  CHECK(turns == 11);
  world.abandon();
}

TEST_CASE("operations that wait for ever stop the program with what they wait for") {
  const std::string deadlock = last_words([] {
    Waitable never;
    SimWorld world(1);
    world.start(std::make_unique<TestOperation>("sleeper", [&](TestOperation&) -> Attempt<void> {
      return restart_after(never, RestartReason::inode_busy);
    }));
    world.run_until_idle();
  });
  CHECK(deadlock.find("deadlock") != std::string::npos);
  CHECK(deadlock.find("sleeper: waits for inode_busy, after 1 restarts") != std::string::npos);

  const std::string stuck = last_words([] {
    Waitable never;
    Waitable alarm;
    SimWorld world(1);
    auto ticker = std::make_unique<TestOperation>("ticker", [&](TestOperation&) -> Attempt<void> {
      world.scheduler().wake_at(world.clock().monotonic_ns() + kNsPerSecond, alarm);
      return restart_after(alarm, RestartReason::idle);
    });
    ticker->background = true;
    world.start(std::move(ticker));
    (void)world.run([&]() -> Attempt<void> { return restart_after(never, RestartReason::space); });
  });
  CHECK(stuck.find("stuck") != std::string::npos);
  CHECK(stuck.find("test: waits for space") != std::string::npos);
  CHECK(stuck.find("ticker: ") != std::string::npos);
}

TEST_CASE("the replay line names the seed, the percentage and the test") {
  const std::string line = replay_line({77, 0.2}, "a, b");
  CHECK(line.starts_with("FUSEFS_SEED=77 FUSEFS_SEEDS=1 FUSEFS_FORCED=20 "));
  CHECK(line.ends_with("--test-case=\"a? b\""));
}

// The environment of a test run, put back at the end.
struct Environment {
  Environment() {
    for (const char* name : {"FUSEFS_SEED", "FUSEFS_SEEDS", "FUSEFS_FORCED"}) {
      const char* value = std::getenv(name);
      saved.emplace_back(name, value != nullptr ? std::optional<std::string>(value) : std::nullopt);
      unsetenv(name);
    }
  }
  ~Environment() {
    for (const auto& [name, value] : saved) {
      if (value) {
        setenv(name.c_str(), value->c_str(), 1);
      } else {
        unsetenv(name.c_str());
      }
    }
  }
  std::vector<std::pair<std::string, std::optional<std::string>>> saved;
};

TEST_CASE("the environment says which seeds run, and each at both percentages") {
  const Environment environment;
  auto runs = [] {
    std::vector<std::pair<uint64_t, double>> all;
    for_each_seed(2, [&](const TestSeed& seed) {
      all.emplace_back(seed.seed, seed.forced_restart_probability);
    });
    return all;
  };
  using Runs = std::vector<std::pair<uint64_t, double>>;
  CHECK(runs() == Runs{{1, 0.0}, {1, 0.2}, {2, 0.0}, {2, 0.2}});
  setenv("FUSEFS_SEED", "70", 1);
  setenv("FUSEFS_SEEDS", "3", 1);
  setenv("FUSEFS_FORCED", "5", 1);
  CHECK(runs() == Runs{{70, 0.05}, {71, 0.05}, {72, 0.05}});
}

TEST_CASE("a seed that breaks an invariant prints how to replay it") {
  const Environment environment;
  const std::string words = last_words([] {
    for_each_seed(3, [](const TestSeed& seed) {
      if (seed.seed == 2) check_failed("x.cc", 1, "broken", "");
    });
  });
  CHECK(words.find("x.cc:1: broken invariant") != std::string::npos);
  CHECK(words.find("replay: FUSEFS_SEED=2 FUSEFS_SEEDS=1 FUSEFS_FORCED=0 ") != std::string::npos);
  CHECK(words.find("--test-case=\"a seed that breaks an invariant prints how to replay it\"\n") !=
        std::string::npos);
}

}  // namespace
}  // namespace fusefs
