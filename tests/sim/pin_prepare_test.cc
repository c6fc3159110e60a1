// Frames that are made ready a part at a time, before pages come to them.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "core/file/pin.h"
#include "tests/sim/pin_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("frames are made ready once, in order, and before a page comes to them") {
  for_each_seed(8, [](const TestSeed& seed) {
    constexpr FileRange kRange{FileBlock(1), FileBlock(1) + kPreparePages + BlockCount(20)};
    constexpr auto kUntouched = std::byte{0xee};
    SimVolumeOptions options;
    options.cache_bytes = 4 * kRange.count().value() * kPageBytes;
    SimVolume sim(seed, options);
    const InodeRef inode = pinnable_file(sim, "file", kRange.end.value(), 1);
    const auto frames =
        std::make_shared<AlignedBuffer>(static_cast<size_t>(block_bytes(kRange.count())));
    std::fill_n(frames->data(), frames->size(), kUntouched);

    FileBlock prepared_end = kRange.first;
    PinRequest request;
    request.range = kRange;
    request.kind = seed.seed % 2 == 0 ? PinKind::read : PinKind::write;
    request.frames = frames->data();
    request.frames_owner = frames;
    request.prepare = [&](FileRange pages) {
      CHECK(pages.first == prepared_end);
      CHECK(pages.end == std::min(pages.first + kPreparePages, kRange.end));
      prepared_end = pages.end;
      const std::byte* const begin = frames->data() + block_bytes(pages.first - kRange.first);
      CHECK(std::all_of(begin, begin + block_bytes(pages.count()),
                        [](std::byte value) { return value == kUntouched; }));
    };
    PinStash stash;
    auto pinned = sim.world().run([&] { return begin_pin(sim.files(), *inode, request, stash); });
    sim.world().inside([&] { stash.pin.reset(); });
    REQUIRE(pinned.ok());
    CHECK(prepared_end == kRange.end);
    const std::vector<std::byte> content = sim.read_all(*inode);
    CHECK(std::memcmp(content.data() + file_pos(kRange.first), frames->data(), frames->size()) ==
          0);
    REQUIRE(sim.world().run([&] { return end_pin(sim.files(), *pinned.value()); }).ok());
    sim.world().inside([&] { pinned.value().reset(); });
  });
}

}  // namespace
}  // namespace fusefs
