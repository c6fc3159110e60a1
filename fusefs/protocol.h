// The FUSE wire protocol: what the system's <linux/fuse.h> (7.38) does not have yet.
//
// Names of our own, so that a newer header changes nothing. Source: include/uapi/linux/fuse.h of
// Linux 6.18 (protocol 7.45).
#pragma once

#include <linux/fuse.h>
#include <linux/ioctl.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace fusefs::wire {

// Opcodes that libfuse 3.14 does not decode; served before it sees them.
inline constexpr uint32_t kOpSyncfs = 50;
inline constexpr uint32_t kOpTmpfile = 51;
inline constexpr uint32_t kOpStatx = 52;
inline constexpr uint32_t kOpCopyFileRange64 = 53;
inline constexpr uint32_t kOpcodeEnd = 54;  // of those that are known

// INIT flags, bit numbers as in the kernel; from 32 up they travel in flags2.

inline constexpr uint64_t kInitDirectIoAllowMmap = 1ull << 36;
inline constexpr uint64_t kInitPassthrough = 1ull << 37;
// Of fuse_init_out, where older headers have unused words.
inline constexpr size_t kInitMaxStackDepthOffset = 36;

// Open flag: fuse_open_out ends with the number of a backing file instead of padding.
inline constexpr uint32_t kOpenPassthrough = 1u << 7;

// A file of ours that the kernel may read and map in place of one of the mount.
struct BackingMap {
  int32_t fd;
  uint32_t flags;
  uint64_t padding;
};
static_assert(sizeof(BackingMap) == 16);
inline constexpr unsigned long kIocBackingOpen = _IOW(229, 1, BackingMap);
inline constexpr unsigned long kIocBackingClose = _IOW(229, 2, uint32_t);

// libfuse and the kernel agree on this version as the newest whose requests we decode.
inline constexpr uint32_t kMinorMax = 45;
inline constexpr uint32_t kMinorMin = 31;  // Linux 5.4: max_pages, parallel directories

inline constexpr uint64_t kRootNode = 1;

// Where the payload of a FUSE_WRITE begins in the request.
inline constexpr size_t kWriteHeaderBytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);
static_assert(kWriteHeaderBytes == 80);

struct CopyFileRangeOut {
  uint64_t bytes_copied;
};

struct StatxTime {
  int64_t sec;
  uint32_t nsec;
  int32_t reserved;
};

struct StatxIn {
  uint32_t getattr_flags;
  uint32_t reserved;
  uint64_t fh;
  uint32_t statx_flags;
  uint32_t mask;
};
static_assert(sizeof(StatxIn) == 24);

struct Statx {
  uint32_t mask;
  uint32_t blksize;
  uint64_t attributes;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint16_t mode;
  uint16_t spare0;
  uint64_t ino;
  uint64_t size;
  uint64_t blocks;
  uint64_t attributes_mask;
  StatxTime atime;
  StatxTime btime;
  StatxTime ctime;
  StatxTime mtime;
  uint32_t rdev_major;
  uint32_t rdev_minor;
  uint32_t dev_major;
  uint32_t dev_minor;
  uint64_t spare2[14];
};
static_assert(sizeof(Statx) == 256);

struct StatxOut {
  uint64_t attr_valid;
  uint32_t attr_valid_nsec;
  uint32_t flags;
  uint64_t spare[2];
  Statx stat;
};
static_assert(sizeof(StatxOut) == 288);

}  // namespace fusefs::wire
