// AlignedBuffer: memory that O_DIRECT accepts, page-aligned; zeroed, but where it says otherwise.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/units.h"

namespace fusefs {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // `len` is a multiple of kBlockBytes.
  explicit AlignedBuffer(size_t len) : AlignedBuffer(len, Uninitialized()) {
    std::memset(data_, 0, len);
  }
  // For who writes every byte before anybody reads it.
  static AlignedBuffer uninitialized(size_t len) { return {len, Uninitialized()}; }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), len_(std::exchange(other.len_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(len_, other.len_);
    return *this;
  }
  ~AlignedBuffer() { std::free(data_); }

  std::byte* data() { return static_cast<std::byte*>(data_); }
  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  size_t size() const { return len_; }
  Bytes bytes() { return {data(), len_}; }
  ConstBytes bytes() const { return {data(), len_}; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  struct Uninitialized {};
  AlignedBuffer(size_t len, Uninitialized)
      : data_(std::aligned_alloc(kBlockBytes, len)), len_(len) {
    CHECK(data_ != nullptr && len % kBlockBytes == 0);
  }

  void* data_ = nullptr;
  size_t len_ = 0;
};

}  // namespace fusefs
