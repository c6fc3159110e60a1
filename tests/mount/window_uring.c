/* Direct reads of io_uring into fixed buffers that lie in a window, for
 * tests/mount/libfusefs_io_test.
 *
 *   window_uring FILE SOURCE     pins all of FILE, reads all of SOURCE (O_DIRECT) into it,
 *                                fsyncs FILE
 *   window_uring --plain FILE    tries to register an ordinary mapping of FILE: prints why not
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fusefs/client/fusefs.h"

#define PIECE (64u << 10)
#define DEPTH 8u

static void try_plain(const char* path) {
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) err(1, "%s", path);
  void* at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) err(1, "mmap");
  struct io_uring ring;
  if (io_uring_queue_init(DEPTH, &ring, 0) != 0) errx(77, "no io_uring");
  const struct iovec whole = {at, (size_t)st.st_size};
  const int status = io_uring_register_buffers(&ring, &whole, 1);
  printf("%s\n", status == 0 ? "registered" : strerror(-status));
}

static void submit_read(struct io_uring* ring, int source, char* memory, size_t pos, size_t bytes) {
  struct io_uring_sqe* entry = io_uring_get_sqe(ring);
  const size_t left = bytes - pos;
  io_uring_prep_read_fixed(entry, source, memory + pos, left < PIECE ? (unsigned)left : PIECE,
                           pos, 0);
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "--plain") == 0) {
    try_plain(argv[2]);
    return 0;
  }
  if (argc != 3) errx(2, "FILE SOURCE");
  const int fd = open(argv[1], O_RDWR | O_CLOEXEC);
  const int source = open(argv[2], O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0 || source < 0) err(1, "open");
  char* memory = fusefs_pin(fd, 0, 0, FUSEFS_WRITE);
  if (memory == NULL) errx(1, "%s", fusefs_error());
  const size_t bytes = fusefs_size(memory);
  struct io_uring ring;
  if (io_uring_queue_init(DEPTH, &ring, 0) != 0) errx(77, "no io_uring");
  const struct iovec whole = {memory, bytes};
  const int registered = io_uring_register_buffers(&ring, &whole, 1);
  if (registered != 0) errx(1, "register: %s", strerror(-registered));
  size_t next = 0;
  unsigned in_flight = 0;
  while (next < bytes || in_flight > 0) {
    for (; next < bytes && in_flight < DEPTH; next += PIECE, ++in_flight) {
      submit_read(&ring, source, memory, next, bytes);
    }
    if (io_uring_submit(&ring) < 0) errx(1, "submit");
    struct io_uring_cqe* done;
    if (io_uring_wait_cqe(&ring, &done) != 0) errx(1, "wait");
    if (done->res < 0) errx(1, "read: %s", strerror(-done->res));
    io_uring_cqe_seen(&ring, done);
    --in_flight;
  }
  if (fsync(fd) != 0) err(1, "fsync");
  io_uring_queue_exit(&ring);
  if (fusefs_unmap(memory) != 0) errx(1, "%s", fusefs_error());
  return 0;
}
