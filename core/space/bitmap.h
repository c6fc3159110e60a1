// Bitmap: the bits of one group in memory, and the questions the allocator asks of them.
//
// Bit i is block i of the group; 1 = taken. A chunk is kNodeBlocks bits aligned to kNodeBlocks: the
// place of a tree node. A chunk is whole when all its bits are 0, broken when only some are.
//
// It knows no volume, no groups and no device. Ranges are half-open bit numbers in one group.
#pragma once

#include <array>
#include <cstdint>

#include "core/base/bytes.h"
#include "core/format/node_format.h"
#include "core/format/space_format.h"

namespace fusefs {

inline constexpr uint32_t kGroupWords = kGroupBlocks / 64;
inline constexpr uint32_t kGroupChunks = kGroupBlocks / kNodeBlocks;
static_assert(kGroupBlocks % 64 == 0 && 64 % kNodeBlocks == 0);

struct BitRange {
  uint32_t first = 0;
  uint32_t end = 0;
  uint32_t count() const { return end - first; }
  bool empty() const { return first == end; }
  friend bool operator==(const BitRange&, const BitRange&) = default;
};

class Bitmap {
 public:
  bool test(uint32_t bit) const { return ((words_[bit / 64] >> (bit % 64)) & 1) != 0; }
  // Return how many bits changed.
  uint32_t set(BitRange range);
  uint32_t clear(BitRange range);
  uint32_t used_count(BitRange range) const;
  uint32_t free_count() const { return kGroupBlocks - used_count({0, kGroupBlocks}); }

  // The first free (used) bit in `range`, or range.end.
  uint32_t find_free(BitRange range) const;
  uint32_t find_used(BitRange range) const;
  // The first run of at least `min` free bits in `range`, cut to `range`; else the longest one,
  // which is empty when nothing is free.
  BitRange find_run(BitRange range, uint32_t min) const;
  BitRange longest_run() const { return find_run({0, kGroupBlocks}, kGroupBlocks + 1); }
  // How many free bits there are in one piece on both sides of `bit`, which is free.
  uint32_t run_around(uint32_t bit) const;

  // Whole chunks that share a bit with `range`.
  uint32_t whole_chunks(BitRange range) const;
  // The first bit of the first whole chunk that begins in `range`, or range.end.
  uint32_t find_whole_chunk(BitRange range) const;
  // The first free bits in `range` that belong to broken chunks, in one piece; or empty.
  BitRange find_broken(BitRange range) const;

  // The bytes as they lie in BitmapPage.
  void load(const unsigned char* bytes);
  void store(unsigned char* bytes) const;

 private:
  // Bits 0, 4, 8, ... of the result: the whole chunks of the word.
  static uint64_t whole_in_word(uint64_t word);
  // The word with the bits of whole chunks set: only free bits of broken ones are 0.
  static uint64_t without_whole(uint64_t word);
  template <class Word>
  uint32_t find_zero(BitRange range, Word&& word) const;

  std::array<uint64_t, kGroupWords> words_{};
};

}  // namespace fusefs
