#include "fusefs/daemon.h"

#include <poll.h>
#include <pthread.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "fusefs/launch.h"
#include "fusefs/mounted_volume.h"
#include "fusefs/process_setup.h"

namespace fusefs {
namespace {

int exit_code_for(Error error) {
  switch (error) {
    case Error::invalid_argument:
    case Error::not_permitted:
    case Error::access_denied:
      return kExitUsage;
    case Error::no_memory:
    case Error::not_supported:
      return kExitSystem;
    default:
      return kExitMountFailed;
  }
}

// Blocks the signals that end the daemon, for this thread and those it starts; they are read from
// the returned descriptor.
OwnedFd take_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return OwnedFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

bool signal_taken(const OwnedFd& signals) {
  signalfd_siginfo info;
  return read(signals.get(), &info, sizeof(info)) == sizeof(info);
}

// The mount answers when somebody asks; its device number if so.
Result<dev_t> try_out(const std::string& mount_point) {
  struct statvfs volume;
  struct stat root;
  if (statvfs(mount_point.c_str(), &volume) != 0 || stat(mount_point.c_str(), &root) != 0) {
    return error_from_errno(errno);
  }
  return root.st_dev;
}

// Until the mount is gone. The first signal unmounts, and waits for users; the second does not.
void serve_until_unmounted(MountedVolume& mounted, const OwnedFd& signals) {
  bool unmounting = false;
  while (true) {
    std::array<pollfd, 2> waiting = {{{mounted.finished(), POLLIN, 0}, {signals.get(), POLLIN, 0}}};
    if (poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) return;
    if ((waiting[0].revents & POLLIN) != 0) return;
    if ((waiting[1].revents & POLLIN) == 0 || !signal_taken(signals)) continue;
    if (unmounting) return;
    unmounting = true;
    mounted.begin_unmount();
  }
}

int fail(Launch& launch, const std::string& message, int exit_code) {
  launch.say(message);
  launch.ready(exit_code);
  return exit_code;
}

int mount_and_serve(const DaemonOptions& options, const std::string& source,
                    const std::string& mount_point, Launch& launch) {
  const OwnedFd signals = take_signals();
  set_up_process();
  std::string message;
  MountedVolume mounted(options.mount, [&launch](const std::string& text) { launch.say(text); });
  Result<void> done = mounted.open(source, &message);
  if (done.ok()) done = mounted.attach(mount_point, options.debug, &message);
  if (!done.ok()) return fail(launch, message, exit_code_for(done.error()));

  const Result<dev_t> device = try_out(mount_point);
  if (!device.ok()) {
    mounted.begin_unmount();
    (void)mounted.close(&message);
    return fail(launch, mount_point + ": mounted, but it does not answer", kExitMountFailed);
  }
  mounted.tune_mount(device.value());
  launch.ready(kExitOk);
  serve_until_unmounted(mounted, signals);
  launch.stopping();
  if (!mounted.close(&message).ok()) {
    launch.say(message);
    return kExitSystem;
  }
  return kExitOk;
}

}  // namespace

int run_daemon(const DaemonOptions& options) {
  const bool foreground = options.foreground || options.debug;
  Launch launch(foreground);
  std::string message;
  const Result<std::string> mount_point =
      check_mount_point(options.mount_point, options.mount.nonempty, &message);
  if (!mount_point.ok()) {
    launch.say(message);
    return exit_code_for(mount_point.error());
  }
  // The daemon leaves the directory in which a relative name has its meaning.
  std::unique_ptr<char, decltype(&std::free)> source(realpath(options.source.c_str(), nullptr),
                                                     &std::free);
  const std::string source_path = source ? source.get() : options.source;
  const int exit_code = launch.start();
  if (exit_code >= 0) return exit_code;
  const int served = mount_and_serve(options, source_path, mount_point.value(), launch);
  if (foreground) return served;
  std::_Exit(served);  // the caller's objects are the parent's
}

}  // namespace fusefs
