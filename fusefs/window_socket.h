// WindowSocket: hands the memory of windows to programs that cannot open it as a file of the mount,
// and keeps holders for as long as their connection.
//
//     program                          thread                          operations
//     connect, hello (window, secret) -->
//                                      who is it? (SO_PEERCRED)
//                 <-- answer, memory (SCM_RIGHTS)
//     hello FLUSH -------------------> starts one ------------------>  the kernel drops its pages
//                 <---------------------------------------------------- answer
//     closes, exits, is killed ------> the holder has gone ---------->  end_window
//
// The address is abstract, so that it needs no directory, and is seen in the daemon's network
// namespace only. Anybody may connect: what he says is checked, and he has limits.
//
// A thread of its own waits for what comes. Nothing that it does blocks but the monitor: an answer
// for which there is no room ends the connection.
//
// A descriptor is taken from who holds a mapped window, one, and only if it is a userfaultfd. What
// else is sent stays unread, and the connection ends: even to drop an unread descriptor may take
// for ever (foreign_closer.h). So messages are looked at first, which changes nothing, and a
// connection that may have descriptors in it is closed elsewhere. Newer kernels let nobody send
// them from whom we do not want any.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/attempt.h"
#include "core/engine/waitable.h"
#include "core/io/device_probe.h"
#include "fusefs/foreign_closer.h"
#include "fusefs/fusefs_ioctl.h"

namespace fusefs {

class Server;
class WindowFaults;

inline constexpr size_t kWindowConnectionsMax = 4096;
inline constexpr size_t kWindowConnectionsMaxPerUser = 1024;
// Connections, and what came on them, that cannot be closed: from here on nobody is let in.
inline constexpr size_t kWindowClosingMax = 4096;

class WindowSocket {
 public:
  explicit WindowSocket(Server& server) : server_(server) {}
  ~WindowSocket() { stop(); }
  WindowSocket(const WindowSocket&) = delete;
  WindowSocket& operator=(const WindowSocket&) = delete;

  struct StartStash {
    uint64_t awaited = 0;  // the try that it waits for
  };
  // Listens, if it does not yet. Monitor held.
  //   Restarts  outside, until it does
  //   Errors    not_supported: not now; the next may have more luck
  Attempt<void> start(StartStash& stash);
  // Without the leading zero byte; empty while it does not listen. Monitor held.
  const std::string& address() const { return address_; }
  // Closes all connections; holders stay as they are. Without the monitor.
  void stop();

 private:
  struct Connection {
    OwnedFd fd;
    uint32_t uid = 0;
    uint64_t holder = 0;                 // its number; 0: none yet. The thread's
    std::weak_ptr<WindowFaults> faults;  // that its holder's come by it. The thread's
    bool takes_faults = false;           // its holder's window is a mapped one. The thread's
    bool may_carry = true;               // descriptors may lie in it. The thread's
    std::atomic<bool> busy = false;      // an operation will answer
  };
  class FlushOperation;
  struct Message {
    fusefs_window_hello hello{};
    bool carries = false;  // descriptors
  };

  Result<std::string> listen();
  void run();
  void accept_all();
  bool serve(const std::shared_ptr<Connection>& connection);
  int handle(const std::shared_ptr<Connection>& connection, const fusefs_window_hello& hello,
             int* memory_fd, std::shared_ptr<void>* keeps,
             std::shared_ptr<WindowFaults>* window_faults);
  int attach(Connection& connection, const fusefs_window_hello& hello, WindowFaults& faults,
             const OwnedFd& descriptor);
  void close(Connection& connection);
  void hang_up(uint32_t uid, OwnedFd fd, bool may_carry);
  void wake();
  static std::optional<Message> look(const Connection& connection, bool* closed);
  OwnedFd take_userfaultfd(const Connection& connection);
  static bool answer(const Connection& connection, int errno_value, int memory_fd);

  Server& server_;
  // Monitor held.
  enum class Phase : uint8_t { idle, starting, listening };
  Phase phase_ = Phase::idle;
  uint64_t tries_ = 0;
  uint64_t failed_try_ = 0;  // the last that did
  std::string address_;
  Waitable started_;

  OwnedFd listener_;
  OwnedFd wake_;
  bool forbids_descriptors_ = false;  // the kernel does, where we have not asked for them
  ForeignCloser closer_;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  // The thread's.
  std::vector<std::shared_ptr<Connection>> connections_;
  std::map<uint32_t, size_t> of_user_;
  bool accept_failed_ = false;  // try again in a while
};

}  // namespace fusefs
