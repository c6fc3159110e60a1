// Histogram: how often which value occurred, in fixed memory and within 3 %.
//
// Log-linear buckets: 32 per power of two, exact below 64, one bucket for everything from 2^40
// (18 minutes in ns) up. A quantile is the middle of its bucket, so it is off by at most 1.6 %;
// count, sum and max are exact.
//
//      value     0  1 .. 63 | 64 66 68 .. 126 | 128 132 .. 252 | ...
//      width        1       |        2        |       4        | ...
//
// Recording is a few instructions and no allocation. Not synchronised: one writer, and readers
// that hold what the writer holds.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace fusefs {

class Histogram {
 public:
  static constexpr int kSubBucketBits = 5;
  static constexpr int kValueBitsMax = 40;
  static constexpr size_t kBucketCount =
      (static_cast<size_t>(kValueBitsMax - kSubBucketBits) << kSubBucketBits) +
      (size_t{1} << kSubBucketBits) + 1;

  void record(uint64_t value) {
    ++buckets_[bucket_of(value)];
    ++count_;
    sum_ += value;
    max_ = std::max(max_, value);
  }

  void merge(const Histogram& other) {
    for (size_t i = 0; i < kBucketCount; ++i) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
    sum_ += other.sum_;
    max_ = std::max(max_, other.max_);
  }

  uint64_t count() const { return count_; }
  uint64_t sum() const { return sum_; }
  uint64_t max() const { return max_; }
  uint64_t mean() const { return count_ == 0 ? 0 : sum_ / count_; }

  // The value that the fraction `q` in [0, 1] of all records does not exceed; 0 without records.
  uint64_t quantile(double q) const {
    if (count_ == 0) return 0;
    const double wanted = std::clamp(q, 0.0, 1.0) * static_cast<double>(count_);
    uint64_t seen = 0;
    for (size_t i = 0; i < kBucketCount; ++i) {
      seen += buckets_[i];
      if (buckets_[i] != 0 && static_cast<double>(seen) >= wanted) {
        return std::min(middle(i), max_);
      }
    }
    return max_;
  }

  // visit(first, end, count) for each bucket in use, ascending; its values are [first, end).
  template <class Visit>
  void for_each_bucket(Visit&& visit) const {
    for (size_t i = 0; i < kBucketCount; ++i) {
      if (buckets_[i] != 0) visit(lower(i), upper(i), buckets_[i]);
    }
  }

  void clear() { *this = Histogram(); }

 private:
  static constexpr size_t kLast = kBucketCount - 1;

  static constexpr size_t bucket_of(uint64_t value) {
    if (value >> kValueBitsMax != 0) return kLast;
    const int extra = std::max(0, static_cast<int>(std::bit_width(value)) - (kSubBucketBits + 1));
    return (static_cast<size_t>(extra) << kSubBucketBits) + static_cast<size_t>(value >> extra);
  }
  static constexpr uint64_t lower(size_t bucket) {
    if (bucket == kLast) return uint64_t{1} << kValueBitsMax;
    constexpr size_t kSubBuckets = size_t{1} << kSubBucketBits;
    if (bucket < 2 * kSubBuckets) return bucket;
    const size_t extra = (bucket >> kSubBucketBits) - 1;
    return static_cast<uint64_t>(kSubBuckets + (bucket & (kSubBuckets - 1))) << extra;
  }
  static constexpr uint64_t upper(size_t bucket) {
    return bucket == kLast ? UINT64_MAX : lower(bucket + 1);
  }
  uint64_t middle(size_t bucket) const {
    if (bucket == kLast) return max_;
    return lower(bucket) + (upper(bucket) - lower(bucket) - 1) / 2;
  }

  std::array<uint64_t, kBucketCount> buckets_ = {};
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
  uint64_t max_ = 0;
};

}  // namespace fusefs
