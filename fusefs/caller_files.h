// CallerFiles: what the caller of a request has open, so that an ioctl on one file can name another
// by its descriptor, as FICLONE does.
//
// FUSE passes no descriptors on. The caller is known by its thread number, and /proc shows what its
// descriptors are. That is proof that it may read the file: the kernel gave it the descriptor.
//
//     ioctl(target, source's descriptor) --> request: thread 4711, descriptor 5
//         /proc/4711/fd/5, the link     readable: the descriptor is open for reading
//         /proc/4711/fd/5, the file     device number of this mount, and an inode number
//
// Why it holds: the thread sleeps in the ioctl until it has been answered, so its number is its
// own. Inode numbers are never used twice, device numbers not while the mount lives. A descriptor
// that is replaced while we look was there at some moment of the call, which is all that a system
// call could say; one that is replaced between the two looks is told by a third.
//
// It cannot be had where thread numbers mean something else to us than to the kernel (/proc of
// another PID namespace, a caller outside ours) or the caller's descriptors are not ours to see
// (another user's, unless we are root). Who asks then needs a token (fusefs_ioctl.h).
//
// Any thread, without the monitor: all of it is system calls. They ask no filesystem, ours
// included: attributes are taken as the kernel has them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "core/base/error.h"
#include "core/base/units.h"

namespace fusefs {

class CallerFiles {
 public:
  virtual ~CallerFiles() = default;

  // The inode of this mount that the caller's descriptor stands for.
  //   Errors  bad_descriptor (not open, or not for reading), cross_device (not of this mount),
  //           not_supported (cannot be seen)
  virtual Result<InodeNo> find(uint32_t thread, int64_t descriptor) const = 0;
};

// By /proc, for the mount with this device number. Null: it cannot be used here.
std::unique_ptr<CallerFiles> open_caller_files(dev_t mount);

}  // namespace fusefs
