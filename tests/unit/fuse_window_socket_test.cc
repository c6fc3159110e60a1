// The socket of windows, with programs that are this one: memory, faults, and ends.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "fusefs/fusefs_ioctl.h"
#include "tests/support/descriptors.h"
#include "tests/support/window_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

OwnedFd connect_to(const fusefs_window_open& window) {
  OwnedFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t len = std::strlen(window.socket);
  std::memcpy(address.sun_path + 1, window.socket, len);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + len);
  REQUIRE(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), bytes) == 0);
  return fd;
}

// Sends a hello with so many descriptors. False: that cannot be.
bool say_hello(const OwnedFd& connection, const fusefs_window_ref& ref, uint32_t flags,
               const std::vector<int>& sent) {
  fusefs_window_hello hello{};
  hello.version = 1;
  hello.flags = flags;
  hello.ref = ref;
  return send_message(connection, bytes_of(hello), sent);
}

// Returns the error of the answer to a hello; `memory` is what came with it.
int ask(const OwnedFd& connection, const fusefs_window_ref& ref, uint32_t flags, OwnedFd* memory,
        const std::vector<int>& sent = {}) {
  REQUIRE(say_hello(connection, ref, flags, sent));
  fusefs_window_answer answer{};
  REQUIRE(receive_message(connection, answer, memory));
  return answer.error;
}

TEST_CASE(
    "the socket hands out the memory, keeps its size, and ends the holder with the connection") {
  WindowRig rig(TestSeed{1}, false);
  const auto window = rig.open_window(rig.handle, kPinned | kWrite);
  const auto view = rig.open_window(rig.handle, kPinned);
  CHECK(window.road == FUSEFS_WINDOW_ROAD_SOCKET);
  CHECK(std::string(window.file).empty());
  fusefs_window_ref wrong = ref_of(window);
  wrong.window += 1;
  OwnedFd memory;
  OwnedFd connection = connect_to(window);
  // Who we are is no matter here: the windows are root's.
  const bool is_root = geteuid() == 0;
  CHECK(ask(connection, wrong, 0, &memory) == EACCES);
  CHECK(ask(connection, ref_of(window), 1u << 9, &memory) == EINVAL);
  if (!is_root) {
    CHECK(ask(connection, ref_of(window), 0, &memory) == EACCES);
    return;
  }
  REQUIRE(ask(connection, ref_of(window), 0, &memory) == 0);
  REQUIRE(memory);
  CHECK(ftruncate(memory.get(), 0) != 0);
  CHECK(fcntl(memory.get(), F_ADD_SEALS, F_SEAL_WRITE) != 0);
  void* const mapped =
      mmap(nullptr, window.mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  REQUIRE(mapped != MAP_FAILED);
  static_cast<char*>(mapped)[5] = 'z';
  rig.model[5] = std::byte{'z'};
  CHECK(ask(connection, ref_of(view), 0, &memory) == EINVAL);  // it is another's already

  OwnedFd second = connect_to(view);
  REQUIRE(ask(second, ref_of(view), 0, &memory) == 0);
  CHECK(mmap(nullptr, view.mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0) ==
        MAP_FAILED);

  rig.release(rig.node, rig.handle);
  CHECK(rig.holder_count() == 2);
  connection = OwnedFd();
  second = OwnedFd();
  for (int i = 0; i < 100'000 && rig.holder_count() != 0; ++i) {
    usleep(1000);  // until its thread has seen it
    rig.serve();
  }
  CHECK(rig.holder_count() == 0);
  munmap(mapped, window.mapped_bytes);
  CHECK(rig.read(rig.node, rig.open(rig.node, O_RDONLY), 0, 16 * kPage).body == rig.model);
}

// Its faults come from nowhere: nothing is registered with it.
OwnedFd empty_userfaultfd() {
  return OwnedFd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | 1)));
}

TEST_CASE("a mapped window has a connection to its memory also where it has a control file") {
  WindowRig rig(TestSeed{1});
  CHECK(rig.open_window(rig.handle, kPinned, 0, kPage).road == FUSEFS_WINDOW_ROAD_FILE);
  const auto window =
      rig.open_window(rig.handle, FUSEFS_WINDOW_MAPPED | kWrite, 8 * kPage, 8 * kPage);
  CHECK(window.road == (FUSEFS_WINDOW_ROAD_FILE | FUSEFS_WINDOW_ROAD_SOCKET));
  CHECK(connect_to(window));
}

