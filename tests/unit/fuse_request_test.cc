#include <cerrno>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "tests/support/fake_kernel.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

Message message_of(uint32_t opcode, const Body& body) {
  FakeKernel kernel;
  kernel.send(opcode, wire::kRootNode, body);
  std::vector<std::byte> buffer(1 << 20);
  buffer.resize(kernel.read(buffer).len);
  return buffer;
}

void set_len(Message& message) {
  reinterpret_cast<fuse_in_header*>(message.data())->len = static_cast<uint32_t>(message.size());
}

// One good request of every kind that carries something to go wrong.
std::vector<Message> good_messages() {
  fuse_write_in write{};
  write.size = 100;
  fuse_setxattr_in setxattr{};
  setxattr.size = 5;
  fuse_ioctl_in ioctl{};
  ioctl.in_size = 24;
  const Message data(100);
  const fuse_forget_one forgets[2] = {{2, 1}, {3, 1}};
  return {
      message_of(FUSE_LOOKUP, Body().name("name")),
      message_of(FUSE_SETATTR, Body(fuse_setattr_in{})),
      message_of(FUSE_SYMLINK, Body().name("name").name("target")),
      message_of(FUSE_RENAME2, Body(fuse_rename2_in{}).name("from").name("to")),
      message_of(FUSE_WRITE, Body(write).data(data)),
      message_of(FUSE_SETXATTR, Body(setxattr).name("user.x").data(ConstBytes(data).first(5))),
      message_of(FUSE_IOCTL, Body(ioctl).data(ConstBytes(data).first(24))),
      message_of(FUSE_BATCH_FORGET, Body(fuse_batch_forget_in{2, 0}).data(bytes_of(forgets))),
      message_of(wire::kOpStatx, Body(wire::StatxIn{})),
      message_of(wire::kOpTmpfile, Body(fuse_create_in{}).name("/")),
      message_of(FUSE_COPY_FILE_RANGE, Body(fuse_copy_file_range_in{})),
  };
}

constexpr RequestLayout kLong{true};

TEST_CASE(
    "a request is good as the kernel sends it, and malformed when any of its end is missing") {
  for (const Message& good : good_messages()) {
    const auto opcode = reinterpret_cast<const fuse_in_header*>(good.data())->opcode;
    INFO(opcode_name(opcode));
    CHECK(check_request(good, kLong) == RequestCheck::good);
    for (size_t len = 0; len < good.size(); ++len) {
      Message cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(len));
      if (len >= sizeof(fuse_in_header)) set_len(cut);
      CHECK(check_request(cut, kLong) == RequestCheck::malformed);
    }
  }
}

TEST_CASE("a request that says another length than it has is malformed") {
  Message message = message_of(FUSE_LOOKUP, Body().name("name"));
  reinterpret_cast<fuse_in_header*>(message.data())->len += 1;
  CHECK(check_request(message, kLong) == RequestCheck::malformed);
}

TEST_CASE("requests that are left to the kernel's defaults, and unknown ones, are not served") {
  for (const uint32_t opcode :
       {uint32_t{FUSE_FLUSH}, uint32_t{FUSE_OPENDIR}, uint32_t{FUSE_ACCESS}, uint32_t{FUSE_SETLKW},
        uint32_t{FUSE_INIT}, 54u, 4096u, UINT32_MAX}) {
    CHECK(check_request(message_of(opcode, Body(fuse_flush_in{})), kLong) ==
          RequestCheck::not_served);
  }
}

TEST_CASE("the payload of a write lies page-aligned in its buffer, small or large") {
  BufferPool pool(kMaxWriteBytes);
  PooledBuffer buffers[] = {pool.take_small(), pool.take_large()};
  for (PooledBuffer& buffer : buffers) {
    const Bytes payload = buffer.message().subspan(wire::kWriteHeaderBytes);
    CHECK(reinterpret_cast<uintptr_t>(payload.data()) % kBlockBytes == 0);
    CHECK(payload.size() >= kBlockBytes);
  }
  CHECK(pool.take_large().message().size() >= wire::kWriteHeaderBytes + kMaxWriteBytes);
  CHECK(pool.take(kMaxWriteBytes + 2 * kBlockBytes).size() >= kMaxWriteBytes + 2 * kBlockBytes);
}

TEST_CASE(
    "a malformed request is answered with EIO, an unknown one with ENOSYS, and both counted") {
  FuseRig rig(TestSeed{1});
  Message cut = message_of(FUSE_LOOKUP, Body().name("name"));
  cut.pop_back();
  set_len(cut);
  reinterpret_cast<fuse_in_header*>(cut.data())->unique = 1001;
  rig.kernel().send_raw(cut);
  rig.kernel().send_raw(Message(7));  // not even a header: nobody to answer
  rig.serve();
  CHECK(rig.kernel().reply(1001).error == EIO);
  CHECK(rig.call(99, 1).error == ENOSYS);
  CHECK(rig.call(FUSE_FLUSH, 1, Body(fuse_flush_in{})).error == ENOSYS);
  const FuseCounters::Snapshot counters = rig.server().counters().snapshot();
  CHECK(counters.malformed_count == 2);
  CHECK(counters.not_served_count == 2);
}

TEST_CASE("no request makes the daemon fall, whatever is in it, and each is answered once") {
  for_each_seed(2, [](const TestSeed& seed) {
    FuseRig rig(seed);
    Random random(seed.seed);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    const std::vector<Message> good = good_messages();
    for (int i = 0; i < 600; ++i) {
      Message message = good[random.below(good.size())];
      auto& header = *reinterpret_cast<fuse_in_header*>(message.data());
      if (random.chance(0.5)) header.opcode = static_cast<uint32_t>(random.below(60));
      if (header.opcode == FUSE_DESTROY || header.opcode == FUSE_INIT) continue;
      header.unique = 100'000 + static_cast<uint64_t>(i) * 2;
      header.nodeid = random.chance(0.3) ? random.next() : random.chance(0.5) ? node : 1;
      for (size_t at = sizeof(header); at + 8 <= message.size(); at += 8) {
        if (random.chance(0.2)) {
          const uint64_t value = random.chance(0.5) ? random.below(9) : random.next();
          std::memcpy(&message[at], &value, sizeof(value));
        }
        if (random.chance(0.1)) std::memcpy(&message[at], &handle, sizeof(handle));
      }
      const uint64_t unique = header.unique;
      const bool answered = has_reply(header.opcode);
      rig.kernel().send_raw(std::move(message));
      rig.serve();
      CHECK(rig.kernel().reply(unique).came == answered);
    }
  });
}

}  // namespace
}  // namespace fusefs
