// Extents as tree items: lookup, and the three ways a mapping changes (map, unmap, convert).
//
// Every change walks the stored extents of its range. What sticks out on either side is kept:
//
//     stored       |------------- s -------------|
//     range              |------ r ------|
//     afterwards   |--s--|      (new)    |---s---|
#include "core/inode/extent_map.h"

#include <algorithm>

namespace fusefs {
namespace {

// Tree and refcount changes that taking one stored extent out, or putting one in, costs at most:
// two for its own item, four for splitting a shared range or merging it with its neighbours. Twice
// this, and twice that again for sharing, must fit the transactions of the smallest volume, which
// have room for 24 changes.
constexpr uint32_t kChangesPerExtent = 6;
// A step stops while this much room is left: for the insert that follows an unmap, and for the
// caller's allocation, inode and orphan items.
constexpr uint32_t kChangesKept = 2 * kChangesPerExtent;

// An extent as it is stored, uncut.
struct Stored {
  FileRange range{};
  BlockNo start;
  bool unwritten = false;

  BlockNo block_of(FileBlock at) const { return start + (at - range.first); }
  ExtentState state() const { return unwritten ? ExtentState::unwritten : ExtentState::written; }
};

Result<Stored> decode(const ItemView& item) {
  if (item.value.size() != sizeof(ExtentValue)) return Error::corrupt;
  const ExtentValue& value = view_as<ExtentValue>(item.value);
  const uint32_t length = value.length;
  const uint16_t flags = value.flags;
  if (length == 0 || length > kExtentBlocksMax || value.zero != 0 ||
      (flags & ~kExtentUnwritten) != 0) {
    return Error::corrupt;
  }
  return Stored{file_range(FileBlock(item.key.offset), BlockCount(length)), BlockNo(value.start),
                (flags & kExtentUnwritten) != 0};
}

bool is_extent_of(const std::optional<ItemView>& item, InodeNo ino) {
  return item && item->key.object == ino.value() && item->key.type == KeyType::extent;
}

// Reads through a transaction, or through the tree with the caller's pins: the same two questions.
struct TreeReader {
  Tree& tree;
  NodePins& pins;
  auto at_or_before(const Key& key) const { return tree.at_or_before(key, pins); }
  auto at_or_after(const Key& key) const { return tree.at_or_after(key, pins); }
};

// The stored extent that contains `at`, or the first one behind it; none: a hole for ever.
template <class Reader>
Attempt<std::optional<Stored>> stored_at_or_after(Reader& reader, InodeNo ino, FileBlock at) {
  {
    ATTEMPT(auto item, reader.at_or_before(extent_key(ino, at)));
    if (is_extent_of(item, ino)) {
      TRY(const Stored stored, decode(*item));
      if (stored.range.end > at) return std::optional<Stored>(stored);
    }
  }
  ATTEMPT(auto item, reader.at_or_after(extent_key(ino, at)));
  if (!is_extent_of(item, ino)) return std::optional<Stored>();
  TRY(const Stored stored, decode(*item));
  return std::optional<Stored>(stored);
}

template <class Reader>
Attempt<Extent> find_extent(Reader& reader, InodeNo ino, FileBlock at, FileBlock end) {
  ATTEMPT(const std::optional<Stored> stored, stored_at_or_after(reader, ino, at));
  if (!stored || stored->range.first >= end) return Extent{{at, end}, ExtentState::hole, {}};
  if (stored->range.first > at) {
    return Extent{{at, stored->range.first}, ExtentState::hole, {}};
  }
  return Extent{{at, std::min(end, stored->range.end)}, stored->state(), stored->block_of(at)};
}

void put_extent(Transaction& txn, InodeNo ino, const Stored& extent) {
  ExtentValue value;
  value.start = extent.start.value();
  value.length = static_cast<uint32_t>(extent.range.count().value());
  value.flags = extent.unwritten ? kExtentUnwritten : uint16_t{0};
  value.zero = uint16_t{0};
  txn.put(extent_key(ino, extent.range.first), bytes_of(value));
}

// Takes [cut.first, cut.end), which lies inside `stored`, out of its item.
void cut_stored(Transaction& txn, InodeNo ino, const Stored& stored, FileRange cut) {
  if (cut.first == stored.range.first) {
    txn.erase(extent_key(ino, stored.range.first));
  } else {
    put_extent(txn, ino, {{stored.range.first, cut.first}, stored.start, stored.unwritten});
  }
  if (cut.end != stored.range.end) {
    put_extent(txn, ino, {{cut.end, stored.range.end}, stored.block_of(cut.end), stored.unwritten});
  }
}

bool continues(const Stored& left, const Stored& right) {
  return left.range.end == right.range.first && left.block_of(left.range.end) == right.start &&
         left.unwritten == right.unwritten &&
         (left.range.count() + right.range.count()).value() <= kExtentBlocksMax;
}

// Stores an extent over a hole, merged with the neighbours that it continues.
Attempt<void> insert(Transaction& txn, InodeNo ino, Stored extent) {
  if (extent.range.first != FileBlock(0)) {
    ATTEMPT(auto item, txn.at_or_before(extent_key(ino, extent.range.first - BlockCount(1))));
    if (is_extent_of(item, ino)) {
      TRY(const Stored left, decode(*item));
      if (continues(left, extent)) {
        extent.range.first = left.range.first;
        extent.start = left.start;
      }
    }
  }
  ATTEMPT(auto item, txn.find(extent_key(ino, extent.range.end)));
  if (item) {
    TRY(const Stored right, decode(*item));
    if (continues(extent, right)) {
      txn.erase(extent_key(ino, right.range.first));
      extent.range.end = right.range.end;
    }
  }
  put_extent(txn, ino, extent);
  return {};
}

// Takes the first piece of `range` that has one owner count out of the map. Returns what it was,
// or, where nothing is mapped, the hole.
Attempt<Extent> cut_piece(Transaction& txn, InodeNo ino, FileRange range) {
  ATTEMPT(const std::optional<Stored> stored, stored_at_or_after(txn, ino, range.first));
  if (!stored || stored->range.first >= range.end) return Extent{range, ExtentState::hole, {}};
  if (stored->range.first > range.first) {
    return Extent{{range.first, stored->range.first}, ExtentState::hole, {}};
  }
  FileRange cut{range.first, std::min(range.end, stored->range.end)};
  const BlockNo start = stored->block_of(cut.first);
  ATTEMPT(const Ownership owned, ownership(txn, block_range(start, cut.count())));
  cut.end = std::min(cut.end, cut.first + owned.count);
  BlockCount no_longer_shared;
  cut_stored(txn, ino, *stored, cut);
  ATTEMPT_OK(drop_owner(txn, block_range(start, cut.count()), no_longer_shared));
  return Extent{cut, stored->state(), start};
}

int64_t signed_count(BlockCount count) { return static_cast<int64_t>(count.value()); }

}  // namespace

Attempt<Extent> extent_at(Tree& tree, InodeNo ino, FileBlock at, FileBlock end, NodePins& pins) {
  TreeReader reader{tree, pins};
  return find_extent(reader, ino, at, end);
}

Attempt<Extent> extent_at(Transaction& txn, InodeNo ino, FileBlock at, FileBlock end) {
  return find_extent(txn, ino, at, end);
}

Attempt<ExtentChange> unmap_range(Transaction& txn, InodeNo ino, FileRange range) {
  ExtentChange change{range.first, 0};
  while (change.done < range.end && txn.has_room(kChangesKept)) {
    ATTEMPT(const Extent piece, cut_piece(txn, ino, {change.done, range.end}));
    if (piece.state != ExtentState::hole)
      change.block_difference -= signed_count(piece.range.count());
    change.done = piece.range.end;
  }
  return change;
}

Attempt<ExtentChange> map_range(Transaction& txn, InodeNo ino, FileRange range, BlockNo start,
                                ExtentState state) {
  CHECK(state != ExtentState::hole && range.count().value() <= kExtentBlocksMax);
  ATTEMPT(ExtentChange change, unmap_range(txn, ino, range));
  const FileRange mapped{range.first, change.done};
  if (mapped.empty()) return change;
  ATTEMPT_OK(insert(txn, ino, {mapped, start, state == ExtentState::unwritten}));
  change.block_difference += signed_count(mapped.count());
  return change;
}

Attempt<ExtentChange> mark_written(Transaction& txn, InodeNo ino, FileRange range) {
  ExtentChange change{range.first, 0};
  while (change.done < range.end && txn.has_room(kChangesKept)) {
    ATTEMPT(const std::optional<Stored> stored, stored_at_or_after(txn, ino, change.done));
    if (!stored || stored->range.first >= range.end) {
      change.done = range.end;
      break;
    }
    const FileRange piece{std::max(change.done, stored->range.first),
                          std::min(range.end, stored->range.end)};
    if (stored->unwritten) {
      cut_stored(txn, ino, *stored, piece);
      ATTEMPT_OK(insert(txn, ino, {piece, stored->block_of(piece.first), false}));
    }
    change.done = piece.end;
  }
  return change;
}

Attempt<ExtentChange> share_range(Transaction& txn, InodeNo from, FileRange source, InodeNo to,
                                  FileBlock at) {
  ExtentChange change{source.first, 0};
  while (change.done < source.end && txn.has_room(2 * kChangesKept)) {
    ATTEMPT(Extent piece, find_extent(txn, from, change.done, source.end));
    if (piece.state == ExtentState::written) {
      ATTEMPT(const Ownership owned, ownership(txn, piece.blocks()));
      piece.range.end = std::min(piece.range.end, piece.range.first + owned.count);
      if (piece.range.count().value() > kExtentBlocksMax) {
        piece.range.end = piece.range.first + BlockCount(kExtentBlocksMax);
      }
    }
    const FileRange target =
        file_range(at + (piece.range.first - source.first), piece.range.count());
    // The target's old blocks go piece by piece, as far as there is room.
    ATTEMPT(const ExtentChange cleared, unmap_range(txn, to, target));
    const BlockCount count = cleared.done - target.first;
    change.block_difference += cleared.block_difference;
    if (count == BlockCount(0)) break;
    if (piece.state == ExtentState::written) {
      BlockCount newly_shared;
      ATTEMPT_OK(add_owner(txn, block_range(piece.start, count), newly_shared));
      ATTEMPT_OK(insert(txn, to, {file_range(target.first, count), piece.start, false}));
      change.block_difference += signed_count(count);
    }
    change.done = piece.range.first + count;
  }
  return change;
}

}  // namespace fusefs
