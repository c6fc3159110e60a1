/* The windows of this process, and the functions of fusefs.h. */
#include "fusefs/client/window.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fusefs/client/fusefs.h"

#define BLOCK_BYTES 4096u
#define HUGE_BYTES (2u << 20)

/* Held for as long as it takes to find, put in or take out. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct window* windows;

static void close_window(struct window* window) {
  const int fds[] = {window->watch_ends[0], window->watch_ends[1], window->faults,
                     window->empty,         window->control,       window->socket};
  for (size_t i = 0; i < sizeof fds / sizeof fds[0]; ++i) {
    if (fds[i] >= 0) close(fds[i]);
  }
  free(window);
}

/* ---- fork ---- */

static void lock_for_fork(void) { pthread_mutex_lock(&mutex); }
static void unlock_after_fork(void) { pthread_mutex_unlock(&mutex); }

/* Mapped windows are not there in the child, nor are their threads; it must not seem to hold them.
 */
static void forget_mapped_windows(void) {
  struct window** place = &windows;
  while (*place != NULL) {
    struct window* window = *place;
    if (window->mapped) {
      *place = window->next;
      close_window(window);
    } else {
      place = &window->next;
    }
  }
  pthread_mutex_unlock(&mutex);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void watch_forks(void) {
  pthread_atfork(lock_for_fork, unlock_after_fork, forget_mapped_windows);
}

/* ---- opening ---- */

/* The end of a window is told to the daemon by the kernel, and may still be under way. */
#define GOING_MS 50
static atomic_bool has_unmapped;

static int ask_for_window(int fd, struct fusefs_window_open* window_open) {
  for (int waited_ms = 0; ioctl(fd, FUSEFS_IOC_WINDOW_OPEN, window_open) != 0; ++waited_ms) {
    if (errno != EBUSY || !atomic_load(&has_unmapped) || waited_ms >= GOING_MS) {
      return fail(errno, "a window on [%llu, +%llu) of descriptor %d",
                  (unsigned long long)window_open->pos, (unsigned long long)window_open->len, fd);
    }
    usleep(1000);
  }
  return 0;
}

/* A window that nobody has come for is not to last as long as the caller's descriptor. */
static void give_back(int fd, const struct fusefs_window_open* window_open) {
  struct fusefs_window_ref ref = {.window = window_open->window};
  memcpy(ref.secret, window_open->secret, sizeof ref.secret);
  const int error = errno;
  if (ioctl(fd, FUSEFS_IOC_WINDOW_GIVE_BACK, &ref) == 0) atomic_store(&has_unmapped, true);
  errno = error;
}

/* The memory's descriptor; `window_open` is asked again where only the socket can be reached. */
static int fetch(int fd, struct fusefs_window_open* window_open, struct window* window) {
  if ((window_open->road & FUSEFS_WINDOW_ROAD_FILE) != 0 &&
      (window_open->flags & FUSEFS_WINDOW_SOCKET) == 0) {
    const int memory = fetch_by_file(fd, window_open, window);
    if (memory >= 0) return memory;
    if ((window_open->road & FUSEFS_WINDOW_ROAD_SOCKET) == 0) {
      give_back(fd, window_open);
      window_open->flags |= FUSEFS_WINDOW_SOCKET;
      if (ask_for_window(fd, window_open) != 0) return -1;
    }
  }
  window->ref.window = window_open->window;
  memcpy(window->ref.secret, window_open->secret, sizeof window->ref.secret);
  return fetch_by_socket(window_open, window);
}

/* At a multiple of HUGE_BYTES, if it is that large: then madvise(MADV_COLLAPSE) can make huge pages
 * of it.
 */
static void* map_aligned(size_t bytes, int protection, int memory) {
  if (bytes < HUGE_BYTES) return mmap(NULL, bytes, protection, MAP_SHARED, memory, 0);
  char* reserved =
      mmap(NULL, bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  const size_t before = (HUGE_BYTES - (uintptr_t)reserved % HUGE_BYTES) % HUGE_BYTES;
  void* at = mmap(reserved + before, bytes, protection, MAP_SHARED | MAP_FIXED, memory, 0);
  if (at == MAP_FAILED) {
    const int error = errno;
    munmap(reserved, bytes + HUGE_BYTES);
    errno = error;
    return MAP_FAILED;
  }
  if (before != 0) munmap(reserved, before);
  munmap(reserved + before + bytes, HUGE_BYTES - before);
  return at;
}

static int map_opened(int fd, struct fusefs_window_open* window_open, struct window* window) {
  window->ref.window = window_open->window;
  memcpy(window->ref.secret, window_open->secret, sizeof window->ref.secret);
  const int memory = fetch(fd, window_open, window);
  if (memory < 0) return -1;
  window->bytes = (size_t)window_open->mapped_bytes;
  if (window->bytes != window_open->mapped_bytes) {
    close(memory);
    return fail(EOVERFLOW, "mapping %llu bytes", (unsigned long long)window_open->mapped_bytes);
  }
  const int protection =
      (window_open->flags & FUSEFS_WINDOW_WRITE) != 0 ? PROT_READ | PROT_WRITE : PROT_READ;
  void* at = map_aligned(window->bytes, protection, memory);
  const int error = errno;
  close(memory);
  if (at == MAP_FAILED) return fail(error, "mapping %zu bytes", window->bytes);
  window->memory = at;
  return window->mapped ? serve_faults(window) : 0;
}

static int map_memory(int fd, struct fusefs_window_open* window_open, struct window* window) {
  if (ask_for_window(fd, window_open) != 0) return -1;
  if (map_opened(fd, window_open, window) == 0) return 0;
  give_back(fd, window_open);
  return -1;
}

static void* open_window(int fd, off_t offset, size_t length, unsigned flags, __u32 kind) {
  if ((flags & ~(FUSEFS_WRITE | FUSEFS_SOCKET)) != 0) {
    fail(EINVAL, "flags 0x%x", flags);
    return NULL;
  }
  if (offset < 0 || offset % BLOCK_BYTES != 0 || length > SIZE_MAX - BLOCK_BYTES) {
    fail(EINVAL, "a window at %lld, %zu bytes", (long long)offset, length);
    return NULL;
  }
  if (kind == FUSEFS_WINDOW_MAPPED && (flags & FUSEFS_WRITE) == 0) {
    fail(EPERM, "a mapped window is for writing; to read, use fusefs_pin or mmap");
    return NULL;
  }
  pthread_once(&once, watch_forks);
  struct stat st;
  if (fstat(fd, &st) != 0) {
    fail(errno, "descriptor %d", fd);
    return NULL;
  }
  struct window* window = malloc(sizeof *window);
  if (window == NULL) {
    fail(ENOMEM, "memory");
    return NULL;
  }
  *window = (struct window){.mount = st.st_dev,
                            .control = -1,
                            .socket = -1,
                            .mapped = kind == FUSEFS_WINDOW_MAPPED,
                            .faults = -1,
                            .empty = -1,
                            .watch_ends = {-1, -1}};
  struct fusefs_window_open window_open = {
      .version = 1,
      .flags = kind,
      .pos = (__u64)offset,
      .len = (length + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES};
  if ((flags & FUSEFS_WRITE) != 0) window_open.flags |= FUSEFS_WINDOW_WRITE;
  /* A mapped window needs the socket in any case. */
  if ((flags & FUSEFS_SOCKET) != 0 || kind == FUSEFS_WINDOW_MAPPED) {
    window_open.flags |= FUSEFS_WINDOW_SOCKET;
  }
  if (map_memory(fd, &window_open, window) != 0) {
    const int error = errno;
    stop_watch(window);
    if (window->memory != NULL) munmap(window->memory, window->bytes);
    close_window(window);
    errno = error;
    return NULL;
  }
  void* memory = window->memory;
  pthread_mutex_lock(&mutex);
  window->next = windows;
  windows = window;
  pthread_mutex_unlock(&mutex);
  return memory;
}

void* fusefs_pin(int fd, off_t offset, size_t length, unsigned flags) {
  return open_window(fd, offset, length, flags, FUSEFS_WINDOW_PINNED);
}

void* fusefs_map(int fd, off_t offset, size_t length, unsigned flags) {
  return open_window(fd, offset, length, flags, FUSEFS_WINDOW_MAPPED);
}

/* ---- using ---- */

/* The mount that a descriptor is of. The times and the size, which a write makes stale, are not
 * wanted: nobody asks the daemon for them.
 */
static int find_mount(int fd, dev_t* mount) {
  struct statx stx;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &stx) == 0) {
    *mount = makedev(stx.stx_dev_major, stx.stx_dev_minor);
    return 0;
  }
  struct stat st; /* where statx(2) is forbidden */
  if (fstat(fd, &st) != 0) return -1;
  *mount = st.st_dev;
  return 0;
}

/* Copies of what is needed without the mutex. */
struct found {
  bool found;
  size_t bytes;
  __u64 pos; /* in the window */
  dev_t mount;
  struct fusefs_window_ref ref;
  int control; /* a descriptor of its own */
  char address[64];
};

/* The window that has `address` in it. With `for_flush`, found.control is to be closed. */
static struct found find(const void* address, bool for_flush) {
  struct found found = {.control = -1};
  pthread_mutex_lock(&mutex);
  for (const struct window* window = windows; window != NULL; window = window->next) {
    const uintptr_t pos = (uintptr_t)address - (uintptr_t)window->memory;
    if (pos >= window->bytes) continue;
    found.found = true;
    found.bytes = window->bytes;
    found.pos = pos;
    found.mount = window->mount;
    found.ref = window->ref;
    memcpy(found.address, window->address, sizeof found.address);
    if (for_flush && window->control >= 0) {
      found.control = fcntl(window->control, F_DUPFD_CLOEXEC, 0);
    }
    break;
  }
  pthread_mutex_unlock(&mutex);
  return found;
}

size_t fusefs_size(const void* window) {
  const struct found found = find(window, false);
  return found.found && found.pos == 0 ? found.bytes : 0;
}

ssize_t fusefs_io(void* in_window, size_t length, int fd, off_t offset, unsigned flags) {
  if ((flags & ~FUSEFS_WRITE) != 0) return fail(EINVAL, "flags 0x%x", flags);
  const struct found found = find(in_window, false);
  if (!found.found) return fail(EINVAL, "no window has the address %p", in_window);
  if (length > found.bytes - found.pos) {
    return fail(EINVAL, "%zu bytes from %p on are more than the window", length, in_window);
  }
  dev_t mount;
  if (find_mount(fd, &mount) != 0) return fail(errno, "descriptor %d", fd);
  if (mount != found.mount) return fail(EXDEV, "descriptor %d is of another mount", fd);
  size_t done = 0;
  while (done < length) {
    const size_t rest = length - done;
    struct fusefs_window_io io = {.version = 1,
                                  .flags = (flags & FUSEFS_WRITE) != 0 ? FUSEFS_WINDOW_IO_WRITE : 0,
                                  .ref = found.ref,
                                  .window_pos = found.pos + done,
                                  .file_pos = (__u64)offset + done,
                                  .len = rest < FUSEFS_WINDOW_IO_MAX ? rest : FUSEFS_WINDOW_IO_MAX};
    if (ioctl(fd, FUSEFS_IOC_WINDOW_IO, &io) != 0) {
      if (errno == EINTR) continue;
      if (done > 0) break;
      return fail(errno, "%s descriptor %d at %lld, %zu bytes",
                  (flags & FUSEFS_WRITE) != 0 ? "writing" : "reading", fd, (long long)offset,
                  length);
    }
    done += io.done;
    if (io.done < io.len) break;
  }
  return (ssize_t)done;
}

int fusefs_flush(void* window) {
  struct found found = find(window, true);
  if (!found.found || found.pos != 0) return fail(EINVAL, "no window begins at %p", window);
  if (found.control >= 0) {
    const int status = ioctl(found.control, FUSEFS_IOC_WINDOW_FLUSH, &found.ref);
    const int error = errno;
    close(found.control);
    return status == 0 ? 0 : fail(error, "flushing");
  }
  /* On a connection of its own: that of the window may be shared with a parent or a child. */
  const int socket = connect_to(found.address);
  if (socket < 0) return -1;
  const struct fusefs_window_hello hello = {
      .version = 1, .flags = FUSEFS_WINDOW_HELLO_FLUSH, .ref = found.ref};
  const int status = ask(socket, &hello, -1, NULL);
  const int error = errno;
  close(socket);
  errno = error;
  return status;
}

int fusefs_unmap(void* memory) {
  /* The daemon hears later that the window has gone. What read(2) shows by then shall not be older
   * than this call. If the daemon has died there is nothing to be shown.
   */
  (void)fusefs_flush(memory);
  pthread_mutex_lock(&mutex);
  struct window** place = &windows;
  while (*place != NULL && (*place)->memory != memory) place = &(*place)->next;
  struct window* window = *place;
  if (window != NULL) *place = window->next;
  pthread_mutex_unlock(&mutex);
  if (window == NULL) return fail(EINVAL, "no window begins at %p", memory);
  stop_watch(window);
  munmap(window->memory, window->bytes);
  close_window(window);
  atomic_store(&has_unmapped, true);
  return 0;
}
