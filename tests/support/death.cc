#include "tests/support/death.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/check.h"

namespace fusefs {
namespace {

[[noreturn]] void die_as_told(const std::function<void()>& fn, int out) {
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  signal(SIGABRT, SIG_DFL);
  dup2(out, STDERR_FILENO);
  fn();
  _exit(0);
}

}  // namespace

std::string last_words(const std::function<void()>& fn) {
  int ends[2];
  CHECK(pipe2(ends, O_CLOEXEC) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) die_as_told(fn, ends[1]);
  close(ends[1]);

  std::string words;
  char buffer[512];
  for (ssize_t len; (len = read(ends[0], buffer, sizeof(buffer))) > 0;) {
    words.append(buffer, static_cast<size_t>(len));
  }
  close(ends[0]);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT ? words : std::string();
}

}  // namespace fusefs
