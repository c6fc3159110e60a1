#include "fusefs/fd_channel.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/check.h"
#include "fusefs/protocol.h"

namespace fusefs {

FdChannel::FdChannel(int fd) : fd_(fd) {
  const int flags = fcntl(fd, F_GETFL);
  CHECK(flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
}

Channel::ReadResult FdChannel::read(Bytes into) {
  while (true) {
    const ssize_t len = ::read(fd_, into.data(), into.size());
    if (len > 0) return {ReadState::message, static_cast<size_t>(len)};
    if (len == 0) return {ReadState::closed, 0};  // the other end of a socket pair is gone
    switch (errno) {
      case EINTR:
      case ENOENT:  // the request was interrupted while it was being read
        continue;
      case EAGAIN:
        return {ReadState::empty, 0};
      default:  // ENODEV: unmounted; ECONNABORTED: aborted
        return {ReadState::closed, 0};
    }
  }
}

Result<void> FdChannel::write(std::span<const iovec> message) {
  while (true) {
    if (::writev(fd_, message.data(), static_cast<int>(message.size())) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno == ENODEV || errno == EPIPE || errno == ECONNABORTED) return Error::device_gone;
    return error_from_errno(errno);
  }
}

Result<uint32_t> FdChannel::open_backing(int fd) {
  wire::BackingMap map{};
  map.fd = fd;
  const int id = ioctl(fd_, wire::kIocBackingOpen, &map);
  if (id > 0) return static_cast<uint32_t>(id);
  // No such ioctl here: an older kernel, or no /dev/fuse.
  return errno == ENOTTY || errno == EINVAL ? Error::not_supported : error_from_errno(errno);
}

void FdChannel::close_backing(uint32_t id) { (void)ioctl(fd_, wire::kIocBackingClose, &id); }

}  // namespace fusefs
