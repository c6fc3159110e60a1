// The arithmetic of shared ranges: what becomes of them when blocks get or lose an owner.
//
//     before     |--- 3 ---|      |--- 2 ---|            |--- 2 ---|
//     one more        [=========================)
//     after      | 3 |  4  |  2   |    3    | 2 |        (untouched)
//
// Knows no tree and no transaction: refcount.cc reads the pieces and writes the difference.
#pragma once

#include <vector>

#include "core/base/error.h"
#include "core/base/units.h"

namespace fusefs {

// Blocks with the same number of owners, at least two.
struct SharedPiece {
  BlockRange blocks{};
  uint32_t owners = 2;
  friend bool operator==(const SharedPiece&, const SharedPiece&) = default;
};

struct OwnerChange {
  std::vector<SharedPiece> pieces;   // in order; neighbours have different counts, or a gap
  BlockCount newly_shared;           // from one owner to two
  BlockCount no_longer_shared;       // from two owners to one
  std::vector<BlockRange> released;  // from one owner to none
};

// `pieces`, in order and apart, are all that overlap or touch `blocks`; blocks in none of them have
// one owner.
//   Errors  too_many_links: a count would overflow
Result<OwnerChange> with_owner_added(const std::vector<SharedPiece>& pieces, BlockRange blocks);
Result<OwnerChange> with_owner_dropped(const std::vector<SharedPiece>& pieces, BlockRange blocks);

}  // namespace fusefs
