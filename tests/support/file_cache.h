// FileCache: a small page cache with one file's mapping, and folios to put there.
#pragma once

#include <cstdint>
#include <utility>

#include "core/memory/mapping.h"

namespace fusefs {

struct FileCache {
  PageCache pages{kCachePagesMin * kPageBytes};
  BlockCount delayed;
  Mapping mapping{&delayed};

  // Null when the cache is full of what it cannot reclaim.
  FolioRef add(uint64_t index) {
    Attempt<FolioRef> added = pages.add(mapping, FileBlock(index));
    return added.ok() ? std::move(added).value() : FolioRef();
  }
  FolioRef add_clean(uint64_t index) {
    FolioRef folio = add(index);
    if (folio) pages.mark_uptodate(*folio);
    return folio;
  }
  FolioRef add_dirty(uint64_t index) {
    FolioRef folio = add_clean(index);
    if (folio) pages.mark_dirty(*folio);
    return folio;
  }
  bool has(uint64_t index) { return static_cast<bool>(mapping.find(FileBlock(index))); }
};

}  // namespace fusefs
