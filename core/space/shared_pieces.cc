#include "core/space/shared_pieces.h"

#include <algorithm>

namespace fusefs {
namespace {

constexpr uint32_t kOwnersMax = ~uint32_t{0};

// Appends, merged with the last one if it continues it. One owner is the absence of a piece.
void append(std::vector<SharedPiece>& pieces, BlockRange blocks, uint32_t owners) {
  if (blocks.first >= blocks.end || owners < 2) return;
  if (!pieces.empty() && pieces.back().blocks.end == blocks.first &&
      pieces.back().owners == owners) {
    pieces.back().blocks.end = blocks.end;
  } else {
    pieces.push_back({blocks, owners});
  }
}

void append_released(std::vector<BlockRange>& released, BlockRange blocks) {
  if (!released.empty() && released.back().end == blocks.first) {
    released.back().end = blocks.end;
  } else {
    released.push_back(blocks);
  }
}

// `step(owners, blocks)` returns the new count of blocks that have `owners`.
template <class Step>
OwnerChange rebuild(const std::vector<SharedPiece>& pieces, BlockRange blocks, Step&& step) {
  OwnerChange change;
  const auto change_part = [&](BlockRange part, uint32_t owners) {
    if (part.first >= part.end) return;
    append(change.pieces, part, step(change, owners, part));
  };
  BlockNo at = blocks.first;  // everything of `blocks` before it is done
  for (const SharedPiece& piece : pieces) {
    const BlockNo first = std::clamp(piece.blocks.first, blocks.first, blocks.end);
    const BlockNo end = std::clamp(piece.blocks.end, blocks.first, blocks.end);
    append(change.pieces, {piece.blocks.first, std::min(piece.blocks.end, blocks.first)},
           piece.owners);
    change_part({at, first}, 1);
    change_part({first, end}, piece.owners);
    at = std::max(at, end);
    if (piece.blocks.end <= blocks.end) continue;
    change_part({at, blocks.end}, 1);
    at = blocks.end;
    append(change.pieces, {std::max(piece.blocks.first, blocks.end), piece.blocks.end},
           piece.owners);
  }
  change_part({at, blocks.end}, 1);
  return change;
}

}  // namespace

Result<OwnerChange> with_owner_added(const std::vector<SharedPiece>& pieces, BlockRange blocks) {
  bool overflow = false;
  OwnerChange change =
      rebuild(pieces, blocks, [&](OwnerChange& so_far, uint32_t owners, BlockRange part) {
        if (owners == 1) so_far.newly_shared += part.count();
        if (owners == kOwnersMax) overflow = true;
        return owners == kOwnersMax ? owners : owners + 1;
      });
  if (overflow) return Error::too_many_links;
  return change;
}

Result<OwnerChange> with_owner_dropped(const std::vector<SharedPiece>& pieces, BlockRange blocks) {
  return rebuild(pieces, blocks, [](OwnerChange& so_far, uint32_t owners, BlockRange part) {
    if (owners == 2) so_far.no_longer_shared += part.count();
    if (owners == 1) append_released(so_far.released, part);
    return owners - 1;
  });
}

}  // namespace fusefs
