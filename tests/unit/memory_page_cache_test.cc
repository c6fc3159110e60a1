#include <map>
#include <set>

#include "core/base/random.h"
#include "tests/support/file_cache.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPages = kCachePagesMin;

FileRange pages_between(uint64_t first, uint64_t end) { return {FileBlock(first), FileBlock(end)}; }

TEST_CASE("a folio that was never filled goes with its last reference") {
  FileCache cache;
  FolioRef folio = cache.add(5);
  CHECK(cache.has(5));
  folio.reset();
  CHECK_FALSE(cache.has(5));
  CHECK(cache.pages.arena().frames_used() == 0);
}

TEST_CASE("a full cache reclaims a clean folio, the oldest first") {
  FileCache cache;
  for (uint64_t i = 0; i < kPages; ++i) cache.add_clean(i);
  REQUIRE(cache.add_clean(1000));
  CHECK_FALSE(cache.has(0));
  CHECK(cache.has(1));
  CHECK(cache.pages.stats().reclaimed_count == 1);
}

TEST_CASE("dirty, locked, referenced folios and those under writeback are never reclaimed") {
  FileCache cache;
  FolioRef referenced = cache.add_clean(0);
  FolioRef locked = cache.add_clean(1);
  cache.pages.lock(*locked);
  FolioRef written = cache.add_dirty(2);
  cache.pages.begin_writeback(*written);
  written.reset();
  for (uint64_t i = 3; i < kPages; ++i) cache.add_dirty(i);
  CHECK_FALSE(cache.add(1000));

  referenced.reset();
  CHECK(cache.add(1000));  // and is given back again at once
  CHECK_FALSE(cache.has(0));
  CHECK(cache.has(1));
  CHECK(cache.has(2));
  cache.pages.unlock(*locked);
}

TEST_CASE("a folio dropped from its mapping lives on for those who refer to it") {
  FileCache cache;
  FolioRef folio = cache.add_clean(9);
  folio->frame[17] = std::byte{42};
  CHECK(cache.pages.drop_clean(cache.mapping, pages_between(0, 100)));
  CHECK(folio->mapping == nullptr);
  CHECK(folio->frame[17] == std::byte{42});
  CHECK(cache.pages.arena().frames_used() == 1);
  folio.reset();
  CHECK(cache.pages.arena().frames_used() == 0);
}

TEST_CASE("drop_clean leaves what is dirty, locked or under writeback, and says so") {
  FileCache cache;
  cache.add_clean(1);
  cache.add_dirty(2);
  CHECK_FALSE(cache.pages.drop_clean(cache.mapping, pages_between(0, 10)));
  CHECK_FALSE(cache.has(1));
  CHECK(cache.has(2));
  CHECK(cache.pages.drop_clean(cache.mapping, pages_between(3, 10)));
}

TEST_CASE("writeback that fails leaves the folio dirty, and one that succeeds clean") {
  FileCache cache;
  FolioRef folio = cache.add_dirty(3);
  cache.pages.begin_writeback(*folio);
  CHECK_FALSE(folio->dirty);
  CHECK(cache.mapping.any_writeback(pages_between(0, 10)) == folio);
  cache.pages.end_writeback(*folio, false);
  CHECK(cache.mapping.next_dirty(FileBlock(0)) == folio);
  cache.pages.begin_writeback(*folio);
  cache.pages.end_writeback(*folio, true);
  CHECK_FALSE(cache.mapping.any_dirty(pages_between(0, 10)));
  CHECK(cache.mapping.writeback_count() == 0);
}

TEST_CASE("writers are held up at half of the cache, the flusher is asked at a quarter") {
  FileCache cache;
  for (uint64_t i = 0; i < kPages / 4; ++i) {
    CHECK_FALSE(cache.pages.wants_writeback());
    cache.add_dirty(i);
  }
  CHECK(cache.pages.wants_writeback());
  for (uint64_t i = kPages / 4; i < kPages / 2; ++i) {
    CHECK_FALSE(cache.pages.over_dirty_limit());
    cache.add_dirty(i);
  }
  CHECK(cache.pages.over_dirty_limit());
  FolioRef folio = cache.mapping.find(FileBlock(0));
  cache.pages.begin_writeback(*folio);
  CHECK(cache.pages.over_dirty_limit());  // still memory that cannot be had
  cache.pages.end_writeback(*folio, true);
  CHECK_FALSE(cache.pages.over_dirty_limit());
}

TEST_CASE("a mapping that goes takes its folios along, whatever their state") {
  PageCache pages(kPages * kPageBytes);
  FolioRef kept;
  {
    Mapping mapping;
    kept = pages.add(mapping, FileBlock(1)).value();
    pages.mark_uptodate(*kept);
    pages.mark_dirty(*kept);
    FolioRef other = pages.add(mapping, FileBlock(70)).value();
    pages.mark_uptodate(*other);
    pages.mark_dirty(*other);
    pages.begin_writeback(*other);
  }
  CHECK(kept->mapping == nullptr);
  CHECK(pages.stats().dirty_bytes == 0);
  CHECK(pages.stats().writeback_bytes == 0);
  CHECK(pages.arena().frames_used() == 1);
}

