#include "fusefs/request_buffer.h"

#include <sys/mman.h>

#include "core/base/check.h"
#include "fusefs/huge_pages.h"

namespace fusefs {
namespace {

// `len` is a multiple of kHugePageBytes.
Bytes map_region(size_t len) {
  std::byte* const region = map_at_huge_page(len, -1);
  CHECK_MSG(region != nullptr, "no memory for request buffers");
  madvise(region, len, MADV_HUGEPAGE);  // slower without
  return {region, len};
}

}  // namespace

PooledBuffer::~PooledBuffer() {
  if (pool_ != nullptr) pool_->give_back(bytes_);
}

BufferPool::BufferPool(size_t payload_bytes_max)
    : large_bytes_(kBlockBytes + round_up(payload_bytes_max, kBlockBytes)),
      region_(map_region(
          round_up(kLargeBuffersKept * large_bytes_ + kSmallBuffersKept * kSmallBufferBytes,
                   kHugePageBytes))) {
  std::byte* at = region_.data();
  for (size_t i = 0; i < kLargeBuffersKept; ++i, at += large_bytes_) free_large_.push_back(at);
  for (size_t i = 0; i < kSmallBuffersKept; ++i, at += kSmallBufferBytes) free_small_.push_back(at);
}

BufferPool::~BufferPool() {
  CHECK_MSG(free_small_.size() == kSmallBuffersKept && free_large_.size() == kLargeBuffersKept,
            "a request outlives the buffers");
  munmap(region_.data(), region_.size());
}

PooledBuffer BufferPool::take_small() { return take(free_small_, kSmallBufferBytes); }
PooledBuffer BufferPool::take_large() { return take(free_large_, large_bytes_); }

PooledBuffer BufferPool::take(size_t len) {
  if (len <= kSmallBufferBytes) return take_small();
  if (len <= large_bytes_) return take_large();
  return PooledBuffer(AlignedBuffer(round_up(len, kBlockBytes)));
}

PooledBuffer BufferPool::take(std::vector<std::byte*>& free, size_t len) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!free.empty()) {
      std::byte* const memory = free.back();
      free.pop_back();
      return PooledBuffer(*this, {memory, len});
    }
  }
  return PooledBuffer(AlignedBuffer(len));
}

void BufferPool::give_back(Bytes bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  (bytes.size() == kSmallBufferBytes ? free_small_ : free_large_).push_back(bytes.data());
}

}  // namespace fusefs
