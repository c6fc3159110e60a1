// Random: the seam to chance. The same seed gives the same numbers on every machine.
#pragma once

#include <cstdint>

namespace fusefs {

// xoshiro256** by Blackman and Vigna, seeded through splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed);

  uint64_t next();
  // Uniform in [0, bound); bound is at least 1.
  uint64_t below(uint64_t bound);
  // Uniform in [low, high], both included.
  uint64_t between(uint64_t low, uint64_t high) { return low + below(high - low + 1); }
  // True with the given probability in [0, 1].
  bool chance(double probability);
  // A generator whose numbers do not disturb this one's.
  Random fork() { return Random(next()); }

 private:
  uint64_t state_[4];
};

// Unpredictable bytes from the kernel, for UUIDs and hash seeds of new volumes.
uint64_t entropy();

}  // namespace fusefs
