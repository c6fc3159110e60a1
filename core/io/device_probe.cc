#include "core/io/device_probe.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>
#include <thread>

#include "core/base/units.h"

namespace fusefs {
namespace {

constexpr uint32_t kLogicalBlockMin = 512;
constexpr uint32_t kLogicalBlockMax = 4096;

// How long what is in use may stay so. udev locks a device while it looks at it, which it does
// whenever a writer closes it; and the kernel takes the io_uring of a killed process down, and with
// it the descriptor, some milliseconds after the process has gone.
constexpr auto kPatience = std::chrono::milliseconds(500);
constexpr auto kRetryEvery = std::chrono::milliseconds(20);

// `attempt` until it returns something else than `busy`, or patience ends.
template <class Attempt>
int retry_while(int busy, Attempt&& attempt) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    const int error = attempt();
    if (error != busy || std::chrono::steady_clock::now() >= deadline) return error;
    std::this_thread::sleep_for(kRetryEvery);
  }
}

// Collects what the steps below find out, and the message of the one that fails.
class Probe {
 public:
  Probe(const std::string& path, const DeviceOptions& options, std::string* message)
      : path_(path), options_(options), message_(message) {}

  Result<ProbedDevice> run() {
    TRY_OK(look());
    TRY_OK(open());
    TRY_OK(lock());
    TRY_OK(is_block_ ? measure_block_device() : measure_file());
    TRY_OK(check_geometry());
    if (options_.iopoll) TRY_OK(check_iopoll());
    return std::move(found_);
  }

 private:
  Error fail(Error error, const std::string& text) {
    if (message_ != nullptr) *message_ = "'" + path_ + "' " + text;
    return error;
  }
  Error fail_errno(const std::string& doing, int value) {
    return fail(error_from_errno(value), doing + ": " + std::strerror(value));
  }

  Result<void> look() {
    struct stat status {};
    if (::stat(path_.c_str(), &status) != 0) return fail_errno("cannot be opened", errno);
    is_block_ = S_ISBLK(status.st_mode);
    if (is_block_ || S_ISREG(status.st_mode)) return {};
    return fail(Error::not_supported, std::string("is ") +
                                          (S_ISDIR(status.st_mode) ? "a directory" : "special") +
                                          ": a volume is a regular file or a block device");
  }

  Result<void> open() {
    int flags = O_CLOEXEC | (options_.read_only ? O_RDONLY : O_RDWR);
    if (is_block_ && options_.exclusive && options_.claim) flags |= O_EXCL;
    const int error = retry_while(EBUSY, [&] { return open_with(flags); });
    if (error != 0) return explain_open(error);
    struct stat status {};
    if (::fstat(found_.fd.get(), &status) != 0) return fail_errno("cannot be examined", errno);
    if (S_ISBLK(status.st_mode) != is_block_) return fail(Error::too_busy, "has been replaced");
    device_ = is_block_ ? status.st_rdev : status.st_dev;
    file_bytes_ = static_cast<uint64_t>(status.st_size);
    return {};
  }

  // 0 or the errno.
  int open_with(int flags) {
    found_.direct_io = options_.direct;
    int fd = ::open(path_.c_str(), flags | (options_.direct ? O_DIRECT : 0));
    if (fd < 0 && errno == EINVAL && options_.direct) {
      found_.direct_io = false;
      fd = ::open(path_.c_str(), flags);
    }
    if (fd < 0) return errno;
    found_.fd = OwnedFd(fd);
    return 0;
  }

  Error explain_open(int value) {
    switch (value) {
      case EBUSY:
        return fail(Error::too_busy,
                    "is in use by the kernel: it is mounted, or part of a larger device");
      case EROFS:
        return fail(Error::read_only_volume, "cannot be written: mount it read-only (-o ro)");
      case EACCES:
      case EPERM:
        if (options_.read_only) break;
        return fail(error_from_errno(value),
                    "may not be written: change its permissions or write protection, "
                    "or mount it read-only (-o ro)");
      default:
        break;
    }
    return fail_errno("cannot be opened", value);
  }

