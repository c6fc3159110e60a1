#include <vector>

#include "core/memory/shared_blocks.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPages = kCachePagesMin;

struct Cache {
  PageCache pages{kPages * kPageBytes};
  SharedBlocks& shared{pages.shared()};

  FolioRef add(uint64_t block) {
    Attempt<FolioRef> added = shared.add(BlockNo(block));
    return added.ok() ? std::move(added).value() : FolioRef();
  }
  FolioRef add_filled(uint64_t block, std::byte content) {
    FolioRef page = add(block);
    if (!page) return page;
    pages.lock(*page);
    page->frame[0] = content;
    pages.mark_uptodate(*page);
    pages.unlock(*page);
    return page;
  }
  FolioRef find(uint64_t block) { return shared.find(BlockNo(block)); }
  void forget(uint64_t first, uint64_t end) { shared.forget({BlockNo(first), BlockNo(end)}); }
};

TEST_CASE("everybody who needs a shared block finds the same page") {
  Cache cache;
  cache.add_filled(71, std::byte{7});
  const FolioRef one = cache.find(71);
  const FolioRef other = cache.find(71);
  REQUIRE(one);
  CHECK(one == other);
  CHECK(one->of_shared_block);
  CHECK(one->frame[0] == std::byte{7});
  CHECK(cache.shared.size() == 1);
  CHECK(cache.shared.hit_count() == 2);
  CHECK_FALSE(cache.find(72));
  CHECK(cache.shared.hit_count() == 2);
}

TEST_CASE("a page of a shared block that was never filled goes with its last reference") {
  Cache cache;
  FolioRef page = cache.add(3);
  CHECK(cache.find(3) == page);
  CHECK(cache.shared.hit_count() == 0);
  page.reset();
  CHECK(cache.shared.size() == 0);
  CHECK(cache.pages.arena().frames_used() == 0);
}

TEST_CASE("forgetting takes the pages of the range and no others") {
  Cache cache;
  for (const uint64_t block : {1u, 9u, 10u, 63u, 64u, 199u, 200u, 100'000u}) {
    cache.add_filled(block, std::byte{1});
  }
  cache.forget(10, 200);
  for (const uint64_t block : {10u, 63u, 64u, 199u}) CHECK_FALSE(cache.find(block));
  for (const uint64_t block : {1u, 9u, 200u, 100'000u}) CHECK(cache.find(block));
  CHECK(cache.shared.size() == 4);
  CHECK(cache.pages.arena().frames_used() == 4);
}

TEST_CASE("a forgotten page stays readable for who refers to it, and is nobody else's") {
  Cache cache;
  FolioRef page = cache.add_filled(5, std::byte{42});
  cache.forget(5, 6);
  CHECK(page->mapping == nullptr);
  CHECK(page->frame[0] == std::byte{42});
  CHECK_FALSE(cache.find(5));

  FolioRef next = cache.add_filled(5, std::byte{43});
  CHECK_FALSE(next == page);
  CHECK(page->frame[0] == std::byte{42});
  page.reset();
  CHECK(cache.find(5) == next);
  CHECK(cache.pages.arena().frames_used() == 1);
}

TEST_CASE("a page forgotten while it is being filled is filled to its end and then goes") {
  Cache cache;
  FolioRef page = cache.add(5);
  cache.pages.lock(*page);
  cache.forget(0, 100);
  CHECK(page->mapping == nullptr);
  CHECK(page->locked);
  CHECK(cache.shared.size() == 0);
  FolioRef next = cache.add(5);  // somebody shares the block anew and does not wait for the other

  page->frame[0] = std::byte{1};
  cache.pages.mark_uptodate(*page);
  cache.pages.unlock(*page);
  CHECK(page->uptodate);
  CHECK_FALSE(next->uptodate);
  page.reset();
  CHECK(cache.pages.arena().frames_used() == 1);
  CHECK(cache.find(5) == next);
}

TEST_CASE("pages of shared blocks are reclaimed like other clean ones, but not while referenced") {
  Cache cache;
  const FolioRef kept = cache.add_filled(1, std::byte{1});
  for (uint64_t block = 2; block <= kPages; ++block) cache.add_filled(block, std::byte{2});
  Mapping file;
  for (uint64_t i = 0; i < kPages - 1; ++i) {
    Attempt<FolioRef> added = cache.pages.add(file, FileBlock(i));
    REQUIRE(added.ok());
    cache.pages.mark_uptodate(*added.value());
    cache.pages.mark_dirty(*added.value());
  }
  CHECK(cache.shared.size() == 1);
  CHECK(cache.find(1) == kept);
  CHECK_FALSE(cache.add(1000));  // there is nothing left to reclaim
}

}  // namespace
}  // namespace fusefs
