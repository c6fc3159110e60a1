#include "core/space/refcount.h"

#include <algorithm>

#include "core/format/item_format.h"
#include "core/space/shared_pieces.h"

namespace fusefs {
namespace {

// The two places that items come from, with one face.
struct InTransaction {
  Transaction& txn;
  auto before(BlockNo at) { return txn.at_or_before(shared_key(at)); }
  auto after(BlockNo at) { return txn.at_or_after(shared_key(at)); }
};
struct InTree {
  Tree& tree;
  NodePins& pins;
  auto before(BlockNo at) { return tree.at_or_before(shared_key(at), pins); }
  auto after(BlockNo at) { return tree.at_or_after(shared_key(at), pins); }
};

// The piece that an item says; nothing for an item that is something else.
Result<std::optional<SharedPiece>> decode(const std::optional<ItemView>& item) {
  using Piece = std::optional<SharedPiece>;
  if (!item || item->key.object != kSharedObject || item->key.type != KeyType::shared) {
    return Piece();
  }
  if (item->value.size() != sizeof(SharedValue)) return Error::corrupt;
  const SharedValue& value = view_as<SharedValue>(item->value);
  const uint64_t first = item->key.offset;
  if (value.length == 0 || value.length > ~uint64_t{0} - first || value.count < 2) {
    return Error::corrupt;
  }
  return Piece(SharedPiece{block_range(BlockNo(first), BlockCount(value.length)), value.count});
}

template <class Items>
Attempt<std::optional<SharedPiece>> piece_before(Items& items, BlockNo at) {
  ATTEMPT(const std::optional<ItemView> item, items.before(at));
  const Result<std::optional<SharedPiece>> piece = decode(item);
  if (!piece.ok()) return piece.error();
  return piece.value();
}

template <class Items>
Attempt<std::optional<SharedPiece>> piece_after(Items& items, BlockNo at) {
  ATTEMPT(const std::optional<ItemView> item, items.after(at));
  const Result<std::optional<SharedPiece>> piece = decode(item);
  if (!piece.ok()) return piece.error();
  return piece.value();
}

// All pieces that overlap or touch `blocks`, in order.
Attempt<std::vector<SharedPiece>> read_pieces(Transaction& txn, BlockRange blocks) {
  InTransaction items{txn};
  std::vector<SharedPiece> pieces;
  if (blocks.first > BlockNo(0)) {
    ATTEMPT(const std::optional<SharedPiece> left,
            piece_before(items, blocks.first - BlockCount(1)));
    if (left && left->blocks.end >= blocks.first) pieces.push_back(*left);
  }
  BlockNo from = blocks.first;
  while (true) {
    ATTEMPT(const std::optional<SharedPiece> piece, piece_after(items, from));
    if (!piece || piece->blocks.first > blocks.end) return pieces;
    if (!pieces.empty() && piece->blocks.first < pieces.back().blocks.end) return Error::corrupt;
    pieces.push_back(*piece);
    from = piece->blocks.first + BlockCount(1);
  }
}

// Stages what turns the items of `old` into those of `fresh`.
void stage(Transaction& txn, const std::vector<SharedPiece>& old,
           const std::vector<SharedPiece>& fresh) {
  const auto starts_at = [](const std::vector<SharedPiece>& pieces, BlockNo first) {
    return std::find_if(pieces.begin(), pieces.end(),
                        [first](const SharedPiece& piece) { return piece.blocks.first == first; });
  };
  for (const SharedPiece& piece : old) {
    if (starts_at(fresh, piece.blocks.first) == fresh.end()) {
      txn.erase(shared_key(piece.blocks.first));
    }
  }
  for (const SharedPiece& piece : fresh) {
    const auto same = starts_at(old, piece.blocks.first);
    if (same != old.end() && *same == piece) continue;
    const SharedValue value{piece.blocks.count().value(), piece.owners, uint32_t{0}};
    txn.put(shared_key(piece.blocks.first), bytes_of(value));
  }
}

template <class Items>
Attempt<Ownership> find_ownership(Items items, BlockRange blocks) {
  CHECK(!blocks.empty());
  ATTEMPT(const std::optional<SharedPiece> before, piece_before(items, blocks.first));
  if (before && before->blocks.end > blocks.first) {
    const BlockNo end = std::min(before->blocks.end, blocks.end);
    return Ownership{end - blocks.first, before->owners};
  }
  ATTEMPT(const std::optional<SharedPiece> next, piece_after(items, blocks.first));
  const BlockNo end = next ? std::min(next->blocks.first, blocks.end) : blocks.end;
  return Ownership{end - blocks.first, 1};
}

}  // namespace

Attempt<void> add_owner(Transaction& txn, BlockRange blocks, BlockCount& newly_shared) {
  if (blocks.empty()) return {};
  ATTEMPT(const std::vector<SharedPiece> pieces, read_pieces(txn, blocks));
  const Result<OwnerChange> change = with_owner_added(pieces, blocks);
  if (!change.ok()) return change.error();
  stage(txn, pieces, change.value().pieces);
  newly_shared += change.value().newly_shared;
  return {};
}

Attempt<void> drop_owner(Transaction& txn, BlockRange blocks, BlockCount& no_longer_shared) {
  if (blocks.empty()) return {};
  ATTEMPT(const std::vector<SharedPiece> pieces, read_pieces(txn, blocks));
  const Result<OwnerChange> change = with_owner_dropped(pieces, blocks);
  if (!change.ok()) return change.error();
  stage(txn, pieces, change.value().pieces);
  for (const BlockRange& released : change.value().released) txn.release(released);
  for (const SharedPiece& piece : pieces) {
    const BlockRange both{std::max(piece.blocks.first, blocks.first),
                          std::min(piece.blocks.end, blocks.end)};
    if (piece.owners == 2 && both.first < both.end) txn.unshare(both);
  }
  no_longer_shared += change.value().no_longer_shared;
  return {};
}

Attempt<Ownership> ownership(Transaction& txn, BlockRange blocks) {
  return find_ownership(InTransaction{txn}, blocks);
}

Attempt<Ownership> ownership(Tree& tree, BlockRange blocks, NodePins& pins) {
  return find_ownership(InTree{tree, pins}, blocks);
}

Attempt<InPlace> in_place(Tree& tree, const Space& space, BlockRange blocks, NodePins& pins) {
  ATTEMPT(const Ownership owned, ownership(tree, blocks, pins));
  if (owned.owners > 1) return InPlace{owned.count, false};
  const SettlingBlocks::Answer settling = space.settling(block_range(blocks.first, owned.count));
  return InPlace{settling.count, !settling.settling};
}

}  // namespace fusefs
