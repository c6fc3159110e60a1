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
 * A call of at most FUSEFS_REMAP_ATOMIC_BYTES, or with at most FUSEFS_REMAP_ATOMIC_PIECES extents
 * on both sides, of whole blocks or to the end of both, is one transaction on a volume of at least
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
 * Works in pieces of FUSEFS_DEDUPE_PIECE_BYTES: the first that differs ends it, those before it
 * stay shared. Blocks that are shared already are not read.
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
 * unless told otherwise. len = 0: to the file's end; nothing is done behind it. Contents and size
 * do not change, and times only if holes were filled. Durable when it returns.
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

/* Windows: memory of this process that is the filesystem's own for a range of a file
 * (docs/WINDOWS.md; libfusefs, fusefs_pin(3), does all of the following for you).
 *
 * WINDOW_OPEN on a descriptor that is open for reading, and for WRITE also for writing and without
 * O_APPEND, makes a window and answers with the proof (window and secret) of who holds it, and the
 * roads on which its memory is to be had:
 *
 * - FILE: open(2) `file` in the root of the mount, O_RDWR or O_RDONLY as the window, and mmap(2) it
 *   MAP_SHARED from offset 0. Only the user who made the window can.
 *
 * - SOCKET: connect(2) a SOCK_SEQPACKET to the abstract address `socket`, send a
 *   fusefs_window_hello and receive a fusefs_window_answer with a descriptor (SCM_RIGHTS) that is
 *   to be mmap(2)ed in the same way. The connection stays open while the window is used: its end
 *   says that this holder has gone.
 *
 * A window lasts until all who hold it have gone: until the file has been closed and unmapped, and
 * the connection closed. One that nobody came for ends with the descriptor it was made on, or
 * WINDOW_GIVE_BACK.
 *
 * PINNED: all pages are there, and stay. What is stored becomes durable by fsync(2) of the file.
 * MAPPED: pages come when they are touched, and the daemon knows which are stored into. Needs a
 * connection in any case: after mmap(2) and before the memory is touched, the holder registers it
 * with a userfaultfd for UFFDIO_REGISTER_MODE_MISSING | MINOR | WP (features MISSING_SHMEM,
 * MINOR_SHMEM, PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM and POISON; non-blocking), and sends it with a
 * second hello that has FUSEFS_WINDOW_HELLO_FAULTS and the address. The memory must not be
 * inherited by a child (MADV_DONTFORK): its faults would not be served. Is for writing: WRITE must
 * be given.
 *
 * Two windows cannot overlap, but who opens the same range of the same file again, with the same
 * uid and kind, becomes another holder of the same memory, which may be one for reading only.
 *
 * EBADF: not open so. EINVAL: not aligned, empty, beyond the last block of the file, unknown
 * version or flags. EBUSY: overlaps another window. EPERM: immutable or append-only, or MAPPED
 * without WRITE. ENOMEM: more than the mount or this user may pin (-o pin_limit), or a limit of the
 * daemon (1 TiB of windows of a user is one). ENOSPC, EIO: as for writing and reading the range.
 */
struct fusefs_window_open {
  __u32 version;      /* of this structure: 1 */
  __u32 flags;        /* FUSEFS_WINDOW_... */
  __u64 pos;          /* multiple of block_bytes */
  __u64 len;          /* the same; 0: to the file's end, rounded up */
  __u64 window;       /* out */
  __u64 secret[2];    /* out */
  __u64 mapped_bytes; /* out: size of the memory: len, or what 0 stood for */
  __u32 road;         /* out: FUSEFS_WINDOW_ROAD_... */
  __u32 reserved;
  char file[64];   /* out: name in the root of the mount; empty without that road */
  char socket[64]; /* out: without the leading zero byte; empty without that road */
};
#define FUSEFS_WINDOW_PINNED (1u << 0) /* one of these two */
#define FUSEFS_WINDOW_MAPPED (1u << 1)
#define FUSEFS_WINDOW_WRITE (1u << 2)  /* else for reading only */
#define FUSEFS_WINDOW_SOCKET (1u << 3) /* no control file, even if there could be one */
#define FUSEFS_WINDOW_ROAD_FILE (1u << 0)
#define FUSEFS_WINDOW_ROAD_SOCKET (1u << 1)
#define FUSEFS_IOC_WINDOW_OPEN _IOWR(FUSEFS_IOCTL_MAGIC, 8, struct fusefs_window_open)

