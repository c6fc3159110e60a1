#include "fusefs/caller_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/io/device_probe.h"

namespace fusefs {
namespace {

// A file of /proc, as far as it fits; empty if there is none.
std::string read_text(int directory, const char* path) {
  const OwnedFd file(openat(directory, path, O_RDONLY | O_CLOEXEC));
  if (!file) return {};
  char text[2048];
  const ssize_t len = read(file.get(), text, sizeof(text));
  return len > 0 ? std::string(text, static_cast<size_t>(len)) : std::string();
}

// "NSpid:" has a number for each PID namespace from that of this /proc to the reader's own.
bool is_of_our_namespace(int proc) {
  const std::string status = read_text(proc, "self/status");
  const size_t at = status.find("\nNSpid:");
  if (at == std::string::npos) return false;
  const char* const first = status.c_str() + at + std::strlen("\nNSpid:");
  char* end = nullptr;
  const unsigned long number = std::strtoul(first, &end, 10);
  return number == static_cast<unsigned long>(getpid()) && *end == '\n';
}

class ProcCallerFiles final : public CallerFiles {
 public:
  ProcCallerFiles(OwnedFd proc, dev_t mount) : proc_(std::move(proc)), mount_(mount) {}

  // The link before and after: who replaces an unreadable descriptor by a readable one, or the
  // other way round, is not given the one's access to the other's file.
  Result<InodeNo> find(uint32_t thread, int64_t descriptor) const override {
    if (descriptor < 0 || descriptor > INT_MAX) return Error::bad_descriptor;
    if (thread == 0) return Error::not_supported;
    char path[64];
    std::snprintf(path, sizeof(path), "%" PRIu32 "/fd/%" PRId64, thread, descriptor);
    TRY_OK(check_readable(path));
    struct statx file {};
    // Nothing is asked for but what every answer has.
    if (statx(proc_.get(), path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &file) != 0) {
      return errno == ENOENT ? Error::bad_descriptor : Error::not_supported;
    }
    if (makedev(file.stx_dev_major, file.stx_dev_minor) != mount_) return Error::cross_device;
    TRY_OK(check_readable(path));
    return InodeNo(file.stx_ino);
  }

 private:
  // The link's own mode says how the descriptor is open; O_PATH is neither.
  Result<void> check_readable(const char* path) const {
    struct statx link {};
    if (statx(proc_.get(), path, AT_SYMLINK_NOFOLLOW, STATX_TYPE | STATX_MODE, &link) != 0) {
      // Whom we may not look at has no such file either, as far as we can tell.
      return errno == ENOENT ? Error::bad_descriptor : Error::not_supported;
    }
    if (!S_ISLNK(link.stx_mode)) return Error::not_supported;
    return (link.stx_mode & S_IRUSR) != 0 ? Result<void>() : Error::bad_descriptor;
  }

  const OwnedFd proc_;  // as it was when it was looked at
  const dev_t mount_;
};

}  // namespace

std::unique_ptr<CallerFiles> open_caller_files(dev_t mount) {
  OwnedFd proc(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!proc || !is_of_our_namespace(proc.get())) return nullptr;
  return std::make_unique<ProcCallerFiles>(std::move(proc), mount);
}

}  // namespace fusefs
