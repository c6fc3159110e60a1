// Request: one message from the kernel, checked, and kept until it has been answered.
//
// libfuse trusts the kernel's lengths; we do not, since a test, a fuzzer or a broken kernel may be
// at the other end. Only requests that check_request() accepted are decoded.
#pragma once

#include <string_view>
#include <utility>

#include "fusefs/protocol.h"
#include "fusefs/request_buffer.h"

namespace fusefs {

// How requests are laid out, as negotiated.
struct RequestLayout {
  bool setxattr_ext = false;  // FUSE_SETXATTR has the long structure
};

class Request {
 public:
  Request() = default;
  // The message lies in `buffer`, at its place. Requires that check_request() accepted it.
  Request(PooledBuffer buffer, size_t len, uint64_t received_ns)
      : buffer_(std::move(buffer)), len_(len), received_ns_(received_ns) {}

  const fuse_in_header& header() const { return *reinterpret_cast<const fuse_in_header*>(data()); }
  // The structure behind the header.
  template <class T>
  const T& arg() const {
    return *reinterpret_cast<const T*>(data() + sizeof(fuse_in_header));
  }
  // What follows a structure of `arg_bytes`.
  ConstBytes after(size_t arg_bytes) const {
    return ConstBytes(data(), len_).subspan(sizeof(fuse_in_header) + arg_bytes);
  }
  // The name that follows a structure of `arg_bytes`.
  std::string_view name_after(size_t arg_bytes) const {
    return reinterpret_cast<const char*>(after(arg_bytes).data());
  }

  std::byte* data() const { return data_ptr_; }
  size_t size() const { return len_; }
  uint64_t received_ns() const { return received_ns_; }
  // Gives the memory back; the request is gone.
  void release() { buffer_ = PooledBuffer(); }

 private:
  PooledBuffer buffer_;
  size_t len_ = 0;
  uint64_t received_ns_ = 0;
  std::byte* data_ptr_ = buffer_ ? buffer_.message().data() : nullptr;
};

enum class RequestCheck : uint8_t {
  good,
  malformed,   // shorter than it says, or names without an end
  not_served,  // an opcode that we do not have
};

// Looks at lengths and names only; `message` begins with the header.
RequestCheck check_request(ConstBytes message, const RequestLayout& layout);

// "lookup", "read", ...; "unknown" for others.
const char* opcode_name(uint32_t opcode);

// FORGET and the like: nobody waits for an answer.
bool has_reply(uint32_t opcode);

}  // namespace fusefs