// While it lives there is room for `count` - 1 descriptors.
struct FewDescriptors {
  explicit FewDescriptors(rlim_t count) {
    getrlimit(RLIMIT_NOFILE, &before);
    std::vector<OwnedFd> next;
    for (rlim_t i = 0; i < count; ++i) next.emplace_back(dup(0));
    const rlimit few{static_cast<rlim_t>(next.back().get()), before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
  }
  ~FewDescriptors() { setrlimit(RLIMIT_NOFILE, &before); }
  rlimit before{};
};

TEST_CASE("a socket that could not be made is made for the next window") {
  WindowRig rig(TestSeed{1}, false);
  {
    const FewDescriptors enough_for_the_memory(3);
    CHECK(rig.try_open(rig.handle, kPinned | kWrite).error == EOPNOTSUPP);
    CHECK(rig.try_open(rig.handle, kPinned | kWrite).error == EOPNOTSUPP);
  }
  CHECK(rig.holder_count() == 0);
  const auto window = rig.open_window(rig.handle, kPinned | kWrite);
  CHECK(window.road == FUSEFS_WINDOW_ROAD_SOCKET);
  CHECK(connect_to(window));
}

TEST_CASE("the faults of a program end with its connection, whatever else keeps its window") {
  WindowRig rig(TestSeed{1});
  const OwnedFd faults = empty_userfaultfd();
  if (!faults || geteuid() != 0) return;
  constexpr uint32_t kMapped = FUSEFS_WINDOW_MAPPED | kWrite;
  rig.open_window(rig.open(rig.node, O_RDWR), kMapped);
  const auto window = rig.open_window(rig.handle, kMapped);
  const fuse_entry_out file = rig.lookup(kRoot, window.file);
  const auto serve_faults = [&](const OwnedFd& connection) {
    OwnedFd memory;
    CHECK(ask(connection, ref_of(window), 0, &memory) == 0);
    return ask(connection, ref_of(window), FUSEFS_WINDOW_HELLO_FAULTS, &memory, {faults.get()});
  };
  OwnedFd program = connect_to(window);
  REQUIRE(serve_faults(program) == 0);
  OwnedFd next = connect_to(window);
  CHECK(serve_faults(next) == EBUSY);
  // The second time nothing but the control file keeps it in between.
  for (int round = 0; round < 2; ++round) {
    program = OwnedFd();
    if (round == 1) next = connect_to(window);
    int error = EBUSY;
    for (int i = 0; i < 100'000 && error == EBUSY; ++i) {
      usleep(1000);  // until its thread has seen it
      error = serve_faults(next);
    }
    CHECK(error == 0);
    CHECK(rig.holder_count() == 2);
    program = std::move(next);
  }
  program = OwnedFd();
  rig.forget(file.nodeid, 1);
  for (int i = 0; i < 100'000 && rig.holder_count() != 1; ++i) {
    usleep(1000);
    rig.serve();
  }
  CHECK(rig.holder_count() == 1);
}

// Whether the other side hangs up, whatever it says before.
bool hangs_up(const OwnedFd& connection) {
  const timeval limit{200, 0};
  setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  fusefs_window_answer answer{};
  ssize_t len = 0;
  while ((len = recv(connection.get(), &answer, sizeof(answer), 0)) > 0) {
  }
  return len == 0 || errno == ECONNRESET;
}

size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

// What has been sent is closed some time. Fewer: something of an earlier test was still open when
// they were counted. Once is enough: a connection that has come to its end may be accepted, and
// closed, still later.
bool comes_back_to(size_t count) {
  for (int i = 0; i < 100'000; ++i) {
    if (open_descriptors() <= count) return true;
    usleep(1000);
  }
  return false;
}

constexpr uint32_t kMappedBySocket = FUSEFS_WINDOW_MAPPED | kWrite | FUSEFS_WINDOW_SOCKET;

TEST_CASE("no descriptor that a program sends stays, but the one of its faults") {
  WindowRig rig(TestSeed{1}, false);
  if (geteuid() != 0) return;
  rig.open_window(rig.handle, kMappedBySocket, 8 * kPage);  // so that it listens
  const OwnedFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  const OwnedFd faults = empty_userfaultfd();
  const size_t before = open_descriptors();
  for (const size_t count : {size_t{1}, size_t{2}, size_t{3}, size_t{64}}) {
    for (const uint32_t flags : {0u, FUSEFS_WINDOW_HELLO_FAULTS}) {
      for (const bool known : {false, true}) {
        for (const int fd : {null.get(), faults.get()}) {
          CAPTURE(count);
          CAPTURE(flags);
          CAPTURE(known);
          const uint64_t handle = rig.open(rig.node, O_RDWR);
          const auto window = rig.open_window(handle, kMappedBySocket, 0, 4 * kPage);
          OwnedFd connection = connect_to(window);
          OwnedFd memory;
          if (known) REQUIRE(ask(connection, ref_of(window), 0, &memory) == 0);
          const bool may = known && flags != 0 && count == 1 && fd == faults.get();
          const std::vector<int> sent(count, fd);
          const bool could = say_hello(connection, ref_of(window), flags, sent);
          if (may) {
            REQUIRE(fd >= 0);
            CHECK(could);
          } else if (could) {
            CHECK(hangs_up(connection));
          }
          connection = OwnedFd();
          memory = OwnedFd();
          rig.release(rig.node, handle);
          for (int i = 0; i < 100'000 && rig.holder_count() != 1; ++i) {
            usleep(1000);
            rig.serve();
          }
          REQUIRE(comes_back_to(before));
        }
      }
    }
  }
}

// A descriptor whose last close(2) waits until `peer` has been closed.
OwnedFd make_lingering(OwnedFd* peer) {
  OwnedFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t len = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  OwnedFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (bind(listener.get(), any, len) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), any, &len) != 0) {
    return {};
  }
  (void)connect(fd.get(), any, len);
  *peer = OwnedFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  const std::vector<char> bytes(1 << 20);
  while (*peer && write(fd.get(), bytes.data(), bytes.size()) > 0) {
  }
  const linger wait{1, 600};
  if (setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &wait, sizeof(wait)) != 0) return {};
  return fcntl(fd.get(), F_SETFL, 0) == 0 ? std::move(fd) : OwnedFd();
}

