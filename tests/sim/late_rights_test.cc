// Mapped pins of a program that does not answer: nobody waits for it for long, nothing of what it
// stores is lost, and everybody finds its pages as he finds pinned ones.
#include <functional>
#include <memory>
#include <utility>

#include "core/file/fsync.h"
#include "tests/sim/pin_meeting.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// So long anything takes at most that has met late rights. Work outside the monitor may last until
// the flusher wakes.
constexpr uint64_t kLongNs = 5 * kNsPerSecond;

void for_each_late(uint64_t seeds, const std::function<void(Meeting&)>& body) {
  for_each_seed(seeds, [&](const TestSeed& seed) {
    SimVolumeOptions options;
    constexpr PinnedPolicy kPolicies[] = {PinnedPolicy::redirty, PinnedPolicy::keep,
                                          PinnedPolicy::unpin};
    options.pinned_policy = kPolicies[seed.seed % 3];
    Meeting meeting(seed, options, Held::mapped_late);
    body(meeting);
  });
}

uint64_t now_ns(SimVolume& sim) { return sim.world().clock().monotonic_ns(); }

// Does it in time, whatever the pinner does.
void in_time(Meeting& m, const std::function<void()>& what) {
  const uint64_t before = now_ns(m.sim);
  what();
  CHECK(now_ns(m.sim) - before < kLongNs);
}

size_t storable_count(Meeting& m) { return m.inode->mapping.storable_count(); }

// It answers again, and its pages become ordinary. It may still be late, as anybody here.
void recover(Meeting& m) {
  m.pinner->listen();
  REQUIRE(m.sim.world().run_until([&] { return storable_count(m) == 0; }));
  m.stores_during([&] { m.require_fsync(); });
}

TEST_CASE("fsync does not wait for a program that does not answer, and loses nothing it stores") {
  for_each_late(6, [](Meeting& m) {
    m.pinner->be_deaf();
    for (int i = 0; i < 4; ++i) {
      m.stores_during([&] { in_time(m, [&] { m.require_fsync(); }); });
    }
    CHECK(m.sim.files().pins.stats().late_pages != 0);
    m.require_now(m.history.now());
    m.require_after_cut();
  });
}

TEST_CASE("sync, and the flusher, do not wait for it either") {
  for_each_late(4, [](Meeting& m) {
    m.pinner->be_deaf();
    const bool first = m.sim.world().random().chance(0.5);
    if (first) REQUIRE(m.sim.world().run_for(3 * kNsPerSecond));
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] { in_time(m, [&] { REQUIRE(m.sim.sync().ok()); }); });
    m.history.made_durable(since);
    if (first) REQUIRE(m.sim.world().run_for(3 * kNsPerSecond));
    m.require_after_cut();
  });
}

