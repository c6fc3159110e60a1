#include "core/memory/frame_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr uint64_t kWordBits = 64;

uint64_t words_for(uint64_t bits) { return (bits + kWordBits - 1) / kWordBits; }

// The bits of `word` at and above `bit`.
uint64_t from_bit(uint64_t word, uint64_t bit) { return word & (~uint64_t{0} << bit); }

}  // namespace

FrameArena::FrameArena(uint64_t bytes) : frames_total_(bytes / kPageBytes) {
  CHECK(frames_total_ > 0);
  const size_t len = frames_total_ * kPageBytes;
  void* memory = mmap(nullptr, len, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK_MSG(memory != MAP_FAILED, "no address space for the page cache");
  madvise(memory, len, MADV_HUGEPAGE);  // where the kernel has them
  memory_ = {static_cast<std::byte*>(memory), len};
  free_.resize(words_for(frames_total_));
  free_words_.resize(words_for(free_.size()));
}

FrameArena::~FrameArena() { munmap(memory_.data(), memory_.size()); }

uint64_t FrameArena::find_free(uint64_t from, uint64_t end) const {
  if (from >= end) return frames_total_;
  uint64_t word = from / kWordBits;
  if (const uint64_t here = from_bit(free_[word], from % kWordBits)) {
    const uint64_t frame = word * kWordBits + static_cast<uint64_t>(std::countr_zero(here));
    return frame < end ? frame : frames_total_;
  }
  ++word;
  for (uint64_t group = word / kWordBits; group < free_words_.size(); ++group) {
    uint64_t words = free_words_[group];
    if (group == word / kWordBits) words = from_bit(words, word % kWordBits);
    if (words == 0) continue;
    word = group * kWordBits + static_cast<uint64_t>(std::countr_zero(words));
    const uint64_t frame = word * kWordBits + static_cast<uint64_t>(std::countr_zero(free_[word]));
    return frame < end ? frame : frames_total_;
  }
  return frames_total_;
}

std::byte* FrameArena::take() {
  if (frames_used_ == frames_total_) return nullptr;
  uint64_t frame = find_free(cursor_, next_fresh_);
  if (frame == frames_total_) frame = find_free(0, std::min(cursor_, next_fresh_));
  if (frame == frames_total_) {
    frame = next_fresh_++;
  } else {
    const uint64_t word = frame / kWordBits;
    free_[word] &= ~(uint64_t{1} << (frame % kWordBits));
    if (free_[word] == 0) free_words_[word / kWordBits] &= ~(uint64_t{1} << (word % kWordBits));
  }
  CHECK(frame < frames_total_);
  ++frames_used_;
  cursor_ = frame + 1;
  return memory_.data() + frame * kPageBytes;
}

void FrameArena::give_back(std::byte* frame) {
  const uint64_t number = static_cast<uint64_t>(frame - memory_.data()) / kPageBytes;
  const uint64_t word = number / kWordBits;
  const uint64_t bit = uint64_t{1} << (number % kWordBits);
  CHECK(number < next_fresh_ && (free_[word] & bit) == 0);
  free_[word] |= bit;
  free_words_[word / kWordBits] |= uint64_t{1} << (word % kWordBits);
  --frames_used_;
}

}  // namespace fusefs
