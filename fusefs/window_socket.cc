#include "fusefs/window_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/base/random.h"
#include "fusefs/server.h"
#include "fusefs/window_end.h"

namespace fusefs {
namespace {

constexpr int kAcceptPauseMs = 100;

// Of newer kernels' headers (Linux 6.16): whether descriptors can be sent to this socket.
constexpr int kPassRights = 83;

bool let_send_descriptors(const OwnedFd& fd, bool on) {
  const int value = on ? 1 : 0;
  return setsockopt(fd.get(), SOL_SOCKET, kPassRights, &value, sizeof(value)) == 0;
}

}  // namespace

// ---- Starting and stopping ----

Attempt<void> WindowSocket::start(StartStash& stash) {
  if (phase_ == Phase::listening) return {};
  if (stash.awaited != 0 && stash.awaited <= failed_try_) return Error::not_supported;
  if (phase_ == Phase::starting) {
    stash.awaited = tries_;
    return restart_after(started_, RestartReason::data_io);
  }
  phase_ = Phase::starting;
  stash.awaited = ++tries_;
  return restart_after_outside([this] {
    Result<std::string> address = listen();
    if (address.ok()) {
      try {
        thread_ = std::thread([this] { run(); });
      } catch (const std::system_error&) {
        listener_ = OwnedFd();
        address = Error::not_supported;
      }
    }
    const MonitorHold hold(server_.monitor());
    if (address.ok()) {
      phase_ = Phase::listening;
      address_ = std::move(address).value();
    } else {
      phase_ = Phase::idle;
      failed_try_ = tries_;
    }
    started_.wake_all();
  });
}

Result<std::string> WindowSocket::listen() {
  char name[32];
  std::snprintf(name, sizeof(name), "fusefs-%016llx", static_cast<unsigned long long>(entropy()));
  wake_ = OwnedFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  listener_ = OwnedFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // Connections have it from the listener.
  forbids_descriptors_ = listener_ && let_send_descriptors(listener_, false);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t len = std::strlen(name);
  std::memcpy(address.sun_path + 1, name, len);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + len);
  const bool listens =
      wake_ && listener_ &&
      bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), bytes) == 0 &&
      ::listen(listener_.get(), SOMAXCONN) == 0;
  if (!listens) return Error::not_supported;
  return std::string(name);
}

void WindowSocket::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  wake();
  thread_.join();
  for (const auto& connection : connections_) {
    hang_up(connection->uid, std::move(connection->fd), connection->may_carry);
  }
  connections_.clear();
  // Who has not been accepted may have sent something, too.
  hang_up(0, std::move(listener_), !forbids_descriptors_);
}

void WindowSocket::wake() {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
}

// ---- The thread ----

void WindowSocket::run() {
  std::vector<pollfd> waiting;
  while (!stopping_.load()) {
    waiting.clear();
    waiting.push_back({wake_.get(), POLLIN, 0});
    waiting.push_back({accept_failed_ ? -1 : listener_.get(), POLLIN, 0});
    for (const auto& connection : connections_) {
      // What is behind a question comes after its answer.
      waiting.push_back({connection->busy.load() ? -1 : connection->fd.get(), POLLIN, 0});
    }
    const int timeout_ms = std::exchange(accept_failed_, false) ? kAcceptPauseMs : -1;
    if (poll(waiting.data(), waiting.size(), timeout_ms) < 0) continue;
    uint64_t woken = 0;
    (void)!read(wake_.get(), &woken, sizeof(woken));
    for (size_t i = connections_.size(); i-- > 0;) {
      if (waiting[i + 2].revents == 0 || serve(connections_[i])) continue;
      close(*connections_[i]);
      connections_.erase(connections_.begin() + static_cast<ptrdiff_t>(i));
    }
    if (waiting[1].revents != 0) accept_all();
  }
}

void WindowSocket::accept_all() {
  while (true) {
    if (closer_.count() >= kWindowClosingMax) {
      accept_failed_ = true;
      return;
    }
    OwnedFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      // Who waits to be accepted stays readable: without a descriptor left we would not rest.
      accept_failed_ = errno != EAGAIN && errno != EINTR && errno != ECONNABORTED;
      return;
    }
    ucred peer{};
    socklen_t len = sizeof(peer);
    (void)getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &len);  // it has one
    const auto of_user = of_user_.find(peer.uid);
    const size_t count_of_user =
        (of_user == of_user_.end() ? 0 : of_user->second) + closer_.count_of(peer.uid);
    if (connections_.size() >= kWindowConnectionsMax ||
        count_of_user >= kWindowConnectionsMaxPerUser) {
      hang_up(peer.uid, std::move(fd), !forbids_descriptors_);
      continue;
    }
    ++of_user_[peer.uid];
    auto connection = std::make_shared<Connection>();
    connection->fd = std::move(fd);
    connection->uid = peer.uid;
    connection->may_carry = !forbids_descriptors_;
    connections_.push_back(std::move(connection));
    const MonitorHold hold(server_.monitor());
    server_.windows().counters().connections = connections_.size();
  }
}

