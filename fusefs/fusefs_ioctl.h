/* fusefs: ioctls of a mounted volume.
 *
 * Open the root of the mount, or any file or directory of it, and call ioctl(2). Structures have
 * the same layout for 32-bit and 64-bit programs. C and C++.
 *
 * Beside these a volume takes, from the headers of Linux: FS_IOC_GETFLAGS and SETFLAGS (immutable,
 * append-only, no-dump, no-atime, sync, dirsync), FS_IOC_FSGETXATTR and FSSETXATTR (the same
 * flags), FS_IOC_GETVERSION, FS_IOC_GETFSLABEL and SETFSLABEL, FITRIM.
 *
 * Errors: ENOTTY when the file is not on a fusefs mount.
 */
#ifndef FUSEFS_IOCTL_H
#define FUSEFS_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define FUSEFS_IOCTL_MAGIC 0xF5

/* What is mounted here. */
struct fusefs_info {
  __u32 version;       /* of this structure: 1 */
  __u32 flags;         /* FUSEFS_INFO_... */
  __u8 uuid[16];       /* of the volume */
  __s32 daemon_pid;    /* in the daemon's PID namespace */
  __u32 block_bytes;   /* 4096 */
  __u64 volume_blocks; /* of the whole volume */
  __s64 mounted_sec;   /* since 1970 */
  __u32 mounted_nsec;
  __u32 reserved;
  char label[256];       /* ends with a zero byte */
  char tool_version[64]; /* of the daemon */
  char source[4096];     /* the image or device, as the daemon opened it */
};
#define FUSEFS_INFO_READ_ONLY (1u << 0) /* mounted read-only, or turned read-only by an error */
#define FUSEFS_INFO_FAILED (1u << 1)    /* an error turned it read-only */
#define FUSEFS_INFO_FUSEBLK (1u << 2)   /* umount(2) and syncfs(2) wait for the device */
#define FUSEFS_IOC_INFO _IOR(FUSEFS_IOCTL_MAGIC, 1, struct fusefs_info)

/* The statistics as JSON (docs/STATS.md), read in pieces of one snapshot.
 *
 * The first call has snapshot = 0 and offset = 0 and takes the snapshot; the answer names it. The
 * next calls give that number and the offset of the next piece, until offset + len == total.
 * ESTALE: others have read statistics meanwhile, and this snapshot has been dropped; start over.
 */
struct fusefs_stats_piece {
  __u64 snapshot; /* in, out */
  __u64 offset;   /* in */
  __u64 total;    /* out: bytes of the whole text */
  __u32 len;      /* out: bytes in `data` */
  __u32 reserved;
  char data[8160];
};
#define FUSEFS_IOC_STATS _IOWR(FUSEFS_IOCTL_MAGIC, 2, struct fusefs_stats_piece)

/* Proof that the caller has a file open for reading, to be handed to FUSEFS_IOC_CLONE_RANGE and
 * FUSEFS_IOC_DEDUPE_RANGE; valid while that descriptor is open. EBADF: not open for reading.
 */
struct fusefs_source_token {
  __u64 handle;
  __u64 secret;
};
#define FUSEFS_IOC_SOURCE_TOKEN _IOR(FUSEFS_IOCTL_MAGIC, 3, struct fusefs_source_token)

/* Makes a range of this file, which is open for writing and without O_APPEND, share the blocks of a
 * range of another file of the mount (or of another range of itself): what FICLONERANGE does,
 * which the kernel does not pass on to FUSE. Positions and len are multiples of block_bytes, but
 * len may also end at the source's end; len = 0: to its end.
 *
 * Costs one change per extent, whatever its size. The target is the source at one moment, but for a
 * part of a last block that ends with the source and not with the target: it is copied.
 *
 * A call of at most FUSEFS_REMAP_ATOMIC_BYTES, or with at most FUSEFS_REMAP_ATOMIC_PIECES extents on
 * both sides, of whole blocks or to the end of both, is one transaction on a volume of at least
 * FUSEFS_REMAP_ATOMIC_VOLUME: after a power cut all of it is there or nothing. A larger one
 * becomes true from its beginning on, and a power cut leaves a prefix of it.
 *
 * EINVAL: not aligned, beyond the source's end, overlapping. ESTALE: the token is not valid: of
 * another mount, or its file is closed. ENOSPC and EIO may leave a prefix.
 *
 * On a mount with writeback=kernel the kernel does not notice that a file has grown: ftruncate the
 * target to its new size afterwards.
 */
