// The memory of a window: what huge pages change, which is nothing that anybody sees.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/base/units.h"
#include "fusefs/huge_pages.h"
#include "fusefs/window_memory.h"

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

}  // namespace fusefs
