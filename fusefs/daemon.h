// The daemon: a volume, mounted at a directory, served until it is unmounted.
//
//     lock and probe the device --> recover the volume --> mount(2) --> handshake --> threads
//          --> unmounted, or SIGTERM, SIGINT, SIGHUP --> threads end --> volume clean --> exit
//
// In the background the process forks before it starts any of this; the parent returns when the
// mount has answered its first requests, or prints the one line that says why it cannot, and
// returns its exit code. On a block device as root the mount is of type fuseblk: syncfs(2)
// arrives, and umount(2) returns when everything is on the device (docs of session.h).
//
// It is the only thing that cli/ needs of this folder.
#pragma once

#include <string>

#include "fusefs/mount_options.h"

namespace fusefs {

// As mount(8) has them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitUsage = 1;   // wrong options, or not permitted
inline constexpr int kExitSystem = 2;  // out of memory, no io_uring, a clean unmount failed
inline constexpr int kExitMountFailed = 32;

struct DaemonOptions {
  std::string source;       // an image file or a block device
  std::string mount_point;  // an existing directory
  MountOptions mount;       // parse_mount_options()
  bool foreground = false;  // stay attached, log to stderr; sd_notify when ready
  bool debug = false;       // libfuse's dump of every request on stderr; implies foreground
};

// Mounts and serves; returns the exit code. In the background it returns in the parent, once the
// mount is usable; the daemon itself never returns from it.
// Everything that goes wrong is one line on stderr: the thing, what is wrong, what to do.
int run_daemon(const DaemonOptions& options);

}  // namespace fusefs
