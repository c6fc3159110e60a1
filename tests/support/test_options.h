// What the environment says about a run of tests with seeds.
//
//   FUSEFS_SEED    the first seed                                    default: 1
//   FUSEFS_SEEDS   how many seeds, in place of each test's own few   default: the test's
//   FUSEFS_FORCED  percentage of forced restarts at every ATTEMPT    default: 0, then 20
//
// A long run is the same program with larger numbers. When an assertion or an invariant fails, the
// line that replays just that seed is printed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace fusefs {

struct TestOptions {
  uint64_t seed_first = 1;
  std::optional<uint64_t> seed_count;
  std::vector<uint32_t> forced_percents = {0, 20};

  // Stops the program with a message on a value that is no number.
  static TestOptions from_environment();
};

struct TestSeed {
  uint64_t seed = 0;
  double forced_restart_probability = 0.0;
};

// Calls `body` for every seed at every percentage of forced restarts. Returns whether these were as
// many as by default at least: what is seen in one seed or another is seen in all of them together.
bool for_each_seed(uint64_t seed_count_default, const std::function<void(const TestSeed&)>& body);

// The line for people: how to run `seed` of the running test again.
std::string replay_line(const TestSeed& seed, const std::string& test_name);

}  // namespace fusefs
