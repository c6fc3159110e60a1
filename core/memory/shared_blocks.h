// SharedBlocks: the clean pages of blocks that several files own, found by block.
//
//     file A, page 3 --+
//                      +-- extents --> block 71 --> one folio, one device read
//     clone B, page 3 -+
//
// A file's own mapping has what only that file has: dirty pages, pages under writeback. So reading
// ten clones takes the memory and the reads of one. Who wants to change such a page makes a private
// one in its file's mapping; this one stays as it is for the others.
//
//     absent --add()--> being filled, locked --> clean --> absent: reclaimed, or forgotten
//
// What is forgotten is found no more, also while it is locked or referenced: it is detached, and
// its holders go on with it as with any folio whose `mapping` is null. Their IoGuard keeps its
// block from being used again under the read.
//
// Invariants:
//   (1) A page here is never dirty and never under writeback.
//   (2) Nothing stale is found: Space tells in the attempt that commits it when a block loses its
//       owners or is left with one. A block that becomes shared has no page here.
//   (3) add() is called in an attempt that has seen, since its last restart, that the block has two
//       owners or more.
//
// Which extent a page belongs to is not known here. Monitor held for every call.
#pragma once

#include "core/memory/mapping.h"
#include "core/space/owners_listener.h"

namespace fusefs {

class SharedBlocks final : public BlockOwnersListener {
 public:
  explicit SharedBlocks(PageCache& cache) : cache_(cache) {}

  // The page of `block` in any state, or null. Counts a hit when it is uptodate.
  FolioRef find(BlockNo block);
  // A new page, not uptodate: the caller locks it, reads into its frame, marks it uptodate and
  // unlocks it; others wait for `changed`. Requires that there is none.
  //   Restarts  memory, like PageCache::add()
  Attempt<FolioRef> add(BlockNo block);
  // The same like PageCache::add_spare(): null rather than waiting.
  FolioRef add_spare(BlockNo block);
  // Whether there is a page, in any state; not counted.
  bool has(BlockNo block) const;
  // Takes out whatever there is, locked and referenced pages too.
  void forget(BlockRange blocks);
  void no_longer_shared(BlockRange blocks) override { forget(blocks); }

  size_t size() const { return pages_.size(); }  // pages
  uint64_t hit_count() const { return hit_count_; }

 private:
  PageCache& cache_;
  Mapping pages_{MappingOf::shared_blocks};
  uint64_t hit_count_ = 0;
};

}  // namespace fusefs
