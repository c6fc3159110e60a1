// FdChannel: requests from a descriptor where each read and write is one message: /dev/fuse, or a
// socket pair of type SOCK_SEQPACKET.
#pragma once

#include "fusefs/channel.h"

namespace fusefs {

class FdChannel final : public Channel {
 public:
  // Makes `fd` non-blocking; it stays the caller's and must outlive the channel.
  explicit FdChannel(int fd);

  ReadResult read(Bytes into) override;
  Result<void> write(std::span<const iovec> message) override;
  Result<uint32_t> open_backing(int fd) override;
  void close_backing(uint32_t id) override;
  int poll_fd() const override { return fd_; }

 private:
  const int fd_;
};

}  // namespace fusefs
