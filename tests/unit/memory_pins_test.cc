// Pinned folios in the page cache: where they are found, and what leaves them alone.
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "tests/support/file_cache.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPages = kCachePagesMin;
constexpr FileRange kAll{FileBlock(0), FileBlock(1'000'000)};

struct Cache : FileCache {
  FolioRef add_storable(uint64_t index) {
    FolioRef folio = add_dirty(index);
    pages.pin(*folio, true);
    return folio;
  }
};

// Somebody else's memory, which tells when it goes.
struct Area {
  explicit Area(size_t pages)
      : buffer(std::make_shared<AlignedBuffer>(pages * kPageBytes)), watch(buffer) {}
  std::byte* frame(size_t page) const { return buffer->data() + page * kPageBytes; }
  std::shared_ptr<AlignedBuffer> buffer;
  std::weak_ptr<AlignedBuffer> watch;
};

TEST_CASE("a page pinned for writing is dirty, but who looks for dirty pages does not meet it") {
  Cache cache;
  FolioRef folio = cache.add_dirty(7);
  CHECK(cache.mapping.dirty_count() == 1);
  cache.pages.pin(*folio, true);
  CHECK(folio->dirty);
  CHECK(folio->is_storable());
  CHECK(cache.mapping.dirty_count() == 0);
  CHECK_FALSE(cache.mapping.any_dirty(kAll));
  CHECK(cache.pages.stats().dirty_bytes == 0);
  CHECK(cache.mapping.next_storable(FileBlock(0)) == folio);
  CHECK(cache.mapping.next_pinned(FileBlock(0)) == folio);
  CHECK_FALSE(cache.mapping.next_storable(FileBlock(8)));
  cache.pages.mark_dirty(*folio);  // a write(2) to it changes nothing of this
  CHECK(cache.mapping.dirty_count() == 0);

  cache.pages.unpin(*folio, true);
  CHECK(cache.mapping.next_dirty(FileBlock(0)) == folio);
  CHECK(cache.pages.stats().dirty_bytes == kPageBytes);
  CHECK(cache.pages.pinned_pages() == 0);
  CHECK(cache.mapping.storable_count() == 0);
  CHECK(cache.mapping.pinned_count() == 0);
}

TEST_CASE("pins are counted: the page is free when the last has ended") {
  Cache cache;
  FolioRef folio = cache.add_dirty(7);
  cache.pages.pin(*folio, true);
  cache.pages.pin(*folio, false);
  cache.pages.pin(*folio, true);
  CHECK(cache.pages.pinned_pages() == 1);
  cache.pages.unpin(*folio, true);
  CHECK(folio->is_storable());
  cache.pages.unpin(*folio, true);
  CHECK_FALSE(folio->is_storable());
  CHECK(cache.mapping.any_dirty(kAll));
  CHECK(folio->is_pinned());
  CHECK(cache.mapping.any_pinned(kAll));
  CHECK_FALSE(cache.mapping.any_storable(kAll));
  cache.pages.unpin(*folio, false);
  CHECK_FALSE(folio->is_pinned());
  CHECK_FALSE(cache.mapping.any_pinned(kAll));
}

TEST_CASE("pinned pages are neither dropped nor discarded nor reclaimed") {
  Cache cache;
  FolioRef read_pinned = cache.add_clean(0);
  cache.pages.pin(*read_pinned, false);
  FolioRef storable = cache.add_storable(1);
  cache.add_clean(2);
  CHECK(cache.pages.drop_clean(cache.mapping, kAll));  // nothing else is left
  CHECK_FALSE(cache.has(2));
  cache.add_dirty(2);
  CHECK_FALSE(cache.pages.drop_clean(cache.mapping, kAll));
  cache.pages.discard(cache.mapping, kAll);
  CHECK_FALSE(cache.has(2));
  CHECK(cache.mapping.find(FileBlock(0)) == read_pinned);
  CHECK(cache.mapping.find(FileBlock(1)) == storable);

  cache.pages.set_storable_dirty(*storable, false);
  Folio* kept = storable.get();
  read_pinned.reset();
  storable.reset();
  for (uint64_t i = 10; i < 10 + 2 * kPages; ++i) CHECK(cache.add_clean(i));
  CHECK(cache.has(0));
  CHECK(cache.has(1));
  cache.pages.unpin(*kept, true);
  cache.pages.unpin(*cache.mapping.find(FileBlock(0)), false);
  for (uint64_t i = 200; i < 200 + kPages; ++i) CHECK(cache.add_clean(i));
  CHECK_FALSE(cache.has(0));
  CHECK_FALSE(cache.has(1));
}

