#include "fusefs/request_buffer.h"

namespace fusefs {
namespace {

constexpr size_t round_up_pages(size_t len) {
  return (len + kBlockBytes - 1) & ~size_t{kBlockBytes - 1};
}

}  // namespace

PooledBuffer::~PooledBuffer() {
  if (pool_ != nullptr && memory_) pool_->give_back(std::move(memory_));
}

BufferPool::BufferPool(size_t payload_bytes_max)
    : large_bytes_(kBlockBytes + round_up_pages(payload_bytes_max)) {
  free_small_.reserve(kSmallBuffersKept);
  free_large_.reserve(kLargeBuffersKept);
}

PooledBuffer BufferPool::take_small() { return take(free_small_, kSmallBufferBytes); }
PooledBuffer BufferPool::take_large() { return take(free_large_, large_bytes_); }

PooledBuffer BufferPool::take(size_t len) {
  if (len <= kSmallBufferBytes) return take_small();
  if (len <= large_bytes_) return take_large();
  return PooledBuffer(*this, AlignedBuffer(round_up_pages(len)));
}

PooledBuffer BufferPool::take(std::vector<AlignedBuffer>& free, size_t len) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!free.empty()) {
      AlignedBuffer memory = std::move(free.back());
      free.pop_back();
      return PooledBuffer(*this, std::move(memory));
    }
  }
  return PooledBuffer(*this, AlignedBuffer(len));
}

void BufferPool::give_back(AlignedBuffer memory) {
  const bool small = memory.size() == kSmallBufferBytes;
  if (!small && memory.size() != large_bytes_) return;
  std::vector<AlignedBuffer>& free = small ? free_small_ : free_large_;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free.size() < (small ? kSmallBuffersKept : kLargeBuffersKept)) {
    free.push_back(std::move(memory));
  }
}

}  // namespace fusefs
