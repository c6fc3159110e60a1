// The memory of a window: what huge pages change, which is nothing that anybody sees.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/base/random.h"
#include "core/base/units.h"
#include "fusefs/huge_pages.h"
#include "fusefs/window_memory.h"
#include "tests/support/window_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

class NoChannel final : public Channel {
 public:
  ReadResult read(Bytes) override { return {ReadState::closed, 0}; }
  Result<void> write(std::span<const iovec>) override { return Error::device_gone; }
  int poll_fd() const override { return -1; }
};

constexpr size_t kBytes = 2 * kHugePageBytes + 5 * size_t{kBlockBytes};

}  // namespace

TEST_CASE("huge pages are where they can be, and change no byte") {
  NoChannel channel;
  const auto made = WindowMemory::create(channel, kBytes, false);
  REQUIRE(made.ok());
  WindowMemory& memory = *made.value();
  CHECK(reinterpret_cast<uintptr_t>(memory.frames()) % kHugePageBytes == 0);
  CHECK(memory.huge_bytes() == 0);

  // A program that maps it already, and has stored into it.
  void* const mapped =
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.fd(true), 0);
  REQUIRE(mapped != MAP_FAILED);
  auto* const program = static_cast<std::byte*>(mapped);
  program[kBlockBytes] = std::byte{1};
  memory.frames()[kHugePageBytes + 7] = std::byte{2};
  memory.frames()[kBytes - 1] = std::byte{3};

  memory.make_huge(0, kBlockBytes);  // less than one
  CHECK(memory.huge_bytes() == 0);
  memory.make_huge(0, kHugePageBytes);
  const size_t first = memory.huge_bytes();
  memory.make_huge(0, kBytes);
  if (first == 0) {
    MESSAGE("this kernel makes no huge pages of a memfd");
    CHECK(memory.huge_bytes() == 0);
  } else {
    CHECK(first == kHugePageBytes);
    CHECK(memory.huge_bytes() <= 2 * kHugePageBytes);
  }
  const size_t all = memory.huge_bytes();
  memory.make_huge(0, kBytes);
  CHECK(memory.huge_bytes() == all);

  for (const std::byte* view :
       {static_cast<const std::byte*>(memory.frames()), static_cast<const std::byte*>(program)}) {
    CHECK(view[kBlockBytes] == std::byte{1});
    CHECK(view[kHugePageBytes + 7] == std::byte{2});
    CHECK(view[kBytes - 1] == std::byte{3});
    CHECK(std::count(view, view + kBytes, std::byte{0}) == kBytes - 3);
  }
  memory.frames()[100] = std::byte{4};
  CHECK(program[100] == std::byte{4});
  munmap(mapped, kBytes);
}

TEST_CASE(
    "programs that open a window of huge pages at once share it, also when one of them fails") {
  for_each_seed(6, [](const TestSeed& seed) {
    WindowRig rig(seed);
    Random random(seed.seed);
    constexpr uint64_t kLen = kHugePageBytes + 20 * kPage;
    rig.model.resize(kLen);
    for (uint64_t at = 0; at < kLen; at += sizeof(at)) std::memcpy(&rig.model[at], &at, sizeof(at));
    for (uint64_t pos = 0; pos < kLen; pos += 16 * kPage) {
      const ConstBytes all(rig.model);
      const ConstBytes part = all.subspan(pos, std::min(16 * kPage, kLen - pos));
      REQUIRE(rig.write(rig.node, rig.handle, pos, part).error == 0);
    }
    REQUIRE(rig.fsync(rig.node, rig.handle).error == 0);
    const bool one_fails = seed.seed % 2 == 0;
    if (one_fails) {
      SimFault fault = rig.sim().data_fault(IoKind::read);
      fault.skip = random.below(4);
      fault.count = 1;
      rig.sim().device().add_fault(fault);
    }

    struct Program {
      uint64_t descriptor = 0;
      FakeReply reply{};
    };
    std::array<Program, 2> programs;
    std::array<uint64_t, 2> requests{};
    for (size_t i = 0; i < 2; ++i) {
      programs[i].descriptor = rig.open(rig.node, O_RDWR);
      requests[i] = rig.send_open(programs[i].descriptor, kPinned | (i == 0 ? kWrite : 0));
    }
    rig.serve();
    for (size_t i = 0; i < 2; ++i) programs[i].reply = rig.kernel().reply(requests[i]);
    CHECK((programs[0].reply.error == 0 && programs[1].reply.error == 0) == !one_fails);
    CHECK(rig.sim().world().inside([&] { return rig.server().windows().stats().huge_bytes; }) <=
          kHugePageBytes);

    if (seed.seed % 3 == 0) std::swap(programs[0], programs[1]);
    for (const Program& program : programs) {
      if (program.reply.error != 0) {
        CHECK(program.reply.error == EIO);
        continue;
      }
      const auto window = program.reply.as<fusefs_window_open>(sizeof(fuse_ioctl_out));
      std::byte* const memory = rig.memory(window);
      CHECK(std::memcmp(memory, rig.model.data(), kLen) == 0);
      if ((window.flags & kWrite) != 0) {
        for (const uint64_t at : {uint64_t{7}, kHugePageBytes - 1, kLen - 1}) {
          memory[at] = rig.model[at] = std::byte{'s'};
        }
        REQUIRE(rig.fsync(rig.node, rig.handle).error == 0);
      }
      rig.release(rig.node, program.descriptor);
    }
    CHECK(rig.holder_count() == 0);
    CHECK(rig.pin_count() == 0);
    for (uint64_t pos = 0; pos < kLen; pos += 16 * kPage) {
      const Message body = rig.read(rig.node, rig.handle, pos, 16 * kPage).body;
      REQUIRE(body.size() == std::min(16 * kPage, kLen - pos));
      CHECK(std::memcmp(body.data(), &rig.model[pos], body.size()) == 0);
    }
  });
}

}  // namespace fusefs
