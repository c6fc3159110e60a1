#include "fusefs/launch.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fusefs/daemon.h"

namespace fusefs {

Launch::~Launch() {
  if (pipe_ >= 0) close(pipe_);
}

int Launch::start() {
  if (foreground_) return -1;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    say(std::string("cannot go to the background: ") + std::strerror(errno));
    return kExitSystem;
  }
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) {
    say(std::string("cannot go to the background: ") + std::strerror(errno));
    return kExitSystem;
  }
  if (child > 0) {
    close(ends[1]);
    pipe_ = ends[0];
    return wait_for_child(child);
  }
  close(ends[0]);
  pipe_ = ends[1];
  setsid();
  return -1;
}

int Launch::wait_for_child(int child) {
  unsigned char code = 0;
  ssize_t len = 0;
  while ((len = read(pipe_, &code, 1)) < 0 && errno == EINTR) {
  }
  if (len == 1 && code == kExitOk) return kExitOk;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (len == 1) return code;
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) return WEXITSTATUS(status);
  say("the daemon died while mounting" +
      (WIFSIGNALED(status) ? " of signal " + std::to_string(WTERMSIG(status)) : std::string()));
  return kExitSystem;
}

void Launch::ready(int exit_code) {
  if (foreground_) {
    if (exit_code == kExitOk) notify("READY=1\nSTATUS=mounted");
    return;
  }
  if (pipe_ < 0) return;
  const auto code = static_cast<unsigned char>(exit_code);
  while (write(pipe_, &code, 1) < 0 && errno == EINTR) {
  }
  close(pipe_);
  pipe_ = -1;
  if (exit_code != kExitOk) return;
  // The caller's terminal and directory are not ours to keep.
  openlog("fusefs", LOG_PID, LOG_DAEMON);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; null >= 0 && fd <= 2; ++fd) dup2(null, fd);
  if (null > 2) close(null);
  if (chdir("/") != 0) say("cannot leave the directory it was started in");
  detached_ = true;
}

void Launch::stopping() {
  if (foreground_) notify("STOPPING=1");
}

void Launch::say(std::string_view text) const {
  const std::string line(text);
  if (detached_) {
    syslog(LOG_WARNING, "%s", line.c_str());
  } else {
    std::fprintf(stderr, "fusefs mount: %s\n", line.c_str());
  }
}

// A datagram to the socket in the environment; "@" stands for an abstract one.
void Launch::notify(const std::string& state) const {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
  const size_t len = std::strlen(path);
  if (len >= sizeof(address.sun_path)) return;
  std::memcpy(address.sun_path, path, len);
  if (path[0] == '@') address.sun_path[0] = '\0';
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const auto address_len = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + len);
  (void)sendto(fd, state.data(), state.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address), address_len);
  close(fd);
}

}  // namespace fusefs
