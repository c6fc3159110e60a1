#include "fusefs/kernel_limits.h"

#include <fcntl.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <charconv>
#include <optional>

namespace fusefs {
namespace {

constexpr const char* kReadaheadKib = "1024";

// The kernel's defaults: a mount of FUSE gets a hundredth of the pages that may be dirty, and
// these are a fifth of the memory.
constexpr uint64_t kDirtyShareOfMemory = 100 * 5;

bool write_text(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(fd);
  return written;
}

std::optional<uint64_t> read_number(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  char text[32];
  const ssize_t len = read(fd, text, sizeof(text));
  close(fd);
  uint64_t number = 0;
  if (len <= 0 || std::from_chars(text, text + len, number).ec != std::errc()) return std::nullopt;
  return number;
}

// fuseblk has the number of its block device, which has an entry of its own.
std::string directory_of(dev_t mount, bool fuseblk) {
  return "/sys/class/bdi/" + std::to_string(major(mount)) + ":" + std::to_string(minor(mount)) +
         (fuseblk ? "-fuseblk/" : "/");
}

}  // namespace

KernelLimits::KernelLimits(dev_t mount, bool fuseblk) : directory_(directory_of(mount, fuseblk)) {}

void KernelLimits::set_readahead() const {
  (void)write_text(directory_ + "read_ahead_kb", kReadaheadKib);
}

bool KernelLimits::limit_dirty(uint64_t bytes) const {
  return write_text(directory_ + "max_bytes", std::to_string(bytes));
}

uint64_t KernelLimits::dirty_bytes_max() const {
  if (const std::optional<uint64_t> bytes = read_number(directory_ + "max_bytes")) return *bytes;
  struct sysinfo memory {};
  if (sysinfo(&memory) != 0) return 0;
  return static_cast<uint64_t>(memory.totalram) * memory.mem_unit / kDirtyShareOfMemory;
}

}  // namespace fusefs
