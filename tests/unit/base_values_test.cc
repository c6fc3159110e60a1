// Units, little-endian integers, chance, time, checksums and references.
#include <map>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/checksum.h"
#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/base/ref.h"
#include "core/base/units.h"
#include "tests/support/death.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <doctest/doctest.h>

namespace fusefs {
namespace {

template <class A, class B>
concept Addable = requires(A a, B b) {
  a + b;
};
template <class A, class B>
concept Comparable = requires(A a, B b) {
  a == b;
};

TEST_CASE("positions and counts mix only as they make sense") {
  static_assert(std::is_same_v<decltype(BlockNo(9) - BlockNo(4)), BlockCount>);
  static_assert(std::is_same_v<decltype(BlockNo(9) + BlockCount(4)), BlockNo>);
  static_assert(!Addable<BlockNo, BlockNo>);
  static_assert(!Addable<BlockNo, uint64_t>);
  static_assert(!Addable<InodeNo, InodeNo>);
  static_assert(!Comparable<BlockNo, FileBlock>);
  static_assert(!Comparable<InodeNo, JournalSeq>);
  static_assert(!std::is_convertible_v<uint64_t, BlockNo>);
  CHECK((BlockNo(9) - BlockNo(4)).value() == 5);
  CHECK(BlockNo(9) + BlockCount(4) == BlockNo(13));
  CHECK(BlockNo(9) - BlockCount(4) == BlockNo(5));
  CHECK(JournalSeq(4).next() == JournalSeq(5));
}

TEST_CASE("ranges are half-open") {
  const BlockRange range = block_range(BlockNo(10), BlockCount(5));
  CHECK(range.count().value() == 5);
  CHECK(range.contains(BlockNo(10)));
  CHECK(range.contains(BlockNo(14)));
  CHECK_FALSE(range.contains(BlockNo(15)));
  CHECK(range.overlaps(block_range(BlockNo(14), BlockCount(1))));
  CHECK_FALSE(range.overlaps(block_range(BlockNo(15), BlockCount(1))));
  CHECK_FALSE(range.overlaps(block_range(BlockNo(5), BlockCount(5))));
  CHECK(block_range(BlockNo(3), BlockCount(0)).empty());
}

TEST_CASE("the blocks of a file position are found at both ends of 64 bits") {
  CHECK(file_block_at(0).value() == 0);
  CHECK(file_block_at(4095).value() == 0);
  CHECK(file_block_at(4096).value() == 1);
  CHECK(file_block_end(0).value() == 0);
  CHECK(file_block_end(1).value() == 1);
  CHECK(file_block_end(4096).value() == 1);
  CHECK(file_block_end(4097).value() == 2);
  const uint64_t largest = UINT64_MAX;
  CHECK(file_block_at(largest).value() == largest >> kBlockShift);
  CHECK(file_block_end(largest).value() == (largest >> kBlockShift) + 1);  // no overflow before
  CHECK(block_addr(BlockNo(3)) == 12288);
  CHECK(file_pos(FileBlock(2)) == 8192);
}

TEST_CASE("strong types hash by their value") {
  std::unordered_set<InodeNo> inodes;
  for (uint64_t i = 0; i < 100; ++i) inodes.insert(InodeNo(i % 10));
  CHECK(inodes.size() == 10);
}

TEST_CASE("integers on the device are little-endian and need no alignment") {
  struct Odd {
    unsigned char pad;
    Le32 number;
  };
  static_assert(sizeof(Odd) == 5 && alignof(Odd) == 1);
  const Odd odd{0, 0x01020304u};
  const ConstBytes bytes = bytes_of(odd);
  CHECK(bytes[1] == std::byte{4});
  CHECK(bytes[4] == std::byte{1});
  CHECK(view_as<Odd>(bytes).number == 0x01020304u);
  CHECK(text_of(bytes_of(std::string_view("abc"))) == "abc");
}

TEST_CASE("the same seed gives the same numbers for ever") {
  // xoshiro256** seeded by splitmix64(0): values of the reference implementation.
  Random random(0);
  CHECK(random.next() == 0x99EC5F36CB75F2B4ull);
  CHECK(random.next() == 0xBF6E1F784956452Aull);
  Random again(0);
  again.next();
  again.next();
  for (int i = 0; i < 100; ++i) REQUIRE(random.next() == again.next());
  CHECK(Random(1).next() != Random(2).next());
}

TEST_CASE("random numbers keep to their bounds and reach all of them") {
  Random random(7);
  std::map<uint64_t, int> seen;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t value = random.between(3, 7);
    REQUIRE(value >= 3);
    REQUIRE(value <= 7);
    ++seen[value];
    REQUIRE(random.below(1) == 0);
    REQUIRE_FALSE(random.chance(0.0));
    REQUIRE(random.chance(1.0));
  }
  CHECK(seen.size() == 5);
  random.between(0, UINT64_MAX - 1);  // the largest span
}

TEST_CASE("a fork of a random generator goes its own way") {
  Random one(3);
  Random two(3);
  Random fork = one.fork();
  two.fork();
  for (int i = 0; i < 10; ++i) fork.next();
  CHECK(one.next() == two.next());
}

TEST_CASE("simulated time moves forward only, and the wall clock with it") {
  SimClock clock;
  const uint64_t start_ns = clock.monotonic_ns();
  clock.advance_to(5 * kNsPerSecond);
  const Timestamp then = clock.wall();
  clock.advance_to(start_ns);
  CHECK(clock.monotonic_ns() == 5 * kNsPerSecond);
  clock.advance_to(6 * kNsPerSecond + 7);
  CHECK(clock.wall().sec == then.sec + 1);
  CHECK(clock.wall().nsec == 7);
  CHECK(then < clock.wall());
}

TEST_CASE("checksums are XXH3 with 64 bits") {
  CHECK(checksum({}) == 0x2D06800538D394C2ull);  // the value for nothing in the specification
  const std::vector<std::byte> bytes(100, std::byte{1});
  CHECK(checksum(bytes) == checksum_seeded(bytes, 0));
  CHECK(checksum(bytes) != checksum_seeded(bytes, 1));
}

// They are on devices: whatever a CPU computes them with, the values are these.
TEST_CASE("checksums of every length are what the specification's own code computes") {
  std::vector<std::byte> bytes(70'000);
  uint32_t word = 1;
  for (std::byte& byte : bytes) byte = static_cast<std::byte>((word *= 2654435761u) >> 24);
  for (size_t len = 0; len < bytes.size(); len += 1 + len / 7) {
    for (const size_t from : {size_t{0}, size_t{1}, size_t{13}}) {
      if (from + len > bytes.size()) continue;
      const ConstBytes part(bytes.data() + from, len);
      CAPTURE(len);
      CHECK(checksum(part) == XXH3_64bits(part.data(), part.size()));
      CHECK(checksum_seeded(part, 77) == XXH3_64bits_withSeed(part.data(), part.size(), 77));
    }
  }
}

struct Counted final : RefCounted {
  explicit Counted(int& deaths) : deaths_(deaths) {}
  ~Counted() override { ++deaths_; }
  int& deaths_;
};

TEST_CASE("an object ends with its last reference") {
  int deaths = 0;
  Ref<Counted> first = make_ref<Counted>(deaths);
  Ref<Counted> second = first;
  Ref<RefCounted> base = second;
  CHECK(first->ref_count() == 3);
  first = nullptr;
  Ref<Counted> moved = std::move(second);
  Ref<Counted>& itself = moved;
  moved = itself;
  base.reset();
  CHECK(deaths == 0);
  CHECK(moved->ref_count() == 1);
  moved.reset();
  CHECK(deaths == 1);
}

TEST_CASE("a broken invariant stops the program and says where") {
  const std::string words = last_words([] { check_failed("here.cc", 7, "a < b", "why"); });
  CHECK(words == "fusefs: here.cc:7: broken invariant: a < b why\n");
}

}  // namespace
}  // namespace fusefs
