#include "cli/mounted.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace fusefs::cli {
namespace {

// A snapshot may be dropped while it is read, when many ask at once.
constexpr int kSnapshotTries = 16;

// `what` is for the message.
Result<std::string> read_in_pieces(const Mounted& mounted, unsigned long command,
                                   const std::string& what, std::string* message) {
  auto piece = std::make_unique<fusefs_stats_piece>();
  for (int attempt = 0; attempt < kSnapshotTries; ++attempt) {
    std::string text;
    *piece = {};
    do {
      piece->offset = text.size();
      if (ioctl(mounted.fd.get(), command, piece.get()) != 0) break;
      text.append(piece->data, piece->len);
    } while (text.size() < piece->total && piece->len != 0);
    if (!text.empty() && text.size() == piece->total) return text;
    if (errno != ESTALE) break;
  }
  *message = "cannot read " + what + ": " + std::strerror(errno);
  if (errno == ENOTTY) *message += " (the daemon is of another version)";
  return Error::io_failed;
}

}  // namespace

std::optional<Mounted> open_mounted(const std::string& path, std::string* message) {
  Mounted mounted;
  mounted.fd = OwnedFd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!mounted.fd) {
    *message = path + ": " + std::strerror(errno);
    if (errno == ENOTCONN) {
      *message = path + ": its daemon has died; unmount it with: fusermount3 -u " + path;
    }
    return std::nullopt;
  }
  if (ioctl(mounted.fd.get(), FUSEFS_IOC_INFO, &mounted.info) != 0) {
    *message = path + (errno == ENOTTY ? ": not on a mounted fusefs volume"
                                       : std::string(": ") + std::strerror(errno));
    return std::nullopt;
  }
  return mounted;
}

Result<std::string> read_stats(const Mounted& mounted, std::string* message) {
  return read_in_pieces(mounted, FUSEFS_IOC_STATS, "the statistics", message);
}

Result<std::string> read_pins(const Mounted& mounted, std::string* message) {
  return read_in_pieces(mounted, FUSEFS_IOC_PINS, "who holds pages", message);
}

}  // namespace fusefs::cli
