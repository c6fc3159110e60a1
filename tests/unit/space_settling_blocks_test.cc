#include <map>

#include "core/base/random.h"
#include "core/space/settling_blocks.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

BlockRange blocks(uint64_t first, uint64_t end) { return {BlockNo(first), BlockNo(end)}; }

TEST_CASE("blocks settle when the last transaction that took an owner away is durable") {
  Random random(1);
  SettlingBlocks settling;
  std::map<uint64_t, uint64_t> model;  // block -> seq
  uint64_t durable = 0;
  for (uint64_t seq = 1; seq < 3000; ++seq) {
    const uint64_t first = random.below(100);
    const uint64_t end = first + random.between(1, 30);
    settling.add(blocks(first, end), JournalSeq(seq));
    for (uint64_t block = first; block < end; ++block) model[block] = seq;
    if (random.chance(0.1)) durable = random.between(durable, seq);
    if (random.chance(0.05)) settling.prune(JournalSeq(durable));
    const BlockRange asked = blocks(random.below(100), 140);
    const SettlingBlocks::Answer answer = settling.at(asked, JournalSeq(durable));
    REQUIRE(answer.count.value() >= 1);
    for (uint64_t i = 0; i < answer.count.value(); ++i) {
      const auto known = model.find(asked.first.value() + i);
      const bool expected = known != model.end() && known->second > durable;
      REQUIRE(expected == answer.settling);
    }
  }
}

TEST_CASE("nothing is left of blocks that have settled") {
  SettlingBlocks settling;
  settling.add(blocks(10, 20), JournalSeq(5));
  CHECK(settling.at(blocks(12, 30), JournalSeq(4)).settling);
  CHECK(settling.at(blocks(12, 30), JournalSeq(4)).count == BlockCount(8));
  CHECK_FALSE(settling.at(blocks(12, 30), JournalSeq(5)).settling);
  settling.prune(JournalSeq(5));
  CHECK(settling.empty());
}

}  // namespace
}  // namespace fusefs
