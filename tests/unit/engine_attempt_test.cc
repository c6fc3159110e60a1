// Attempt<T>, its macros, and what a restart does to a function in the middle.
#include <memory>
#include <optional>
#include <vector>

#include "core/engine/attempt.h"
#include "core/engine/waitable.h"
#include "tests/support/sim_world.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

Attempt<int> inner(std::optional<Error> error, Waitable* wait) {
  if (error) return *error;
  if (wait != nullptr) return restart_after(*wait, RestartReason::node_load);
  return 7;
}
Attempt<std::unique_ptr<int>> middle(std::optional<Error> error, Waitable* wait) {
  ATTEMPT(const int value, inner(error, wait));
  return std::make_unique<int>(value + 1);
}
Attempt<void> outer(std::optional<Error> error, Waitable* wait, int& answer) {
  ATTEMPT(std::unique_ptr<int> value, middle(error, wait));
  answer = *value;
  return {};
}
Attempt<int> outermost(std::optional<Error> error, Waitable* wait) {
  int answer = 0;
  ATTEMPT_OK(outer(error, wait, answer));
  return answer;
}

TEST_CASE("a value, an error and a restart pass through every layer unchanged") {
  CHECK(outermost({}, nullptr).value() == 8);

  const Attempt<int> failed = outermost(Error::corrupt, nullptr);
  REQUIRE(failed.failed());
  CHECK(failed.error() == Error::corrupt);

  Waitable waitable;
  const Attempt<int> restart = outermost({}, &waitable);
  REQUIRE(restart.must_restart());
  CHECK(restart.restart().on == &waitable);
  CHECK(restart.restart().reason == RestartReason::node_load);
}

TEST_CASE("an error is never replaced by a restart, however often those are forced") {
  SimWorld world(1, {.forced_restart_probability = 1.0});
  int attempts = 0;
  const Result<int> outcome = world.run([&]() -> Attempt<int> {
    ++attempts;
    ATTEMPT(const int value, inner(Error::no_space, nullptr));
    return value;
  });
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error() == Error::no_space);
  CHECK(attempts == 1);
}

struct Hold {
  explicit Hold(int& count) : count_(&count) { ++count; }
  Hold(Hold&& other) noexcept : count_(std::exchange(other.count_, nullptr)) {}
  ~Hold() {
    if (count_ != nullptr) --*count_;
  }
  int* count_;
};

TEST_CASE("every hold is let go when an attempt leaves, and taken anew by the next") {
  SimWorld world(1, {.forced_restart_probability = 0.5});
  int held = 0;
  int held_between = 0;
  int attempts = 0;
  auto take = [&]() -> Attempt<Hold> { return Hold(held); };
  world.spawn([&]() -> Attempt<void> {
    held_between += held;
    ++attempts;
    for (int i = 0; i < 5; ++i) {
      ATTEMPT(Hold hold, take());
      if (held != 1) return Error::corrupt;
    }
    return {};
  });
  REQUIRE(world.run_until_idle());
  CHECK(held == 0);
  CHECK(held_between == 0);
  CHECK(attempts > 1);
}

TEST_CASE("what a stash keeps is computed once, wherever restarts are forced") {
  for_each_seed(20, [](const TestSeed& seed) {
    SimWorld world(seed.seed, {.forced_restart_probability = seed.forced_restart_probability});
    struct Stash {
      std::vector<int> parts;
    } stash;
    auto part = [&](int i) -> Attempt<int> { return i * i; };
    const Result<int> sum = world.run([&]() -> Attempt<int> {
      for (int i = static_cast<int>(stash.parts.size()); i < 20; ++i) {
        ATTEMPT(const int value, part(i));
        stash.parts.push_back(value);
      }
      int total = 0;
      for (const int value : stash.parts) total += value;
      return total;
    });
    REQUIRE(sum.ok());
    CHECK(sum.value() == 2470);
    CHECK(stash.parts.size() == 20);
    const auto forced = static_cast<size_t>(RestartReason::forced);
    const uint64_t restarts = world.scheduler().stats().restart_count[forced];
    if (seed.forced_restart_probability <= 0) CHECK(restarts == 0);
  });
}

TEST_CASE("every restart reason has a name") {
  for (int i = 0; i < kRestartReasonCount; ++i) {
    CHECK_FALSE(restart_reason_name(static_cast<RestartReason>(i)).empty());
  }
  CHECK(restart_reason_name(RestartReason::forced) == "forced");
  CHECK(restart_reason_name(RestartReason::idle) == "idle");
}

}  // namespace
}  // namespace fusefs
