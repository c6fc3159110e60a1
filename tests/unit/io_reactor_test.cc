// Reactor: requests from a socket served by threads, timers, stopping, and running to completion.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "core/io/reactor.h"
#include "core/io/run_sync.h"
#include "tests/support/real_device.h"
#include "tests/support/temp_image.h"

#include <doctest/doctest.h>

using namespace fusefs;

namespace {

// One for each request: a late one must not find the block of a later one.
constexpr uint64_t kBlocks = 1024;
constexpr uint64_t kImageBytes = kBlocks * kBlockBytes;

// Two ends of a socket that keeps messages apart.
struct SocketPair {
  SocketPair() {
    std::array<int, 2> fds = {};
    REQUIRE_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.data()), 0);
    client = OwnedFd(fds[0]);
    server = OwnedFd(fds[1]);
  }
  OwnedFd client;
  OwnedFd server;
};

// A device, its engine and some threads.
class Server {
 public:
  explicit Server(const std::string& path, SchedulerOptions options = {})
      : monitor(clock), scheduler(clock, options) {
    auto opened = UringDevice::open(path, {}, nullptr);
    REQUIRE(opened.ok());
    device = std::move(opened).value();
    group = std::make_unique<ReactorGroup>(monitor, scheduler, *device);
  }
  ~Server() { join(); }

  void start_threads(int count, RequestSource* source) {
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([this, source] {
        auto reactor = Reactor::create(*group);
        CHECK_MSG(reactor.ok(), "no ring for a thread");  // whoever waits for it would hang
        std::move(reactor).value()->run(source);
        returned.fetch_add(1);
      });
    }
  }
  void join() {
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
  void start(std::unique_ptr<Operation> operation) {
    {
      MonitorHold hold(monitor);
      scheduler.start(std::move(operation));
    }
    group->kick();
  }

  SystemClock clock;
  Monitor monitor;
  Scheduler scheduler;
  std::unique_ptr<UringDevice> device;
  std::unique_ptr<ReactorGroup> group;
  std::atomic<int> returned{0};

 private:
  std::vector<std::thread> threads;
};

// Writes a block, reads it back, and answers with the number of the request.
class EchoOperation final : public Operation {
 public:
  EchoOperation(UringDevice& device, int fd, uint32_t number)
      : device_(device), fd_(fd), number_(number), buffer_(2 * kBlockBytes) {
    std::memcpy(buffer_.data(), &number_, sizeof(number_));
  }
  const char* name() const override { return "echo"; }

  Attempt<void> attempt() override {
    const uint64_t addr = number_ % kBlocks * kBlockBytes;
    if (!written_) {
      written_ = make_ref<IoTicket>();
      device_.submit(IoRequest::write(addr, buffer_.data(), kBlockBytes), written_);
    }
    ATTEMPT_OK(written_->wait());
    if (!read_) {
      read_ = make_ref<IoTicket>();
      device_.submit(IoRequest::read(addr, buffer_.data() + kBlockBytes, kBlockBytes), read_);
    }
    ATTEMPT_OK(read_->wait());
    return {};
  }

  void finish(Result<void> outcome) override {
    uint32_t seen = UINT32_MAX;
    if (outcome.ok()) std::memcpy(&seen, buffer_.data() + kBlockBytes, sizeof(seen));
    [[maybe_unused]] const ssize_t sent = ::send(fd_, &seen, sizeof(seen), MSG_NOSIGNAL);
  }

 private:
  UringDevice& device_;
  const int fd_;
  const uint32_t number_;
  AlignedBuffer buffer_;
  Ref<IoTicket> written_;
  Ref<IoTicket> read_;
};

// Sleeps once, then answers.
class NapOperation final : public Operation {
 public:
  NapOperation(Scheduler& scheduler, uint64_t nap_ns, std::function<void()> answer)
      : scheduler_(scheduler), nap_ns_(nap_ns), answer_(std::move(answer)) {}
  const char* name() const override { return "nap"; }
  Attempt<void> attempt() override {
    const uint64_t now_ns = scheduler_.clock().monotonic_ns();
    if (deadline_ns_ == 0) {
      deadline_ns_ = now_ns + nap_ns_;
      timer_ = scheduler_.wake_at(deadline_ns_, alarm_);
    }
    if (now_ns < deadline_ns_) return restart_after(alarm_, RestartReason::idle);
    scheduler_.cancel_timer(timer_);  // without a nap it has not fired yet
    return {};
  }
  void finish(Result<void>) override { answer_(); }

