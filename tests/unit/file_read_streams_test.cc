#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "core/base/random.h"
#include "core/file/read_streams.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kRead = 64 << 10;
constexpr uint64_t kFarAway = uint64_t{1} << 40;

// The bytes that were read ahead, in units of a read.
struct Ahead {
  std::multiset<uint64_t> units;
  uint64_t largest_bytes = 0;
  uint64_t count = 0;

  void add(const std::optional<ReadaheadPlan>& plan) {
    if (!plan) return;
    ++count;
    largest_bytes = std::max(largest_bytes, plan->len * plan->count);
    for (uint64_t i = 0; i < plan->count; ++i) {
      const uint64_t pos = plan->pos + static_cast<uint64_t>(plan->stride) * i;
      for (uint64_t at = pos; at < pos + plan->len; at += kRead) units.insert(at / kRead);
    }
  }
  bool has(uint64_t pos) const { return units.contains(pos / kRead); }
};

TEST_CASE("the second of two reads in a row starts a window, which doubles up to its bound") {
  ReadStreams streams;
  CHECK_FALSE(streams.note_read(0, kRead, kReadaheadBytesMax));
  const auto first = streams.note_read(kRead, kRead, kReadaheadBytesMax);
  REQUIRE(first);
  CHECK(first->pos == 2 * kRead);
  CHECK(first->len == kReadaheadBytesMin);
  CHECK_FALSE(first->is_strided());

  Ahead ahead;
  ahead.add(first);
  for (uint64_t i = 2; i < 200; ++i) {
    CHECK(ahead.has(i * kRead));
    ahead.add(streams.note_read(i * kRead, kRead, kReadaheadBytesMax));
  }
  CHECK(ahead.largest_bytes > kReadaheadBytesMax / 2);
  CHECK(ahead.largest_bytes <= kReadaheadBytesMax);
  CHECK(ahead.count < 40);
  for (uint64_t unit : ahead.units) CHECK(ahead.units.count(unit) == 1);  // nothing twice
}

TEST_CASE("reads of a stream that come in another order are still one stream") {
  ReadStreams streams;
  Ahead ahead;
  ahead.add(streams.note_read(0, kRead, kReadaheadBytesMax));
  ahead.add(streams.note_read(kRead, kRead, kReadaheadBytesMax));
  for (uint64_t i = 2; i < 100; i += 2) {
    ahead.add(streams.note_read((i + 1) * kRead, kRead, kReadaheadBytesMax));
    ahead.add(streams.note_read(i * kRead, kRead, kReadaheadBytesMax));
  }
  CHECK(ahead.has(100 * kRead));
  CHECK(ahead.largest_bytes > kReadaheadBytesMax / 4);
  for (uint64_t unit : ahead.units) CHECK(ahead.units.count(unit) == 1);
}

TEST_CASE("the same distance three times is a strided stream, in either direction") {
  for (const int64_t stride : {int64_t{1} << 20, -(int64_t{1} << 20), int64_t{3 * kRead}}) {
    ReadStreams streams;
    uint64_t pos = 50 << 20;
    const auto next = [&] { return pos += static_cast<uint64_t>(stride); };
    CHECK_FALSE(streams.note_read(pos, kRead, kReadaheadBytesMax));
    CHECK_FALSE(streams.note_read(next(), kRead, kReadaheadBytesMax));
    const auto plan = streams.note_read(next(), kRead, kReadaheadBytesMax);
    REQUIRE(plan);
    CHECK(plan->is_strided());
    CHECK(plan->pos == pos + static_cast<uint64_t>(stride));
    CHECK(plan->count == kReadaheadBytesMin / kRead);
    Ahead ahead;
    ahead.add(plan);
    for (int i = 0; i < 30; ++i) {
      CHECK(ahead.has(next()));
      ahead.add(streams.note_read(pos, kRead, kReadaheadBytesMax));
    }
    CHECK(ahead.largest_bytes > kReadaheadBytesMin);
    for (uint64_t unit : ahead.units) CHECK(ahead.units.count(unit) == 1);
  }
}

TEST_CASE("a stream that goes backwards stops at the beginning of the file") {
  ReadStreams streams;
  for (uint64_t pos = 10 * kRead;; pos -= kRead) {
    if (const auto plan = streams.note_read(pos, kRead, kReadaheadBytesMax)) {
      for (uint64_t i = 0; i < plan->count; ++i) {
        CHECK(plan->pos + static_cast<uint64_t>(plan->stride) * i < pos);
      }
    }
    if (pos == 0) break;
  }
}

TEST_CASE("several streams of one open file are told apart") {
  ReadStreams streams;
  Ahead ahead;
  const auto strided = [](uint64_t i) { return (uint64_t{1} << 34) + i * (1 << 20); };
  const auto far = [](uint64_t i) { return kFarAway + i * kRead; };
  for (uint64_t i = 0; i < 60; ++i) {
    for (const uint64_t pos : {i * kRead, far(i), strided(i)}) {
      if (i > 4) CHECK(ahead.has(pos));
      ahead.add(streams.note_read(pos, kRead, kReadaheadBytesMax));
    }
  }
}

TEST_CASE("random reads read nothing ahead, or hardly ever") {
  Random random(7);
  ReadStreams streams;
  Ahead ahead;
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t pos = random.below(uint64_t{1} << 18) * 4096;
    ahead.add(streams.note_read(pos, 4096, kReadaheadBytesMax));
  }
  CHECK(ahead.count < 20);
}

TEST_CASE("what a sequential reader has come by lately is known") {
  ReadStreams streams;
  for (uint64_t i = 1'000; i < 1'010; ++i) streams.note_read(i * kRead, kRead, kReadaheadBytesMax);
  CHECK(streams.has_passed(1'009 * kRead));
  CHECK_FALSE(streams.has_passed(1'010 * kRead));
  CHECK_FALSE(streams.has_passed(0));
}

TEST_CASE("with no window nothing is read ahead") {
  ReadStreams streams;
  for (uint64_t i = 0; i < 10; ++i) CHECK_FALSE(streams.note_read(i * kRead, kRead, 0));
}

}  // namespace
}  // namespace fusefs
