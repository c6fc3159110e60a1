#include "core/file/bounce_memory.h"

#include <sys/mman.h>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr size_t kHugePageBytes = 2 << 20;

std::byte* allocate_area() {
  void* area = std::aligned_alloc(kHugePageBytes, BounceMemory::kBytes);
  CHECK(area != nullptr);
  madvise(area, BounceMemory::kBytes, MADV_HUGEPAGE);  // where the kernel has them
  return static_cast<std::byte*>(area);
}

}  // namespace

static_assert(BounceMemory::kBytes % kHugePageBytes == 0);
static_assert(BounceMemory::kUnits == 64, "one bit each");

BounceMemory::Piece& BounceMemory::Piece::operator=(Piece&& other) noexcept {
  if (this == &other) return *this;
  release();
  memory_ = std::exchange(other.memory_, nullptr);
  units_ = std::exchange(other.units_, 0);
  own_ = std::move(other.own_);
  data_ = std::exchange(other.data_, nullptr);
  return *this;
}

void BounceMemory::Piece::release() {
  if (memory_ != nullptr) memory_->free_ |= units_;
  memory_ = nullptr;
  units_ = 0;
  const AlignedBuffer freed = std::move(own_);
  data_ = nullptr;
}

// The first room, so that what the CPU has in its caches is used again.
BounceMemory::Piece BounceMemory::take(size_t bytes) {
  const size_t count = (bytes + kUnitBytes - 1) / kUnitBytes;
  CHECK(count != 0);
  Piece piece;
  const uint64_t run = count < kUnits ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
  for (size_t at = 0; at + count <= kUnits; ++at) {
    if (((free_ >> at) & run) != run) continue;
    if (!area_) area_.reset(allocate_area());
    piece.memory_ = this;
    piece.units_ = run << at;
    free_ &= ~piece.units_;
    piece.data_ = area_.get() + at * kUnitBytes;
    return piece;
  }
  piece.own_ = AlignedBuffer::uninitialized(count * kUnitBytes);
  piece.data_ = piece.own_.data();
  return piece;
}

}  // namespace fusefs
