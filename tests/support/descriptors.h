// Messages over a socket that keeps their bounds, with descriptors.
#pragma once

#include <sys/socket.h>

#include <cstring>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/io/device_probe.h"

namespace fusefs {

// In one message.
inline constexpr size_t kDescriptorsMax = 64;

// False: the other end has gone, or the kernel does not pass these on.
inline bool send_message(const OwnedFd& socket, ConstBytes message,
                         const std::vector<int>& descriptors) {
  CHECK_MSG(descriptors.size() <= kDescriptorsMax, "too many descriptors");
  alignas(cmsghdr) char control[CMSG_SPACE(kDescriptorsMax * sizeof(int))] = {};
  iovec part{const_cast<std::byte*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    const size_t bytes = descriptors.size() * sizeof(int);
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(rights), descriptors.data(), bytes);
  }
  return sendmsg(socket.get(), &header, MSG_NOSIGNAL) == static_cast<ssize_t>(message.size());
}

// Fills `object`; `descriptor` becomes what has come with it, if anything has. False: no message,
// or one of another size.
template <class T>
bool receive_message(const OwnedFd& socket, T& object, OwnedFd* descriptor) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part{&object, sizeof(object)};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  if (recvmsg(socket.get(), &header, MSG_CMSG_CLOEXEC) != sizeof(object)) return false;
  if (const cmsghdr* rights = CMSG_FIRSTHDR(&header)) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
    *descriptor = OwnedFd(fd);
  }
  return true;
}

}  // namespace fusefs