/* Who holds a window says so with this. */
struct fusefs_window_ref {
  __u64 window;
  __u64 secret[2];
};

/* What is sent over the socket, one packet each, and the daemon's answer to each. */
struct fusefs_window_hello {
  __u32 version; /* of this structure: 1 */
  __u32 flags;   /* FUSEFS_WINDOW_HELLO_... */
  struct fusefs_window_ref ref;
  __u64 address; /* with FAULTS: where the memory begins in the sender */
};
#define FUSEFS_WINDOW_HELLO_HAS_MEMORY (1u << 0) /* from the control file: answer without */
#define FUSEFS_WINDOW_HELLO_FAULTS (1u << 1)     /* the second: brings the userfaultfd */
#define FUSEFS_WINDOW_HELLO_FLUSH (1u << 2) /* FUSEFS_IOC_WINDOW_FLUSH; on a connection for it */
struct fusefs_window_answer {
  __s32 error; /* an errno, or 0; EACCES: unknown window, wrong secret, another user's */
  __u32 flags; /* 0 */
};

/* What comes on the connection of a MAPPED window after its second hello: the fault at `pos` of the
 * window cannot be served: ENOSPC for a store, EIO, ENXIO beyond the file's end. Who touched it
 * waits. To make that SIGBUS: madvise(MADV_DONTNEED), UFFDIO_WRITEPROTECT off with DONTWAKE,
 * UFFDIO_POISON; and to let it be tried again, madvise(MADV_DONTNEED) once more.
 */
struct fusefs_window_refusal {
  __u64 pos;
  __u64 len;
  __s32 error;
  __u32 reserved;
};

/* On the file of the window, or on its control file: what has been stored is what read(2) and
 * mmap(2) of the file show from now on to everybody; fsync(2) does the same, and makes it durable.
 * Until then they may show what was there at the last of these. Direct I/O shows the present bytes
 * always.
 *
 * ESTALE: no such window, or of another file, or the secret is wrong.
 */
#define FUSEFS_IOC_WINDOW_FLUSH _IOW(FUSEFS_IOCTL_MAGIC, 9, struct fusefs_window_ref)

/* Direct I/O between a window and this file, which may be any of the mount, also the window's own:
 * no byte passes through the caller. Open for reading, or with WRITE for writing and without
 * O_APPEND; a window that is to be read into must be one with FUSEFS_WINDOW_WRITE. `file_pos`,
 * `window_pos` and len are multiples of block_bytes, but len may end at the end of the file that is
 * read. At most FUSEFS_WINDOW_IO_MAX bytes at a time.
 *
 * With the number in `done` less than len: the end of the file (reading), or an error behind that.
 * EINVAL: not aligned, beyond the window, too long, unknown version or flags. ESTALE: as above.
 */
struct fusefs_window_io {
  __u32 version; /* of this structure: 1 */
  __u32 flags;   /* FUSEFS_WINDOW_IO_... */
  struct fusefs_window_ref ref;
  __u64 window_pos; /* bytes from the window's beginning */
  __u64 file_pos;
  __u64 len;
  __u64 done; /* out: bytes */
};
#define FUSEFS_WINDOW_IO_WRITE (1u << 0) /* window to file; else file to window */
#define FUSEFS_WINDOW_IO_MAX (1u << 30)
#define FUSEFS_IOC_WINDOW_IO _IOWR(FUSEFS_IOCTL_MAGIC, 10, struct fusefs_window_io)

/* Who holds which pages, as JSON (docs/WINDOWS.md), read in pieces as the statistics. Root sees
 * all, others what is theirs.
 */
#define FUSEFS_IOC_PINS _IOWR(FUSEFS_IOCTL_MAGIC, 11, struct fusefs_stats_piece)

/* On the file of the window: its memory will not be come for. From now on the descriptor that it
 * was opened on does not keep it; as when that is closed.
 *
 * ESTALE: as for WINDOW_FLUSH.
 */
#define FUSEFS_IOC_WINDOW_GIVE_BACK _IOW(FUSEFS_IOCTL_MAGIC, 12, struct fusefs_window_ref)

#endif
