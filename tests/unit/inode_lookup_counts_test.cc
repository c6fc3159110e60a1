#include <map>

#include "core/base/random.h"
#include "core/inode/lookup_counts.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("lookup counts agree with a map, whatever is added and forgotten") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    LookupCounts counts;
    std::map<uint64_t, uint64_t> oracle;
    // Few numbers: long runs of full slots, and deletions in their middle. Some are far apart.
    const uint64_t numbers = 1 + random.below(300);
    const uint64_t stride = random.chance(0.5) ? 1 : random.next() >> 8 | 1;
    for (int step = 0; step < 3000; ++step) {
      const uint64_t ino = (1 + random.below(numbers)) * stride;
      const uint64_t count = random.below(4);
      if (random.chance(0.5)) {
        counts.add(InodeNo(ino), count);
        if (count != 0) oracle[ino] += count;
      } else {
        const auto known = oracle.find(ino);
        uint64_t left = 0;
        if (known != oracle.end()) {
          left = known->second -= std::min(known->second, count);
          if (left == 0) oracle.erase(known);
        }
        REQUIRE(counts.forget(InodeNo(ino), count) == left);
      }
      REQUIRE(counts.inode_count() == oracle.size());
    }
    for (uint64_t i = 1; i <= numbers; ++i) {
      const auto known = oracle.find(i * stride);
      REQUIRE(counts.count(InodeNo(i * stride)) == (known == oracle.end() ? 0 : known->second));
    }
  }
}

TEST_CASE("each known inode is visited once") {
  LookupCounts counts;
  for (uint64_t ino = 1; ino <= 500; ++ino) counts.add(InodeNo(ino), ino);
  for (uint64_t ino = 1; ino <= 500; ino += 2) counts.forget(InodeNo(ino), ino);
  uint64_t sum = 0;
  counts.for_each([&](InodeNo ino) { sum += ino.value(); });
  CHECK(sum == 2 * (250 * 251 / 2));
}

TEST_CASE("forgetting gives memory back, and a million inodes fit 32 MiB") {
  LookupCounts counts;
  for (uint64_t ino = 1; ino <= 1'000'000; ++ino) counts.add(InodeNo(ino), 1);
  CHECK(counts.memory_bytes() <= 32u << 20);
  for (uint64_t ino = 1; ino <= 1'000'000; ++ino) counts.forget(InodeNo(ino), 1);
  CHECK(counts.inode_count() == 0);
  CHECK(counts.memory_bytes() <= 1u << 16);
}

TEST_CASE("forgetting what was never looked up is harmless") {
  LookupCounts counts;
  CHECK(counts.forget(InodeNo(5), 1) == 0);
  counts.add(InodeNo(5), 2);
  CHECK(counts.forget(InodeNo(6), 1) == 0);
  CHECK(counts.forget(InodeNo(5), 100) == 0);
  CHECK(counts.inode_count() == 0);
}

}  // namespace
}  // namespace fusefs
