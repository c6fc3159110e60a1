// Histogram: its error bound, its extremes, merging.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/random.h"
#include "core/stats/histogram.h"

#include <doctest/doctest.h>

using namespace fusefs;

TEST_CASE("a quantile is within 3 % of the exact one, whatever the magnitude") {
  Random random(7);
  for (const uint64_t scale : {100ull, 10'000ull, 1'000'000ull, 10'000'000'000ull}) {
    Histogram histogram;
    std::vector<uint64_t> values;
    for (int i = 0; i < 2000; ++i) {
      values.push_back(random.between(1, scale));
      histogram.record(values.back());
    }
    std::sort(values.begin(), values.end());
    for (const double q : {0.01, 0.5, 0.9, 0.99, 0.999, 1.0}) {
      const auto rank = static_cast<size_t>(std::ceil(q * 2000.0));
      const auto exact = static_cast<double>(values[std::max<size_t>(rank, 1) - 1]);
      const auto found = static_cast<double>(histogram.quantile(q));
      CAPTURE(scale);
      CAPTURE(q);
      CHECK_GE(found, exact * 0.97);
      CHECK_LE(found, exact * 1.03);
    }
  }
}

TEST_CASE("small values are exact") {
  Histogram histogram;
  for (uint64_t value = 0; value < 64; ++value) histogram.record(value);
  CHECK_EQ(histogram.quantile(0.5), 31);
  CHECK_EQ(histogram.quantile(1.0 / 64), 0);
  CHECK_EQ(histogram.quantile(1.0), 63);
  CHECK_EQ(histogram.mean(), 31);
}

TEST_CASE("buckets follow each other without gap or overlap and hold every record") {
  Random random(3);
  Histogram histogram;
  for (int shift = 0; shift < 64; ++shift) {
    histogram.record(uint64_t{1} << shift);
    histogram.record((uint64_t{1} << shift) - 1);
    histogram.record((uint64_t{1} << shift) + random.below(uint64_t{1} << shift));
  }
  uint64_t previous_end = 0;
  uint64_t total = 0;
  histogram.for_each_bucket([&](uint64_t first, uint64_t end, uint64_t count) {
    CHECK_GE(first, previous_end);
    CHECK_LT(first, end);
    CHECK_GT(count, 0);
    previous_end = end;
    total += count;
  });
  CHECK_EQ(total, histogram.count());
  CHECK_EQ(total, 64 * 3);

  // Each value lies in the bucket that it is counted in.
  for (const uint64_t value : {0ull, 63ull, 64ull, 65ull, 127ull, 128ull, 1023ull, 1'000'000ull,
                               (1ull << 40) - 1, 1ull << 40, ~0ull - 1}) {
    Histogram single;
    single.record(value);
    single.for_each_bucket([&](uint64_t first, uint64_t end, uint64_t) {
      CHECK_LE(first, value);
      CHECK_LT(value, end);
    });
  }
}

TEST_CASE("values beyond the last bucket keep the exact maximum") {
  Histogram histogram;
  histogram.record(5);
  histogram.record(uint64_t{1} << 50);
  CHECK_EQ(histogram.max(), uint64_t{1} << 50);
  CHECK_EQ(histogram.quantile(1.0), uint64_t{1} << 50);
}

TEST_CASE("merged histograms are as if one had recorded everything") {
  Random random(11);
  Histogram both;
  Histogram left;
  Histogram right;
  for (int i = 0; i < 500; ++i) {
    const uint64_t value = random.below(1'000'000);
    both.record(value);
    (i % 3 == 0 ? left : right).record(value);
  }
  left.merge(right);
  CHECK_EQ(left.count(), both.count());
  CHECK_EQ(left.sum(), both.sum());
  CHECK_EQ(left.max(), both.max());
  for (const double q : {0.0, 0.5, 0.99}) CHECK_EQ(left.quantile(q), both.quantile(q));
}

TEST_CASE("an empty histogram has no quantiles") {
  const Histogram histogram;
  CHECK_EQ(histogram.quantile(0.5), 0);
  CHECK_EQ(histogram.max(), 0);
  histogram.for_each_bucket([](uint64_t, uint64_t, uint64_t) { FAIL("a bucket without records"); });
}
