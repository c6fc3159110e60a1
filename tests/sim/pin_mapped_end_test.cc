// What limits mapped pins, and how they end. What happens to their pages before is in
// pin_mapped_test.cc.
#include <memory>

#include "tests/sim/pin_meeting.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("mapped pages count for the limits one by one, and a mapped range has no other pins") {
  for_each_seed(3, [](const TestSeed& seed) {
    PinnableFile f(seed);
    f.sim.files().pins.bytes_max_per_user = 3 * kPageBytes;
    Pinner& pinner = f.add_pinner();
    pinner.use_faults();
    REQUIRE(pinner.pin().ok());
    pinner.store(2);
    pinner.store(9);
    REQUIRE(pinner.fault(4, PinAccess::load).ok());
    for (const PinAccess access : {PinAccess::load, PinAccess::store}) {
      CHECK(pinner.fault(5, access).error() == Error::pin_limit_per_user);
    }
    CHECK(f.inode->mapping.pinned_count() == 3);
    CHECK(f.inode->mapping.dirty_count() <= 2);
    pinner.store(4);

    Pinner beside(f.sim, f.inode, {FileBlock(0), FileBlock(1)}, f.history);
    Pinner across(f.sim, f.inode, {FileBlock(9), FileBlock(11)}, f.history);
    f.sim.files().pins.bytes_max_per_user = 100 * kPageBytes;
    CHECK(across.pin().error() == Error::too_busy);
    REQUIRE(beside.pin().ok());
    Pinner mapped(f.sim, f.inode, {FileBlock(0), FileBlock(2)}, f.history);
    mapped.use_faults();
    CHECK(mapped.pin().error() == Error::too_busy);
    REQUIRE(beside.unpin().ok());
    REQUIRE(pinner.unpin().ok());
    CHECK(f.sim.files().pins.stats().pinned_pages == 0);
    f.require_read(f.history.now());
  });
}

TEST_CASE("a mapped range that nobody has touched ends after the other pins of its user") {
  for_each_seed(2, [](const TestSeed& seed) {
    PinnableFile f(seed);
    Pinner untouched(f.sim, f.inode, {FileBlock(4), FileBlock(8)}, f.history);
    untouched.use_faults();
    REQUIRE(untouched.pin().ok());
    Pinner other(f.sim, f.inode, {FileBlock(0), FileBlock(4)}, f.history);
    REQUIRE(other.pin().ok());
    REQUIRE(other.unpin().ok());
    REQUIRE(untouched.unpin().ok());
    CHECK(f.sim.files().pins.all().empty());
    Pinner later(f.sim, f.inode, kRange, f.history);
    REQUIRE(later.pin().ok());
    REQUIRE(later.unpin().ok());
  });
}

TEST_CASE("the end of a mapped pin: what is dirty is an ordinary page, the memory is let go") {
  for_each_mapped(4, [](Meeting& m) {
    m.require_fsync();
    m.pinner->store(3);
    m.pinner->store(8);
    const std::weak_ptr<AlignedBuffer> frames = m.pinner->frames();
    Ref<Pin> pin(&m.pinner->pinned());
    REQUIRE(m.pinner->unpin().ok());
    CHECK(m.inode->mapping.pinned_count() == 0);
    CHECK(m.inode->mapping.dirty_count() <= 2);
    m.require_read(m.history.now());
    auto stash = std::make_unique<PinFaultStash>();
    bool granted = false;
    const Result<void> late = m.sim.world().run([&] {
      return fault_pinned(
          m.sim.files(), *pin, FileBlock(3), PinAccess::store, [&] { granted = true; }, *stash);
    });
    CHECK(late.error() == Error::bad_address);
    CHECK_FALSE(granted);
    m.sim.world().inside([&] {
      stash.reset();
      pin.reset();
    });
    m.pinner.reset();
    CHECK(frames.expired());
    settle(m.sim);
    m.require_read(m.history.now());
  });
}

TEST_CASE("an end that comes while faults are under way leaves none of them with a page") {
  for_each_mapped(8, [](Meeting& m) {
    m.require_fsync();
    m.sim.world().inside([&] { m.sim.volume().cache().drop_clean(m.inode->mapping, kWholeFile); });
    auto ended = std::make_shared<int>(0);
    for (uint64_t page = 2; page < 10; ++page) {
      auto stash = std::make_shared<PinFaultStash>();
      m.sim.world().spawn(
          [&m, page, stash]() -> Attempt<void> {
            const Attempt<void> faulted = fault_pinned(
                m.sim.files(), m.pinner->pinned(), FileBlock(page), PinAccess::store, [] {},
                *stash);
            if (faulted.must_restart()) return faulted;
            if (faulted.failed()) CHECK(faulted.error() == Error::bad_address);
            return {};
          },
          [ended](Result<void>) { ++*ended; });
    }
    Ref<Pin> pin(&m.pinner->pinned());
    REQUIRE(m.sim.world().run([&] { return end_pin(m.sim.files(), *pin); }).ok());
    m.sim.world().run_until([&] { return *ended == 8; });
    CHECK(m.inode->mapping.pinned_count() == 0);
    CHECK(m.sim.files().pins.all().empty());
    m.sim.world().inside([&] { pin.reset(); });
    m.pinner->forget();
    settle(m.sim);
    m.require_read(m.history.durable());
  });
}

TEST_CASE("an unlinked file whose pages are mapped lives until the pin ends") {
  for_each_mapped(2, [](Meeting& m) {
    m.require_life_until_unpin();
  });
}

}  // namespace
}  // namespace fusefs
