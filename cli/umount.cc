// fusefs umount: returns when everything is on the device and the daemon has gone.
//
// umount(2) of an ordinary FUSE mount returns at once; whoever then formats, checks or mounts the
// image again would race with the daemon's last writes. So this waits for the daemon itself.
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/mounted.h"
#include "cli/tool.h"

namespace fusefs::cli {
namespace {

struct UmountArguments {
  std::string directory;
  bool lazy = false;
  bool json = false;
};

int run_fusermount(const UmountArguments& arguments) {
  const pid_t child = fork();
  if (child == 0) {
    execlp("fusermount3", "fusermount3", arguments.lazy ? "-uz" : "-u", "--",
           arguments.directory.c_str(), nullptr);
    std::fprintf(stderr, "fusefs umount: fusermount3: %s; install the package fuse3\n",
                 std::strerror(errno));
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The image's lock is the daemon's as long as it lives, in whatever PID namespace.
void wait_for_lock(const std::string& source) {
  const OwnedFd fd(open(source.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd) flock(fd.get(), LOCK_SH);
}

void wait_for_daemon(int pidfd, const std::string& source) {
  if (pidfd >= 0) {
    pollfd poll_fd{pidfd, POLLIN, 0};
    while (poll(&poll_fd, 1, -1) < 0 && errno == EINTR) {
    }
  }
  wait_for_lock(source);
}

int run_umount(const UmountArguments& arguments) {
  Output out("umount", arguments.json);
  std::string message;
  std::optional<Mounted> mounted = open_mounted(arguments.directory, &message);
  const bool dead = !mounted && errno == ENOTCONN;
  if (!mounted && !dead) return out.fail(message);
  OwnedFd pidfd;
  std::string source;
  if (mounted) {
    source = mounted->info.source;
    pidfd = OwnedFd(static_cast<int>(syscall(SYS_pidfd_open, mounted->info.daemon_pid, 0)));
    mounted.reset();  // an open descriptor would keep the mount busy
  }
  if (geteuid() == 0) {
    if (umount2(arguments.directory.c_str(), arguments.lazy ? MNT_DETACH : 0) != 0) {
      return out.fail(
          arguments.directory + ": " + std::strerror(errno) +
          (errno == EBUSY ? "; see who uses it with: fuser -vm " + arguments.directory : ""));
    }
  } else if (const int status = run_fusermount(arguments); status != 0) {
    return out.fail(arguments.directory + ": not unmounted: fusermount3 refused");
  }
  if (!dead && !arguments.lazy) wait_for_daemon(pidfd.get(), source);
  Json data;
  data["directory"] = json_text(arguments.directory);
  data["source"] = source.empty() ? Json(nullptr) : json_text(source);
  data["waited"] = !dead && !arguments.lazy;
  return out.done(std::move(data));
}

}  // namespace

void add_umount(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<UmountArguments>();
  CLI::App* command =
      app.add_subcommand("umount", "Unmount, and wait until everything is on the device");
  command->add_option("DIR", arguments->directory, "Where it is mounted")->required();
  command->add_flag("-l,--lazy", arguments->lazy,
                    "Detach now, finish when nobody uses it any more; does not wait");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_umount(*arguments); });
}

}  // namespace fusefs::cli
