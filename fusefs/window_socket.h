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
#include "fusefs/fusefs_ioctl.h"

namespace fusefs {

class Server;
class WindowFaults;

inline constexpr size_t kWindowConnectionsMax = 4096;
inline constexpr size_t kWindowConnectionsMaxPerUser = 1024;

class WindowSocket {
 public:
  explicit WindowSocket(Server& server) : server_(server) {}
  ~WindowSocket() { stop(); }
  WindowSocket(const WindowSocket&) = delete;
  WindowSocket& operator=(const WindowSocket&) = delete;

  // Listens, if it does not yet. Monitor held.
  //   Restarts  outside, until it does
  //   Errors    not_supported
  Attempt<void> start();
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
    std::atomic<bool> busy = false;      // an operation will answer
  };
  class FlushOperation;
  struct Message {
    fusefs_window_hello hello{};
    OwnedFd descriptor;
  };

  Result<std::string> listen();
  void run();
  void accept_all();
  bool serve(const std::shared_ptr<Connection>& connection);
  int handle(const std::shared_ptr<Connection>& connection, const Message& message, int* memory_fd,
             std::shared_ptr<void>* keeps, std::shared_ptr<WindowFaults>* window_faults);
  void close(Connection& connection);
  void wake();
  static std::optional<Message> receive(const Connection& connection, bool* closed);
  static bool answer(const Connection& connection, int errno_value, int memory_fd);

  Server& server_;
  // Monitor held.
  enum class Phase : uint8_t { idle, starting, listening, failed };
  Phase phase_ = Phase::idle;
  std::string address_;
  Waitable started_;

  OwnedFd listener_;
  OwnedFd wake_;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  // The thread's.
  std::vector<std::shared_ptr<Connection>> connections_;
  std::map<uint32_t, size_t> of_user_;
  bool accept_failed_ = false;  // try again in a while
};

}  // namespace fusefs
