#include <map>

#include "core/base/random.h"
#include "core/space/shared_pieces.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

BlockRange range(uint64_t first, uint64_t end) { return {BlockNo(first), BlockNo(end)}; }

TEST_CASE("a piece in the middle of a shared range gets its own count, and loses it again") {
  const std::vector<SharedPiece> before = {{range(10, 20), 3}};
  const OwnerChange added = with_owner_added(before, range(13, 15)).value();
  const std::vector<SharedPiece> expected = {
      {range(10, 13), 3}, {range(13, 15), 4}, {range(15, 20), 3}};
  CHECK(added.pieces == expected);
  CHECK_EQ(added.newly_shared.value(), 0);
  CHECK(with_owner_dropped(added.pieces, range(13, 15)).value().pieces == before);
}

TEST_CASE("neighbours that come to have one count become one piece") {
  const std::vector<SharedPiece> before = {{range(0, 10), 2}, {range(20, 30), 2}};
  const OwnerChange added = with_owner_added(before, range(10, 20)).value();
  CHECK(added.pieces == std::vector<SharedPiece>{{range(0, 30), 2}});
  CHECK_EQ(added.newly_shared.value(), 10);
}

TEST_CASE("the last owner's blocks are released in one range") {
  const OwnerChange dropped = with_owner_dropped({{range(5, 7), 2}}, range(0, 10)).value();
  CHECK(dropped.pieces.empty());
  CHECK(dropped.released == std::vector<BlockRange>{range(0, 5), range(7, 10)});
  CHECK_EQ(dropped.no_longer_shared.value(), 2);
}

TEST_CASE("a count that would overflow is refused") {
  const std::vector<SharedPiece> full = {{range(3, 4), ~uint32_t{0}}};
  CHECK(with_owner_added(full, range(0, 10)).error() == Error::too_many_links);
  CHECK(with_owner_added(full, range(4, 10)).ok());
}

// What overlaps or touches `blocks`, as refcount.cc reads it.
std::vector<SharedPiece> near(const std::vector<SharedPiece>& pieces, BlockRange blocks) {
  std::vector<SharedPiece> result;
  for (const SharedPiece& piece : pieces) {
    if (piece.blocks.first <= blocks.end && blocks.first <= piece.blocks.end) {
      result.push_back(piece);
    }
  }
  return result;
}

TEST_CASE("shared pieces say what counting every block says") {
  constexpr uint64_t kBlocks = 60;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Random random(seed);
    std::map<uint64_t, SharedPiece> items;
    std::vector<uint32_t> owners(kBlocks, 1);
    for (int step = 0; step < 300; ++step) {
      const uint64_t first = random.below(kBlocks);
      const BlockRange blocks = range(first, first + random.between(1, kBlocks - first));
      const bool add = random.chance(0.5);
      std::vector<SharedPiece> all;
      for (const auto& [start, piece] : items) all.push_back(piece);
      const std::vector<SharedPiece> old = near(all, blocks);
      const OwnerChange change =
          (add ? with_owner_added(old, blocks) : with_owner_dropped(old, blocks)).value();
      for (const SharedPiece& piece : old) items.erase(piece.blocks.first.value());
      for (const SharedPiece& piece : change.pieces) {
        REQUIRE(items.emplace(piece.blocks.first.value(), piece).second);
      }

      uint64_t newly = 0;
      uint64_t no_longer = 0;
      std::vector<uint64_t> released;
      for (uint64_t at = blocks.first.value(); at < blocks.end.value(); ++at) {
        newly += add && owners[at] == 1;
        no_longer += !add && owners[at] == 2;
        if (!add && owners[at] == 1) released.push_back(at);
        // A released block is allocated again at once: with one owner.
        owners[at] = add ? owners[at] + 1 : std::max<uint32_t>(owners[at] - 1, 1);
      }
      CHECK_EQ(change.newly_shared.value(), newly);
      CHECK_EQ(change.no_longer_shared.value(), no_longer);
      std::vector<uint64_t> really_released;
      for (const BlockRange& part : change.released) {
        for (BlockNo at = part.first; at < part.end; ++at) really_released.push_back(at.value());
      }
      CHECK(really_released == released);

      std::vector<uint32_t> said(kBlocks, 1);
      const SharedPiece* previous = nullptr;
      for (const auto& [start, piece] : items) {
        REQUIRE_GE(piece.owners, 2);
        REQUIRE(!piece.blocks.empty());
        if (previous != nullptr) {
          REQUIRE(previous->blocks.end <= piece.blocks.first);
          const bool mergeable =
              previous->blocks.end == piece.blocks.first && previous->owners == piece.owners;
          REQUIRE(!mergeable);
        }
        for (BlockNo at = piece.blocks.first; at < piece.blocks.end; ++at) {
          said[at.value()] = piece.owners;
        }
        previous = &piece;
      }
      REQUIRE(said == owners);
    }
  }
}

}  // namespace
}  // namespace fusefs
