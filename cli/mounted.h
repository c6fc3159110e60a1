// A mounted volume, seen from outside: found by a path inside it, asked by ioctl.
#pragma once

#include <optional>
#include <string>

#include "core/base/error.h"
#include "core/io/device_probe.h"
#include "fusefs/fusefs_ioctl.h"

namespace fusefs::cli {

struct Mounted {
  OwnedFd fd;
  fusefs_info info{};
};

// Opens `path` and asks what is mounted there. On failure nothing, and `message` says why.
std::optional<Mounted> open_mounted(const std::string& path, std::string* message);

// The statistics' JSON text.
//   Errors  io_failed, device_gone: `message` says why
Result<std::string> read_stats(const Mounted& mounted, std::string* message);
// Who holds which pages, as JSON text: FUSEFS_IOC_PINS.
//   Errors  as above
Result<std::string> read_pins(const Mounted& mounted, std::string* message);

}  // namespace fusefs::cli
