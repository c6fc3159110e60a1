// Mapped pins: pages come by faults, are stored into between a fault and their writeback, and are
// written only if they have been. The simulated MMU of the rig checks at every step that nobody may
// store into a page that could be clean. How such pins end: pin_mapped_end_test.cc.
#include <algorithm>
#include <memory>

#include "tests/sim/pin_meeting.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// Since the device's log was cleared.
bool was_written(SimVolume& sim, uint64_t addr) {
  const auto& log = sim.device().log();
  return std::any_of(log.begin(), log.end(), [addr](const SimIoRecord& record) {
    return record.kind == IoKind::write && record.addr <= addr && addr < record.addr + record.len;
  });
}

uint64_t written_pages(SimVolume& sim) { return sim.files().stats.writeback_bytes / kPageBytes; }

TEST_CASE("a mapped page comes by a fault, and only those that are stored into are written") {
  for_each_seed(4, [](const TestSeed& seed) {
    PinnableFile f(seed);
    Pinner& pinner = f.add_pinner();
    pinner.use_faults();
    REQUIRE(pinner.pin().ok());
    CHECK(f.inode->mapping.pinned_count() == 0);
    for (uint64_t page = 2; page < 10; ++page) {
      REQUIRE(pinner.fault(page, PinAccess::load).ok());
      CHECK(pinner.right(page) == PageRight::load);
      CHECK(state_of(pinner.frame(page)) == f.history.last(page));
    }
    CHECK(f.inode->mapping.pinned_count() == kRange.count().value());
    CHECK(f.inode->mapping.dirty_count() == 0);
    const uint64_t before = written_pages(f.sim);
    f.require_fsync();
    CHECK(written_pages(f.sim) == before);

    f.sim.device().clear_log();
    pinner.store(3);
    pinner.store(7);
    CHECK(f.inode->mapping.dirty_count() <= 2);  // the flusher may have been quick
    const std::vector<size_t> since = f.history.now();
    f.require_read(since);
    f.require_fsync();
    for (const Extent& extent : extents_of(f.sim, *f.inode)) {
      for (FileBlock at = extent.range.first; at < extent.range.end; ++at) {
        const uint64_t addr = block_addr(extent.start + (at - extent.range.first));
        CHECK(was_written(f.sim, addr) == (at == FileBlock(3) || at == FileBlock(7)));
      }
    }
    CHECK(pinner.right(3) == PageRight::load);
    CHECK(f.inode->mapping.dirty_count() == 0);
    CHECK(f.sim.files().pins.stats().protected_pages == written_pages(f.sim) - before);
    CHECK(f.sim.files().pins.stats().compared_count == 0);
    f.require_after_cut();
  });
}

TEST_CASE("the flusher writes mapped pages as any others, and stores fault again after it") {
  for_each_mapped(4, [](Meeting& m) {
    m.sim.world().run_for(5 * kNsPerSecond);
    CHECK(m.inode->mapping.dirty_count() == 0);
    for (uint64_t page = 2; page < 10; ++page) CHECK(m.pinner->right(page) == PageRight::load);
    m.history.made_durable(m.history.now());
    REQUIRE(fsync(m.sim, m.inode).ok());
    const uint64_t faults = m.pinner->faults();
    m.pinner->store(4);
    CHECK(m.pinner->faults() > faults);
    m.require_now(m.history.now());
    m.require_after_cut();
  });
}

TEST_CASE("fsync of a mapped range that is stored into all the time ends, and is durable") {
  for_each_mapped(6, [](Meeting& m) {
    const uint64_t stores = m.stores_during([&] {
      for (int i = 0; i < 8; ++i) m.require_fsync();
    });
    CHECK(stores > 0);
    m.require_after_cut();
  });
}