// The program hears it at once.
void WindowSocket::hang_up(uint32_t uid, OwnedFd fd, bool may_carry) {
  (void)shutdown(fd.get(), SHUT_RDWR);
  if (may_carry) closer_.close(uid, std::move(fd));
}

// An operation may still know the connection; not its descriptor any more.
void WindowSocket::close(Connection& connection) {
  hang_up(connection.uid, std::move(connection.fd), connection.may_carry);
  const auto of_user = of_user_.find(connection.uid);
  if (--of_user->second == 0) of_user_.erase(of_user);
  {
    const MonitorHold hold(server_.monitor());
    --server_.windows().counters().connections;
    // Something else may keep the holder; its faults came with this program.
    if (const auto faults = connection.faults.lock()) faults->detach(connection.holder);
    if (connection.holder != 0) server_.windows().drop_connection(connection.holder);
  }
  if (server_.engine().reactors != nullptr) server_.engine().reactors->kick();
}

// ---- A connection ----

// Takes the message without what it carries, which must be in other hands too.
void drop_message(const OwnedFd& connection) {
  msghdr header{};
  (void)recvmsg(connection.get(), &header, MSG_DONTWAIT);
}

// The next message, which stays where it is. Null: nothing has come, or, with `closed`, nothing
// that we want.
std::optional<WindowSocket::Message> WindowSocket::look(const Connection& connection,
                                                        bool* closed) {
  Message message;
  iovec part{&message.hello, sizeof(message.hello)};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  const ssize_t len = recvmsg(connection.fd.get(), &header, MSG_PEEK | MSG_DONTWAIT);
  if (len < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  // Nothing else has ever been part of the conversation.
  *closed =
      len != static_cast<ssize_t>(sizeof(message.hello)) || (header.msg_flags & MSG_TRUNC) != 0;
  message.carries = (header.msg_flags & MSG_CTRUNC) != 0;
  if (!*closed) return message;
  // Its sender would find the connection reset. At an end, or an error, what follows is unknown.
  if (len > 0 && !message.carries) drop_message(connection.fd);
  return std::nullopt;
}

// Takes the next message and the descriptor that it carries. Null: that is none for faults, or not
// the only one, and the connection is at its end.
OwnedFd WindowSocket::take_userfaultfd(const Connection& connection) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr header{};
  header.msg_control = control.data();
  header.msg_controllen = CMSG_LEN(sizeof(int));  // the space is enough for two
  (void)recvmsg(connection.fd.get(), &header, MSG_PEEK | MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  const cmsghdr* const rights = CMSG_FIRSTHDR(&header);
  if (rights == nullptr || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS ||
      rights->cmsg_len != CMSG_LEN(sizeof(int))) {
    return {};
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
  OwnedFd descriptor(fd);
  const bool is_alone = (header.msg_flags & MSG_CTRUNC) == 0;
  if (is_alone) drop_message(connection.fd);
  if (is_alone && is_userfaultfd(fd)) return descriptor;
  closer_.close(connection.uid, std::move(descriptor));
  return {};
}

bool WindowSocket::answer(const Connection& connection, int errno_value, int memory_fd) {
  fusefs_window_answer body{};
  body.error = errno_value;
  iovec part{&body, sizeof(body)};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (memory_fd >= 0) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &memory_fd, sizeof(memory_fd));
  }
  return sendmsg(connection.fd.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(sizeof(body));
}

// One message. False: the connection is at its end.
bool WindowSocket::serve(const std::shared_ptr<Connection>& connection) {
  bool closed = false;
  const std::optional<Message> message = look(*connection, &closed);
  if (!message) return !closed;
  const fusefs_window_hello& hello = message->hello;
  OwnedFd descriptor;
  if (message->carries) {
    const bool wanted = connection->takes_faults && (hello.flags & FUSEFS_WINDOW_HELLO_FAULTS) != 0;
    if (wanted) descriptor = take_userfaultfd(*connection);
    if (!descriptor) {
      (void)answer(*connection, EINVAL, -1);
      return false;
    }
  } else {
    drop_message(connection->fd);
  }
  int memory_fd = -1;
  std::shared_ptr<void> keeps;
  std::shared_ptr<WindowFaults> faults;
  int error = handle(connection, hello, &memory_fd, &keeps, &faults);
  if (faults) {
    error = attach(*connection, hello, *faults, descriptor);
    if (error == 0) connection->faults = faults;
  }
  // The last of a userfaultfd waits for its program's address space.
  closer_.close(connection->uid, std::move(descriptor));
  if (connection->busy.load()) {
    if (server_.engine().reactors != nullptr) server_.engine().reactors->kick();
    return true;
  }
  return answer(*connection, error, memory_fd);
}

// Returns an errno, or 0.
int WindowSocket::attach(Connection& connection, const fusefs_window_hello& hello,
                         WindowFaults& faults, const OwnedFd& descriptor) {
  // If it is not taken it is closed there: not as the last of its kind, which could take time.
  OwnedFd taken(descriptor ? fcntl(descriptor.get(), F_DUPFD_CLOEXEC, 0) : -1);
  OwnedFd refusals(fcntl(connection.fd.get(), F_DUPFD_CLOEXEC, 0));
  const Result<void> attached =
      !refusals || (descriptor && !taken)
          ? Result<void>(Error::no_memory)
          : faults.attach(connection.holder, std::move(taken), hello.address, std::move(refusals));
  return attached.ok() ? 0 : error_errno(attached.error());
}

// Answers that come when the kernel has dropped its pages.
class WindowSocket::FlushOperation final : public Operation {
 public:
  FlushOperation(Server& server, WindowSocket& socket, std::shared_ptr<Connection> connection,
                 std::shared_ptr<WindowHolder> holder)
      : server_(server),
        socket_(socket),
        connection_(std::move(connection)),
        holder_(std::move(holder)) {}

  const char* name() const override { return "flush_window"; }
  Attempt<void> attempt() override { return refresh_window(server_, *holder_->window, refresh_); }
  void finish(Result<void> outcome) override {
    (void)answer(*connection_, outcome.ok() ? 0 : error_errno(outcome.error()), -1);
    connection_->busy.store(false);
    socket_.wake();
  }

 private:
  Server& server_;
  WindowSocket& socket_;
  const std::shared_ptr<Connection> connection_;
  const std::shared_ptr<WindowHolder> holder_;
  RefreshStash refresh_;
};

// Returns an errno, or 0. `keeps` keeps the descriptor open until it has been sent.
int WindowSocket::handle(const std::shared_ptr<Connection>& connection,
                         const fusefs_window_hello& hello, int* memory_fd,
                         std::shared_ptr<void>* keeps,
                         std::shared_ptr<WindowFaults>* window_faults) {
  constexpr uint32_t kKnown =
      FUSEFS_WINDOW_HELLO_HAS_MEMORY | FUSEFS_WINDOW_HELLO_FAULTS | FUSEFS_WINDOW_HELLO_FLUSH;
  const bool faults = (hello.flags & FUSEFS_WINDOW_HELLO_FAULTS) != 0;
  const bool flush = (hello.flags & FUSEFS_WINDOW_HELLO_FLUSH) != 0;
  if (hello.version != 1 || (hello.flags & ~kKnown) != 0 || (faults && flush)) return EINVAL;

  const MonitorHold hold(server_.monitor());
  Windows& windows = server_.windows();
  const auto holder = windows.find(hello.ref.window, {hello.ref.secret[0], hello.ref.secret[1]});
  const bool may = holder && (connection->uid == 0 || connection->uid == holder->window->uid);
  if (!may) return EACCES;
  if (flush) {
    ++windows.counters().flush_count;
    connection->busy.store(true);
    server_.scheduler().start(std::make_unique<FlushOperation>(server_, *this, connection, holder));
    return 0;
  }
  if (faults) {
    const bool is_its = connection->holder == holder->number && holder->window->faults;
    if (!is_its) return EINVAL;
    *window_faults = holder->window->faults;
    return 0;
  }
  if (connection->holder != 0 && connection->holder != holder->number) return EINVAL;
  if (connection->holder == 0) {
    connection->holder = holder->number;
    windows.add_connection(*holder);
    windows.note_taken(holder);
    if (holder->window->kind == WindowKind::mapped) {
      connection->takes_faults = connection->may_carry = true;
      if (forbids_descriptors_) (void)let_send_descriptors(connection->fd, true);
    }
  }
  if ((hello.flags & FUSEFS_WINDOW_HELLO_HAS_MEMORY) == 0) {
    *keeps = holder->window->memory;
    *memory_fd = holder->window->memory->fd(holder->writable);
  }
  return 0;
}

}  // namespace fusefs