// The mapping against a map, with the walks that writeback and truncate do.
TEST_CASE("a mapping finds what is there, what is dirty and what is under writeback") {
  enum class State { clean, dirty, writeback };
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    FileCache cache;
    std::map<uint64_t, State> model;
    for (int step = 0; step < 2'000; ++step) {
      const uint64_t index = random.chance(0.5) ? random.below(80) : random.below(100'000);
      FolioRef folio = cache.mapping.find(FileBlock(index));
      REQUIRE(static_cast<bool>(folio) == model.contains(index));
      if (!folio) {
        if (model.size() >= kPages / 2) {  // forget one
          auto victim = model.lower_bound(index);
          if (victim == model.end()) victim = model.begin();
          FolioRef gone = cache.mapping.find(FileBlock(victim->first));
          if (gone->writeback) cache.pages.end_writeback(*gone, true);
          cache.pages.remove(*gone);
          model.erase(victim);
        }
        folio = cache.add_clean(index);
        model[index] = State::clean;
      } else if (model[index] == State::clean) {
        cache.pages.mark_dirty(*folio);
        model[index] = State::dirty;
      } else if (model[index] == State::dirty) {
        cache.pages.begin_writeback(*folio);
        model[index] = State::writeback;
      } else {
        const bool written = random.chance(0.5);
        cache.pages.end_writeback(*folio, written);
        model[index] = written ? State::clean : State::dirty;
      }

      const uint64_t from = random.below(120);
      const auto expect = [&](auto wanted) -> std::optional<uint64_t> {
        for (auto it = model.lower_bound(from); it != model.end(); ++it) {
          if (wanted(it->second)) return it->first;
        }
        return std::nullopt;
      };
      const auto found = [](const FolioRef& at) -> std::optional<uint64_t> {
        if (!at) return std::nullopt;
        return at->index.value();
      };
      REQUIRE(found(cache.mapping.at_or_after(FileBlock(from))) ==
              expect([](State) { return true; }));
      REQUIRE(found(cache.mapping.next_dirty(FileBlock(from))) ==
              expect([](State state) { return state == State::dirty; }));
      REQUIRE(found(cache.mapping.any_writeback(pages_between(from, 200'000))) ==
              expect([](State state) { return state == State::writeback; }));
      REQUIRE(cache.mapping.size() == model.size());
    }
  }
}

TEST_CASE("a page that is being read is removed without waiting, and its reader is told") {
  FileCache cache;
  FolioRef reading = cache.add(3);
  cache.pages.begin_read(*reading);
  CHECK(reading->locked);
  CHECK_FALSE(cache.mapping.any_locked(pages_between(0, 10)));
  SUBCASE("by who drops clean pages") {
    CHECK(cache.pages.drop_clean(cache.mapping, pages_between(0, 10)));
  }
  SUBCASE("by who discards") { cache.pages.discard(cache.mapping, pages_between(0, 10)); }
  SUBCASE("alone") { cache.pages.remove(*reading); }
  CHECK(reading->mapping == nullptr);
  CHECK_FALSE(cache.has(3));
  FolioRef next = cache.add_clean(3);
  cache.pages.end_read(*reading, true);
  CHECK(cache.mapping.find(FileBlock(3)) == next);
  CHECK_FALSE(reading->reclaimed);
  reading.reset();
  CHECK(cache.pages.arena().frames_used() == 1);
}

TEST_CASE("a locked folio is found, whatever was locked and went before") {
  FileCache cache;
  const FileRange all = pages_between(0, 100);
  FolioRef first = cache.add_clean(10);
  FolioRef second = cache.add_clean(20);
  FolioRef reading = cache.add(30);
  cache.pages.lock(*first);
  cache.pages.lock(*second);
  cache.pages.begin_read(*reading);
  cache.pages.remove(*reading);  // still locked, and of no mapping
  CHECK(cache.mapping.any_locked(all) == first);
  CHECK_FALSE(cache.mapping.any_locked(pages_between(11, 20)));
  cache.pages.unlock(*first);
  cache.pages.end_read(*reading, true);
  CHECK(cache.mapping.any_locked(all) == second);
  cache.pages.unlock(*second);
  CHECK_FALSE(cache.mapping.any_locked(all));
  cache.pages.lock(*first);
  CHECK(cache.mapping.any_locked(all) == first);
  cache.pages.unlock(*first);
}

TEST_CASE("translations are told of every page that goes, before it has gone") {
  struct Teller final : Translations {
    explicit Teller(Mapping& a_mapping) : mapping(a_mapping) {}
    void unmap(FileRange range) override {
      for (FileBlock at = range.first; at < range.end; ++at) {
        if (mapping.find(at)) gone.insert(at.value());
      }
    }
    Mapping& mapping;
    std::set<uint64_t> gone;
  };
  FileCache cache;
  Teller teller(cache.mapping);
  cache.mapping.set_translations(&teller);
  for (uint64_t i = 0; i < 6; ++i) cache.add_clean(i);
  cache.pages.remove(*cache.mapping.find(FileBlock(0)));
  CHECK(teller.gone == std::set<uint64_t>{0});
  CHECK(cache.pages.drop_clean(cache.mapping, pages_between(1, 3)));
  CHECK(teller.gone == std::set<uint64_t>{0, 1, 2});
  cache.pages.discard(cache.mapping, pages_between(3, 4));
  CHECK(teller.gone == std::set<uint64_t>{0, 1, 2, 3});
  for (uint64_t i = 0; i < kPages; ++i) cache.add_dirty(100 + i);  // reclaims the clean ones
  CHECK(teller.gone == std::set<uint64_t>{0, 1, 2, 3, 4, 5});
  cache.mapping.set_translations(nullptr);
}

}  // namespace
}  // namespace fusefs
