// The queue of what is to be discarded.
#include <set>

#include "core/base/random.h"
#include "core/space/discard_queue.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

BlockRange blocks(uint64_t first, uint64_t end) { return {BlockNo(first), BlockNo(end)}; }

TEST_CASE("ranges that touch or overlap become one") {
  DiscardQueue queue;
  queue.add(blocks(10, 20));
  queue.add(blocks(30, 40));
  CHECK(queue.size() == 2);
  queue.add(blocks(20, 30));
  REQUIRE(queue.size() == 1);
  CHECK(queue.front() == blocks(10, 40));
  queue.add(blocks(5, 50));
  CHECK(queue.front() == blocks(5, 50));
  queue.add(blocks(7, 7));
  CHECK(queue.size() == 1);
}

TEST_CASE("the queue holds what was added, lowest first, whatever the order") {
  Random random(7);
  DiscardQueue queue;
  std::set<uint64_t> expected;
  for (int step = 0; step < 2000; ++step) {
    const uint64_t first = random.below(500);
    const uint64_t end = first + random.below(20);
    queue.add(blocks(first, end));
    for (uint64_t block = first; block < end; ++block) expected.insert(block);
    if (random.chance(0.1)) {
      const uint64_t before = random.below(500);
      queue.drop_before(BlockNo(before));
      expected.erase(expected.begin(), expected.lower_bound(before));
    }
  }
  std::set<uint64_t> found;
  uint64_t last_end = 0;
  while (!queue.empty()) {
    const BlockRange range = queue.front();
    if (!found.empty()) CHECK(range.first.value() > last_end);
    for (uint64_t at = range.first.value(); at < range.end.value(); ++at) found.insert(at);
    last_end = range.end.value();
    queue.drop_before(range.end);
  }
  CHECK(found == expected);
}

TEST_CASE("what comes beyond the bound is forgotten") {
  DiscardQueue queue;
  for (uint64_t i = 0; i < kDiscardRangesMax + 10; ++i) queue.add(blocks(2 * i, 2 * i + 1));
  CHECK(queue.size() == kDiscardRangesMax);
}

}  // namespace
}  // namespace fusefs
