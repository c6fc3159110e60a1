// Memory for bounces: whose it is, and when it is free again.
#include <cstdint>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "core/file/bounce_memory.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using Piece = BounceMemory::Piece;
constexpr size_t kUnit = BounceMemory::kUnitBytes;

TEST_CASE("memory for a bounce is used again, and is as the one before has left it") {
  BounceMemory memory;
  Piece first = memory.take(3 * kBlockBytes);
  CHECK(reinterpret_cast<uintptr_t>(first.data()) % kBlockBytes == 0);
  std::memset(first.data(), 77, 3 * kBlockBytes);
  const std::byte* const at = first.data();
  CHECK(!memory.all_free());
  first.release();
  CHECK(memory.all_free());
  Piece second = memory.take(2 * kBlockBytes);
  CHECK(second.data() == at);
  CHECK(second.data()[5] == std::byte{77});
}

TEST_CASE("bounces at the same time have memory of their own each") {
  BounceMemory memory;
  for (int round = 0; round < 3; ++round) {
    std::vector<Piece> pieces;
    std::set<const std::byte*> units;
    for (size_t i = 0; i < 12; ++i) {
      Piece& piece = pieces.emplace_back(memory.take((i % 3 + 1) * kUnit));
      CHECK(!piece.is_own());
      for (size_t unit = 0; unit <= i % 3; ++unit) units.insert(piece.data() + unit * kUnit);
    }
    CHECK(units.size() == 24);
    pieces.erase(pieces.begin() + 3);
    Piece moved = std::move(pieces.back());
    CHECK(!memory.all_free());
    pieces.clear();
    CHECK(!memory.all_free());
    moved.release();
    CHECK(memory.all_free());
  }
}

TEST_CASE("a bounce for which there is no room has memory for once, and takes nothing of others") {
  BounceMemory memory;
  Piece all = memory.take(BounceMemory::kBytes);
  CHECK(!all.is_own());
  std::memset(all.data(), 1, BounceMemory::kBytes);
  {
    Piece more = memory.take(kBlockBytes);
    CHECK(more.is_own());
    std::memset(more.data(), 2, kBlockBytes);
  }
  CHECK(all.data()[0] == std::byte{1});
  all = memory.take(BounceMemory::kBytes);
  CHECK(all.is_own());  // the old piece ends after the new one has been taken
  CHECK(memory.all_free());

  Piece begin = memory.take(BounceMemory::kBytes - kUnit);
  CHECK(memory.take(2 * kUnit).is_own());
  CHECK(!memory.take(kUnit).is_own());
}

}  // namespace
}  // namespace fusefs
