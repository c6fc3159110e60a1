// VolatileCache: a write cache that a killed process loses, so that `kill -9` is a power cut.
//
// For tests only (-o volatile_cache=SEED). A killed daemon loses nothing that it has handed to the
// kernel, so a real mount cannot show a forgotten flush. Behind this cache it can: a completed
// write lies in the memory of the process until a flush, block by block, and goes with it.
//
//      write ---> blocks_ --- flush, in random order ---> file or device
//                    |                                       ^
//                    +------ now and then, any one ----------+
//      write with fua ---------------------------------------+
//
// Reads see the newest. What a kill leaves is what BlockDevice (block_device.h) allows: of each
// block the version last made durable or a later one, the blocks of one write each for itself.
//
// Invariants:
//   (1) A flush makes durable at least what had been written when it was asked for (stamp()).
//   (2) A block that is not in `blocks_` is on the device in its newest version.
//
// Any thread; one transfer at a time is carried out, as by a device of depth one. System calls are
// made inside: never with the monitor held, but for stamp().
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/base/random.h"

namespace fusefs {

class VolatileCache {
 public:
  // More than this is not kept: blocks chosen at random make room.
  static constexpr uint64_t kBytesMax = 64ull << 20;

  // `fd`: for buffered I/O, kept open by the caller. `block_bytes` is written whole or not at all.
  // The seed chooses what becomes durable unasked, and in which order; with a multiple of four
  // nothing does.
  VolatileCache(int fd, uint32_t block_bytes, uint64_t seed);

  // As the system calls: a count or a negative errno. `addr` and the sum of the lengths are
  // multiples of block_bytes.
  int64_t read(uint64_t addr, std::span<const iovec> buffers);
  int64_t write(uint64_t addr, std::span<const iovec> buffers, bool fua);
  // Not kept: on the device when they return, whatever comes.
  int64_t discard(uint64_t addr, uint64_t len);
  int64_t write_zeroes(uint64_t addr, uint64_t len);

  // Counts writes. To be taken when a flush is asked for; waits for nobody.
  uint64_t stamp() const { return stamp_.load(); }
  // Makes what was written up to `stamp` durable.
  int64_t flush(uint64_t stamp);

  // Bytes that a kill would lose.
  uint64_t lost_bytes();

 private:
  struct Block {
    uint64_t number = 0;  // addr / block_bytes_
    uint64_t stamp = 0;   // of the oldest write that is not durable
    std::vector<std::byte> data;
  };

  std::byte* keep(uint64_t number, uint64_t stamp);
  void forget(uint64_t addr, uint64_t len);
  int64_t write_back(size_t index);
  int64_t write_some_back(uint64_t written);
  void remove(size_t index);

  const int fd_;
  const uint32_t block_bytes_;
  const uint64_t eagerness_;  // of 64 blocks written so many become durable unasked
  std::mutex mutex_;
  Random random_;
  std::atomic<uint64_t> stamp_{0};
  std::vector<Block> blocks_;
  std::unordered_map<uint64_t, size_t> where_;  // block number to index
};

}  // namespace fusefs
