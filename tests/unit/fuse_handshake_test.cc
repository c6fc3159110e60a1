#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "fusefs/fd_channel.h"
#include "tests/support/fake_kernel.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

std::unique_ptr<Session> make_session(const MountOptions& options, int fd) {
  std::string message;
  auto session = Session::create("image", options, false, false, &message);
  REQUIRE(session.ok());
  REQUIRE(session.value()->adopt(fd).ok());
  return std::move(session).value();
}

uint64_t flags_of(const fuse_init_out& answer) {
  return answer.flags | (uint64_t{answer.flags2} << 32);
}

TEST_CASE("the answer to INIT has what libfuse cannot ask for, and nothing that is not offered") {
  const HandshakeOptions options;
  fuse_init_in offer = modern_offer();
  const fuse_init_out modern = make_init_answer(offer, options);
  CHECK((flags_of(modern) & FUSE_HANDLE_KILLPRIV_V2) != 0);
  CHECK((flags_of(modern) & FUSE_SETXATTR_EXT) != 0);
  CHECK((flags_of(modern) & wire::kInitDirectIoAllowMmap) != 0);
  CHECK((flags_of(modern) & FUSE_WRITEBACK_CACHE) == 0);
  CHECK((flags_of(modern) & FUSE_AUTO_INVAL_DATA) == 0);
  CHECK(modern.max_write == kMaxWriteBytes);
  CHECK(modern.minor == 45);

  for (int bit = 0; bit < 32; ++bit) {
    offer.flags = 1u << bit;
    const uint64_t answered = flags_of(make_init_answer(offer, options));
    // Without INIT_EXT the second word of the offer means nothing.
    CHECK((answered & ~uint64_t{offer.flags}) == (bit == 30 ? wire::kInitDirectIoAllowMmap : 0));
  }
  offer.minor = 99;
  CHECK(make_init_answer(offer, options).minor == wire::kMinorMax);
}

TEST_CASE("passthrough is asked for with its depth, and never with the kernel's writeback cache") {
  const auto depth_of = [](const fuse_init_out& answer) {
    uint32_t depth = 0;
    std::memcpy(&depth, reinterpret_cast<const std::byte*>(&answer) + 36, sizeof(depth));
    return depth;
  };
  HandshakeOptions options;
  fuse_init_out answer = make_init_answer(modern_offer(), options);
  CHECK((flags_of(answer) & wire::kInitPassthrough) == 0);
  CHECK(depth_of(answer) == 0);
  options.passthrough = true;
  answer = make_init_answer(modern_offer(), options);
  CHECK((flags_of(answer) & wire::kInitPassthrough) != 0);
  CHECK(depth_of(answer) == 1);
  options.kernel_writeback = true;
  answer = make_init_answer(modern_offer(), options);
  CHECK((flags_of(answer) & wire::kInitPassthrough) == 0);
  CHECK(depth_of(answer) == 0);
  options.kernel_writeback = false;
  fuse_init_in offer = modern_offer();
  offer.flags2 = 0;
  CHECK(depth_of(make_init_answer(offer, options)) == 0);
}

TEST_CASE("after the handshake statistics know what is active") {
  FuseRig rig(TestSeed{1});
  const KernelFacts& facts = rig.server().kernel();
  CHECK(facts.handshake_raw);
  CHECK(facts.protocol_minor == 45);
  CHECK(facts.killpriv_v2);
  CHECK(facts.direct_io_allow_mmap);
  CHECK(facts.copy_file_range_64);
  CHECK_FALSE(facts.fuseblk);
  CHECK(facts.transport == "dev_fuse");
}

TEST_CASE("a protocol that we do not speak, or no INIT at all, is refused in words") {
  fuse_init_in old = modern_offer();
  old.minor = 20;
  fuse_init_in other = modern_offer();
  other.major = 8;
  for (const fuse_init_in& offer : {old, other}) {
    FakeKernel kernel;
    const MountOptions options;
    const auto session = make_session(options, ::open("/dev/null", O_RDWR | O_CLOEXEC));
    kernel.send(FUSE_INIT, 0, Body(offer));
    std::string message;
    CHECK(shake_hands(kernel, session->get(), {}, &message).error() == Error::newer_version);
    CHECK(message.find("protocol") != std::string::npos);
  }
  FakeKernel kernel;
  const MountOptions options;
  const auto session = make_session(options, ::open("/dev/null", O_RDWR | O_CLOEXEC));
  kernel.send(FUSE_GETATTR, 1, Body(fuse_getattr_in{}));
  std::string message;
  CHECK_FALSE(shake_hands(kernel, session->get(), {}, &message).ok());
  kernel.close();
  CHECK(shake_hands(kernel, session->get(), {}, &message).error() == Error::device_gone);
}

// Both ends of a socket that carries messages, as /dev/fuse does.
struct Sockets {
  Sockets() {
    std::array<int, 2> ends{};
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0);
    ours = ends[0];
    theirs = ends[1];  // becomes the session's
  }
  ~Sockets() { ::close(ours); }
  int ours = -1;
  int theirs = -1;
};

Message init_message() {
  fuse_in_header header{};
  const fuse_init_in offer = modern_offer();
  header.len = sizeof(header) + sizeof(offer);
  header.opcode = FUSE_INIT;
  header.unique = 2;
  return Body(header).data(bytes_of(offer)).bytes();
}

TEST_CASE("INIT is answered exactly once, by us or, without the patch, by libfuse") {
  for (const bool patch : {true, false}) {
    Sockets sockets;
    const MountOptions mount_options;
    const auto session = make_session(mount_options, sockets.theirs);
    FdChannel channel(sockets.theirs);
    const Message init = init_message();
    REQUIRE(::write(sockets.ours, init.data(), init.size()) == static_cast<ssize_t>(init.size()));
    HandshakeOptions options;
    options.patch = patch;
    std::string message;
    const Result<KernelFacts> facts = shake_hands(channel, session->get(), options, &message);
    REQUIRE_MESSAGE(facts.ok(), message);
    CHECK(facts.value().handshake_raw == patch);
    CHECK(facts.value().killpriv_v2 == patch);
    CHECK(facts.value().posix_acl);

    std::array<std::byte, 4096> answer;
    const ssize_t len = ::recv(sockets.ours, answer.data(), answer.size(), MSG_DONTWAIT);
    REQUIRE(len == sizeof(fuse_out_header) + sizeof(fuse_init_out));
    const auto& out = *reinterpret_cast<const fuse_init_out*>(&answer[sizeof(fuse_out_header)]);
    CHECK(flags_of(out) % (uint64_t{1} << 32) == facts.value().init_flags % (uint64_t{1} << 32));
    CHECK(::recv(sockets.ours, answer.data(), answer.size(), MSG_DONTWAIT) == -1);
  }
}

}  // namespace
}  // namespace fusefs
