// Request buffers: where requests are received and what replies with data are read into.
//
// A request is read to 80 bytes before a page boundary, so that the payload of a FUSE_WRITE, which
// begins 80 bytes into it, lies page-aligned and goes to the device without a copy:
//
//      page 0                                page 1
//     +----------------------------+--------+-------------------------------+
//     |          unused            | header | payload of a write            |
//     +----------------------------+--------+-------------------------------+
//                                  ^ message()         large: up to max_write; small: one page
//
// Two sizes. A thread receives into a large buffer of its own; a request that fits a small one is
// copied there, so that a large buffer is held only by a request that fills it.
//
// Free buffers are kept up to a bound, large ones beyond it return their memory. Any thread.
#pragma once

#include <mutex>
#include <vector>

#include "core/base/bytes.h"
#include "core/io/aligned_buffer.h"
#include "fusefs/protocol.h"

namespace fusefs {

inline constexpr size_t kMessageOffset = kBlockBytes - wire::kWriteHeaderBytes;
inline constexpr size_t kSmallBufferBytes = 2 * size_t{kBlockBytes};
inline constexpr size_t kSmallMessageBytesMax = kSmallBufferBytes - kMessageOffset;
// Free buffers kept: 1 MiB of small ones, 16 large ones.
inline constexpr size_t kSmallBuffersKept = 128;
inline constexpr size_t kLargeBuffersKept = 16;

class BufferPool;

// Memory from a pool, page-aligned; given back with the object.
class PooledBuffer {
 public:
  PooledBuffer() = default;
  PooledBuffer(PooledBuffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), memory_(std::move(other.memory_)) {}
  PooledBuffer& operator=(PooledBuffer&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~PooledBuffer();

  explicit operator bool() const { return static_cast<bool>(memory_); }
  size_t size() const { return memory_.size(); }
  Bytes bytes() { return memory_.bytes(); }
  // Where a request lies, up to the end of the memory.
  Bytes message() { return bytes().subspan(kMessageOffset); }

 private:
  friend class BufferPool;
  PooledBuffer(BufferPool& pool, AlignedBuffer memory) : pool_(&pool), memory_(std::move(memory)) {}
  BufferPool* pool_ = nullptr;
  AlignedBuffer memory_;
};

class BufferPool {
 public:
  // Large buffers hold a request with `payload_bytes_max` bytes of payload.
  explicit BufferPool(size_t payload_bytes_max);

  PooledBuffer take_small();
  PooledBuffer take_large();
  // For the answer to a read: at least `len` bytes, whole pages.
  PooledBuffer take(size_t len);

 private:
  friend class PooledBuffer;
  PooledBuffer take(std::vector<AlignedBuffer>& free, size_t len);
  void give_back(AlignedBuffer memory);

  const size_t large_bytes_;
  std::mutex mutex_;
  std::vector<AlignedBuffer> free_small_;
  std::vector<AlignedBuffer> free_large_;
};

}  // namespace fusefs
