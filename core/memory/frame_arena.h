// FrameArena: the memory of the page cache, 4 KiB frames out of one mapping.
//
// One anonymous mapping of the cache's size, huge pages where the kernel gives them, registered
// with the device's rings by whoever owns those. Frames are handed out one by one; memory that was
// never used costs nothing.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/units.h"

namespace fusefs {

inline constexpr size_t kPageBytes = kBlockBytes;

class FrameArena {
 public:
  explicit FrameArena(uint64_t bytes);
  ~FrameArena();
  FrameArena(const FrameArena&) = delete;
  FrameArena& operator=(const FrameArena&) = delete;

  // Null when all frames are in use. Contents are undefined. Prefers the frame after the one
  // handed out last, so that sequential writes lie in a row, and a frame used before to a fresh
  // one.
  std::byte* take();
  void give_back(std::byte* frame);

  uint64_t frames_total() const { return frames_total_; }
  uint64_t frames_used() const { return frames_used_; }
  Bytes memory() const { return memory_; }

 private:
  // The first free frame in [from, end), or frames_total_.
  uint64_t find_free(uint64_t from, uint64_t end) const;

  Bytes memory_;
  uint64_t frames_total_ = 0;
  uint64_t frames_used_ = 0;
  uint64_t next_fresh_ = 0;           // frames from here on have never been used
  uint64_t cursor_ = 0;               // after the frame handed out last
  std::vector<uint64_t> free_;        // one bit per frame: used before, and free now
  std::vector<uint64_t> free_words_;  // one bit per word of free_: not zero
};

}  // namespace fusefs
