/* libfusefs: memory that is a file's page cache (fusefs_pin(3), docs/WINDOWS.md). C11 and C++.
 *
 * A window is a range of a file on a mounted fusefs volume as memory of this process. There are two
 * kinds:
 *
 * - fusefs_pin: all pages are there and stay where they are. Stores need no system call and no
 *   fault, and devices may write into them (O_DIRECT, fixed buffers of io_uring). fsync(2) of the
 *   file looks at every page and writes those that have changed.
 *
 * - fusefs_map: pages come when they are touched. Only pages that were stored into are written, and
 *   a full volume is SIGBUS at the store, not an error of a later fsync(2).
 *
 * What has been stored becomes durable by fsync(2) or fdatasync(2) of any descriptor of the file,
 * and what has been stored by then is seen by read(2) and mmap(2) of the file: after fsync(2),
 * fusefs_flush() or the end of the window.
 *
 * msync(2) of a window makes nothing durable, and mremap(2) must not be used on one.
 *
 * All functions may be called from several threads at once. What fails sets errno, and
 * fusefs_error() says more. No descriptor survives execve(2). fork(2): the child of a program with
 * a pinned window shares its memory and may unmap it; a mapped window is not there in the child
 * (touching it is SIGSEGV, as with MADV_DONTFORK).
 */
#ifndef FUSEFS_H
#define FUSEFS_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
static_assert(sizeof(off_t) == 8, "libfusefs needs -D_FILE_OFFSET_BITS=64");
extern "C" {
#else
_Static_assert(sizeof(off_t) == 8, "libfusefs needs -D_FILE_OFFSET_BITS=64");
#endif

#pragma GCC visibility push(default)

#define FUSEFS_WRITE (1u << 0)  /* the memory can be stored into; else for reading only */
#define FUSEFS_SOCKET (1u << 1) /* not by a file of the mount, even if there could be one */

/* A pinned window on [offset, offset + length) of the file that is open as `fd`: for reading, with
 * FUSEFS_WRITE also for writing. `offset` is a multiple of 4096; length is rounded up to one, and 0
 * means to the file's end. The range lies within the file, but for the rest of its last block.
 * The descriptor may be closed afterwards.
 *
 * NULL: EBADF not open so; EINVAL not aligned, beyond the end, unknown flag; EBUSY it overlaps
 * another window (the same range again, by the same user and kind, is the same memory); ENOMEM the
 * limit of the mount, of this user (-o pin_limit) or of memory; ENOSPC; EPERM; ENOTTY not on a
 * fusefs mount; EOVERFLOW more than the addresses of a 32-bit program; ENOTCONN the daemon cannot
 * be reached (another network namespace, or it has died).
 */
void* fusefs_pin(int fd, off_t offset, size_t length, unsigned flags);

/* A mapped window, with the same parameters; FUSEFS_WRITE must be given.
 *
 * Without CAP_SYS_PTRACE, access to /dev/userfaultfd or vm.unprivileged_userfaultfd=1 only the
 * program itself can touch pages: a system call that is given memory of the window fails with
 * EFAULT where the page is not there (or, if it stores, is clean). Use fusefs_io(), or touch it
 * before.
 *
 * The daemon must be alive: when it dies, touching the window is SIGBUS.
 *
 * NULL: as above, and ENOSYS, EPERM: userfaultfd(2) is not there, or does not know how.
 */
void* fusefs_map(int fd, off_t offset, size_t length, unsigned flags);

/* Bytes of the window that begins at `window`; 0: there is none. */
size_t fusefs_size(const void* window);

/* Moves bytes between a window and a file of the same mount, directly: nothing is copied through
 * this process. `in_window` points into a window of this process, and the `length` bytes from there
 * lie in it; it and `offset` are multiples of 4096, as `length` is unless the file ends there.
 * Without flags the file is read, with FUSEFS_WRITE it is written. It may be the window's own file.
 *
 * Returns the bytes moved, less than `length` at the end of the file; -1: EBADF, EINVAL, ENOSPC,
 * EIO, EXDEV (a file of another mount).
 */
ssize_t fusefs_io(void* in_window, size_t length, int fd, off_t offset, unsigned flags);

/* From now on read(2) and mmap(2) of the file show what has been stored into the window, to
 * everybody. fsync(2) of the file does the same. -1: EINVAL no window begins at `window`.
 */
int fusefs_flush(void* window);

/* Ends the window that begins at `window`: the memory goes, what was stored into it is the file's.
 * The end of the process does the same. -1: EINVAL no window begins there.
 */
int fusefs_unmap(void* window);

/* One line that says what the last failure in this thread was about. Valid until the next. */
const char* fusefs_error(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
