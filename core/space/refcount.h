// Refcounts of shared blocks, kept as tree items for counts of two and more.
//
// Blocks that are allocated and in no `shared` item have one owner. Neighbouring ranges with the
// same count are one item.
//
// A change of a range that has n different counts in it stages at most 2n + 3 changes; who does not
// know n goes through the range with ownership(), one answer at a time.
//
// Monitor held for every call. Sees and stages changes in the transaction.
#pragma once

#include "core/space/space.h"
#include "core/tree/transaction.h"

namespace fusefs {

// One more owner for each of `blocks`.
//   Restarts  node_load;  Errors  io_failed, corrupt, too_many_links (count would overflow)
// Adds to `newly_shared` how many blocks got their second owner.
Attempt<void> add_owner(Transaction& txn, BlockRange blocks, BlockCount& newly_shared);

// One owner less for each of `blocks`; those without any left are released in the transaction.
// Adds to `no_longer_shared` how many went from two owners to one.
Attempt<void> drop_owner(Transaction& txn, BlockRange blocks, BlockCount& no_longer_shared);

// How the blocks from `blocks.first` on are owned: the longest prefix with one answer.
struct Ownership {
  BlockCount count;  // length of the prefix
  uint32_t owners = 1;
};
Attempt<Ownership> ownership(Transaction& txn, BlockRange blocks);
// The same without a transaction.
Attempt<Ownership> ownership(Tree& tree, BlockRange blocks, NodePins& pins);

// Whether the blocks from `blocks.first` on may be overwritten where they are: they have one owner,
// and had it before a power cut now as well. The longest prefix with one answer.
struct InPlace {
  BlockCount count;
  bool allowed = false;
};
Attempt<InPlace> in_place(Tree& tree, const Space& space, BlockRange blocks, NodePins& pins);

}  // namespace fusefs
