#include "core/space/bitmap.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/base/check.h"

namespace fusefs {
namespace {

// Every chunk's first bit.
constexpr uint64_t kChunkFirsts = 0x1111111111111111;
static_assert(kNodeBlocks == 4, "the masks below are made for chunks of four bits");

// The bits of `range` that lie in word `index`.
uint64_t mask_of(BitRange range, uint32_t index) {
  const uint32_t base = index * 64;
  uint64_t mask = ~uint64_t{0};
  if (range.first > base) mask &= ~uint64_t{0} << (range.first - base);
  if (range.end < base + 64) mask &= ~uint64_t{0} >> (base + 64 - range.end);
  return mask;
}

// Calls `fn(index, mask)` for each word that `range` touches.
template <class Fn>
void for_each_word(BitRange range, Fn&& fn) {
  if (range.empty()) return;
  CHECK(range.first < range.end && range.end <= kGroupBlocks);
  for (uint32_t i = range.first / 64; i <= (range.end - 1) / 64; ++i) fn(i, mask_of(range, i));
}

uint32_t count_bits(uint64_t word) { return static_cast<uint32_t>(std::popcount(word)); }

}  // namespace

uint32_t Bitmap::set(BitRange range) {
  uint32_t changed = 0;
  for_each_word(range, [&](uint32_t i, uint64_t mask) {
    changed += count_bits(~words_[i] & mask);
    words_[i] |= mask;
  });
  return changed;
}

uint32_t Bitmap::clear(BitRange range) {
  uint32_t changed = 0;
  for_each_word(range, [&](uint32_t i, uint64_t mask) {
    changed += count_bits(words_[i] & mask);
    words_[i] &= ~mask;
  });
  return changed;
}

uint32_t Bitmap::used_count(BitRange range) const {
  uint32_t used = 0;
  for_each_word(range, [&](uint32_t i, uint64_t mask) { used += count_bits(words_[i] & mask); });
  return used;
}

// The first 0 in `range` of the words as `word(i)` makes them; or range.end.
template <class Word>
uint32_t Bitmap::find_zero(BitRange range, Word&& word) const {
  if (range.first >= range.end) return range.end;
  for (uint32_t i = range.first / 64; i <= (range.end - 1) / 64; ++i) {
    const uint64_t zeroes = ~word(i) & mask_of(range, i);
    if (zeroes != 0) return i * 64 + static_cast<uint32_t>(std::countr_zero(zeroes));
  }
  return range.end;
}

uint32_t Bitmap::find_free(BitRange range) const {
  return find_zero(range, [this](uint32_t i) { return words_[i]; });
}

uint32_t Bitmap::find_used(BitRange range) const {
  return find_zero(range, [this](uint32_t i) { return ~words_[i]; });
}

BitRange Bitmap::find_run(BitRange range, uint32_t min) const {
  BitRange longest{range.first, range.first};
  uint32_t at = range.first;
  while (at < range.end) {
    const uint32_t first = find_free({at, range.end});
    if (first == range.end) break;
    const BitRange run{first, find_used({first, range.end})};
    if (run.count() >= min) return run;
    if (run.count() > longest.count()) longest = run;
    at = run.end;
  }
  return longest;
}

uint32_t Bitmap::run_around(uint32_t bit) const {
  const uint32_t end = find_used({bit, kGroupBlocks});
  uint32_t i = bit / 64;
  // Used bits at or before `bit`, in its word; then in the words before it.
  uint64_t used = words_[i] & mask_of({0, bit + 1}, i);
  while (used == 0 && i > 0) used = words_[--i];
  const uint32_t first =
      used == 0 ? 0 : i * 64 + 64 - static_cast<uint32_t>(std::countl_zero(used));
  return end - first;
}

uint64_t Bitmap::whole_in_word(uint64_t word) {
  const uint64_t any = word | (word >> 1) | (word >> 2) | (word >> 3);
  return ~any & kChunkFirsts;
}

uint64_t Bitmap::without_whole(uint64_t word) { return word | (whole_in_word(word) * 0xf); }

uint32_t Bitmap::whole_chunks(BitRange range) const {
  if (range.empty()) return 0;
  const BitRange chunks{range.first / kNodeBlocks * kNodeBlocks,
                        (range.end + kNodeBlocks - 1) / kNodeBlocks * kNodeBlocks};
  uint32_t whole = 0;
  for_each_word(chunks, [&](uint32_t i, uint64_t mask) {
    whole += count_bits(whole_in_word(words_[i]) & mask);
  });
  return whole;
}

uint32_t Bitmap::find_whole_chunk(BitRange range) const {
  return find_zero(range, [this](uint32_t i) { return ~whole_in_word(words_[i]); });
}

BitRange Bitmap::find_broken(BitRange range) const {
  const auto broken = [this](uint32_t i) { return without_whole(words_[i]); };
  const auto inverse = [this](uint32_t i) { return ~without_whole(words_[i]); };
  const uint32_t first = find_zero(range, broken);
  if (first >= range.end) return {range.end, range.end};
  return {first, find_zero({first, range.end}, inverse)};
}

void Bitmap::load(const unsigned char* bytes) { std::memcpy(words_.data(), bytes, kBitmapBytes); }

void Bitmap::store(unsigned char* bytes) const { std::memcpy(bytes, words_.data(), kBitmapBytes); }

}  // namespace fusefs
