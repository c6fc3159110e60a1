// Launch: going to the background, and saying when the mount is usable.
//
//     parent ------- waits on a pipe ------------------------------> exits with the child's code
//        \ fork                                         ^
//         child: device, recovery, mount, threads --- ready(code), or dies
//
// Until ready() the child's stderr is the caller's terminal, so that whatever goes wrong is read
// there. Afterwards messages go to syslog. In the foreground there is one process, and a service
// manager that asks for it is notified (sd_notify(3), READY=1).
//
// To be used before there are threads.
#pragma once

#include <string>
#include <string_view>

namespace fusefs {

class Launch {
 public:
  explicit Launch(bool foreground) : foreground_(foreground) {}
  ~Launch();

  // In the foreground: -1, go on. In the background: -1 in the child, which goes on; in the
  // parent the exit code, once the child has it.
  int start();

  // The mount answers requests (code 0), or will not.
  void ready(int exit_code);
  // Tells a service manager that it is over.
  void stopping();

  // One line for people: stderr, or syslog once in the background.
  void say(std::string_view text) const;

 private:
  int wait_for_child(int child);
  void notify(const std::string& state) const;

  const bool foreground_;
  bool detached_ = false;
  int pipe_ = -1;  // to the parent, until ready()
};

}  // namespace fusefs
