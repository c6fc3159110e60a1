// Channel: the seam to whoever sends FUSE requests and takes the answers.
//
//     /dev/fuse                      FdChannel (fd_channel.h)
//     a socket pair in tests         the same: one message per read and write
//     FUSE over io_uring             a later implementation: a ring entry per request
//
// Any thread, also several at once.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "core/base/bytes.h"
#include "core/base/error.h"

namespace fusefs {

class Channel {
 public:
  enum class ReadState : uint8_t {
    message,  // one request has been read
    empty,    // nothing at the moment
    closed,   // unmounted or aborted: nothing will ever come again
  };
  struct ReadResult {
    ReadState state = ReadState::empty;
    size_t len = 0;
  };

  virtual ~Channel() = default;

  // Reads one request into `into`, which is large enough for any. Never blocks.
  virtual ReadResult read(Bytes into) = 0;

  // Sends one answer or notification, a fuse_out_header first. Blocks only for notifications.
  //   Errors  not_found: nobody waits for it (interrupted, aborted); device_gone: unmounted
  virtual Result<void> write(std::span<const iovec> message) = 0;

  // Makes a file known to the kernel, so that a file of the mount can be opened as a way to it;
  // returns its number there. Root's daemon only, after INIT has negotiated it.
  //   Errors  not_supported, not_permitted, no_memory, symlink_loop (on a stacked filesystem)
  virtual Result<uint32_t> open_backing(int fd) {
    (void)fd;
    return Error::not_supported;
  }
  virtual void close_backing(uint32_t id) { (void)id; }

  // Readable when read() has something.
  virtual int poll_fd() const = 0;
};

}  // namespace fusefs