  Result<void> lock() {
    if (!options_.exclusive) return {};
    const int how = (options_.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB;
    const int error =
        retry_while(EWOULDBLOCK, [&] { return ::flock(found_.fd.get(), how) == 0 ? 0 : errno; });
    if (error == 0) return {};
    if (error != EWOULDBLOCK) return fail_errno("cannot be locked", error);
    return fail(Error::too_busy,
                "is in use by another program: unmount it first (fuser shows by whom)");
  }

  std::string device_folder() const {
    return "/sys/dev/block/" + std::to_string(major(device_)) + ":" +
           std::to_string(minor(device_));
  }

  // An attribute of the queue of the disk that `device_` is, or is a partition of.
  std::optional<std::string> queue_attribute(const char* name) const {
    for (const char* to_queue : {"/queue/", "/../queue/"}) {
      std::ifstream file(device_folder() + to_queue + name);
      std::string line;
      if (std::getline(file, line)) return line;
    }
    return std::nullopt;
  }

  bool has_fua_queue() const {
    return queue_attribute("fua") == "1" || queue_attribute("write_cache") == "write through";
  }

  // Whether the disk keeps its blocks in memory. Not so if zram may write them elsewhere.
  bool is_memory_disk() const {
    const std::string link = device_folder();
    std::array<char, PATH_MAX> target = {};
    if (::readlink(link.c_str(), target.data(), target.size() - 1) < 0) return false;
    const std::string_view disk(target.data());
    if (disk.find("/block/zram") != disk.npos) {
      std::string backing;
      std::ifstream(link + "/backing_dev") >> backing;
      return backing.empty() || backing == "none";
    }
    return disk.find("/block/ram") != disk.npos || disk.find("/block/pmem") != disk.npos;
  }

  bool is_memory_filesystem() const {
    struct statfs status {};
    if (::fstatfs(found_.fd.get(), &status) != 0) return false;
    return status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC;
  }

  Result<void> measure_block_device() {
    DeviceGeometry& geometry = found_.geometry;
    int block_bytes = 0;
    if (::ioctl(found_.fd.get(), BLKGETSIZE64, &geometry.size_bytes) != 0 ||
        ::ioctl(found_.fd.get(), BLKSSZGET, &block_bytes) != 0) {
      return fail_errno("does not tell its size", errno);
    }
    geometry.logical_block_bytes = static_cast<uint32_t>(block_bytes);
    geometry.is_block_device = true;
    found_.is_memory = is_memory_disk();
    geometry.has_volatile_cache = queue_attribute("write_cache") != "write through";
    geometry.has_fua = has_fua_queue();
    const std::optional<std::string> discard_bytes = queue_attribute("discard_max_bytes");
    geometry.can_discard = !options_.read_only && discard_bytes && *discard_bytes != "0";
    return {};
  }

  Result<void> measure_file() {
    DeviceGeometry& geometry = found_.geometry;
    geometry.size_bytes = file_bytes_;
    found_.is_memory = is_memory_filesystem();
    geometry.logical_block_bytes = kLogicalBlockMax;
    geometry.has_volatile_cache = true;  // at least the file's own metadata
    if (!found_.direct_io) {
      geometry.logical_block_bytes = kLogicalBlockMin;
    } else if (const std::optional<uint32_t> alignment = direct_io_alignment()) {
      if (*alignment == 0) {
        TRY_OK(turn_direct_io_off());
      }
      geometry.logical_block_bytes = std::max(*alignment, kLogicalBlockMin);
    }
    // An overwrite in a file is a write with FUA where the filesystem keeps its blocks in place and
    // the disk below has it, or has nothing to lose. Without one disk below, nobody knows.
    geometry.has_fua = found_.direct_io && has_fua_queue();
    geometry.can_discard = !options_.read_only && can_punch();
    return {};
  }

  // What the filesystem demands of direct I/O; 0: it has none; nothing: it does not say.
  std::optional<uint32_t> direct_io_alignment() const {
#ifdef STATX_DIOALIGN
    struct statx status {};
    if (::statx(found_.fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) != 0) {
      if (status.stx_dio_offset_align == 0) return 0;
      return std::max(status.stx_dio_offset_align, status.stx_dio_mem_align);
    }
#endif
    return std::nullopt;
  }

  Result<void> turn_direct_io_off() {
    const int flags = ::fcntl(found_.fd.get(), F_GETFL);
    if (flags < 0 || ::fcntl(found_.fd.get(), F_SETFL, flags & ~O_DIRECT) != 0) {
      return fail_errno("cannot be used without direct I/O", errno);
    }
    found_.direct_io = false;
    return {};
  }

  // Punches where nothing is, behind the end.
  bool can_punch() const {
    const uint64_t behind = (file_bytes_ + 2 * kBlockBytes) & ~uint64_t{kBlockBytes - 1};
    return ::fallocate(found_.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(behind), kBlockBytes) == 0;
  }

  Result<void> check_geometry() {
    DeviceGeometry& geometry = found_.geometry;
    geometry.name = path_;
    geometry.read_only = options_.read_only;
    if (geometry.logical_block_bytes > kLogicalBlockMax ||
        !std::has_single_bit(geometry.logical_block_bytes)) {
      return fail(Error::not_supported, "has blocks of " +
                                            std::to_string(geometry.logical_block_bytes) +
                                            " bytes: more than 4096 is not supported");
    }
    geometry.size_bytes -= geometry.size_bytes % geometry.logical_block_bytes;
    if (options_.volatile_cache_seed) {
      geometry.has_volatile_cache = true;
      geometry.has_fua = *options_.volatile_cache_seed % 2 != 0;
    }
    if (geometry.size_bytes < kBlockBytes) {
      return fail(Error::truncated_volume, "is empty: it has no room for a volume");
    }
    return {};
  }

  // A file is polled on the disk below it; a filesystem without one disk has no such queue.
  Result<void> check_iopoll() {
    if (found_.direct_io && queue_attribute("io_poll") == "1") return {};
    return fail(Error::not_supported,
                "has no polled queues: leave out -o iopoll, or load its driver with some "
                "(nvme.poll_queues=1)");
  }

  const std::string& path_;
  const DeviceOptions& options_;
  std::string* message_;
  bool is_block_ = false;
  dev_t device_ = 0;
  uint64_t file_bytes_ = 0;
  ProbedDevice found_;
};

}  // namespace

OwnedFd::~OwnedFd() {
  if (fd_ >= 0) ::close(fd_);
}

Result<ProbedDevice> probe_device(const std::string& path, const DeviceOptions& options,
                                  std::string* message) {
  return Probe(path, options, message).run();
}

}  // namespace fusefs
