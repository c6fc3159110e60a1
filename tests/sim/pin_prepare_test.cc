// Frames that are made ready a part at a time, before pages come to them: by one pin, by two at
// once, and by one that fails half way.
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/file/pin.h"
#include "tests/sim/pin_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr FileRange kTwoParts{FileBlock(1), FileBlock(1) + kPreparePages + BlockCount(20)};
constexpr auto kUntouched = std::byte{0xee};

SimVolumeOptions large_cache() {
  SimVolumeOptions options;
  options.cache_bytes = 4 * kTwoParts.count().value() * kPageBytes;
  return options;
}

// A file, and frames for two parts of it, which whoever pins them makes ready.
struct PrepareBed {
  explicit PrepareBed(const TestSeed& seed)
      : sim(seed, large_cache()),
        inode(pinnable_file(sim, "file", kTwoParts.end.value(), 1)),
        frames(
            std::make_shared<AlignedBuffer>(static_cast<size_t>(block_bytes(kTwoParts.count())))),
        model(sim.read_all(*inode)) {
    sim.world().inside([this] { sim.volume().cache().drop_clean(inode->mapping, kWholeFile); });
    std::fill_n(frames->data(), frames->size(), kUntouched);
  }

  // Each asks in order; what is ready already, for whomever, may be in use.
  PinRequest request(PinKind kind, std::function<void(FileRange)> on_prepare = {}) {
    PinRequest wanted;
    wanted.range = kTwoParts;
    wanted.kind = kind;
    wanted.frames = frames->data();
    wanted.frames_owner = frames;
    auto asked_end = std::make_shared<FileBlock>(kTwoParts.first);
    wanted.prepare = [this, asked_end, on_prepare = std::move(on_prepare)](FileRange pages) {
      CHECK(pages.first == *asked_end);
      CHECK(pages.end == std::min(pages.first + kPreparePages, kTwoParts.end));
      *asked_end = pages.end;
      make_ready(pages);
      if (on_prepare) on_prepare(pages);
    };
    return wanted;
  }
  void make_ready(FileRange pages) {
    if (pages.end <= ready_end) return;
    CHECK(pages.first == ready_end);
    ready_end = pages.end;
    const std::byte* const begin = frames->data() + block_bytes(pages.first - kTwoParts.first);
    CHECK(std::all_of(begin, begin + block_bytes(pages.count()),
                      [](std::byte value) { return value == kUntouched; }));
  }

  Result<Ref<Pin>> pin(const PinRequest& request) {
    PinStash stash;
    auto pinned = sim.world().run([&] { return begin_pin(sim.files(), *inode, request, stash); });
    sim.world().inside([&] { stash.pin.reset(); });
    return pinned;
  }
  void end(Ref<Pin>& pin) {
    REQUIRE(sim.world().run([&] { return end_pin(sim.files(), *pin); }).ok());
    sim.world().inside([&] { pin.reset(); });
  }
  // By whoever holds a pin for writing.
  void store(uint64_t page, std::byte value) {
    const size_t at = page * kPageBytes + 5;
    frames->data()[at - file_pos(kTwoParts.first)] = model[at] = value;
  }
  void require_in_frames() const {
    CHECK(std::memcmp(model.data() + file_pos(kTwoParts.first), frames->data(), frames->size()) ==
          0);
  }
  void require_read() { CHECK(sim.read_all(*inode) == model); }
  void require_nothing_pinned() {
    CHECK(inode->mapping.pinned_count() == 0);
    CHECK(inode->open_count == 0);
    CHECK(sim.files().pins.all().empty());
    CHECK(frames.use_count() == 1);
  }

  SimVolume sim;
  InodeRef inode;
  const std::shared_ptr<AlignedBuffer> frames;
  FileBlock ready_end = kTwoParts.first;
  Content model;
};

PinKind some_kind(const TestSeed& seed) {
  return seed.seed % 2 == 0 ? PinKind::read : PinKind::write;
}

TEST_CASE("frames are made ready once, in order, and before a page comes to them") {
  for_each_seed(8, [](const TestSeed& seed) {
    PrepareBed bed(seed);
    Result<Ref<Pin>> pinned = bed.pin(bed.request(some_kind(seed)));
    REQUIRE(pinned.ok());
    CHECK(bed.ready_end == kTwoParts.end);
    bed.require_in_frames();
    bed.end(pinned.value());
    bed.require_nothing_pinned();
  });
}

TEST_CASE("a pin that fails when a part of its frames is ready, or all, leaves nothing there") {
  for_each_seed(8, [](const TestSeed& seed) {
    PrepareBed bed(seed);
    const bool in_first_part = seed.seed % 4 < 2;
    std::optional<SimDevice::FaultId> fault;
    const auto break_device = [&](FileRange pages) {
      if ((pages.first == kTwoParts.first) != in_first_part) return;
      fault = bed.sim.device().add_fault(bed.sim.data_fault(IoKind::read));
    };
    CHECK(bed.pin(bed.request(some_kind(seed), break_device)).error() == Error::io_failed);
    CHECK((bed.ready_end == kTwoParts.end) == !in_first_part);
    REQUIRE(fault);
    bed.sim.device().remove_fault(*fault);
    bed.require_nothing_pinned();
    bed.require_read();

    // The same frames again, of which a part is ready.
    Result<Ref<Pin>> pinned = bed.pin(bed.request(PinKind::write));
    REQUIRE(pinned.ok());
    bed.require_in_frames();
    for (const uint64_t page : {1u, 400u, 520u}) bed.store(page, std::byte{'s'});
    bed.require_read();
    bed.end(pinned.value());
    bed.require_nothing_pinned();
    bed.require_read();
  });
}

TEST_CASE("two pins of the same frames at once make them ready once, also if one of them fails") {
  for_each_seed(16, [](const TestSeed& seed) {
    PrepareBed bed(seed);
    Random& random = bed.sim.world().random();
    const bool one_fails = seed.seed % 3 == 0;
    if (one_fails) {
      SimFault fault = bed.sim.data_fault(IoKind::read);
      fault.skip = random.below(6);
      fault.count = 1;
      bed.sim.device().add_fault(fault);
    }
    const std::array<PinKind, 2> kinds = {PinKind::write, some_kind(seed)};
    std::array<std::optional<Result<Ref<Pin>>>, 2> pinned;
    for (size_t i = 0; i < 2; ++i) {
      auto stash = std::make_shared<PinStash>();
      bed.sim.world().spawn(
          [&bed, stash, request = bed.request(kinds[i])] {
            return begin_pin(bed.sim.files(), *bed.inode, request, *stash);
          },
          [&pinned, i](Result<Ref<Pin>> result) { pinned[i].emplace(std::move(result)); });
      if (random.chance(0.7)) bed.sim.world().run_for(random.below(3'000'000));
    }
    REQUIRE(bed.sim.world().run_until([&] { return pinned[0] && pinned[1]; }));
    CHECK((pinned[0]->ok() && pinned[1]->ok()) == !one_fails);
    // Each for itself: the one that is left is whole.
    uint64_t page = 1;
    for (const size_t i : {seed.seed % 2, 1 - seed.seed % 2}) {
      if (!pinned[i]->ok()) {
        CHECK(pinned[i]->error() == Error::io_failed);
        continue;
      }
      bed.require_in_frames();
      if (kinds[i] == PinKind::write) {
        for (page += 7; page < kTwoParts.end.value(); page += 100) bed.store(page, std::byte{'s'});
      }
      bed.require_read();
      bed.end(pinned[i]->value());
    }
    bed.require_nothing_pinned();
    bed.require_read();
  });
}

}  // namespace
}  // namespace fusefs
