// WindowMemory: the memory of one window: a memfd that the daemon maps and programs map too.
//
// Its size never changes (sealed), so that nobody can make the daemon's mapping end. A program gets
// a descriptor for reading and writing, or one for reading, which cannot be made more: the file has
// no permission bits, so that opening it again through /proc takes its owner, who is the daemon.
//
// Made and destroyed without the monitor: both take system calls, the latter also time. Where it is
// filled anyhow it is made of huge pages, as far as it has room for them and the kernel has any: a
// device takes few pieces of memory in one request, and each huge page is one.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/io/device_probe.h"
#include "fusefs/channel.h"

namespace fusefs {

class WindowMemory {
 public:
  // `bytes`: whole pages. With `backed` the kernel is told of it, so that it can be opened as a
  // file of the mount; where the kernel will not, there is no backing().
  //   Errors  no_memory, not_supported (no memfd, no /proc), too_busy (no descriptor left)
  static Result<std::shared_ptr<WindowMemory>> create(Channel& channel, size_t bytes, bool backed);
  ~WindowMemory();
  WindowMemory(const WindowMemory&) = delete;
  WindowMemory& operator=(const WindowMemory&) = delete;

  std::byte* frames() const { return frames_; }
  size_t bytes() const { return bytes_; }
  int fd(bool writable) const { return writable ? writer_.get() : reader_.get(); }
  // The kernel's number of it (Channel::open_backing()); 0: none.
  uint32_t backing() const { return backing_; }

  // Makes huge pages of the part [begin, end), which is about to be filled. Each byte once: what
  // has been filled is left as it is. Any thread, without the monitor.
  void make_huge(size_t begin, size_t end);
  size_t huge_bytes() const { return huge_bytes_; }

 private:
  WindowMemory(Channel& channel, size_t bytes) : channel_(channel), bytes_(bytes) {}
  Result<void> make(bool backed);

  Channel& channel_;
  const size_t bytes_;
  OwnedFd writer_;
  OwnedFd reader_;
  std::byte* frames_ = nullptr;
  uint32_t backing_ = 0;

  std::mutex mutex_;
  size_t tried_end_ = 0;  // huge pages
  bool refused_ = false;  // by the kernel: there are no more
  std::atomic<size_t> huge_bytes_ = 0;
};

}  // namespace fusefs
