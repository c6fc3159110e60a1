// Strong types for what is counted: block numbers, file blocks, inodes, sequence numbers.
//
// A position and a count of the same thing are different types: a BlockNo minus a BlockNo is a
// BlockCount, a BlockNo plus a BlockCount is a BlockNo, and nothing else compiles.
// `pos` is always a byte offset in a file, `addr` a byte offset on the device, `len` bytes.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace fusefs {

inline constexpr uint32_t kBlockBytes = 4096;
inline constexpr uint32_t kBlockShift = 12;

// An identifier: compared, never added to.
template <class Tag>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr StrongId next() const { return StrongId(value_ + 1); }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;

 private:
  uint64_t value_ = 0;
};

// A count of something.
template <class Tag>
class StrongCount {
 public:
  constexpr StrongCount() = default;
  constexpr explicit StrongCount(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  friend constexpr auto operator<=>(StrongCount, StrongCount) = default;
  friend constexpr StrongCount operator+(StrongCount a, StrongCount b) {
    return StrongCount(a.value_ + b.value_);
  }
  friend constexpr StrongCount operator-(StrongCount a, StrongCount b) {
    return StrongCount(a.value_ - b.value_);
  }
  constexpr StrongCount& operator+=(StrongCount b) { return value_ += b.value_, *this; }
  constexpr StrongCount& operator-=(StrongCount b) { return value_ -= b.value_, *this; }

 private:
  uint64_t value_ = 0;
};

// A position counted in Count.
template <class Tag, class Count>
class StrongIndex {
 public:
  constexpr StrongIndex() = default;
  constexpr explicit StrongIndex(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  friend constexpr auto operator<=>(StrongIndex, StrongIndex) = default;
  friend constexpr StrongIndex operator+(StrongIndex a, Count b) {
    return StrongIndex(a.value_ + b.value());
  }
  friend constexpr StrongIndex operator-(StrongIndex a, Count b) {
    return StrongIndex(a.value_ - b.value());
  }
  friend constexpr Count operator-(StrongIndex a, StrongIndex b) {
    return Count(a.value_ - b.value_);
  }
  constexpr StrongIndex& operator+=(Count b) { return value_ += b.value(), *this; }
  constexpr StrongIndex& operator++() { return ++value_, *this; }

 private:
  uint64_t value_ = 0;
};

struct BlockTag {};
struct FileBlockTag {};
using BlockCount = StrongCount<BlockTag>;           // blocks of 4 KiB, on the volume or in a file
using BlockNo = StrongIndex<BlockTag, BlockCount>;  // a block of the volume
using FileBlock = StrongIndex<FileBlockTag, BlockCount>;  // a block of a file; also its page index

using InodeNo = StrongId<struct InodeNoTag>;
using JournalSeq = StrongId<struct JournalSeqTag>;  // one per transaction, never used again
using CheckpointNo = StrongId<struct CheckpointNoTag>;

// Half-open [first, end).
template <class Index>
struct Range {
  Index first;
  Index end;

  constexpr BlockCount count() const { return end - first; }
  constexpr bool empty() const { return first == end; }
  constexpr bool contains(Index at) const { return first <= at && at < end; }
  constexpr bool overlaps(const Range& other) const {
    return first < other.end && other.first < end;
  }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};
using BlockRange = Range<BlockNo>;
using FileRange = Range<FileBlock>;

constexpr BlockRange block_range(BlockNo first, BlockCount count) { return {first, first + count}; }
constexpr FileRange file_range(FileBlock first, BlockCount count) { return {first, first + count}; }

constexpr uint64_t block_addr(BlockNo block) { return block.value() << kBlockShift; }
constexpr uint64_t block_bytes(BlockCount count) { return count.value() << kBlockShift; }
// The block that holds byte `pos`, and the first block that starts at or after it.
constexpr FileBlock file_block_at(uint64_t pos) { return FileBlock(pos >> kBlockShift); }
constexpr FileBlock file_block_end(uint64_t pos) {
  return FileBlock((pos >> kBlockShift) + ((pos & (kBlockBytes - 1)) != 0 ? 1 : 0));
}
constexpr uint64_t file_pos(FileBlock block) { return block.value() << kBlockShift; }

}  // namespace fusefs

template <class Tag>
struct std::hash<fusefs::StrongId<Tag>> {
  size_t operator()(fusefs::StrongId<Tag> id) const noexcept {
    return static_cast<size_t>(id.value() * 0x9E3779B97F4A7C15ull);
  }
};
template <class Tag, class Count>
struct std::hash<fusefs::StrongIndex<Tag, Count>> {
  size_t operator()(fusefs::StrongIndex<Tag, Count> id) const noexcept {
    return static_cast<size_t>(id.value() * 0x9E3779B97F4A7C15ull);
  }
};
