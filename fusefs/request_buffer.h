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
// Both come from one region, made of large pages where the system has them, which is registered
// with io_uring: the kernel need not look up and pin its pages for every transfer. The cache's
// arena is not: its I/O is written in long runs, and pinning it would make a mount that does
// nothing cost all of its cache. When the region is used up, memory is allocated and freed again.
//
// Any thread.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "core/base/bytes.h"
#include "core/io/aligned_buffer.h"
#include "fusefs/protocol.h"

namespace fusefs {

inline constexpr size_t kMessageOffset = kBlockBytes - wire::kWriteHeaderBytes;
inline constexpr size_t kSmallBufferBytes = 2 * size_t{kBlockBytes};
inline constexpr size_t kSmallMessageBytesMax = kSmallBufferBytes - kMessageOffset;
// In the region: 1 MiB of small ones, 16 large ones.
inline constexpr size_t kSmallBuffersKept = 128;
inline constexpr size_t kLargeBuffersKept = 16;

class BufferPool;

// Memory from a pool, page-aligned; given back with the object.
class PooledBuffer {
 public:
  PooledBuffer() = default;
  PooledBuffer(PooledBuffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        bytes_(std::exchange(other.bytes_, {})),
        own_(std::move(other.own_)) {}
  PooledBuffer& operator=(PooledBuffer&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(bytes_, other.bytes_);
    std::swap(own_, other.own_);
    return *this;
  }
  ~PooledBuffer();

  explicit operator bool() const { return !bytes_.empty(); }
  size_t size() const { return bytes_.size(); }
  Bytes bytes() { return bytes_; }
  // Where a request lies, up to the end of the memory.
  Bytes message() { return bytes().subspan(kMessageOffset); }

 private:
  friend class BufferPool;
  PooledBuffer(BufferPool& pool, Bytes bytes) : pool_(&pool), bytes_(bytes) {}
  explicit PooledBuffer(AlignedBuffer own) : bytes_(own.bytes()), own_(std::move(own)) {}
  BufferPool* pool_ = nullptr;  // whose region has the bytes
  Bytes bytes_;
  AlignedBuffer own_;
};

class BufferPool {
 public:
  // Large buffers hold a request with `payload_bytes_max` bytes of payload.
  explicit BufferPool(size_t payload_bytes_max);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // To be registered with the device; valid as long as the pool.
  Bytes region() const { return region_; }

  PooledBuffer take_small();
  PooledBuffer take_large();
  // For the answer to a read: at least `len` bytes, whole pages.
  PooledBuffer take(size_t len);

 private:
  friend class PooledBuffer;
  PooledBuffer take(std::vector<std::byte*>& free, size_t len);
  void give_back(Bytes bytes);

  const size_t large_bytes_;
  Bytes region_;
  std::mutex mutex_;
  std::vector<std::byte*> free_small_;
  std::vector<std::byte*> free_large_;
};

}  // namespace fusefs
