// What clone, dedupe and unshare are made of: files to oneself, nothing of a range left in memory
// only, and the tree change that makes two ranges share blocks.
//
//     hold_both --> settle_folios --> (compare) --> share_blocks, a transaction at a time
//
// While the holds last, writes, faults, truncates and direct I/O on either file wait by restart.
// Reads take no hold and do not wait: they see the range before or after each transaction.
//
// Atomicity: a transaction takes as much of the range as it has room for. A range of at most
// kRemapAtomicBytes, however scattered it lies, or of at most kRemapAtomicPieces pieces, whatever
// their size, is one transaction on a volume of kRemapAtomicVolumeBytes or more: after a power cut
// all of it is there or nothing. What is larger becomes true from its beginning on, and a crash
// leaves a prefix.
//
//     a block costs at most 7 of the 512 changes that a transaction of such a volume has: its
//     extent item; three shared items where the target's old block loses an owner, or one release;
//     three shared items where the source's gets one
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"
#include "core/file/pinned_range.h"
#include "core/file/writeback.h"

namespace fusefs {

inline constexpr uint64_t kRemapAtomicBytes = 256 << 10;
// A piece: blocks that lie together in both files' maps and have the same number of owners.
inline constexpr uint64_t kRemapAtomicPieces = 64;
inline constexpr uint64_t kRemapAtomicVolumeBytes = 4ull << 30;

// Two inodes' blocker states, alone in both; one if they are the same.
struct PairHold {
  TwoStateHold lower;  // of the inode with the lower number
  TwoStateHold higher;
  void release();
};
// Takes what `hold` lacks, the lower inode number first.
//   Restarts  two_state
Attempt<void> hold_both(Inode& a, Inode& b, PairHold& hold);

// Writes what is dirty in `range`, copies of what is storable, and waits for writes that had begun
// before the hold: none of its folios is dirty, unless storable, or locked or under writeback
// afterwards. Requires the blocker state, alone.
// `writeback` is part of the stash; null at first, and again when it is done.
//   Restarts, Errors  like write_back()
Attempt<void> settle_folios(FileContext& context, Inode& inode, FileRange range,
                            std::unique_ptr<WritebackStash>& writeback);

// Which blocks of a file another is to share.
struct Sharing {
  FileRange source{};
  FileBlock target;       // source.first comes to lie there
  uint64_t end_size = 0;  // the target grows up to here, with its blocks; 0: it keeps its size
  bool touches = false;   // the target's contents change, and so do its times
};

// Shares the blocks of [cursor, sharing.source.end), a transaction at a time; `cursor` follows.
// The target's folios go with the blocks they are of, dirty or not, but for pinned ones: what is
// not shared after an error keeps what has been written to it.
// Requires both blocker states, alone, the source's range settled, and the target's folios awaited
// (truncate.h) in this attempt. `names`: pins, and the last transaction's number. `pinned`: empty
// at first, to be reset when it is done.
//   Restarts  node_load, bitmap_load, journal_space, dirty_nodes, space (with `touches`)
//   Errors    no_space, too_many_links, io_failed, corrupt, read_only_volume: what is before
//             `cursor` stays
Attempt<void> share_blocks(FileContext& context, Inode& from, Inode& to, const Sharing& sharing,
                           FileBlock& cursor, NamespaceStash& names, PinnedSharing& pinned);

}  // namespace fusefs