struct fusefs_clone_range {
  struct fusefs_source_token source;
  __u64 source_pos;
  __u64 len;
  __u64 target_pos;
  __u64 reserved; /* 0 */
};
#define FUSEFS_IOC_CLONE_RANGE _IOW(FUSEFS_IOCTL_MAGIC, 4, struct fusefs_clone_range)
#define FUSEFS_REMAP_ATOMIC_BYTES (256u << 10)
#define FUSEFS_REMAP_ATOMIC_PIECES 64u
#define FUSEFS_REMAP_ATOMIC_VOLUME (1ull << 32)

/* The same in one request, by a descriptor of the caller's own that is open for reading: the layout
 * and the meaning are those of FICLONERANGE and its struct file_clone_range.
 *
 * EBADF: not open, or not for reading. EXDEV: of another mount. EOPNOTSUPP: the daemon cannot see
 * what the caller has open (they are in different PID namespaces, or it is another user's and not
 * root's); take a token. Otherwise as above.
 */
struct fusefs_clone_from {
  __s64 source_fd;
  __u64 source_pos;
  __u64 len;
  __u64 target_pos;
};
#define FUSEFS_IOC_CLONE_FROM _IOW(FUSEFS_IOCTL_MAGIC, 7, struct fusefs_clone_from)

/* Makes a range of this file share the blocks of a range of another (or of itself) if they hold the
 * same bytes, as FIDEDUPERANGE: the file is open for writing, or belongs to the caller, or the
 * caller is root. (Linux also takes a file that the caller could open for writing; open it so.)
 * Positions and len as for FUSEFS_IOC_CLONE_RANGE; the range lies inside both files, and what is
 * behind its last whole block counts only where both files end. Contents, sizes and times do not
 * change.
 *
 * Works in pieces of FUSEFS_DEDUPE_PIECE_BYTES: the first that differs ends it, those before it stay
 * shared. Blocks that are shared already are not read.
 *
 * EINVAL: not aligned, beyond an end, overlapping, unknown version. ESTALE: as above. EPERM: not
 * writable and not the caller's.
 */
struct fusefs_dedupe_range {
  struct fusefs_source_token source;
  __u64 source_pos;
  __u64 len;
  __u64 target_pos;
  __u32 version;      /* of this structure: 1 */
  __u32 flags;        /* in: 0; out: FUSEFS_DEDUPE_... */
  __u64 same_bytes;   /* out: found to be the same */
  __u64 shared_bytes; /* out: of these, newly shared, or freed where the source has a hole */
};
#define FUSEFS_DEDUPE_DIFFERS (1u << 0) /* somewhere behind same_bytes */
#define FUSEFS_IOC_DEDUPE_RANGE _IOWR(FUSEFS_IOCTL_MAGIC, 5, struct fusefs_dedupe_range)
#define FUSEFS_DEDUPE_PIECE_BYTES (1u << 20)

/* Gives a range of this file, which is open for writing, blocks that no other file shares, so that
 * writing it cannot fail for want of space: what fallocate(2) does with FALLOC_FL_UNSHARE_RANGE and
 * FALLOC_FL_KEEP_SIZE, which the kernel does not pass on to FUSE. As there, holes get blocks too,
 * unless told otherwise. len = 0: to the file's end; nothing is done behind it. Contents and size do
 * not change, and times only if holes were filled. Durable when it returns.
 *
 * ENOSPC: at once, if there is less than it takes; if others took it meanwhile, what has been
 * copied stays.
 */
struct fusefs_unshare_range {
  __u64 pos;
  __u64 len;
  __u32 version;      /* of this structure: 1 */
  __u32 flags;        /* FUSEFS_UNSHARE_... */
  __u64 copied_bytes; /* out */
};
#define FUSEFS_UNSHARE_KEEP_HOLES (1u << 0)
#define FUSEFS_IOC_UNSHARE_RANGE _IOWR(FUSEFS_IOCTL_MAGIC, 6, struct fusefs_unshare_range)

#endif