TEST_CASE("a descriptor that cannot be closed keeps nobody waiting but who has sent it") {
  WindowRig rig(TestSeed{1}, false);
  OwnedFd lingering;
  OwnedFd peer;  // closed first
  lingering = make_lingering(&peer);
  if (geteuid() != 0 || !peer || !lingering) return;
  const auto window = rig.open_window(rig.handle, kMappedBySocket, 0, kPage);
  const auto other = rig.open_window(rig.handle, kMappedBySocket, kPage, kPage);
  OwnedFd memory;
  const OwnedFd program = connect_to(window);
  REQUIRE(ask(program, ref_of(window), 0, &memory) == 0);
  // Behind something that is answered when we say so: the last to close it is not us.
  const fusefs_window_hello flush{1, FUSEFS_WINDOW_HELLO_FLUSH, ref_of(window), 0};
  REQUIRE(send(program.get(), &flush, sizeof(flush), 0) == sizeof(flush));
  REQUIRE(say_hello(program, ref_of(window), FUSEFS_WINDOW_HELLO_FAULTS, {lingering.get()}));
  lingering = OwnedFd();
  fusefs_window_answer answer{-1, 0};
  for (int i = 0; i < 100'000; ++i) {
    rig.serve();
    if (recv(program.get(), &answer, sizeof(answer), MSG_DONTWAIT) > 0) break;
    usleep(1000);
  }
  CHECK(answer.error == 0);
  CHECK(hangs_up(program));
  // Another one is answered, and so is the end of the mount.
  const OwnedFd next = connect_to(other);
  const timeval limit{200, 0};
  setsockopt(next.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  CHECK(ask(next, ref_of(other), 0, &memory) == 0);
  rig.server().window_socket().stop();
  peer = OwnedFd();
}

}  // namespace
}  // namespace fusefs