TEST_CASE("a bounce leaves the page where it is, and tells what the device has") {
  Cache cache;
  FolioRef folio = cache.add_storable(3);
  cache.pages.begin_bounce(*folio);
  CHECK(cache.mapping.any_writeback(kAll) == folio);
  CHECK(folio->dirty);
  cache.pages.end_bounce(*folio, 42, true);
  CHECK_FALSE(cache.mapping.any_writeback(kAll));
  CHECK(folio->dirty);
  CHECK(folio->pinned->device_sum == 42);
  cache.pages.mark_dirty(*folio);  // somebody writes to it: the device has what it had
  CHECK(folio->pinned->device_sum == 42);
  cache.pages.begin_bounce(*folio);
  cache.pages.end_bounce(*folio, 43, false);
  CHECK_FALSE(folio->dirty);
  cache.pages.unpin(*folio, true);
  CHECK_FALSE(cache.mapping.any_dirty(kAll));
}

TEST_CASE("a page in memory of somebody else costs none of ours, and keeps that memory") {
  Cache cache;
  std::weak_ptr<AlignedBuffer> watch;
  {
    Area area(2);
    watch = area.watch;
    FolioRef folio = cache.add_dirty(5);
    std::memset(folio->frame, 'x', kPageBytes);
    FolioRef moved = cache.pages.move_out(*folio, area.frame(1), area.buffer);
    CHECK(folio->mapping == nullptr);
    CHECK(cache.mapping.find(FileBlock(5)) == moved);
    CHECK(moved->frame == area.frame(1));
    CHECK(moved->frame[17] == std::byte{'x'});
    CHECK(moved->dirty);
    CHECK(cache.mapping.any_dirty(kAll));
    folio.reset();
    CHECK(cache.pages.arena().frames_used() == 0);
    cache.pages.pin(*moved, true);
  }
  CHECK_FALSE(watch.expired());
  FolioRef folio = cache.mapping.find(FileBlock(5));
  std::memset(folio->frame, 'y', kPageBytes);
  FolioRef back = cache.pages.unpin_and_move_in(*folio, true).value();
  CHECK(cache.mapping.find(FileBlock(5)) == back);
  CHECK(cache.mapping.next_dirty(FileBlock(0)) == back);
  CHECK(back->frame[100] == std::byte{'y'});
  CHECK(cache.pages.arena().frames_used() == 1);
  CHECK_FALSE(watch.expired());  // there is a reference to the old one
  folio.reset();
  CHECK(watch.expired());
}

TEST_CASE("without a frame a page stays pinned in memory of somebody else") {
  Cache cache;
  Area area(1);
  FolioRef moved = cache.pages.move_out(*cache.add_dirty(5), area.frame(0), area.buffer);
  cache.pages.pin(*moved, true);
  for (uint64_t i = 10; i < 10 + kPages; ++i) cache.add_dirty(i);
  CHECK_FALSE(cache.pages.unpin_and_move_in(*moved, true).ok());
  CHECK(moved->is_storable());
  CHECK(cache.mapping.find(FileBlock(5)) == moved);
  cache.pages.discard(cache.mapping, {FileBlock(10), FileBlock(11)});
  CHECK(cache.pages.unpin_and_move_in(*moved, true).ok());
}

TEST_CASE("a mapping finds what is pinned and what is storable") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    Random random(seed);
    Cache cache;
    std::set<uint64_t> readers;
    std::set<uint64_t> writers;
    for (uint64_t i = 0; i < kPages / 2; ++i) cache.add_dirty(i * 37);
    for (int step = 0; step < 2'000; ++step) {
      const uint64_t index = random.below(kPages / 2) * 37;
      const FolioRef folio = cache.mapping.find(FileBlock(index));
      const bool for_writing = random.chance(0.5);
      std::set<uint64_t>& pins = for_writing ? writers : readers;
      if (pins.erase(index) != 0) {
        cache.pages.unpin(*folio, for_writing);
      } else {
        cache.pages.pin(*folio, for_writing);
        pins.insert(index);
      }
      const uint64_t from = random.below(kPages / 2 * 37);
      const auto first_of = [from](const std::set<uint64_t>& set) {
        const auto at = set.lower_bound(from);
        return at == set.end() ? UINT64_MAX : *at;
      };
      const auto found = [](const FolioRef& at) { return at ? at->index.value() : UINT64_MAX; };
      REQUIRE(found(cache.mapping.next_storable(FileBlock(from))) == first_of(writers));
      REQUIRE(found(cache.mapping.next_pinned(FileBlock(from))) ==
              std::min(first_of(readers), first_of(writers)));
      REQUIRE(cache.mapping.dirty_count() == kPages / 2 - writers.size());
    }
  }
}

}  // namespace
}  // namespace fusefs
