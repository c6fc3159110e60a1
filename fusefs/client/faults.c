/* A mapped window: its faults go to the daemon, by a userfaultfd that it gets. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fusefs/client/window.h"

/* Newer than the headers that this must build with: Linux 6.6, 6.1 and 5.11. */
#define FEATURE_POISON ((__u64)1 << 14)
struct poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#define POISON _IOWR(UFFDIO, 0x08, struct poison)
#define NEW_FAULT_FD _IO(0xAA, 0)
#define USER_MODE_ONLY 1

#define FEATURES                                                                                   \
  ((__u64)UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP | \
   UFFD_FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_POISON)

/* Best: also for faults within system calls, which takes a privilege. */
static int new_userfaultfd(void) {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  int fd = (int)syscall(SYS_userfaultfd, flags);
  if (fd >= 0) return fd;
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    fd = ioctl(device, NEW_FAULT_FD, flags);
    close(device);
    if (fd >= 0) return fd;
  }
  return (int)syscall(SYS_userfaultfd, flags | USER_MODE_ONLY);
}

static int register_memory(int faults, const struct window* window) {
  struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
  if (ioctl(faults, UFFDIO_API, &api) != 0) {
    return fail(errno == EINVAL ? ENOSYS : errno, "userfaultfd of this kernel (Linux 6.6 can)");
  }
  struct uffdio_register range = {
      .range = {.start = (uintptr_t)window->memory, .len = window->bytes},
      .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP};
  if (ioctl(faults, UFFDIO_REGISTER, &range) != 0) return fail(errno, "registering the memory");
  return 0;
}

/* ---- what the daemon says, and its death ---- */

/* A page that gives SIGBUS does so for this long; then it is tried again. */
#define REFUSED_MS 20

/* Refused at the moment. When it is full the oldest is tried again earlier. */
#define REFUSED_MAX 64
struct refused {
  struct pages {
    char* at;
    size_t bytes;
    int64_t until_ms;
  } pages[REFUSED_MAX]; /* the oldest first */
  size_t count;
};

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whoever touches it next asks the daemon again. */
static void let_try_again(struct refused* refused, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    madvise(refused->pages[i].at, refused->pages[i].bytes, MADV_DONTNEED);
  }
  refused->count -= count;
  memmove(refused->pages, refused->pages + count, refused->count * sizeof refused->pages[0]);
}

/* Those whose time is over. Returns the milliseconds until that of the next; -1: there is none. */
static int let_old_try_again(struct refused* refused) {
  if (refused->count == 0) return -1;
  const int64_t now = now_ms();
  size_t old = 0;
  while (old < refused->count && refused->pages[old].until_ms <= now) ++old;
  let_try_again(refused, old);
  return refused->count == 0 ? -1 : (int)(refused->pages[0].until_ms - now);
}

/* Who waits for the page, and who touches it from now on, gets SIGBUS. The page itself stays as it
 * is, in the memory that the daemon sees; only our way to it goes.
 */
static void refuse(const struct window* window, const struct fusefs_window_refusal* refusal,
                   struct refused* refused) {
  if (refusal->pos >= window->bytes || refusal->len > window->bytes - refusal->pos) return;
  if (refused->count == REFUSED_MAX) let_try_again(refused, 1);
  const struct pages pages = {window->memory + refusal->pos, refusal->len, now_ms() + REFUSED_MS};
  madvise(pages.at, pages.bytes, MADV_DONTNEED);
  const struct uffdio_range range = {.start = (uintptr_t)pages.at, .len = pages.bytes};
  /* Its protection would be in the way of the poison. Who waits shall not look in between. */
  struct uffdio_writeprotect unprotect = {.range = range,
                                          .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
  ioctl(window->faults, UFFDIO_WRITEPROTECT, &unprotect);
  struct poison poison = {.range = range};
  /* The daemon may have protected it again meanwhile. Who waits then faults once more. */
  struct uffdio_range woken = range;
  if (ioctl(window->faults, POISON, &poison) != 0) ioctl(window->faults, UFFDIO_WAKE, &woken);
  refused->pages[refused->count++] = pages;
}

/* If the daemon dies nobody serves the faults, and the kernel would give out zeroes. Instead the
 * memory becomes that of an empty file, which is SIGBUS. The userfaultfd is closed after that: who
 * waits in a fault then finds it so.
 */
static void note_death(struct window* window) {
  mmap(window->memory, window->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, window->empty,
       0);
  /* The daemon's descriptor may be there for a while yet. */
  struct uffdio_range all = {.start = (uintptr_t)window->memory, .len = window->bytes};
  ioctl(window->faults, UFFDIO_WAKE, &all);
  const int faults = window->faults;
  window->faults = -1;
  close(faults);
}

static void* watch_daemon(void* argument) {
  struct window* window = argument;
  struct refused refused = {.count = 0};
  struct pollfd fds[2] = {{.fd = window->watch_ends[0], .events = POLLRDHUP},
                          {.fd = window->socket, .events = POLLIN | POLLRDHUP}};
  for (;;) {
    const int ready = poll(fds, 2, let_old_try_again(&refused));
    if (ready <= 0) continue; /* EINTR */
    if (fds[0].revents != 0) return NULL;
    struct fusefs_window_refusal refusal;
    const ssize_t count = recv(window->socket, &refusal, sizeof refusal, MSG_DONTWAIT);
    if (count == (ssize_t)sizeof refusal) {
      refuse(window, &refusal, &refused);
    } else if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
      note_death(window);
      return NULL;
    }
  }
}

static int start_watch(struct window* window) {
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, window->watch_ends) != 0) {
    window->watch_ends[0] = window->watch_ends[1] = -1;
    return fail(errno, "a socket pair");
  }
  /* Signals are the program's business. */
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  /* With a stack of the usual size: the program's thread-local storage is in it too. */
  const int error = pthread_create(&window->watcher, NULL, watch_daemon, window);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error != 0) return fail(error, "a thread that listens to the daemon");
  window->watched = true;
  return 0;
}

void stop_watch(struct window* window) {
  if (!window->watched) return;
  shutdown(window->watch_ends[1], SHUT_RDWR);
  pthread_join(window->watcher, NULL);
  window->watched = false;
}

int serve_faults(struct window* window) {
  /* When the daemon has died there may be no descriptor left. */
  window->empty = (int)syscall(SYS_memfd_create, "fusefs-dead", MFD_CLOEXEC);
  if (window->empty < 0) return fail(errno, "an empty file");
  window->faults = new_userfaultfd();
  if (window->faults < 0) return fail(errno, "userfaultfd");
  if (madvise(window->memory, window->bytes, MADV_DONTFORK) != 0) return fail(errno, "madvise");
  if (register_memory(window->faults, window) != 0) return -1;
  const struct fusefs_window_hello hello = {.version = 1,
                                            .flags = FUSEFS_WINDOW_HELLO_FAULTS,
                                            .ref = window->ref,
                                            .address = (uintptr_t)window->memory};
  if (ask(window->socket, &hello, window->faults, NULL) != 0) return -1;
  return start_watch(window);
}