 private:
  Scheduler& scheduler_;
  const uint64_t nap_ns_;
  const std::function<void()> answer_;
  uint64_t deadline_ns_ = 0;
  Scheduler::TimerId timer_ = 0;
  Waitable alarm_;
};

// Each message is a number, of which `make` makes an operation.
class SocketSource final : public RequestSource {
 public:
  using Make = std::function<std::unique_ptr<Operation>(uint32_t)>;
  SocketSource(int fd, Make make) : fd_(fd), make_(std::move(make)) {}

  int poll_fd() const override { return fd_; }
  bool receive(std::vector<std::unique_ptr<Operation>>& fresh, size_t count_max) override {
    for (size_t i = 0; i < count_max; ++i) {
      uint32_t number = 0;
      const ssize_t got = ::recv(fd_, &number, sizeof(number), MSG_DONTWAIT);
      if (got == 0) return false;
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      fresh.push_back(make_(number));
    }
    return true;
  }

 private:
  const int fd_;
  const Make make_;
};

void send_number(int fd, uint32_t number) {
  REQUIRE_EQ(::send(fd, &number, sizeof(number), 0), ssize_t{sizeof(number)});
}
uint32_t receive_number(int fd) {
  uint32_t number = 0;
  REQUIRE_EQ(::recv(fd, &number, sizeof(number), 0), ssize_t{sizeof(number)});
  return number;
}

}  // namespace

TEST_CASE("requests of one source are each answered once, whatever threads and depth there are") {
  // On a disk, where completions come by the ring, and in memory, where they come by themselves.
  for (const char* folder : {"", "/dev/shm"}) {
    if (*folder != '\0' && ::access(folder, W_OK) != 0) continue;
    TempImage image(kImageBytes, folder);
    for (const int thread_count : {1, 2}) {
      for (const uint32_t depth : {1u, 32u}) {
        CAPTURE(thread_count);
        CAPTURE(depth);
        constexpr uint32_t kRequests = 1000;
        SocketPair socket;
        Server server(image.path());
        SocketSource source(socket.server.get(), [&](uint32_t number) {
          return std::make_unique<EchoOperation>(*server.device, socket.server.get(), number);
        });
        server.start_threads(thread_count, &source);
        std::map<uint32_t, int> answers;
        for (uint32_t sent = 0, received = 0; received < kRequests; ++received) {
          while (sent < kRequests && sent < received + depth)
            send_number(socket.client.get(), sent++);
          ++answers[receive_number(socket.client.get())];
        }
        ::shutdown(socket.client.get(), SHUT_WR);  // the source is closed
        server.join();
        CHECK_EQ(server.returned.load(), thread_count);
        CHECK_EQ(answers.size(), kRequests);
        CHECK_EQ(answers.rbegin()->first, kRequests - 1);
        CHECK_EQ(server.group->stats().request_count, kRequests);
        CHECK_EQ(server.device->stats().in_flight, 0);
        CHECK_EQ(server.device->stats().of(IoKind::read).count, kRequests);
      }
    }
  }
}

TEST_CASE("requests are answered once when operations restart for no reason") {
  TempImage image(kImageBytes);
  Random forced(5);
  SchedulerOptions options;
  options.forced = &forced;
  options.forced_restart_probability = 0.2;
  options.restarts_max = 1000;
  SocketPair socket;
  Server server(image.path(), options);
  SocketSource source(socket.server.get(), [&](uint32_t number) {
    return std::make_unique<EchoOperation>(*server.device, socket.server.get(), number);
  });
  server.start_threads(2, &source);
  std::map<uint32_t, int> answers;
  for (uint32_t number = 0; number < 200; ++number) {
    send_number(socket.client.get(), number);
    ++answers[receive_number(socket.client.get())];
  }
  server.group->stop();
  server.join();
  CHECK_EQ(answers.size(), 200);
  CHECK_EQ(server.device->stats().of(IoKind::write).count, 200);
  CHECK_GT(server.scheduler.stats().restart_count[static_cast<size_t>(RestartReason::forced)], 0);
}

