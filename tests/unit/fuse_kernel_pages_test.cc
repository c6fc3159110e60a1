// Where the kernel may have pages: never less than it has.
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "fusefs/kernel_pages.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr InodeNo kFile{7};
constexpr InodeNo kOther{8};
constexpr uint64_t kPage = kBlockBytes;

TEST_CASE("pages are noted from what touches them to the whole page, and by inode") {
  KernelPages pages;
  CHECK_FALSE(pages.any(kFile, 0, 0));
  pages.note(kFile, 2 * kPage + 100, 1);
  CHECK(pages.any(kFile, 0, 0));
  CHECK(pages.any(kFile, 2 * kPage, 1));
  CHECK(pages.any(kFile, 3 * kPage - 1, 1));
  CHECK_FALSE(pages.any(kFile, 3 * kPage, 0));
  CHECK_FALSE(pages.any(kFile, 0, 2 * kPage));
  CHECK_FALSE(pages.any(kOther, 0, 0));
  pages.note(kOther, UINT64_MAX - 10, 100);
  CHECK(pages.any(kOther, UINT64_MAX - kPage, 0));
  pages.forget(kFile);
  CHECK_FALSE(pages.any(kFile, 0, 0));
  CHECK(pages.any(kOther, 0, 0));
}

TEST_CASE("what the kernel got after it was told to drop is not taken for dropped") {
  KernelPages pages;
  pages.note(kFile, 0, 10 * kPage);
  KernelPages::Drop drop;
  pages.begin(drop, kFile, 2 * kPage, 4 * kPage);
  CHECK(pages.any(kFile, 2 * kPage, 4 * kPage));  // not yet
  pages.note(kFile, 3 * kPage, kPage);
  pages.note(kOther, 4 * kPage, kPage);
  drop.end(true);
  CHECK(pages.any(kFile, 0, 2 * kPage));
  CHECK_FALSE(pages.any(kFile, 2 * kPage, kPage));
  CHECK(pages.any(kFile, 3 * kPage, kPage));
  CHECK_FALSE(pages.any(kFile, 4 * kPage, 2 * kPage));
  CHECK(pages.any(kFile, 6 * kPage, kPage));

  pages.begin(drop, kFile, 0, 0);
  drop.end(false);  // the order did not arrive
  CHECK(pages.any(kFile, 0, 2 * kPage));
  {
    KernelPages::Drop given_up;
    pages.begin(given_up, kFile, 0, 0);
  }
  CHECK(pages.any(kFile, 0, 2 * kPage));
  pages.begin(drop, kFile, 0, 0);
  drop.end(true);
  CHECK_FALSE(pages.any(kFile, 0, 0));
}

// Against a set of pages: never too little; exact with few ranges and one order at a time.
TEST_CASE("no page that the kernel may have is ever missing, whatever is noted and dropped") {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    const uint64_t file_pages = seed % 2 == 0 ? 60 : 1000;  // few: never merged
    const auto below = [&](uint64_t n) { return random() % n; };
    KernelPages pages;
    std::set<uint64_t> model;
    struct Order {
      KernelPages::Drop drop;
      uint64_t first, end;
      std::set<uint64_t> since;
    };
    std::vector<std::unique_ptr<Order>> orders;
    for (int step = 0; step < 2000; ++step) {
      const uint64_t first = below(file_pages);
      const uint64_t end = first + 1 + below(file_pages / 20);
      switch (below(4)) {
        case 0:
        case 1:
          pages.note(kFile, first * kPage, (end - first) * kPage);
          for (uint64_t page = first; page < end; ++page) {
            model.insert(page);
            for (auto& order : orders) order->since.insert(page);
          }
          break;
        case 2:
          if (orders.size() >= (file_pages < kKernelRangesMax ? 1 : 3)) break;
          orders.push_back(std::make_unique<Order>());
          orders.back()->first = first;
          orders.back()->end = end;
          pages.begin(orders.back()->drop, kFile, first * kPage, (end - first) * kPage);
          break;
        default: {
          if (orders.empty()) break;
          const size_t which = below(orders.size());
          Order& order = *orders[which];
          order.drop.end(true);
          for (uint64_t page = order.first; page < order.end; ++page) {
            if (!order.since.contains(page)) model.erase(page);
          }
          orders.erase(orders.begin() + static_cast<ptrdiff_t>(which));
        }
      }
      uint64_t missing = 0;
      uint64_t needless = 0;
      for (uint64_t page = 0; page < file_pages + 60; ++page) {
        const bool noted = pages.any(kFile, page * kPage, kPage);
        if (model.contains(page) && !noted) ++missing;
        if (noted && !model.contains(page)) ++needless;
      }
      REQUIRE(missing == 0);
      if (file_pages < kKernelRangesMax) REQUIRE(needless == 0);
    }
  }
}

}  // namespace
}  // namespace fusefs
