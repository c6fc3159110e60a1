#include "core/io/volatile_cache.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/base/check.h"

namespace fusefs {
namespace {

// By the seed's remainder: devices that keep all they can, and eager ones.
constexpr std::array<uint64_t, 4> kEagerness = {0, 1, 8, 32};

// The place of each block's bytes in scattered buffers, in ascending order.
class Cursor {
 public:
  explicit Cursor(std::span<const iovec> buffers) : buffers_(buffers) {}

  // Calls fn(memory, len) for the pieces of the next `len` bytes.
  template <class Fn>
  void advance(size_t len, Fn&& fn) {
    while (len > 0) {
      CHECK(index_ < buffers_.size());
      const iovec& buffer = buffers_[index_];
      const size_t piece = std::min(len, buffer.iov_len - used_);
      fn(static_cast<std::byte*>(buffer.iov_base) + used_, piece);
      used_ += piece;
      len -= piece;
      if (used_ == buffer.iov_len) ++index_, used_ = 0;
    }
  }

 private:
  std::span<const iovec> buffers_;
  size_t index_ = 0;
  size_t used_ = 0;
};

uint64_t sum_of(std::span<const iovec> buffers) {
  uint64_t sum = 0;
  for (const iovec& buffer : buffers) sum += buffer.iov_len;
  return sum;
}

}  // namespace

VolatileCache::VolatileCache(int fd, uint32_t block_bytes, uint64_t seed)
    : fd_(fd),
      block_bytes_(block_bytes),
      eagerness_(kEagerness[seed % kEagerness.size()]),
      random_(seed) {}

int64_t VolatileCache::read(uint64_t addr, std::span<const iovec> buffers) {
  const std::lock_guard guard(mutex_);
  const ssize_t moved =
      ::preadv(fd_, buffers.data(), static_cast<int>(buffers.size()), static_cast<off_t>(addr));
  if (moved < 0) return -errno;
  Cursor cursor(buffers);
  const uint64_t whole = static_cast<uint64_t>(moved) / block_bytes_;
  for (uint64_t i = 0; i < whole; ++i) {
    const auto found = where_.find(addr / block_bytes_ + i);
    const std::byte* from = found == where_.end() ? nullptr : blocks_[found->second].data.data();
    cursor.advance(block_bytes_, [&from](std::byte* memory, size_t len) {
      if (from == nullptr) return;
      std::memcpy(memory, from, len);
      from += len;
    });
  }
  return moved;
}

int64_t VolatileCache::write(uint64_t addr, std::span<const iovec> buffers, bool fua) {
  const std::lock_guard guard(mutex_);
  const uint64_t stamp = ++stamp_;
  if (fua) {
    const ssize_t moved =
        ::pwritev(fd_, buffers.data(), static_cast<int>(buffers.size()), static_cast<off_t>(addr));
    if (moved < 0) return -errno;
    forget(addr, static_cast<uint64_t>(moved));
    return moved;
  }
  const uint64_t len = sum_of(buffers);
  Cursor cursor(buffers);
  for (uint64_t done = 0; done < len; done += block_bytes_) {
    std::byte* to = keep((addr + done) / block_bytes_, stamp);
    cursor.advance(block_bytes_, [&to](const std::byte* memory, size_t piece) {
      std::memcpy(to, memory, piece);
      to += piece;
    });
  }
  const int64_t result = write_some_back(len / block_bytes_);
  return result < 0 ? result : static_cast<int64_t>(len);
}

int64_t VolatileCache::discard(uint64_t addr, uint64_t len) {
  const std::lock_guard guard(mutex_);
  forget(addr, len);
  const int result = ::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 static_cast<off_t>(addr), static_cast<off_t>(len));
  return result < 0 ? -errno : 0;
}

int64_t VolatileCache::write_zeroes(uint64_t addr, uint64_t len) {
  static const std::vector<std::byte> zeroes(1 << 20);
  const std::lock_guard guard(mutex_);
  forget(addr, len);
  for (uint64_t done = 0; done < len;) {
    const size_t piece = std::min<uint64_t>(len - done, zeroes.size());
    const ssize_t moved = ::pwrite(fd_, zeroes.data(), piece, static_cast<off_t>(addr + done));
    if (moved <= 0) return moved < 0 ? -errno : -EIO;
    done += static_cast<uint64_t>(moved);
  }
  return 0;
}

int64_t VolatileCache::flush(uint64_t stamp) {
  const std::lock_guard guard(mutex_);
  std::vector<uint64_t> due;
  for (const Block& block : blocks_) {
    if (block.stamp <= stamp) due.push_back(block.number);
  }
  // A kill in the middle leaves any part of it.
  for (size_t left = due.size(); left > 0; --left) {
    std::swap(due[random_.below(left)], due[left - 1]);
    const int64_t result = write_back(where_.at(due[left - 1]));
    if (result < 0) return result;
  }
  return 0;
}

uint64_t VolatileCache::lost_bytes() {
  const std::lock_guard guard(mutex_);
  return blocks_.size() * block_bytes_;
}

// ---- Blocks ----

// The memory for a new version of the block.
std::byte* VolatileCache::keep(uint64_t number, uint64_t stamp) {
  const auto [found, is_new] = where_.try_emplace(number, blocks_.size());
  if (is_new) blocks_.push_back({number, stamp, std::vector<std::byte>(block_bytes_)});
  return blocks_[found->second].data.data();
}

void VolatileCache::forget(uint64_t addr, uint64_t len) {
  const uint64_t first = addr / block_bytes_;
  const uint64_t end = (addr + len) / block_bytes_;
  if (end - first > blocks_.size()) {
    for (size_t i = blocks_.size(); i-- > 0;) {
      if (blocks_[i].number >= first && blocks_[i].number < end) remove(i);
    }
    return;
  }
  for (uint64_t number = first; number < end; ++number) {
    const auto found = where_.find(number);
    if (found != where_.end()) remove(found->second);
  }
}

int64_t VolatileCache::write_back(size_t index) {
  const Block& block = blocks_[index];
  const ssize_t moved = ::pwrite(fd_, block.data.data(), block_bytes_,
                                 static_cast<off_t>(block.number * block_bytes_));
  if (moved < 0) return -errno;
  if (moved != static_cast<ssize_t>(block_bytes_)) return -EIO;
  remove(index);
  return 0;
}

// Unasked: a share of what was written, and what has no room.
int64_t VolatileCache::write_some_back(uint64_t written) {
  uint64_t count = 0;
  for (uint64_t i = 0; i < written; ++i) count += random_.below(64) < eagerness_ ? 1 : 0;
  const uint64_t blocks_max = kBytesMax / block_bytes_;
  if (blocks_.size() > blocks_max) count = std::max(count, blocks_.size() - blocks_max);
  for (; count > 0 && !blocks_.empty(); --count) {
    const int64_t result = write_back(random_.below(blocks_.size()));
    if (result < 0) return result;
  }
  return 0;
}

void VolatileCache::remove(size_t index) {
  where_.erase(blocks_[index].number);
  if (index + 1 != blocks_.size()) {
    blocks_[index] = std::move(blocks_.back());
    where_[blocks_[index].number] = index;
  }
  blocks_.pop_back();
}

}  // namespace fusefs