TEST_CASE("every timer fires, whichever thread sets it and whichever sleeps") {
  TempImage image(kImageBytes);
  constexpr uint32_t kNaps = 60;
  SocketPair socket;
  Server server(image.path());
  Random random(2);
  std::array<uint64_t, kNaps> naps_ns = {};
  for (uint64_t& nap_ns : naps_ns) nap_ns = random.below(20 * kNsPerMs);
  SocketSource source(socket.server.get(), [&](uint32_t number) {
    return std::make_unique<NapOperation>(server.scheduler, naps_ns[number], [&, number] {
      [[maybe_unused]] const ssize_t sent =
          ::send(socket.server.get(), &number, sizeof(number), MSG_NOSIGNAL);
    });
  });
  server.start_threads(2, &source);
  for (uint32_t number = 0; number < kNaps; ++number) send_number(socket.client.get(), number);
  std::map<uint32_t, int> answers;
  for (uint32_t i = 0; i < kNaps; ++i) ++answers[receive_number(socket.client.get())];
  CHECK_EQ(answers.size(), kNaps);
  server.group->stop();
  server.join();
}

TEST_CASE("a closed source lets what is under way finish before the threads return") {
  TempImage image(kImageBytes);
  SocketPair socket;
  Server server(image.path());
  std::atomic<int> finished{0};
  SocketSource source(socket.server.get(), [&](uint32_t) {
    return std::make_unique<NapOperation>(server.scheduler, 30 * kNsPerMs,
                                          [&] { finished.fetch_add(1); });
  });
  server.start_threads(2, &source);
  for (uint32_t number = 0; number < 5; ++number) send_number(socket.client.get(), number);
  socket.client = OwnedFd();
  server.join();
  CHECK_EQ(finished.load(), 5);
  CHECK_EQ(server.returned.load(), 2);
}

TEST_CASE("an operation started on a foreign thread is run by a sleeping reactor") {
  TempImage image(kImageBytes);
  Server server(image.path());
  server.start_threads(2, nullptr);
  for (int i = 0; i < 20; ++i) {
    std::atomic<bool> finished{false};
    server.start(std::make_unique<NapOperation>(server.scheduler, i % 3 * 100'000,
                                                [&] { finished = true; }));
    while (!finished) std::this_thread::yield();
  }
  server.group->stop();
  server.join();
  CHECK_EQ(server.returned.load(), 2);
}

TEST_CASE("reactors that serve nothing return when the group is stopped") {
  TempImage image(kImageBytes);
  SocketPair socket;
  Server server(image.path());
  SocketSource source(socket.server.get(), [](uint32_t) { return nullptr; });
  server.start_threads(2, &source);
  server.group->stop();
  server.join();
  CHECK_EQ(server.returned.load(), 2);
}

TEST_CASE("a call on one thread returns its value, its error, and nothing before its restarts") {
  TempImage image(kImageBytes);
  RealDevice device(image.path());
  int attempts = 0;
  const Result<int> value = device.runner().run("value", [&]() -> Attempt<int> {
    if (++attempts < 5) return restart_now();
    return 42;
  });
  REQUIRE(value.ok());
  CHECK_EQ(value.value(), 42);
  CHECK_EQ(attempts, 5);

  const Result<int> error =
      device.runner().run("error", [&]() -> Attempt<int> { return Error::corrupt; });
  REQUIRE_FALSE(error.ok());
  CHECK_EQ(error.error(), Error::corrupt);

  const Result<std::unique_ptr<int>> moved = device.runner().run(
      "moved", [&]() -> Attempt<std::unique_ptr<int>> { return std::make_unique<int>(7); });
  REQUIRE(moved.ok());
  CHECK_EQ(*moved.value(), 7);
}
