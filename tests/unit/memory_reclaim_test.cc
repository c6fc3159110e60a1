// Which pages stay in a full cache.
#include <malloc.h>

#include <map>
#include <set>
#include <vector>

#include "core/base/random.h"
#include "core/memory/shared_blocks.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPages = 1'000;

struct Cache {
  PageCache pages{kPages * kPageBytes};
  Mapping mapping;

  FolioRef find(uint64_t index) { return mapping.find(FileBlock(index)); }
  bool has(uint64_t index) { return static_cast<bool>(find(index)); }
  // What a reader does: a page that is there is used, another is added.
  void read(uint64_t index) {
    if (FolioRef folio = find(index)) return pages.note_use(*folio);
    Attempt<FolioRef> added = pages.add(mapping, FileBlock(index));
    REQUIRE(added.ok());
    pages.mark_uptodate(*added.value());
  }
  void read_shared(uint64_t block) {
    if (pages.shared().find(BlockNo(block))) return;
    Attempt<FolioRef> added = pages.shared().add(BlockNo(block));
    REQUIRE(added.ok());
    pages.mark_uptodate(*added.value());
  }
  uint64_t count(uint64_t first, uint64_t end) {
    uint64_t found = 0;
    for (uint64_t i = first; i < end; ++i) found += has(i);
    return found;
  }
  uint64_t count_shared(uint64_t first, uint64_t end) {
    uint64_t found = 0;
    // Not find(): that is a use.
    const size_t all = pages.shared().size();
    for (uint64_t i = first; i < end; ++i) {
      pages.shared().forget({BlockNo(i), BlockNo(i + 1)});
    }
    found = all - pages.shared().size();
    return found;
  }
};

TEST_CASE("a working set that is used twice outlives a scan of ten times the cache") {
  Cache cache;
  for (int round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < kPages / 2; ++i) cache.read(i);
  }
  for (uint64_t i = 0; i < 10 * kPages; ++i) cache.read(100'000 + i);
  CHECK(cache.count(0, kPages / 2) == kPages / 2);
}

