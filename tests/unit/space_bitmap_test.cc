#include <algorithm>
#include <bitset>

#include "core/base/random.h"
#include "core/space/bitmap.h"
#include "core/space/group_index.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using Model = std::bitset<kGroupBlocks>;

BitRange random_range(Random& random, uint32_t max) {
  const auto first = static_cast<uint32_t>(random.below(kGroupBlocks));
  const auto len = static_cast<uint32_t>(random.below(max + 1));
  return {first, std::min(first + len, kGroupBlocks)};
}

bool model_whole(const Model& model, uint32_t chunk) {
  for (uint32_t i = 0; i < kNodeBlocks; ++i) {
    if (model.test(chunk * kNodeBlocks + i)) return false;
  }
  return true;
}

uint32_t model_find(const Model& model, BitRange range, bool used) {
  uint32_t at = range.first;
  while (at < range.end && model.test(at) != used) ++at;
  return at;
}

BitRange model_run(const Model& model, BitRange range, uint32_t min) {
  BitRange longest{range.first, range.first};
  for (uint32_t at = range.first; at < range.end;) {
    const uint32_t first = model_find(model, {at, range.end}, false);
    const uint32_t end = model_find(model, {first, range.end}, true);
    if (end - first >= min && first < range.end) return {first, end};
    if (end - first > longest.count()) longest = {first, end};
    at = std::max(end, at + 1);
  }
  return longest;
}

BitRange model_broken(const Model& model, BitRange range) {
  const auto good = [&](uint32_t bit) {
    return !model.test(bit) && !model_whole(model, bit / kNodeBlocks);
  };
  uint32_t first = range.first;
  while (first < range.end && !good(first)) ++first;
  uint32_t end = first;
  while (end < range.end && good(end)) ++end;
  return {first, end};
}

void compare(const Bitmap& bitmap, const Model& model, Random& random) {
  const BitRange range = random_range(random, kGroupBlocks);
  const auto min = static_cast<uint32_t>(random.between(1, 200));
  CHECK_EQ(bitmap.free_count(), kGroupBlocks - model.count());
  if (range.empty()) return;
  CHECK_EQ(bitmap.find_free(range), model_find(model, range, false));
  CHECK_EQ(bitmap.find_used(range), model_find(model, range, true));
  const BitRange run = bitmap.find_run(range, min);
  const BitRange expected = model_run(model, range, min);
  CHECK_EQ(run.count(), expected.count());
  if (!expected.empty()) CHECK_EQ(run.first, expected.first);
  const BitRange broken = bitmap.find_broken(range);
  CHECK(broken == model_broken(model, range));

  uint32_t whole = 0;
  uint32_t first_whole = range.end;
  for (uint32_t chunk = range.first / kNodeBlocks; chunk * kNodeBlocks < range.end; ++chunk) {
    if (!model_whole(model, chunk)) continue;
    ++whole;
    if (chunk * kNodeBlocks >= range.first) {
      first_whole = std::min(first_whole, chunk * kNodeBlocks);
    }
  }
  CHECK_EQ(bitmap.whole_chunks(range), whole);
  CHECK_EQ(bitmap.find_whole_chunk(range), first_whole);

  if (!model.test(range.first)) {
    uint32_t first = range.first;
    while (first > 0 && !model.test(first - 1)) --first;
    const uint32_t end = model_find(model, {range.first, kGroupBlocks}, true);
    CHECK_EQ(bitmap.run_around(range.first), end - first);
  }
}

TEST_CASE("a bitmap answers like one that looks at every bit") {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    Random random(seed);
    Bitmap bitmap;
    Model model;
    // Long ranges, short ranges, and single blocks leave different patterns.
    const uint32_t len_max = seed % 3 == 0 ? 4000 : seed % 3 == 1 ? 40 : 3;
    for (int step = 0; step < 600; ++step) {
      for (int change = 0; change < 20; ++change) {
        const BitRange range = random_range(random, len_max);
        const bool set = random.chance(0.6);
        uint32_t changed = 0;
        for (uint32_t bit = range.first; bit < range.end; ++bit) {
          changed += model.test(bit) != set;
          model.set(bit, set);
        }
        CHECK_EQ(set ? bitmap.set(range) : bitmap.clear(range), changed);
      }
      compare(bitmap, model, random);
    }
  }
}

TEST_CASE("a full and an empty bitmap have no edges to stumble over") {
  Bitmap bitmap;
  const BitRange all{0, kGroupBlocks};
  CHECK_EQ(bitmap.longest_run().count(), kGroupBlocks);
  CHECK_EQ(bitmap.whole_chunks(all), kGroupChunks);
  CHECK(bitmap.find_broken(all).empty());
  CHECK_EQ(bitmap.run_around(kGroupBlocks - 1), kGroupBlocks);
  CHECK_EQ(bitmap.set(all), kGroupBlocks);
  CHECK(bitmap.longest_run().empty());
  CHECK_EQ(bitmap.find_whole_chunk(all), kGroupBlocks);
  CHECK_EQ(bitmap.find_free(all), kGroupBlocks);
}

TEST_CASE("the index finds the next group with room, around the end") {
  constexpr uint64_t kGroups = 10'000;
  Random random(7);
  GroupIndex index(kGroups);
  std::vector<uint32_t> runs(kGroups, 0);
  CHECK(!index.with_run(0, 0));
  for (int step = 0; step < 3000; ++step) {
    const uint64_t group = random.below(kGroups);
    runs[group] = random.chance(0.7) ? 0 : static_cast<uint32_t>(random.below(kGroupBlocks));
    index.update(group, runs[group], runs[group], runs[group] / kNodeBlocks);
    const uint64_t from = random.below(kGroups);
    const int level = static_cast<int>(random.below(GroupIndex::kLevels));
    std::optional<uint64_t> expected;
    for (uint64_t i = 0; i < kGroups && !expected; ++i) {
      const uint64_t at = (from + i) % kGroups;
      if (runs[at] >= (1u << level)) expected = at;
    }
    CHECK(index.with_run(level, from) == expected);
  }
}

}  // namespace
}  // namespace fusefs
