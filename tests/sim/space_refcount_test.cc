// Owners of blocks on a real store, against a count per block.
#include <vector>

#include "core/format/item_format.h"
#include "core/space/refcount.h"
#include "tests/sim/store_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kBlocks = 400;

StoreRig::Options options_of(const TestSeed& seed) {
  StoreRig::Options options;
  options.seed = seed.seed;
  options.forced = seed.forced_restart_probability;
  return options;
}

// Allocated blocks in one piece, each with one owner.
struct Owned {
  explicit Owned(StoreRig& store_rig) : rig(store_rig) {
    Reservation reservation;
    std::optional<BlockRange> taken;
    const Result<JournalSeq> seq = rig.transact([&](Transaction& txn) -> Attempt<void> {
      if (reservation.count() == BlockCount(0) && !taken) {
        ATTEMPT_INTO(reservation, rig.space().reserve(BlockCount(kBlocks)));
      }
      if (!taken) {
        ATTEMPT_INTO(taken, rig.space().allocate(BlockCount(kBlocks), std::nullopt, reservation));
      }
      txn.allocate(*taken);
      return {};
    });
    REQUIRE(seq.ok());
    REQUIRE_EQ(taken->count().value(), kBlocks);
    blocks = *taken;
  }

  BlockRange part(uint64_t first, uint64_t end) const {
    return {blocks.first + BlockCount(first), blocks.first + BlockCount(end)};
  }
  Result<JournalSeq> add(BlockRange range, uint64_t& newly) {
    return rig.transact([&, range](Transaction& txn) -> Attempt<void> {
      BlockCount count;
      ATTEMPT_OK(add_owner(txn, range, count));
      newly = count.value();
      return {};
    });
  }
  Result<JournalSeq> drop(BlockRange range, uint64_t& no_longer) {
    return rig.transact([&, range](Transaction& txn) -> Attempt<void> {
      BlockCount count;
      ATTEMPT_OK(drop_owner(txn, range, count));
      no_longer = count.value();
      return {};
    });
  }
  Ownership owners(BlockRange range) {
    NodePins pins;
    const Result<Ownership> found =
        rig.world().run([&] { return ownership(rig.store().tree(), range, pins); });
    REQUIRE(found.ok());
    return found.value();
  }

  StoreRig& rig;
  BlockRange blocks{};
};

TEST_CASE("owners of blocks are counted as if every block had its own count") {
  for_each_seed(3, [](const TestSeed& seed) {
    StoreRig rig(options_of(seed), formatted_image(seed.seed));
    REQUIRE(rig.mount().ok());
    Owned owned(rig);
    Random random(seed.seed);
    std::vector<uint32_t> model(kBlocks, 1);
    uint64_t shared = 0;
    for (int step = 0; step < 250; ++step) {
      const uint64_t first = random.below(kBlocks);
      const uint64_t end = first + random.between(1, std::min<uint64_t>(kBlocks - first, 60));
      const bool add = random.chance(0.55);
      // A block without an owner is nobody's to add to or drop.
      bool alive = true;
      for (uint64_t i = first; i < end; ++i) alive = alive && model[i] > 0;
      if (!alive) continue;
      uint64_t said = 0;
      const BlockRange range = owned.part(first, end);
      REQUIRE((add ? owned.add(range, said) : owned.drop(range, said)).ok());
      uint64_t expected = 0;
      for (uint64_t i = first; i < end; ++i) {
        expected += add ? model[i] == 1 : model[i] == 2;
        model[i] += add ? 1u : ~0u;
      }
      REQUIRE_EQ(said, expected);
      shared = add ? shared + said : shared - said;
      CHECK_EQ(rig.store().shared_blocks(), shared);
      if (random.chance(0.05)) REQUIRE(rig.checkpoint().ok());
    }
    REQUIRE(rig.unmount().ok());

    StoreRig again(options_of(seed), rig.world().device().snapshot());
    REQUIRE(again.mount().ok());
    for (uint64_t i = 0; i < kBlocks; ++i) {
      REQUIRE_EQ(again.is_allocated(owned.blocks.first + BlockCount(i)), model[i] > 0);
    }
  });
}

TEST_CASE("ownership is told in the longest piece with one answer") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  Owned owned(rig);
  uint64_t said = 0;
  REQUIRE(owned.add(owned.part(10, 20), said).ok());
  REQUIRE(owned.add(owned.part(15, 30), said).ok());
  CHECK_EQ(said, 10);
  const auto expect = [&](uint64_t at, uint64_t count, uint32_t owners) {
    const Ownership found = owned.owners(owned.part(at, kBlocks));
    CHECK_EQ(found.count.value(), count);
    CHECK_EQ(found.owners, owners);
  };
  expect(0, 10, 1);
  expect(10, 5, 2);
  expect(12, 3, 2);
  expect(15, 5, 3);
  expect(20, 10, 2);
  expect(30, kBlocks - 30, 1);
  CHECK_EQ(owned.owners(owned.part(16, 18)).count.value(), 2);
}

TEST_CASE("a transaction sees the owners that it has staged itself") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  Owned owned(rig);
  REQUIRE(rig.transact([&](Transaction& txn) -> Attempt<void> {
               BlockCount newly;
               BlockCount no_longer;
               ATTEMPT_OK(add_owner(txn, owned.part(0, 100), newly));
               ATTEMPT_OK(add_owner(txn, owned.part(50, 150), newly));
               ATTEMPT_OK(drop_owner(txn, owned.part(0, 150), no_longer));
               CHECK_EQ(newly.value(), 150);
               CHECK_EQ(no_longer.value(), 100);
               ATTEMPT(const Ownership found, ownership(txn, owned.part(50, kBlocks)));
               CHECK_EQ(found.count.value(), 50);
               CHECK_EQ(found.owners, 2);
               return {};
             })
              .ok());
  CHECK_EQ(rig.store().shared_blocks(), 50);
}

TEST_CASE("a count that is full refuses one more owner and changes nothing") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  Owned owned(rig);
  const SharedValue full{uint64_t{1}, ~uint32_t{0}, uint32_t{0}};
  REQUIRE(rig.transact([&](Transaction& txn) -> Attempt<void> {
               txn.put(shared_key(owned.blocks.first), bytes_of(full));
               return {};
             })
              .ok());
  uint64_t said = 0;
  CHECK(owned.add(owned.part(0, 10), said).error() == Error::too_many_links);
  CHECK_EQ(owned.owners(owned.part(1, 10)).owners, 1);
  CHECK_EQ(owned.owners(owned.part(0, 10)).owners, ~uint32_t{0});
}

TEST_CASE("shared items that make no sense are damage") {
  const SharedValue values[] = {
      {uint64_t{0}, uint32_t{2}, uint32_t{0}},
      {uint64_t{5}, uint32_t{1}, uint32_t{0}},
      {~uint64_t{0}, uint32_t{2}, uint32_t{0}},
  };
  for (const SharedValue& value : values) {
    StoreRig rig({}, formatted_image(1));
    REQUIRE(rig.mount().ok());
    Owned owned(rig);
    REQUIRE(rig.transact([&](Transaction& txn) -> Attempt<void> {
                 txn.put(shared_key(owned.blocks.first), bytes_of(value));
                 return {};
               })
                .ok());
    uint64_t said = 0;
    CHECK(owned.add(owned.part(0, 10), said).error() == Error::corrupt);
    CHECK(owned.drop(owned.part(0, 10), said).error() == Error::corrupt);
  }
}

}  // namespace
}  // namespace fusefs
