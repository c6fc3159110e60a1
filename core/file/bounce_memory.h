// BounceMemory: where the copies of pages are that are written in place of the pages (bounce.cc).
//
//     take() ---> a run's own piece, until the device has the copies ---> its end: free again
//
// Memory that is new has to be cleared and brought in page by page, which takes longer than the
// copies, and its pages lie anywhere, which the device has to be told one by one. This is one area,
// of huge pages where the kernel has them, that is used again and again. Who takes a piece finds in
// it what others have left there.
//
//     |== run A ==|.....|===== run B =====|.......|     .: free
//
// Nothing of it is touched before the first bounce. A run for which there is no room has memory of
// its own for once.
//
// Monitor held for every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "core/io/aligned_buffer.h"

namespace fusefs {

class BounceMemory {
 public:
  static constexpr size_t kUnitBytes = 64 << 10;
  static constexpr size_t kUnits = 64;
  // As much as one run has at most (writeback.h).
  static constexpr size_t kBytes = kUnits * kUnitBytes;

  // Gives back what it has when it ends. Does not outlive the BounceMemory.
  class Piece {
   public:
    Piece() = default;
    Piece(Piece&& other) noexcept { *this = std::move(other); }
    Piece& operator=(Piece&& other) noexcept;
    ~Piece() { release(); }
    void release();
    std::byte* data() { return data_; }
    bool is_own() const { return static_cast<bool>(own_); }  // there was no room

   private:
    friend class BounceMemory;
    BounceMemory* memory_ = nullptr;
    uint64_t units_ = 0;
    AlignedBuffer own_;
    std::byte* data_ = nullptr;
  };

  // At least `bytes`, page-aligned and not cleared.
  Piece take(size_t bytes);

  bool all_free() const { return free_ == ~uint64_t{0}; }

 private:
  struct Free {
    void operator()(std::byte* area) const { std::free(area); }
  };

  std::unique_ptr<std::byte, Free> area_;  // null before the first
  uint64_t free_ = ~uint64_t{0};           // units, as bits
};

}  // namespace fusefs
