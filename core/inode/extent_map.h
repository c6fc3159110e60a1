// The extent map of one file: which file blocks lie where on the volume.
//
// Items of the tree (core/format/item_format.h): what is in no extent is a hole and reads as
// zeroes, and so does an unwritten extent. Changes are staged in the caller's transaction; the
// caller adjusts attr.block_count by the returned differences after commit().
//
// Large changes are done in steps: a step takes as much as fits the transaction and says where it
// got to.
//
// Monitor held for every call.
#pragma once

#include "core/format/item_format.h"
#include "core/space/refcount.h"

namespace fusefs {

enum class ExtentState : uint8_t { hole, unwritten, written };

struct Extent {
  FileRange range{};  // of the file
  ExtentState state = ExtentState::hole;
  BlockNo start;  // of range.first; meaningless for a hole
  BlockRange blocks() const { return block_range(start, range.count()); }
};

// The extent or hole at `at`, cut to begin there and to end at `end` at the latest.
//   Restarts node_load;  Errors io_failed, corrupt
Attempt<Extent> extent_at(Tree& tree, InodeNo ino, FileBlock at, FileBlock end, NodePins& pins);
Attempt<Extent> extent_at(Transaction& txn, InodeNo ino, FileBlock at, FileBlock end);

struct ExtentChange {
  FileBlock done;            // everything before it is done
  int64_t block_difference;  // what attr.block_count changes by
};

// Maps `range` to `start` (allocated blocks, owned by the caller), replacing whatever was there:
// replaced blocks lose an owner. Merges with neighbours that continue it.
Attempt<ExtentChange> map_range(Transaction& txn, InodeNo ino, FileRange range, BlockNo start,
                                ExtentState state);
// Makes `range` a hole; mapped blocks lose an owner.
Attempt<ExtentChange> unmap_range(Transaction& txn, InodeNo ino, FileRange range);
// Unwritten extents within `range` become written (in place).
Attempt<ExtentChange> mark_written(Transaction& txn, InodeNo ino, FileRange range);
// Written private extents become unwritten is not offered: zeroing a range unmaps it and maps
// unwritten blocks anew.

// Shares the extents of `source` in file `from` with file `to` at `at`, replacing what was there.
// Same length; the ranges do not overlap if the files are the same. Holes become holes, unwritten
// extents become holes.
//   Errors  too_many_links when a block has 2^32 - 1 owners
// `done` counts in the source's blocks.
Attempt<ExtentChange> share_range(Transaction& txn, InodeNo from, FileRange source, InodeNo to,
                                  FileBlock at);

}  // namespace fusefs
