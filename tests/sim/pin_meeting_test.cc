// What happens to the file under a pin, with a pinner that stores all the time: each meeting, and
// what is left of it. The table is in docs/PINS.md.
#include "tests/sim/pin_meeting.h"

#include <functional>

#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

void for_each_meeting(uint64_t seeds, const std::function<void(Meeting&)>& body) {
  for_each_policy(seeds, [&](const TestSeed& seed, const SimVolumeOptions& options) {
    Meeting meeting(seed, options);
    body(meeting);
  });
}

TEST_CASE("fsync under a pinner that stores all the time ends, and is durable") {
  for_each_meeting(4, [](Meeting& m) {
    const uint64_t stores = m.stores_during([&] {
      for (int i = 0; i < 5; ++i) m.require_fsync();
    });
    CHECK(stores > 0);
    m.require_after_cut();
  });
}

TEST_CASE("truncate below a pin: beyond the end is nothing, and growing again shows zeroes") {
  for_each_meeting(4, [](Meeting& m) {
    m.require_fsync();
    m.stores_during([&] { REQUIRE(m.sim.truncate(*m.inode, 5 * kPageBytes).ok()); });
    CHECK(m.inode->mapping.storable_count() == kRange.count().value());
    CHECK(m.inode->attr.size == 5 * kPageBytes);
    std::byte* const frame = m.pinner->frame(7);
    // Stores beyond the end go to the same memory, and are lost.
    m.stores_during([&] {
      REQUIRE(fsync(m.sim, m.inode).ok());
      m.sim.world().run_for(5 * kNsPerSecond);
    });
    CHECK(extents_of(m.sim, *m.inode).back().range.end == FileBlock(5));
    m.pinner->stop();
    m.pinner->store_all();
    put_sector(m.pinner->frame(7), 3, 4242);
    // Growing shows zeroes, whoever grows it.
    if (m.seed.seed % 3 == 0) {
      REQUIRE(m.sim.truncate(*m.inode, kPages * kPageBytes).ok());
    } else {
      const How how = m.seed.seed % 3 == 1 ? How::buffered : How::direct;
      Content zeroes(kPageBytes);
      write(m.sim, *m.inode, (kPages - 1) * kPageBytes, zeroes, how);
    }
    CHECK(m.pinner->frame(7) == frame);
    const Content content = m.sim.read_all(*m.inode);
    REQUIRE(content.size() == kPages * kPageBytes);
    CHECK(std::all_of(content.begin() + 5 * kPageBytes, content.end(),
                      [](std::byte byte) { return byte == std::byte{0}; }));
    m.pinner->observe();
    PageState zero{};
    m.history.add(10, zero);
    m.history.add(11, zero);
    const std::vector<size_t> since = m.history.now();
    m.pinner->store(8);
    m.require_now(since);
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

TEST_CASE("truncate within a pinned page: what is stored behind the end stays out of the file") {
  for_each_meeting(3, [](Meeting& m) {
    const uint64_t size = 6 * kPageBytes + 2 * kPinSectorBytes;
    m.stores_during([&] {
      REQUIRE(m.sim.truncate(*m.inode, size).ok());
      REQUIRE(fsync(m.sim, m.inode).ok());
    });
    put_sector(m.pinner->frame(6), 5, 4242);  // beyond the end
    REQUIRE(fsync(m.sim, m.inode).ok());
    REQUIRE(m.sim.truncate(*m.inode, kPages * kPageBytes).ok());
    const Content content = m.sim.read_all(*m.inode);
    CHECK(std::all_of(content.begin() + static_cast<ptrdiff_t>(size), content.end(),
                      [](std::byte byte) { return byte == std::byte{0}; }));
    // What was there once comes again: it is a change all the same.
    const uint64_t word = state_of(m.pinner->frame(6)).value()[0];
    for (size_t sector = 0; sector < kPinSectors; ++sector) {
      put_sector(m.pinner->frame(6), sector, word);
    }
    m.pinner->observe();
    m.history.add(10, {});
    m.history.add(11, {});
    const std::vector<size_t> since = m.history.now();
    m.require_now(since);
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("punch and zero range under a pin: zeroes at once, and stores after it count") {
  for_each_meeting(4, [](Meeting& m) {
    m.require_fsync();
    const auto mode = m.seed.seed % 2 == 0 ? FallocateMode::punch_hole : FallocateMode::zero_range;
    m.pinner->stop();
    REQUIRE(m.sim.fallocate(*m.inode, mode, 4 * kPageBytes, 3 * kPageBytes, true).ok());
    for (uint64_t page = 4; page < 7; ++page) CHECK(state_of(m.pinner->frame(page)) == PageState{});
    // The hole costs nothing until somebody stores there.
    m.pinner->observe();
    m.require_fsync();
    if (mode == FallocateMode::punch_hole) {
      bool hole = false;
      for (const Extent& extent : extents_of(m.sim, *m.inode)) {
        hole = hole || (extent.state == ExtentState::hole && extent.range.contains(FileBlock(5)));
      }
      CHECK(hole);
    }
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] {
      m.history.add(6, {});
      m.history.add(7, {});
      REQUIRE(m.sim.fallocate(*m.inode, mode, 6 * kPageBytes, 2 * kPageBytes, true).ok());
    });
    m.require_now(since);
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

TEST_CASE("punch over a page that a pin for reading holds: zeroes, and clean") {
  for_each_seed(3, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef inode = pinnable_file(sim, "file", kPages, 1);
    PinStash stash;
    const PinRequest request{kRange, PinKind::read, 0, false, nullptr, nullptr};
    Ref<Pin> pin =
        sim.world().run([&] { return begin_pin(sim.files(), *inode, request, stash); }).value();
    REQUIRE(
        sim.write(*inode, 4 * kPageBytes, Content(kPageBytes, std::byte{5}), How::buffered).ok());
    REQUIRE(
        sim.fallocate(*inode, FallocateMode::punch_hole, 4 * kPageBytes, kPageBytes, true).ok());
    CHECK(state_of(pin->frame(FileBlock(4))) == PageState{});
    CHECK(inode->mapping.dirty_count() == 0);
    CHECK(inode->delayed_blocks == BlockCount(0));
    REQUIRE(sim.truncate(*inode, 3 * kPageBytes).ok());
    CHECK(state_of(pin->frame(FileBlock(8))) == PageState{});
    REQUIRE(sim.world().run([&] { return end_pin(sim.files(), *pin); }).ok());
    CHECK(inode->mapping.size() <= 1);
    sim.world().inside([&] {
      pin.reset();
      stash.pin.reset();
    });
  });
}

TEST_CASE("a clone taken under a pin never sees later stores through the pin") {
  for_each_meeting(4, [](Meeting& m) {
    Inode& copy = m.create("clone");
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] { REQUIRE(m.sim.clone(*m.inode, 0, copy, 0, kPages * kPageBytes).ok()); });
    const Content snapshot = m.sim.read_all(copy);
    m.history.require(snapshot, since);
    const std::vector<size_t> after = m.history.now();
    for (int i = 0; i < 3; ++i) {
      m.stores_during([&] { m.require_fsync(); });
      m.pinner->store_all();
      CHECK(m.sim.read_all(copy) == snapshot);
    }
    m.require_now(after);
    REQUIRE(m.pinner->unpin().ok());
    settle(m.sim);
    CHECK(m.sim.read_all(copy) == snapshot);
    m.require_read(m.history.now());
    CHECK(m.inode->delayed_blocks == BlockCount(0));
  });
}

TEST_CASE("a clone into a pinned range: the frames get the bytes, and the pages are stored into") {
  for_each_meeting(4, [](Meeting& m) {
    PageHistory other_history(kPages);
    m.others.push_back(pinnable_file(m.sim, "other", kPages, 900, &other_history));
    Inode& other = *m.others.back();
    for (uint64_t page = 0; page < kPages; ++page) m.will_be(page, page + 1, 900 + page);
    const std::vector<size_t> since = m.history.now();
    REQUIRE(m.sim.clone(other, 0, *m.inode, 0, kPages * kPageBytes).ok());
    for (uint64_t page = 2; page < 10; ++page) {
      CHECK(state_of(m.pinner->frame(page)) == other_history.last(page));
    }
    // They share their blocks until somebody stores.
    settle(m.sim);
    const uint64_t bounced = m.sim.files().pins.stats().bounced_bytes;
    m.require_fsync();
    CHECK(m.sim.files().pins.stats().bounced_bytes == bounced);
    m.require_now(since);
    m.stores_during([&] {
      REQUIRE(m.sim.clone(other, 0, *m.inode, 0, kPages * kPageBytes).ok());
      m.require_fsync();
    });
    other_history.require(m.sim.read_all(other), other_history.now());
    m.require_after_cut();
  });
}

TEST_CASE("dedupe with a pin on either side shares what was the same, and loses no store") {
  for_each_meeting(3, [](Meeting& m) {
    const bool pinned_is_source = m.seed.seed % 2 == 0;
    Inode& twin = m.create("twin");
    const Content content = m.sim.read_all(*m.inode);
    write(m.sim, twin, 0, content, How::direct);
    settle(m.sim);
    Inode& from = pinned_is_source ? *m.inode : twin;
    Inode& to = pinned_is_source ? twin : *m.inode;
    const Deduped result = dedupe(m.sim, from, 0, to, 0, content.size());
    REQUIRE(result.same_bytes.ok());
    CHECK(result.same_bytes.value() == content.size());
    CHECK(result.shared == content.size());
    m.require_read(m.history.now());
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] {
      m.require_fsync();
      REQUIRE(dedupe(m.sim, from, 0, to, 0, content.size()).same_bytes.ok());
    });
    CHECK(m.sim.read_all(twin) == content);
    m.require_now(since);
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("unshare under a pin") {
  for_each_meeting(2, [](Meeting& m) {
    Inode& copy = m.create("clone");
    REQUIRE(m.sim.clone(*m.inode, 0, copy, 0, kPages * kPageBytes).ok());
    const Content snapshot = m.sim.read_all(copy);
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] { REQUIRE(unshare(m.sim, *m.inode, 0, 0, false).ok()); });
    CHECK(m.sim.read_all(copy) == snapshot);
    m.require_now(since);
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

TEST_CASE("an unlinked file lives until its last pin ends, and goes then") {
  for_each_meeting(2, [](Meeting& m) {
    m.require_life_until_unpin();
  });
}

TEST_CASE("buffered, direct and synchronous writes over a pin are in its frames, and stay there") {
  for_each_meeting(4, [](Meeting& m) {
    uint64_t word = 5000;
    for (const How how : {How::buffered, How::direct, How::dsync, How::sync, How::mapped}) {
      ++word;
      PageState state;
      state.fill(word);
      const Content data = pages_of({state, state, state});
      const uint64_t first = 1 + word % 8;
      // Nobody stores: exactly this is there.
      m.pinner->stop();
      write(m.sim, *m.inode, first * kPageBytes, data, how);
      for (uint64_t page = first; page < first + 3; ++page) {
        m.history.add(page, state);
        if (kRange.contains(FileBlock(page))) CHECK(state_of(m.pinner->frame(page)) == state);
      }
      m.require_now(m.history.now());
      // Somebody stores meanwhile.
      const std::vector<size_t> since = m.history.now();
      state.fill(word + 500);
      m.will_be(first, first + 3, word + 500);
      m.stores_during([&] {
        write(m.sim, *m.inode, first * kPageBytes, pages_of({state, state, state}), how);
        if (how != How::dsync && how != How::sync) REQUIRE(fsync(m.sim, m.inode).ok());
      });
      m.require_now(since);
      // Of a synchronous write what it wrote is durable, and nothing else.
      std::vector<size_t> durable = m.history.durable();
      for (uint64_t page = first; page < first + 3; ++page) durable[page] = since[page];
      m.history.made_durable(durable);
    }
    CHECK(m.inode->mapping.storable_count() == kRange.count().value());
    m.require_after_cut();
  });
}

TEST_CASE("a write of a part of a pinned block keeps what has been stored beside it") {
  for_each_meeting(2, [](Meeting& m) {
    for (const How how : {How::buffered, How::direct, How::dsync}) {
      PageState expected = *state_of(m.pinner->frame(4));
      const uint64_t word = 0x1111 * (1 + static_cast<uint64_t>(how));
      expected[3] = word;
      Content sector(kPinSectorBytes);
      for (size_t i = 0; i < kPinSectorBytes; i += 8) std::memcpy(&sector[i], &word, 8);
      write(m.sim, *m.inode, 4 * kPageBytes + 3 * kPinSectorBytes, sector, how);
      CHECK(state_of(m.pinner->frame(4)) == expected);
      m.pinner->observe();
    }
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("a size that waits for a pinned page is saved by fsync and at the end of the pin") {
  for_each_meeting(3, [](Meeting& m) {
    const uint64_t size = 6 * kPageBytes + kPinSectorBytes;
    REQUIRE(m.sim.truncate(*m.inode, size).ok());
    REQUIRE(m.sim.sync().ok());
    const Content sector(kPinSectorBytes, std::byte{0x33});
    write(m.sim, *m.inode, size, sector, How::buffered);
    m.sim.world().run_for(10 * kNsPerSecond);
    CHECK(m.inode->disk_size == size);  // its bytes are not on the device
    CHECK(m.sim.volume().inodes().stats().dirty_inodes == 0);
    if (m.seed.seed % 2 == 0) {
      REQUIRE(fsync(m.sim, m.inode).ok());
    } else {
      REQUIRE(m.pinner->unpin().ok());
      m.sim.world().run_for(10 * kNsPerSecond);
    }
    CHECK(m.inode->disk_size == size + kPinSectorBytes);
    const Content content = m.sim.read_all(*m.inode);
    CHECK(m.after_cut() == content);
  });
}

TEST_CASE("a device that refuses a bounce: fsync says so, nothing is lost, and the next is good") {
  for_each_meeting(3, [](Meeting& m) {
    m.require_fsync();
    m.pinner->store_all();
    const SimDevice::FaultId id = m.sim.device().add_fault(m.sim.data_fault(IoKind::write));
    m.stores_during([&] { CHECK(fsync(m.sim, m.inode).error() == Error::io_failed); });
    m.sim.device().remove_fault(id);
    CHECK(m.inode->mapping.storable_count() == kRange.count().value());
    m.require_now(m.end_states());
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

TEST_CASE("without space for the next write a clone and a punch fail, and nothing has changed") {
  for_each_seed(4, [](const TestSeed& seed) {
    Meeting m(seed);
    Inode& copy = m.create("clone");
    m.require_fsync();
    m.pinner->store_all();
    Reservation all = m.sim.take_space();
    const std::vector<size_t> since = m.history.now();
    CHECK(m.sim.clone(*m.inode, 0, copy, 0, kPages * kPageBytes).error() == Error::no_space);
    CHECK(copy.attr.size == 0);
    CHECK(m.sim.fallocate(*m.inode, FallocateMode::punch_hole, 4 * kPageBytes, kPageBytes, true)
              .error() == Error::no_space);
    CHECK(m.sim.files().pins.stats().reservation_failed_count >= 1);
    m.require_now(since);
    // In place it goes on: this file's blocks are its own.
    m.require_fsync();
    m.sim.world().inside([&] { all.release(); });
    REQUIRE(m.sim.clone(*m.inode, 0, copy, 0, kPages * kPageBytes).ok());
    m.history.require(m.sim.read_all(copy), since);
    // Shared now, and the pages have their next blocks: fsync needs none that others have taken.
    m.pinner->store_all();
    all = m.sim.take_space();
    m.require_fsync();
    m.sim.world().inside([&] { all.release(); });
    m.require_after_cut();
  });
}

TEST_CASE(
    "a page that has grown into a full volume: fsync says so, writes the others, loses none") {
  for_each_seed(4, [](const TestSeed& seed) {
    Meeting m(seed);
    REQUIRE(m.sim.truncate(*m.inode, 6 * kPageBytes).ok());
    settle(m.sim);
    Reservation all = m.sim.take_space();
    REQUIRE(m.sim.truncate(*m.inode, kPages * kPageBytes).ok());
    m.pinner->observe();
    m.history.add(10, {});
    m.history.add(11, {});
    const std::vector<size_t> since = m.history.now();
    m.pinner->store_all();
    const std::vector<size_t> stored = m.history.now();
    CHECK(fsync(m.sim, m.inode).error() == Error::no_space);
    CHECK(m.sim.files().pins.stats().reservation_failed_count >= 1);
    m.require_now(stored);
    m.sim.world().inside([&] { all.release(); });
    m.stores_during([&] { m.require_fsync(); });
    m.require_now(since);
    m.require_after_cut();
  });
}

TEST_CASE("the end of a pin leaves ordinary dirty pages of what has changed, and nothing else") {
  for_each_meeting(3, [](Meeting& m) {
    m.require_fsync();
    m.pinner->store(3);
    m.pinner->store(8);
    const std::vector<size_t> since = m.history.now();
    REQUIRE(m.pinner->unpin().ok());
    CHECK(m.inode->mapping.pinned_count() == 0);
    CHECK(m.inode->mapping.dirty_count() <= 2);  // the flusher may have been quick
    m.sim.world().run_for(4 * kNsPerSecond);
    CHECK(m.inode->mapping.dirty_count() == 0);
    const uint64_t written = m.sim.files().stats.writeback_bytes;
    REQUIRE(m.sim.sync().ok());  // a flush
    CHECK(m.sim.files().stats.writeback_bytes == written);
    m.history.made_durable(since);
    m.require_after_cut();
  });
}

}  // namespace
}  // namespace fusefs