TEST_CASE("pages that nobody used again do not outlive a scan") {
  Cache cache;
  for (uint64_t i = 0; i < kPages / 2; ++i) cache.read(i);
  for (uint64_t i = 0; i < 10 * kPages; ++i) cache.read(100'000 + i);
  CHECK(cache.count(0, kPages / 2) == 0);
}

TEST_CASE("a working set that is used no more makes room for the next one") {
  Cache cache;
  for (int round = 0; round < 4; ++round) {
    for (uint64_t i = 0; i < kPages; ++i) cache.read(i);
  }
  for (int round = 0; round < 12; ++round) {
    for (uint64_t i = 0; i < kPages / 2; ++i) cache.read(100'000 + i);
  }
  CHECK(cache.count(100'000, 100'000 + kPages / 2) > kPages * 4 / 10);
}

TEST_CASE("a page that comes back soon after it was dropped stays this time") {
  Cache cache;
  // Read over and over with more between than the small queue holds: only the ghosts see it.
  for (uint64_t i = 0; i < kPages; ++i) cache.read(500'000 + i);
  for (uint64_t i = 0; i < 50; ++i) cache.read(i);
  for (uint64_t i = 0; i < kPages; ++i) cache.read(100'000 + i);
  REQUIRE(cache.count(0, 50) == 0);
  for (uint64_t i = 0; i < 50; ++i) cache.read(i);
  CHECK(cache.pages.stats().ghost_hit_count >= 45);
  for (uint64_t i = 0; i < 10 * kPages; ++i) cache.read(200'000 + i);
  CHECK(cache.count(0, 50) >= 45);
}

TEST_CASE("a page of a shared block needs only one use to outlive a stream") {
  Cache cache;
  for (int round = 0; round < 2; ++round) {
    for (uint64_t i = 0; i < 100; ++i) cache.read(i);
    for (uint64_t i = 0; i < 100; ++i) cache.read_shared(i);
  }
  for (uint64_t i = 0; i < 10 * kPages; ++i) cache.read(100'000 + i);
  CHECK(cache.count(0, 100) == 0);
  CHECK(cache.count_shared(0, 100) == 100);
}

TEST_CASE("a spent page goes first, unless it is used or written again") {
  Cache cache;
  for (uint64_t i = 0; i < kPages; ++i) cache.read(i);
  const uint64_t spent[] = {500, 600, 700};
  for (uint64_t i : spent) cache.pages.note_spent(*cache.find(i));
  cache.read(600);
  cache.pages.mark_dirty(*cache.find(700));
  cache.read(100'000);
  CHECK_FALSE(cache.has(500));
  CHECK(cache.has(0));
  FolioRef written = cache.find(700);
  cache.pages.begin_writeback(*written);
  cache.pages.end_writeback(*written, true);
  written.reset();
  cache.read(100'001);
  CHECK_FALSE(cache.has(0));
  CHECK(cache.has(600));
  CHECK(cache.has(700));
}

TEST_CASE("what is added on suspicion takes no page that was used again, and waits for nothing") {
  Cache cache;
  for (int round = 0; round < 4; ++round) {
    for (uint64_t i = 0; i < kPages; ++i) cache.read(i);
  }
  uint64_t added = 0;
  std::vector<FolioRef> kept;
  for (uint64_t i = 0; i < kPages; ++i) {
    FolioRef folio = cache.pages.add_spare(cache.mapping, FileBlock(100'000 + i));
    if (!folio) break;
    ++added;
    kept.push_back(std::move(folio));
  }
  CHECK(added == 0);
  kept.clear();
  CHECK(cache.count(0, kPages) == kPages);

  for (uint64_t i = 0; i < 20; ++i) cache.read(200'000 + i);
  CHECK(cache.pages.add_spare(cache.mapping, FileBlock(100'000)));
}

TEST_CASE("reclaim needs no memory") {
  Cache cache;
  uint64_t next = 0;
  const auto scan = [&] {
    for (uint64_t i = 0; i < 64 * kPages; ++i) cache.read(next++);
  };
  scan();
  const size_t before = mallinfo2().uordblks;
  scan();
  CHECK(mallinfo2().uordblks == before);
}

// Random states of pages, with all that may happen to them. What may go is known; that it goes,
// and that nothing else does, is what is checked.
TEST_CASE("reclaim finds a page when there is one and takes only what nobody needs") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    Random random(seed);
    constexpr uint64_t kFewPages = kCachePagesMin;
    PageCache pages(kFewPages * kPageBytes);
    Mapping mapping;
    std::map<uint64_t, FolioRef> referenced;
    std::map<uint64_t, FolioRef> locked;
    std::set<uint64_t> dirty;
    std::map<uint64_t, FolioRef> written;
    std::set<uint64_t> present;
    const auto needed = [&](uint64_t i) {
      return referenced.contains(i) || locked.contains(i) || dirty.contains(i) ||
             written.contains(i);
    };
    for (int step = 0; step < 20'000; ++step) {
      const uint64_t index = random.below(random.chance(0.7) ? 80 : 2'000);
      FolioRef folio = mapping.find(FileBlock(index));
      if (!folio) {
        size_t free = kFewPages - present.size();
        for (uint64_t i : present) free += !needed(i);
        const bool spare = random.chance(0.2);
        Attempt<FolioRef> added = Error::no_space;
        if (spare) {
          folio = pages.add_spare(mapping, FileBlock(index));
          if (folio) REQUIRE(free > 0);
        } else {
          added = pages.add(mapping, FileBlock(index));
          REQUIRE(added.ok() == (free > 0));
          if (added.ok()) folio = std::move(added).value();
        }
        added = Error::no_space;
        // What has gone was not needed.
        std::erase_if(present, [&](uint64_t i) {
          if (mapping.find(FileBlock(i))) return false;
          REQUIRE_FALSE(needed(i));
          return true;
        });
        if (!folio) continue;
        present.insert(index);
        pages.mark_uptodate(*folio);
        REQUIRE(present.size() == mapping.size());
        continue;
      }
      switch (random.below(10)) {
        case 0:
          referenced[index] = folio;
          break;
        case 1:
        case 2:
          if (!referenced.empty()) {
            auto it = referenced.lower_bound(index);
            referenced.erase(it == referenced.end() ? referenced.begin() : it);
          }
          break;
        case 3:
          if (folio->locked) {
            pages.unlock(*folio);
            locked.erase(index);
          } else if (!folio->writeback) {
            pages.lock(*folio);
            locked[index] = folio;
          }
          break;
        case 4:
          if (locked.empty()) break;
          pages.unlock(*locked.begin()->second);
          locked.erase(locked.begin());
          break;
        case 5:
          if (folio->writeback || dirty.size() > kFewPages / 2) break;
          pages.mark_dirty(*folio);
          dirty.insert(index);
          break;
        case 6:
          if (!folio->dirty || folio->locked) break;
          pages.begin_writeback(*folio);
          dirty.erase(index);
          written[index] = folio;
          break;
        case 7: {
          if (written.empty()) break;
          const auto it = written.begin();
          const bool success = random.chance(0.8);
          if (!success) dirty.insert(it->first);
          pages.end_writeback(*it->second, success);
          written.erase(it);
          break;
        }
        case 8:
          pages.note_use(*folio);
          break;
        default:
          pages.note_spent(*folio);
          break;
      }
    }
    for (auto& [index, folio] : locked) pages.unlock(*folio);
  }
}

}  // namespace
}  // namespace fusefs
