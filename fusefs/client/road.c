/* How the memory of a window comes into this process. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "fusefs/client/window.h"

/* ---- the control file ---- */

/* mountinfo writes space, tab, newline and backslash as \ooo. In place. */
static void decode_octal(char* text) {
  char* to = text;
  for (const char* from = text; *from != '\0'; ++to) {
    if (from[0] == '\\' && isdigit((unsigned char)from[1]) && isdigit((unsigned char)from[2]) &&
        isdigit((unsigned char)from[3])) {
      *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
      from += 4;
    } else {
      *to = *from++;
    }
  }
  *to = '\0';
}

/* If a line of mountinfo mounts the root of `mount`: where. The line is cut up.
 *
 *   36 35 0:45 / /mnt/point rw,nosuid shared:1 - fuse.fusefs ...
 */
static const char* mounted_at(char* line, dev_t mount) {
  unsigned device_major = 0;
  unsigned device_minor = 0;
  char* rest = NULL;
  strtok_r(line, " ", &rest); /* id of the mount */
  strtok_r(NULL, " ", &rest); /* of its parent */
  const char* device = strtok_r(NULL, " ", &rest);
  const char* root = strtok_r(NULL, " ", &rest);
  char* point = strtok_r(NULL, " ", &rest);
  if (point == NULL || sscanf(device, "%u:%u", &device_major, &device_minor) != 2) return NULL;
  if (makedev(device_major, device_minor) != mount || strcmp(root, "/") != 0) return NULL;
  decode_octal(point);
  return point;
}

/* The root directory of the mount. -1: no part of our namespace shows it. */
static int open_root(dev_t mount) {
  FILE* mounts = fopen("/proc/self/mountinfo", "re");
  if (mounts == NULL) return -1;
  int root = -1;
  char* line = NULL;
  size_t room = 0;
  while (root < 0 && getline(&line, &room, mounts) > 0) {
    line[strcspn(line, "\n")] = '\0';
    const char* point = mounted_at(line, mount);
    if (point == NULL) continue;
    root = open(point, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    /* Another filesystem may be mounted over it. */
    if (root >= 0 && (fstat(root, &st) != 0 || st.st_dev != mount)) {
      close(root);
      root = -1;
    }
  }
  free(line);
  fclose(mounts);
  return root;
}

int fetch_by_file(int fd, const struct fusefs_window_open* open_answer, struct window* window) {
  struct stat st;
  if (fstat(fd, &st) != 0) return fail(errno, "the file");
  const int root = open_root(st.st_dev);
  if (root < 0) return fail(ENOENT, "the root of the mount is not to be seen");
  const int mode = (open_answer->flags & FUSEFS_WINDOW_WRITE) != 0 ? O_RDWR : O_RDONLY;
  window->control = openat(root, open_answer->file, mode | O_CLOEXEC | O_NOFOLLOW);
  const int error = errno;
  close(root);
  if (window->control < 0) return fail(error, "the control file %s", open_answer->file);
  const int memory = fcntl(window->control, F_DUPFD_CLOEXEC, 0);
  if (memory < 0) return fail(errno, "the control file");
  return memory;
}

/* ---- the socket ---- */

int connect_to(const char* address) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  const size_t length = strnlen(address, sizeof to.sun_path - 1);
  memcpy(to.sun_path + 1, address, length); /* behind a zero byte: an abstract name */
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail(errno, "a socket");
  const socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
  int connected;
  do {
    connected = connect(fd, (const struct sockaddr*)&to, bytes);
  } while (connected != 0 && errno == EINTR);
  if (connected != 0) {
    /* There is no such name in our network namespace, or the daemon is gone. */
    const int error = errno == ECONNREFUSED ? ENOTCONN : errno;
    close(fd);
    return fail(error, "the daemon's socket @%.*s", (int)length, address);
  }
  return fd;
}

/* Room for one descriptor, aligned as a header wants it. */
union one_fd {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

static ssize_t send_packet(int socket, const struct fusefs_window_hello* hello, int sent) {
  struct iovec part = {.iov_base = (void*)hello, .iov_len = sizeof *hello};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  union one_fd control;
  memset(&control, 0, sizeof control);
  if (sent >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    struct cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof sent);
    memcpy(CMSG_DATA(header), &sent, sizeof sent);
  }
  ssize_t count;
  do {
    count = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (count < 0 && errno == EINTR);
  return count;
}

static ssize_t receive_packet(int socket, struct fusefs_window_answer* answer, int* got) {
  struct iovec part = {.iov_base = answer, .iov_len = sizeof *answer};
  union one_fd control;
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.bytes,
                           .msg_controllen = CMSG_LEN(sizeof *got)}; /* space enough for two */
  ssize_t count;
  do {
    count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return count;
  const struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
      header->cmsg_len == CMSG_LEN(sizeof *got)) {
    memcpy(got, CMSG_DATA(header), sizeof *got);
  }
  return count;
}

int ask(int socket, const struct fusefs_window_hello* hello, int sent, int* got) {
  struct fusefs_window_answer answer = {0};
  int came = -1;
  if (send_packet(socket, hello, sent) != (ssize_t)sizeof *hello) {
    return fail(errno == EPIPE || errno == ECONNRESET ? ENOTCONN : errno, "asking the daemon");
  }
  const ssize_t count = receive_packet(socket, &answer, &came);
  int error = 0;
  if (count < 0) {
    error = errno == ECONNRESET ? ENOTCONN : errno;
  } else if (count == 0) {
    error = ENOTCONN;
  } else if (count != (ssize_t)sizeof answer) {
    error = EPROTO;
  } else {
    error = answer.error;
  }
  if (got != NULL && error == 0) {
    *got = came;
  } else if (came >= 0) {
    close(came);
  }
  return error == 0 ? 0 : fail(error, "the daemon's answer");
}

int fetch_by_socket(const struct fusefs_window_open* open_answer, struct window* window) {
  if ((open_answer->road & FUSEFS_WINDOW_ROAD_SOCKET) == 0) {
    return fail(EOPNOTSUPP, "the daemon has no socket");
  }
  memcpy(window->address, open_answer->socket, sizeof window->address);
  window->socket = connect_to(window->address);
  if (window->socket < 0) return -1;
  const struct fusefs_window_hello hello = {.version = 1, .ref = window->ref};
  int memory = -1;
  if (ask(window->socket, &hello, -1, &memory) != 0) return -1;
  if (memory < 0) return fail(EPROTO, "the daemon sent no memory");
  return memory;
}
