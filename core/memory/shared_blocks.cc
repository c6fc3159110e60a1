#include "core/memory/shared_blocks.h"

namespace fusefs {
namespace {

// The mapping's index is the block.
FileBlock index_of(BlockNo block) { return FileBlock(block.value()); }

}  // namespace

FolioRef SharedBlocks::find(BlockNo block) {
  FolioRef page = pages_.find(index_of(block));
  if (page && page->read_ahead) cache_.note_use(*page);  // also while it is still being read
  if (!page || !page->uptodate) return page;
  ++hit_count_;
  cache_.note_use(*page);
  return page;
}

Attempt<FolioRef> SharedBlocks::add(BlockNo block) { return cache_.add(pages_, index_of(block)); }

FolioRef SharedBlocks::add_spare(BlockNo block) {
  return cache_.add_spare(pages_, index_of(block));
}

bool SharedBlocks::has(BlockNo block) const {
  return static_cast<bool>(pages_.find(index_of(block)));
}

void SharedBlocks::forget(BlockRange blocks) {
  if (pages_.empty()) return;
  cache_.detach_all(pages_, {index_of(blocks.first), index_of(blocks.end)});
}

}  // namespace fusefs