TEST_CASE("truncate below a mapped page: stores there fail, and growing again shows zeroes") {
  for_each_mapped(4, [](Meeting& m) {
    m.require_fsync();
    m.pinner->store_all();
    const std::vector<size_t> since = m.history.now();
    m.pinner->start();
    REQUIRE(m.sim.truncate(*m.inode, 6 * kPageBytes).ok());
    m.sim.world().run_for(kNsPerSecond / 100);
    m.pinner->stop();
    for (uint64_t page = 6; page < 10; ++page) {
      CHECK(state_of(m.pinner->frame(page)) == PageState{});
      CHECK(m.pinner->fault(page, PinAccess::store).error() == Error::beyond_eof);
      CHECK(m.pinner->fault(page, PinAccess::load).ok());
    }
    CHECK(m.inode->mapping.dirty_count() <= 4);
    REQUIRE(m.sim.truncate(*m.inode, kPages * kPageBytes).ok());
    for (uint64_t page = 6; page < kPages; ++page) m.history.add(page, {});
    m.require_now(since);
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

TEST_CASE("punch and zero range under mapped pages: zeroes at once, and clean until a store") {
  for_each_mapped(4, [](Meeting& m) {
    const auto mode = m.seed.seed % 2 == 0 ? FallocateMode::punch_hole : FallocateMode::zero_range;
    REQUIRE(m.sim.fallocate(*m.inode, mode, 4 * kPageBytes, 3 * kPageBytes, true).ok());
    for (uint64_t page = 4; page < 7; ++page) {
      CHECK(state_of(m.pinner->frame(page)) == PageState{});
      CHECK(m.pinner->right(page) != PageRight::store);
    }
    m.pinner->observe();
    m.require_fsync();
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] {
      for (uint64_t page = 6; page < 8; ++page) m.history.add(page, {});
      REQUIRE(m.sim.fallocate(*m.inode, mode, 6 * kPageBytes, 2 * kPageBytes, true).ok());
    });
    m.require_now(since);
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

TEST_CASE("a clone of mapped pages never sees later stores, which fault and reserve") {
  for_each_mapped(6, [](Meeting& m) {
    Inode& copy = m.create("clone");
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] { REQUIRE(m.sim.clone(*m.inode, 0, copy, 0, kPages * kPageBytes).ok()); });
    const Content snapshot = m.sim.read_all(copy);
    m.history.require(snapshot, since);
    std::byte* const frame = m.pinner->frame(3);
    const std::vector<size_t> after = m.history.now();
    for (int i = 0; i < 3; ++i) {
      m.stores_during([&] { m.require_fsync(); });
      m.pinner->store_all();
      CHECK(m.sim.read_all(copy) == snapshot);
    }
    CHECK(m.inode->mapping.find(FileBlock(3))->frame == frame);
    m.require_now(after);
    REQUIRE(m.pinner->unpin().ok());
    settle(m.sim);
    CHECK(m.sim.read_all(copy) == snapshot);
    m.require_read(m.history.now());
    CHECK(m.inode->delayed_blocks == BlockCount(0));
  });
}

TEST_CASE(
    "a clone into mapped pages: they have its bytes, clean, and are the file's own to store") {
  for_each_mapped(4, [](Meeting& m) {
    PageHistory other_history(kPages);
    m.others.push_back(pinnable_file(m.sim, "other", kPages, 900, &other_history));
    Inode& other = *m.others.back();
    for (uint64_t page = 0; page < kPages; ++page) m.will_be(page, page + 1, 900 + page);
    const std::vector<size_t> since = m.history.now();
    m.pinner->store_all();
    REQUIRE(m.sim.clone(other, 0, *m.inode, 0, kPages * kPageBytes).ok());
    for (uint64_t page = 2; page < 10; ++page) {
      CHECK(state_of(m.pinner->frame(page)) == other_history.last(page));
    }
    CHECK(m.inode->mapping.dirty_count() == 0);
    m.pinner->observe();
    m.require_now(since);
    m.stores_during([&] {
      for (uint64_t page = 0; page < kPages; ++page) m.will_be(page, page + 1, 900 + page);
      REQUIRE(m.sim.clone(other, 0, *m.inode, 0, kPages * kPageBytes).ok());
      m.require_fsync();
    });
    other_history.require(m.sim.read_all(other), other_history.now());
    m.require_after_cut();
  });
}

TEST_CASE("dedupe and unshare of mapped pages lose no store") {
  for_each_mapped(4, [](Meeting& m) {
    const bool mapped_is_source = m.seed.seed % 2 == 0;
    Inode& twin = m.create("twin");
    settle(m.sim);  // nothing changes any more without a fault
    const Content content = m.sim.read_all(*m.inode);
    write(m.sim, twin, 0, content, How::direct);
    settle(m.sim);
    Inode& from = mapped_is_source ? *m.inode : twin;
    Inode& to = mapped_is_source ? twin : *m.inode;
    const Deduped result = dedupe(m.sim, from, 0, to, 0, content.size());
    REQUIRE(result.same_bytes.ok());
    CHECK(result.shared == content.size());
    const std::vector<size_t> since = m.history.now();
    m.stores_during([&] {
      m.require_fsync();
      REQUIRE(dedupe(m.sim, from, 0, to, 0, content.size()).same_bytes.ok());
      REQUIRE(unshare(m.sim, *m.inode, 0, 0, false).ok());
    });
    CHECK(m.sim.read_all(twin) == content);
    m.require_now(since);
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("writes of every kind over mapped pages are in their frames, and stay there") {
  for_each_mapped(4, [](Meeting& m) {
    uint64_t word = 5000;
    for (const How how : {How::buffered, How::direct, How::dsync, How::sync, How::mapped}) {
      PageState state;
      state.fill(++word);
      const Content data = pages_of({state, state, state});
      const uint64_t first = 1 + word % 8;
      m.pinner->store_all();
      m.history.add(first, state);
      m.history.add(first + 1, state);
      m.history.add(first + 2, state);
      const std::vector<size_t> since = m.history.now();
      write(m.sim, *m.inode, first * kPageBytes, data, how);
      CHECK(m.inode->mapping.pinned_count() == kRange.count().value());
      m.require_now(since);
      for (uint64_t page = first; page < first + 3; ++page) m.history.add(page, state);
      m.stores_during([&] { write(m.sim, *m.inode, first * kPageBytes, data, how); });
      m.require_now(since);
    }
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("without space a store into a hole or a shared page fails at its fault, and only there") {
  for_each_mapped(4, [](Meeting& m) {
    Inode& copy = m.create("clone");
    REQUIRE(m.sim.clone(*m.inode, 0, copy, 0, 6 * kPageBytes).ok());
    REQUIRE(m.sim.fallocate(*m.inode, FallocateMode::punch_hole, 8 * kPageBytes, kPageBytes, true)
                .ok());
    m.pinner->observe();
    m.require_fsync();
    settle(m.sim);
    Reservation all = m.sim.take_space();
    const std::vector<size_t> since = m.history.now();
    for (const uint64_t page : {uint64_t{3}, uint64_t{5}, uint64_t{8}}) {
      CHECK(m.pinner->fault(page, PinAccess::store).error() == Error::no_space);
      CHECK(m.pinner->right(page) == PageRight::load);
      CHECK(m.pinner->fault(page, PinAccess::load).ok());
      CHECK(state_of(m.pinner->frame(page)) == m.history.last(page));
    }
    m.pinner->store(6);  // in place
    m.require_fsync();
    m.require_now(since);
    m.sim.world().inside([&] { all.release(); });
    m.pinner->store_all();
    all = m.sim.take_space();
    m.require_fsync();  // what has been stored has its blocks
    m.sim.world().inside([&] { all.release(); });
    m.require_after_cut();
  });
}

TEST_CASE("a device that refuses mapped pages: fsync says so, nothing is lost, stores go on") {
  for_each_mapped(4, [](Meeting& m) {
    const SimDevice::FaultId id = m.sim.device().add_fault(m.sim.data_fault(IoKind::write));
    m.stores_during([&] { CHECK_FALSE(fsync(m.sim, m.inode).ok()); });
    m.pinner->store_all();
    m.require_now(m.history.now());
    m.sim.device().remove_fault(id);
    // What the flusher has at the device.
    m.sim.world().run_until([&] { return m.inode->mapping.writeback_count() == 0; });
    m.stores_during([&] { m.require_fsync(); });
    m.require_after_cut();
  });
}

// Such loads hold nothing, and ask for nothing that who cuts has.
TEST_CASE("pages that may be stored into are cut and cleaned while others are granted loads") {
  for_each_mapped(12, [](Meeting& m) {
    bool ends = false;
    int running = 0;
    for (uint64_t page = 6; page < 10; ++page) {
      ++running;
      m.sim.world().spawn(
          [&m, &ends, page,
           stash = std::make_shared<std::unique_ptr<PinFaultStash>>()]() -> Attempt<void> {
            if (*stash == nullptr) {
              if (ends) return {};
              *stash = std::make_unique<PinFaultStash>();
            }
            const Attempt<void> faulted = fault_pinned(
                m.sim.files(), m.pinner->pinned(), FileBlock(page), PinAccess::load, [] {},
                **stash);
            if (faulted.must_restart()) return faulted;
            stash->reset();
            Operation::current()->note_progress();
            return restart_now();
          },
          [&running](Result<void>) { --running; });
    }
    switch (m.seed.seed % 3) {
      case 0:
        REQUIRE(m.sim.truncate(*m.inode, 6 * kPageBytes).ok());
        break;
      case 1:
        REQUIRE(m.sim
                    .fallocate(*m.inode, FallocateMode::punch_hole, 6 * kPageBytes, 3 * kPageBytes,
                               true)
                    .ok());
        break;
      default:
        m.require_fsync();
    }
    ends = true;
    m.sim.world().run_until([&] { return running == 0; });
    m.pinner->forget();
  });
}

TEST_CASE("a range that is mapped for loads only costs no write and refuses stores") {
  for_each_seed(2, [](const TestSeed& seed) {
    PinnableFile f(seed);
    if (seed.seed % 2 == 0) {
      REQUIRE(f.sim.clone(*f.inode, 0, *f.sim.create("clone"), 0, kPages * kPageBytes).ok());
      settle(f.sim);
    }
    Pinner& pinner = f.add_pinner();
    pinner.use_faults();
    pinner.forbid_stores();
    REQUIRE(pinner.pin().ok());
    const uint64_t before = written_pages(f.sim);
    for (uint64_t page = 2; page < 10; ++page) {
      CHECK(pinner.fault(page, PinAccess::store).error() == Error::not_permitted);
      REQUIRE(pinner.fault(page, PinAccess::load).ok());
      CHECK(state_of(pinner.frame(page)) == f.history.last(page));
    }
    PageState state;
    state.fill(4242);
    f.history.add(5, state);
    write(f.sim, *f.inode, 5 * kPageBytes, pages_of({state}));
    CHECK(state_of(pinner.frame(5)) == state);
    f.require_fsync();
    CHECK(written_pages(f.sim) == before + 1);
    REQUIRE(pinner.unpin().ok());
    f.require_read(f.history.now());
  });
}

TEST_CASE("mapped pages are not reclaimed, and a sparse mapping of a large file costs nothing") {
  for_each_seed(3, [](const TestSeed& seed) {
    constexpr uint64_t kMany = 3 * kCachePagesMin;
    PinnableFile f(seed, {}, kMany);  // its cache has 64 pages
    Pinner& pinner = f.add_pinner({FileBlock(0), FileBlock(kMany)});
    pinner.use_faults();
    REQUIRE(pinner.pin().ok());
    for (uint64_t page = 0; page < kMany; page += 2) pinner.store(page);
    CHECK(f.inode->mapping.pinned_count() == kMany / 2);
    const std::vector<size_t> since = f.history.now();
    f.require_read(since);
    const InodeRef other = f.sim.create("other");
    const Content content(4 * kCachePagesMin * kPageBytes, std::byte{9});
    write(f.sim, *other, 0, content);
    CHECK(f.sim.read_all(*other) == content);
    CHECK(f.inode->mapping.pinned_count() == kMany / 2);
    f.require_fsync();
    for (uint64_t page = 0; page < kMany; page += 8) pinner.store(page);
    REQUIRE(pinner.unpin().ok());
    settle(f.sim);
    f.require_read(f.history.now());
  });
}

}  // namespace
}  // namespace fusefs
