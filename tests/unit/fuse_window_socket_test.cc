// The socket of windows, with programs that are this one: memory, faults, and ends.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "fusefs/fusefs_ioctl.h"
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

// Returns the error of the answer; `memory` is what came with it, `sent` a descriptor of ours.
int ask(const OwnedFd& connection, const fusefs_window_ref& ref, uint32_t flags, OwnedFd* memory,
        int sent = -1) {
  fusefs_window_hello hello{};
  hello.version = 1;
  hello.flags = flags;
  hello.ref = ref;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part{&hello, sizeof(hello)};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (sent >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &sent, sizeof(sent));
  }
  REQUIRE(sendmsg(connection.get(), &header, MSG_NOSIGNAL) == sizeof(hello));
  fusefs_window_answer answer{};
  part = {&answer, sizeof(answer)};
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  REQUIRE(recvmsg(connection.get(), &header, MSG_CMSG_CLOEXEC) == sizeof(answer));
  if (const cmsghdr* rights = CMSG_FIRSTHDR(&header)) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
    *memory = OwnedFd(fd);
  }
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
  for (int i = 0; i < 10'000 && rig.holder_count() != 0; ++i) {
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

TEST_CASE("the faults of a program end with its connection, whatever else keeps its window") {
  WindowRig rig(TestSeed{1});
  const OwnedFd faults = empty_userfaultfd();
  if (!faults || geteuid() != 0) return;
  constexpr uint32_t kMapped = FUSEFS_WINDOW_MAPPED | kWrite;
  rig.open_window(rig.open(rig.node, O_RDWR),
                  kMapped | FUSEFS_WINDOW_SOCKET);  // so that it listens
  const auto window = rig.open_window(rig.handle, kMapped);
  const fuse_entry_out file = rig.lookup(kRoot, window.file);
  const auto serve_faults = [&](const OwnedFd& connection) {
    OwnedFd memory;
    CHECK(ask(connection, ref_of(window), 0, &memory) == 0);
    return ask(connection, ref_of(window), FUSEFS_WINDOW_HELLO_FAULTS, &memory, faults.get());
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
    for (int i = 0; i < 10'000 && error == EBUSY; ++i) {
      usleep(1000);  // until its thread has seen it
      error = serve_faults(next);
    }
    CHECK(error == 0);
    CHECK(rig.holder_count() == 2);
    program = std::move(next);
  }
  program = OwnedFd();
  rig.forget(file.nodeid, 1);
  for (int i = 0; i < 10'000 && rig.holder_count() != 1; ++i) {
    usleep(1000);
    rig.serve();
  }
  CHECK(rig.holder_count() == 1);
}

}  // namespace
}  // namespace fusefs