TEST_CASE("when it answers again its pages are ordinary after a while, and clean when written") {
  for_each_late(4, [](Meeting& m) {
    // One page at least is ordinary and may be stored into; all may have been late already.
    do {
      REQUIRE(m.sim.world().run_until([&] { return storable_count(m) == 0; }));
      m.pinner->store(4);
    } while (storable_count(m) != 0);
    m.pinner->be_deaf();
    in_time(m, [&] { m.require_fsync(); });
    CHECK(storable_count(m) != 0);
    m.stores_during([&] { REQUIRE(m.sim.world().run_for(3 * kStorableNs)); });
    CHECK(storable_count(m) != 0);
    recover(m);
    m.require_now(m.history.now());
    const Mapping& pages = m.inode->mapping;
    REQUIRE(m.sim.world().run_until(
        [&] { return storable_count(m) + pages.dirty_count() + pages.writeback_count() == 0; }));
    for (uint64_t page = 2; page < 10; ++page) CHECK(m.pinner->right(page) != PageRight::store);
    m.pinner->store_all();
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("a right that is on its way to a program that does not answer holds up nobody") {
  for_each_late(6, [](Meeting& m) {
    m.require_fsync();
    REQUIRE(m.sim.world().run_for(3 * kStorableNs));
    m.require_fsync();
    m.pinner->be_deaf();
    bool served = false;
    m.pinner->spawn_fault(4, PinAccess::store, [&] { served = true; });
    REQUIRE(m.sim.world().run_until([&] { return m.pinner->kept_count() != 0; }));
    in_time(m, [&] { m.require_fsync(); });
    CHECK_FALSE(served);
    if (m.sim.world().random().chance(0.5)) {
      in_time(m, [&] { REQUIRE(m.sim.truncate(*m.inode, 4 * kPageBytes).ok()); });
      REQUIRE(m.sim.truncate(*m.inode, kPages * kPageBytes).ok());
      for (uint64_t page = 4; page < kPages; ++page) m.history.add(page, {});
    }
    m.pinner->listen();
    REQUIRE(m.sim.world().run_until([&] { return served; }));
    CHECK(m.pinner->right(4) != PageRight::none);  // the flusher may have been quick
    m.pinner->store(4);
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("truncate, punch and zero range under late rights: as under pinned pages") {
  for_each_late(8, [](Meeting& m) {
    m.require_fsync();
    m.pinner->store_all();
    m.pinner->be_deaf();
    if (m.seed.seed % 2 == 0) m.require_fsync();
    const std::vector<size_t> since = m.history.now();
    const auto mode =
        m.sim.world().random().chance(0.5) ? FallocateMode::punch_hole : FallocateMode::zero_range;
    m.stores_during([&] {
      for (uint64_t page = 6; page < 8; ++page) m.history.add(page, {});
      in_time(m, [&] {
        REQUIRE(m.sim.fallocate(*m.inode, mode, 6 * kPageBytes, 2 * kPageBytes, true).ok());
      });
    });
    m.require_now(since);
    // What it stores there has its blocks.
    Reservation all = m.sim.take_space();
    m.stores_during([&] { m.require_fsync(); });
    m.sim.world().inside([&] { all.release(); });
    in_time(m, [&] { REQUIRE(m.sim.truncate(*m.inode, 5 * kPageBytes).ok()); });
    m.pinner->store_where_allowed();  // beyond the end it is nobody's
    REQUIRE(m.sim.truncate(*m.inode, kPages * kPageBytes).ok());
    for (uint64_t page = 5; page < kPages; ++page) m.history.add(page, {});
    m.require_now(since);
    m.stores_during([&] { m.require_fsync(); });
    if (m.sim.world().random().chance(0.5)) {
      // What has been beyond the end may stay storable.
      m.pinner->listen();
      m.sim.world().run_for(3 * kStorableNs);
      m.stores_during([&] { m.require_fsync(); });
    }
    m.require_after_cut();
  });
}

TEST_CASE(
    "a clone from pages with late rights never sees later stores, and they have their blocks") {
  for_each_late(6, [](Meeting& m) {
    m.pinner->be_deaf();
    Inode& copy = m.create("clone");
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] {
      in_time(m, [&] { REQUIRE(m.sim.clone(*m.inode, 0, copy, 0, kPages * kPageBytes).ok()); });
    });
    const Content snapshot = m.sim.read_all(copy);
    m.history.require(snapshot, since);
    Reservation all = m.sim.take_space();
    const std::vector<size_t> after = m.history.now();
    m.stores_during([&] { m.require_fsync(); });
    m.sim.world().inside([&] { all.release(); });
    CHECK(m.sim.read_all(copy) == snapshot);
    m.require_now(after);
    if (m.seed.seed % 2 == 0) recover(m);
    CHECK(m.sim.read_all(copy) == snapshot);
    m.require_after_cut();
  });
}

TEST_CASE("a clone for whose source's next stores there is no space fails, and changes nothing") {
  for_each_late(3, [](Meeting& m) {
    Inode& copy = m.create("clone");
    m.require_fsync();
    m.pinner->store_all();
    m.pinner->be_deaf();
    m.require_fsync();
    Reservation all = m.sim.take_space();
    CHECK(m.sim.clone(*m.inode, 0, copy, 0, kPages * kPageBytes).error() == Error::no_space);
    m.stores_during([&] { m.require_fsync(); });
    m.sim.world().inside([&] { all.release(); });
    m.require_after_cut();
  });
}

TEST_CASE("a clone into, dedupe and unshare of pages with late rights lose no store") {
  for_each_late(6, [](Meeting& m) {
    PageHistory other_history(kPages);
    m.others.push_back(pinnable_file(m.sim, "other", kPages, 900, &other_history));
    Inode& other = *m.others.back();
    m.pinner->be_deaf();
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] {
      for (uint64_t page = 0; page < kPages; ++page) m.will_be(page, page + 1, 900 + page);
      in_time(m, [&] { REQUIRE(m.sim.clone(other, 0, *m.inode, 0, kPages * kPageBytes).ok()); });
      m.require_fsync();
      REQUIRE(unshare(m.sim, *m.inode, 0, 0, false).ok());
      REQUIRE(dedupe(m.sim, *m.inode, 0, other, 0, kPages * kPageBytes).same_bytes.ok());
    });
    other_history.require(m.sim.read_all(other), other_history.now());
    m.require_now(since);
    m.require_fsync();
    if (m.seed.seed % 2 == 0) recover(m);
    m.require_after_cut();
  });
}

TEST_CASE("writes of every kind over pages with late rights are in their frames, and stay there") {
  for_each_late(4, [](Meeting& m) {
    m.pinner->be_deaf();
    uint64_t word = 5000;
    for (const How how : {How::buffered, How::direct, How::dsync, How::sync, How::mapped}) {
      PageState state;
      state.fill(++word);
      const Content data = pages_of({state, state, state});
      const uint64_t first = 1 + word % 8;
      for (uint64_t page = first; page < first + 3; ++page) m.history.add(page, state);
      const std::vector<size_t> since = m.history.now();
      m.stores_during(
          [&] { in_time(m, [&] { write(m.sim, *m.inode, first * kPageBytes, data, how); }); });
      m.require_now(since);
    }
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("a program that has not answered and goes leaves what it has stored until then") {
  for_each_late(6, [](Meeting& m) {
    m.pinner->be_deaf();
    if (m.seed.seed % 2 == 0) m.require_fsync();
    m.stores_during([&] { REQUIRE(m.sim.world().run_for(kRightsWaitNs / 2)); });
    m.pinner->observe();
    const std::vector<size_t> since = m.history.now();
    m.pinner->hang_up();
    REQUIRE(m.pinner->unpin().ok());
    CHECK(m.inode->mapping.pinned_count() == 0);
    m.require_read(since);
    m.require_fsync();
    CHECK(m.inode->mapping.dirty_count() == 0);
    CHECK(m.inode->delayed_blocks == BlockCount(0));
    m.sim.world().run_for(2 * kStorableNs);
    m.pinner.reset();
    m.require_after_cut();
  });
}

TEST_CASE(
    "a device that refuses copies of pages with late rights: fsync says so, nothing is lost") {
  for_each_late(3, [](Meeting& m) {
    m.pinner->be_deaf();
    const SimDevice::FaultId id = m.sim.device().add_fault(m.sim.data_fault(IoKind::write));
    m.stores_during([&] { CHECK_FALSE(fsync(m.sim, m.inode).ok()); });
    m.require_now(m.history.now());
    m.sim.device().remove_fault(id);
    m.sim.world().run_until([&] { return m.inode->mapping.writeback_count() == 0; });
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

TEST_CASE("a program that answers when it likes loses nothing, whoever syncs and whatever is cut") {
  for_each_late(20, [](Meeting& m) {
    Random random(m.seed.seed);
    m.pinner->start();
    const int steps = 12 + static_cast<int>(random.below(12));
    for (int step = 0; step < steps; ++step) {
      switch (random.below(6)) {
        case 0:
          m.pinner->be_deaf();
          break;
        case 1:
          m.pinner->listen();
          break;
        case 2:
          m.sim.world().run_for(random.below(2 * kRightsWaitNs));
          break;
        case 3:
          m.sim.world().run_for(random.below(2 * kStorableNs));
          break;
        case 4: {
          const uint64_t page = random.below(kPages - 2);
          for (uint64_t at = page; at < page + 2; ++at) m.history.add(at, {});
          REQUIRE(m.sim
                      .fallocate(*m.inode, FallocateMode::punch_hole, page * kPageBytes,
                                 2 * kPageBytes, true)
                      .ok());
          break;
        }
        default:
          m.pinner->observe();
          in_time(m, [&] { m.require_fsync(); });
      }
    }
    m.pinner->listen();
    m.pinner->stop();
    m.require_after_cut();
  });
}

// ---- Pages that leave the hands of others while an fsync goes on ----

TEST_CASE("what was stored before an fsync is durable after it, also when the pin ends meanwhile") {
  for_each_seed(40, [](const TestSeed& seed) {
    Meeting m(seed);
    m.require_fsync();
    m.pinner->store_all();
    m.pinner->observe();
    // What it writes and waits for when it has passed the others, which are not dirty ones yet.
    PageState written;
    written.fill(7000);
    m.history.add(11, written);
    write(m.sim, *m.inode, 11 * kPageBytes, pages_of({written}));
    const std::vector<size_t> since = m.history.now();
    bool synced = false;
    OpenFile file;
    file.inode = m.inode;
    const uint64_t delay_ns = m.sim.world().random().below(200'000);
    m.sim.world().spawn(
        [&m, &file, stash = std::make_shared<FsyncStash>()]() -> Attempt<void> {
          return fsync(m.sim.files(), file, false, *stash);
        },
        [&synced](const Result<void>& result) {
          REQUIRE(result.ok());
          synced = true;
        });
    m.sim.world().run_for(delay_ns);
    Ref<Pin> pin(&m.pinner->pinned());
    m.sim.world().spawn([&m, &pin] { return end_pin(m.sim.files(), *pin); });
    REQUIRE(m.sim.world().run_until([&] { return synced; }));
    m.history.made_durable(since);
    m.sim.world().inside([&] {
      pin.reset();
      file.inode.reset();
    });
    m.require_after_cut();
  });
}

}  // namespace
}  // namespace fusefs
