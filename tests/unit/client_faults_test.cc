// What libfusefs does with the faults of a mapped window, with a daemon that we play.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <functional>
#include <thread>

#include "core/base/units.h"
#include "core/io/device_probe.h"
#include "tests/support/descriptors.h"

#include <doctest/doctest.h>

extern "C" {
#include "fusefs/client/window.h"
}
#undef fail
#undef ask
#undef connect_to

namespace fusefs {
namespace {

constexpr uint64_t kPages = 512;
constexpr uint64_t kBytes = kPages * kBlockBytes;

// More than a small stack would have room for, in each thread of this program.
thread_local std::array<char, 256 << 10> much_thread_local;

bool can_fault() {
  const OwnedFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | 1)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | (1u << 14);
  return fd && ioctl(fd.get(), UFFDIO_API, &api) == 0;
}

struct Daemon {
  using OnFault = std::function<void(Daemon&, uint64_t page)>;

  explicit Daemon(OnFault on_fault) {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    connection = OwnedFd(ends[0]);
    memory = OwnedFd(memfd_create("window", MFD_CLOEXEC));
    REQUIRE(ftruncate(memory.get(), kBytes) == 0);
    void* const at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
    REQUIRE(at != MAP_FAILED);
    program.memory = static_cast<char*>(at);
    program.bytes = kBytes;
    program.socket = ends[1];
    program.control = program.faults = program.empty = -1;
    program.watch_ends[0] = program.watch_ends[1] = -1;
    thread = std::thread([this, on_fault = std::move(on_fault)] { run(on_fault); });
    served = serve_faults(&program) == 0;
  }
  ~Daemon() {
    stop_watch(&program);
    ended = true;
    thread.join();
    munmap(program.memory, kBytes);
    for (const int fd : {program.socket, program.faults, program.empty, program.watch_ends[0],
                         program.watch_ends[1]}) {
      if (fd >= 0) close(fd);
    }
  }

  void run(const OnFault& on_fault) {
    fusefs_window_hello hello{};
    if (!receive_message(connection, hello, &faults)) return;
    const fusefs_window_answer answer{};
    (void)!write(connection.get(), &answer, sizeof(answer));
    while (!ended) {
      uffd_msg message{};
      if (read(faults.get(), &message, sizeof(message)) == sizeof(message)) {
        const uint64_t pos =
            message.arg.pagefault.address - reinterpret_cast<uint64_t>(program.memory);
        on_fault(*this, pos / kBlockBytes);
      } else {
        usleep(100);
      }
    }
    faults = OwnedFd();
  }
  void refuse(uint64_t page) {
    const fusefs_window_refusal refusal{page * kBlockBytes, kBlockBytes, ENOSPC, 0};
    (void)!write(connection.get(), &refusal, sizeof(refusal));
  }
  void let_reach(uint64_t page) {
    const char byte = 'd';
    (void)!pwrite(memory.get(), &byte, 1, static_cast<off_t>(page * kBlockBytes));
    uffdio_continue argument{};
    argument.range = {reinterpret_cast<uint64_t>(program.memory) + page * kBlockBytes, kBlockBytes};
    (void)ioctl(faults.get(), UFFDIO_CONTINUE, &argument);
  }
  void protect(uint64_t page) {
    uffdio_writeprotect argument{};
    argument.range = {reinterpret_cast<uint64_t>(program.memory) + page * kBlockBytes, kBlockBytes};
    argument.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    (void)ioctl(faults.get(), UFFDIO_WRITEPROTECT, &argument);
  }

  window program{};
  OwnedFd connection;
  OwnedFd memory;
  OwnedFd faults;
  std::atomic<bool> ended{false};
  bool served = false;
  std::thread thread;
};

// ---- Touching what may never be there ----

enum Touch { kDone, kBusError, kNeverEnds };
sigjmp_buf out;
void leave(int signal) { siglongjmp(out, signal == SIGBUS ? kBusError : kNeverEnds); }

Touch store(volatile char* at) {
  struct sigaction action {};
  action.sa_handler = leave;
  struct sigaction bus {};
  struct sigaction alarmed {};
  sigaction(SIGBUS, &action, &bus);
  sigaction(SIGALRM, &action, &alarmed);
  const int left = sigsetjmp(out, 1);
  if (left == 0) {
    alarm(20);
    *at = 's';
  }
  alarm(0);
  sigaction(SIGBUS, &bus, nullptr);
  sigaction(SIGALRM, &alarmed, nullptr);
  return static_cast<Touch>(left);
}

TEST_CASE("a program with much thread-local storage can have mapped windows") {
  if (!can_fault()) return;
  much_thread_local[0] = 1;
  Daemon daemon([](Daemon& self, uint64_t page) { self.let_reach(page); });
  REQUIRE(daemon.served);
  CHECK(store(daemon.program.memory) == kDone);
}

TEST_CASE("a refused page is tried again in a moment, however many others are refused meanwhile") {
  if (!can_fault()) return;
  std::atomic<bool> is_there{false};
  Daemon daemon(
      [&](Daemon& self, uint64_t page) { is_there ? self.let_reach(page) : self.refuse(page); });
  REQUIRE(daemon.served);
  REQUIRE(store(daemon.program.memory) == kBusError);
  is_there = true;
  constexpr size_t kMany = 60;
  std::atomic<size_t> refused{0};
  std::atomic<bool> stop{false};
  std::thread others([&] {
    for (; !stop; usleep(15'000)) {
      daemon.refuse(kPages - 1);
      ++refused;
    }
  });
  Touch touched = kBusError;
  while (touched == kBusError && refused < kMany) {
    usleep(1000);
    touched = store(daemon.program.memory);
  }
  CHECK(touched == kDone);
  stop = true;
  others.join();
}

TEST_CASE("a store that is refused while its page is being protected ends") {
  if (!can_fault()) return;
  Daemon daemon([](Daemon& self, uint64_t page) { self.refuse(page); });
  REQUIRE(daemon.served);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> page{0};
  std::thread writeback([&] {
    while (!stop) daemon.protect(page);
  });
  size_t bus_errors = 0;
  for (; page < kPages; ++page) {
    const Touch touched = store(daemon.program.memory + page * kBlockBytes);
    if (touched == kBusError) ++bus_errors;
    if (touched == kNeverEnds) break;
  }
  CHECK(bus_errors == kPages);
  stop = true;
  writeback.join();
}

TEST_CASE("a mapped window is SIGBUS when the daemon has died, also without a descriptor left") {
  if (!can_fault()) return;
  Daemon daemon([](Daemon&, uint64_t) {});
  REQUIRE(daemon.served);
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{3, before.rlim_max};  // poll(2) wants as many as it is given
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  shutdown(daemon.connection.get(), SHUT_RDWR);
  CHECK(store(daemon.program.memory) == kBusError);
  setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace fusefs
