#include "fusefs/process_setup.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace fusefs {
namespace {

void write_text(const std::string& path, const char* text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)!write(fd, text, std::strlen(text));
  close(fd);
}

void raise_limit(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(resource, &limit);
}

}  // namespace

void set_up_process() {
  signal(SIGPIPE, SIG_IGN);
  raise_limit(RLIMIT_NOFILE);
  if (geteuid() == 0) {
    const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
    (void)setrlimit(RLIMIT_MEMLOCK, &unlimited);
  }
  raise_limit(RLIMIT_MEMLOCK);
  // Whoever frees memory by writing to us must not wait for us to free memory.
  (void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  write_text("/proc/self/oom_score_adj", "-500");
}

}  // namespace fusefs
