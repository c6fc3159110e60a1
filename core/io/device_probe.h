// Opening what holds the volume, and finding out what it is: size, block size, cache, discard.
//
// A regular file on any filesystem, or a block device. One image has one user: the descriptor
// carries a lock (exclusive for writers, shared for readers), and a block device is claimed from
// the kernel as well, so that nobody mounts or formats it meanwhile.
//
// Knows no io_uring. May block (it waits a moment for udev to let go of a device); call it without
// the monitor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/io/block_device.h"

namespace fusefs {

struct DeviceOptions {
  bool read_only = false;
  bool direct = true;     // O_DIRECT; a filesystem that refuses it gets buffered I/O
  bool exclusive = true;  // the lock; without it only looking is safe
  bool claim = true;      // O_EXCL on a block device; false where mount(2) claims it (fuseblk)
  bool iopoll = false;    // completions are polled for, not interrupted by
  // For tests: the seed of a cache that loses what was not flushed (volatile_cache.h).
  std::optional<uint64_t> volatile_cache_seed;
};

// A descriptor that closes itself.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct ProbedDevice {
  OwnedFd fd;
  DeviceGeometry geometry;
  bool direct_io = false;  // O_DIRECT is in force
  bool is_memory = false;  // tmpfs, zram and the like: a transfer is a copy within the call
};

// Opens and locks `path`, and fills in the geometry.
//   Errors  not_found, access_denied, read_only_volume, not_permitted; too_busy (in use);
//           not_supported (not a file or device, blocks too large, no polled queues);
//           truncated_volume (no room for a single block); io_failed, device_gone
//   `message` then is one line for people: the thing, what is wrong, what to do.
Result<ProbedDevice> probe_device(const std::string& path, const DeviceOptions& options,
                                  std::string* message);

}  // namespace fusefs
