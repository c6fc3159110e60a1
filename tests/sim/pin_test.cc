// Pins one by one: what they hold, what they cost, what ends them. What happens to the file under
// them: pin_meeting_test.cc; the power cut: pin_storm_test.cc.
#include <algorithm>
#include <cstring>
#include <string>

#include "tests/sim/pinnable_file.h"
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

uint64_t device_writes(SimVolume& sim) { return sim.device().stats().submitted(IoKind::write); }

void for_each_file(uint64_t seeds, const std::function<void(PinnableFile&)>& body) {
  for_each_policy(seeds, [&](const TestSeed& seed, const SimVolumeOptions& options) {
    PinnableFile file(seed, options);
    body(file);
  });
}

Result<Ref<Pin>> try_pin(SimVolume& sim, Inode& inode, const PinRequest& request) {
  PinStash stash;
  return sim.world().run([&] { return begin_pin(sim.files(), inode, request, stash); });
}
void end(SimVolume& sim, Ref<Pin>& pin) {
  REQUIRE(sim.world().run([&] { return end_pin(sim.files(), *pin); }).ok());
  pin.reset();
}

TEST_CASE("what is stored through a pin is read at once, and is on the device after fsync") {
  for_each_file(3, [](PinnableFile& f) {
    Pinner& pinner = f.add_pinner();
    if (f.seed.seed % 2 == 0) pinner.use_frames();
    REQUIRE(pinner.pin().ok());
    for (int round = 0; round < 4; ++round) {
      const std::vector<size_t> before = f.history.now();
      pinner.store_all();
      const std::vector<size_t> since = f.history.now();
      f.require_read(since);
      CHECK(since != before);
      f.require_fsync();
    }
    pinner.store_all();
    f.require_after_cut();
  });
}

TEST_CASE("the flusher leaves pinned pages alone, and does not come back to them") {
  for_each_file(2, [](PinnableFile& f) {
    Pinner& pinner = f.add_pinner();
    REQUIRE(pinner.pin().ok());
    pinner.store_all();
    // One page beside the pin, and one beyond the old end: the flusher comes for them.
    const Content page(kPageBytes, std::byte{7});
    REQUIRE(f.sim.write(*f.inode, 0, page, How::buffered).ok());
    REQUIRE(f.sim.write(*f.inode, kPages * kPageBytes, page, How::buffered).ok());
    f.sim.world().run_for(10 * kNsPerSecond);
    CHECK(f.inode->mapping.dirty_count() == 0);
    CHECK(f.inode->disk_size == (kPages + 1) * kPageBytes);
    const PinStats& stats = f.sim.files().pins.stats();
    const uint64_t skipped = stats.skipped_count;
    CHECK(skipped >= 1);
    CHECK(stats.compared_count == 0);
    CHECK(f.sim.volume().inodes().stats().dirty_inodes == 0);
    const uint64_t written = f.sim.files().stats.writeback_bytes;
    const uint64_t changes = transactions(f.sim);
    for (int i = 0; i < 30; ++i) {
      pinner.store_all();
      f.sim.world().run_for(kNsPerSecond);
    }
    CHECK(f.sim.files().pins.stats().skipped_count == skipped);
    CHECK(f.sim.files().stats.writeback_bytes == written);
    CHECK(transactions(f.sim) == changes);
    CHECK(f.sim.volume().cache().stats().dirty_bytes == 0);
    REQUIRE(pinner.unpin().ok());
    f.sim.world().run_for(10 * kNsPerSecond);
    CHECK(f.inode->mapping.dirty_count() == 0);
    REQUIRE(f.sim.sync().ok());  // a flush
    Content content = f.after_cut();
    content.resize(kPages * kPageBytes);
    put_sector(content.data(), 0, 1);  // the page beside
    for (size_t sector = 0; sector < kPinSectors; ++sector) put_sector(content.data(), sector, 1);
    f.history.require(content, f.history.now());
  });
}

TEST_CASE("a pinned page that nobody has stored into costs no write, at fsync and at the end") {
  for_each_file(2, [](PinnableFile& f) {
    Pinner& pinner = f.add_pinner();
    REQUIRE(pinner.pin().ok());
    settle(f.sim);
    const uint64_t writes = device_writes(f.sim);
    REQUIRE(fsync(f.sim, f.inode).ok());
    CHECK(device_writes(f.sim) == writes);
    CHECK(f.sim.files().pins.stats().compared_count >= kRange.count().value());

    pinner.store(4);
    pinner.store(7);
    REQUIRE(fsync(f.sim, f.inode).ok());
    CHECK(f.sim.files().pins.stats().bounced_bytes == 2 * kPageBytes);
    settle(f.sim);
    const uint64_t after = device_writes(f.sim);
    REQUIRE(fsync(f.sim, f.inode).ok());
    REQUIRE(pinner.unpin().ok());
    f.sim.world().run_for(10 * kNsPerSecond);
    CHECK(f.sim.files().pins.stats().bounced_bytes == 2 * kPageBytes);
    CHECK(device_writes(f.sim) == after);
    CHECK(f.inode->delayed_blocks == BlockCount(0));
    CHECK(f.inode->open_count == 0);
  });
}

TEST_CASE("a page that has changed is written, whatever it did before the last fsync") {
  for_each_file(4, [](PinnableFile& f) {
    Pinner& pinner = f.add_pinner();
    REQUIRE(pinner.pin().ok());
    Random random(f.seed.seed);
    uint64_t changed = 0;
    for (int round = 0; round < 20; ++round) {
      for (FileBlock at = kRange.first; at < kRange.end; ++at) {
        switch (random.below(4)) {
          case 0:
            pinner.store(at.value());
            ++changed;
            break;
          case 1: {  // back to what it was: no change
            const PageState before = f.history.last(at.value());
            pinner.store(at.value());
            const Content page = pages_of({before});
            std::memcpy(pinner.frame(at.value()), page.data(), page.size());
            pinner.observe();
            break;
          }
          default:
            break;
        }
      }
      const std::vector<size_t> since = f.history.now();
      f.require_fsync();
      CHECK(f.sim.files().pins.stats().bounced_bytes == changed * kPageBytes);
      f.require_read(since);
    }
    f.require_after_cut();
  });
}

TEST_CASE("a bounce of the file's last page writes zeroes beyond the end, and nothing of others") {
  for_each_file(2, [](PinnableFile& f) {
    Pinner& pinner = f.add_pinner();
    REQUIRE(pinner.pin().ok());
    pinner.store_all();
    REQUIRE(fsync(f.sim, f.inode).ok());  // leaves copies in the memory for the next bounce
    REQUIRE(f.sim.files().bounce_memory.all_free());
    const uint64_t valid = 3 * kPinSectorBytes;
    REQUIRE(f.sim.truncate(*f.inode, 6 * kPageBytes + valid).ok());
    put_sector(pinner.frame(6), 1, 4242);
    put_sector(pinner.frame(6), 5, 4343);  // beyond the end
    REQUIRE(fsync(f.sim, f.inode).ok());
    const std::vector<Extent> extents = extents_of(f.sim, *f.inode);
    REQUIRE(extents.back().range.end == FileBlock(7));
    const BlockNo block = extents.back().start + (FileBlock(6) - extents.back().range.first);
    std::vector<std::byte> on_device(kPageBytes);
    f.sim.device().snapshot().read(block_addr(block), on_device);
    uint64_t word = 0;
    std::memcpy(&word, on_device.data() + kPinSectorBytes, sizeof(word));
    CHECK(word == 4242);
    CHECK(std::all_of(on_device.begin() + static_cast<ptrdiff_t>(valid), on_device.end(),
                      [](std::byte byte) { return byte == std::byte{0}; }));
    f.let_go();
  });
}

TEST_CASE("a pin for reading is never dirty, and shows what others write") {
  for_each_seed(4, [](const TestSeed& seed) {
    PinnableFile f(seed);
    if (seed.seed % 2 == 0) {  // pages of shared blocks become the file's own
      REQUIRE(f.sim.clone(*f.inode, 0, *f.sim.create("clone"), 0, kPages * kPageBytes).ok());
      settle(f.sim);
    }
    Ref<Pin> pin =
        try_pin(f.sim, *f.inode, {kRange, PinKind::read, 0, false, nullptr, nullptr}).value();
    CHECK(f.inode->mapping.pinned_count() == kRange.count().value());
    CHECK(f.inode->mapping.storable_count() == 0);
    CHECK(f.inode->mapping.dirty_count() == 0);
    PageState expected;
    expected.fill(1 + 3);
    CHECK(state_of(pin->frame(FileBlock(3))) == expected);

    expected.fill(77);
    REQUIRE(f.sim.write(*f.inode, 3 * kPageBytes, pages_of({expected}), How::buffered).ok());
    CHECK(state_of(pin->frame(FileBlock(3))) == expected);
    settle(f.sim);
    CHECK(f.inode->mapping.dirty_count() == 0);
    expected.fill(78);
    REQUIRE(f.sim.write(*f.inode, 3 * kPageBytes, pages_of({expected}), How::direct).ok());
    CHECK(state_of(pin->frame(FileBlock(3))) == expected);
    CHECK(f.sim.files().pins.stats().compared_count == 0);
    end(f.sim, pin);
    CHECK(f.inode->mapping.pinned_count() == 0);
    CHECK(f.sim.volume().cache().pinned_pages() == 0);
  });
}

TEST_CASE("a pin for reading of what is not in memory reads neighbours together") {
  constexpr uint64_t kMany = 150;
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.cache_bytes = 512 * kPageBytes;
    PinnableFile f(seed, options, kMany);
    REQUIRE(f.inode->mapping.empty());
    PinRequest request{{FileBlock(1), FileBlock(kMany)}, PinKind::read, 0, false, nullptr, nullptr};
    if (seed.seed % 2 == 0) {
      const auto frames = std::make_shared<AlignedBuffer>(kMany * kPageBytes);
      request.frames = frames->data();
      request.frames_owner = frames;
    }
    const uint64_t reads = device_reads(f.sim);
    Ref<Pin> pin = try_pin(f.sim, *f.inode, request).value();
    // Three batches; the file lies in one piece or two.
    CHECK(device_reads(f.sim) - reads <= 6);
    for (uint64_t page = 1; page < kMany; ++page) {
      CHECK(f.history.has(page, state_of(pin->frame(FileBlock(page))), 0));
    }
    end(f.sim, pin);
  });
}

TEST_CASE("a pinned page is not reclaimed, however much else is read and written") {
  for_each_seed(3, [](const TestSeed& seed) {
    PinnableFile f(seed);  // its cache has 64 pages
    Pinner& pinner = f.add_pinner();
    REQUIRE(pinner.pin().ok());
    pinner.store_all();
    const InodeRef other = f.sim.create("other");
    const InodeRef clone = f.sim.create("clone");
    const Content content(4 * kCachePagesMin * kPageBytes, std::byte{9});
    REQUIRE(f.sim.write(*other, 0, content, How::buffered).ok());
    REQUIRE(f.sim.clone(*other, 0, *clone, 0, content.size()).ok());
    CHECK(f.sim.read_all(*clone) == content);
    CHECK(f.sim.read_all(*other) == content);
    CHECK(f.inode->mapping.pinned_count() == kRange.count().value());
    f.require_read(f.history.now());
    REQUIRE(pinner.unpin().ok());
  });
}

TEST_CASE("a pin in memory of a program takes none of the page cache, and gives its pages back") {
  for_each_policy(2, [](const TestSeed& seed, const SimVolumeOptions& options) {
    constexpr uint64_t kMany = 3 * kCachePagesMin;  // more than the cache has
    PinnableFile f(seed, options, kMany);
    const FileRange all{FileBlock(0), FileBlock(kMany)};
    {
      Pinner in_cache(f.sim, f.inode, all, f.history);
      CHECK(in_cache.pin().error() == Error::no_memory);
    }
    Pinner& pinner = f.add_pinner(all);
    pinner.use_frames();
    REQUIRE(pinner.pin().ok());
    CHECK(f.sim.files().pins.stats().windows == 1);
    CHECK(pinner.frame(kMany - 1) - pinner.frame(0) == (kMany - 1) * ptrdiff_t{kPageBytes});
    CHECK(f.sim.volume().cache().arena().frames_used() < kCachePagesMin / 2);
    f.require_read(f.history.now());
    pinner.store_all();
    f.require_fsync();
    for (uint64_t page = 0; page < kMany; page += 3) pinner.store(page);
    REQUIRE(pinner.unpin().ok());
    f.require_read(f.history.now());
    CHECK(f.inode->mapping.pinned_count() == 0);
    settle(f.sim);
    f.require_read(f.history.now());
  });
}

TEST_CASE("a page may be pinned many times, but has one place") {
  for_each_seed(3, [](const TestSeed& seed) {
    PinnableFile f(seed);
    const PinRequest write{kRange, PinKind::write, 1, false, nullptr, nullptr};
    const PinRequest read{{FileBlock(5), FileBlock(12)}, PinKind::read, 2, false, nullptr, nullptr};
    Ref<Pin> first = try_pin(f.sim, *f.inode, write).value();
    Ref<Pin> second = try_pin(f.sim, *f.inode, read).value();
    Ref<Pin> third = try_pin(f.sim, *f.inode, write).value();
    CHECK(first->frame(FileBlock(6)) == second->frame(FileBlock(6)));
    CHECK(first->frame(FileBlock(6)) == third->frame(FileBlock(6)));
    CHECK(f.sim.files().pins.stats().pins == 3);
    CHECK(f.sim.files().pins.stats().pinned_pages == 10);
    CHECK(f.inode->open_count == 3);

    auto frames = std::make_shared<AlignedBuffer>(8 * kPageBytes);
    PinRequest elsewhere = write;
    elsewhere.frames = frames->data();
    elsewhere.frames_owner = frames;
    const auto refused = try_pin(f.sim, *f.inode, elsewhere);
    CHECK(refused.error() == Error::too_busy);
    CHECK(f.sim.files().pins.stats().pins == 3);

    put_sector(third->frame(FileBlock(6)), 0, 99);
    end(f.sim, first);
    CHECK(f.inode->mapping.storable_count() == 8);
    end(f.sim, third);
    CHECK(f.inode->mapping.storable_count() == 0);
    CHECK(f.inode->mapping.dirty_count() <= 1);  // the flusher may have been quick
    CHECK(f.inode->mapping.pinned_count() == 7);
    settle(f.sim);
    CHECK(f.inode->mapping.dirty_count() == 0);
    end(f.sim, second);
    CHECK(f.sim.files().pins.all().empty());

    Ref<Pin> window = try_pin(f.sim, *f.inode, elsewhere).value();
    Ref<Pin> inside = try_pin(f.sim, *f.inode, read).value();  // wherever the pages are
    CHECK(inside->frame(FileBlock(6)) == window->frame(FileBlock(6)));
    put_sector(window->frame(FileBlock(7)), 1, 100);
    end(f.sim, window);
    CHECK(f.inode->mapping.find(FileBlock(7))->is_external());  // as long as somebody has it
    end(f.sim, inside);
    const FolioRef left = f.inode->mapping.find(FileBlock(7));  // none if the flusher was quick
    CHECK((!left || !left->is_external()));
    settle(f.sim);
    PageState expected;
    expected.fill(1 + 7);
    expected[1] = 100;
    CHECK(state_of(f.sim.read_all(*f.inode).data() + 7 * kPageBytes) == expected);
  });
}

TEST_CASE("what may be pinned is limited, and the error names the limit") {
  for_each_seed(2, [](const TestSeed& seed) {
    PinnableFile f(seed);
    Pins& pins = f.sim.files().pins;
    pins.bytes_max = 20 * kPageBytes;
    pins.bytes_max_per_user = 12 * kPageBytes;
    PinRequest request{kRange, PinKind::write, 1, false, nullptr, nullptr};
    Ref<Pin> first = try_pin(f.sim, *f.inode, request).value();
    CHECK(try_pin(f.sim, *f.inode, request).error() == Error::pin_limit_per_user);
    request.uid = 2;
    Ref<Pin> second = try_pin(f.sim, *f.inode, request).value();
    request.uid = 3;
    CHECK(try_pin(f.sim, *f.inode, request).error() == Error::pin_limit);
    CHECK(std::string(error_text(Error::pin_limit)).find("-o pin_limit") != std::string::npos);
    end(f.sim, first);
    Ref<Pin> third = try_pin(f.sim, *f.inode, request).value();
    end(f.sim, second);
    end(f.sim, third);
    CHECK(f.inode->mapping.pinned_count() == 0);
  });
}

TEST_CASE("a pin that cannot be had has pinned nothing") {
  for_each_seed(3, [](const TestSeed& seed) {
    PinnableFile f(seed);
    const auto nothing_pinned = [&] {
      CHECK(f.inode->mapping.pinned_count() == 0);
      CHECK(f.inode->open_count == 0);
      CHECK(f.sim.files().pins.all().empty());
      f.require_read(f.history.now());
    };
    PinRequest request{
        {FileBlock(4), FileBlock(kPages + 1)}, PinKind::write, 0, false, nullptr, nullptr};
    CHECK(try_pin(f.sim, *f.inode, request).error() == Error::beyond_eof);
    nothing_pinned();

    request.range = kRange;
    const SimDevice::FaultId id = f.sim.device().add_fault(f.sim.data_fault(IoKind::read));
    for (const PinKind kind : {PinKind::read, PinKind::write}) {
      request.kind = kind;
      CHECK(try_pin(f.sim, *f.inode, request).error() == Error::io_failed);
    }
    f.sim.device().remove_fault(id);
    nothing_pinned();

    // Shared blocks need new ones.
    REQUIRE(f.sim.clone(*f.inode, 0, *f.sim.create("clone"), 0, kPages * kPageBytes).ok());
    settle(f.sim);
    Reservation all = f.sim.take_space();
    CHECK(try_pin(f.sim, *f.inode, request).error() == Error::no_space);
    nothing_pinned();
    f.sim.world().inside([&] { all.release(); });

    const InodeRef directory = [&] {
      NamespaceStash stash;
      CreateRequest make;
      make.mode = 0040755;
      return f.sim.world()
          .run(
              [&] { return f.sim.volume().names().create(kRootInode, "d", make, Caller{}, stash); })
          .value();
    }();
    CHECK(try_pin(f.sim, *directory, request).error() == Error::is_a_directory);
    f.inode->attr.flags |= kInodeImmutable;
    CHECK(try_pin(f.sim, *f.inode, request).error() == Error::not_permitted);
    f.inode->attr.flags &= ~kInodeImmutable;
  });
}

TEST_CASE("what is pinned at unmount is written, and what is stored later is not") {
  for_each_file(3, [](PinnableFile& f) {
    Pinner& pinner = f.add_pinner();
    if (f.seed.seed % 2 == 0) pinner.use_frames();
    REQUIRE(pinner.pin().ok());
    pinner.store_all();
    const std::vector<size_t> since = f.history.now();
    f.history.require(f.after_unmount(), since);
  });
}

TEST_CASE("two fsyncs at once, and a pinner that stores all the time: both tell the truth") {
  for_each_file(4, [](PinnableFile& f) {
    Pinner& pinner = f.add_pinner();
    REQUIRE(pinner.pin().ok());
    pinner.start();
    struct Call {
      OpenFile file;
      FsyncStash stash;
    };
    size_t running = 0;
    std::vector<size_t> durable = f.history.now();
    for (int i = 0; i < 12; ++i) {
      auto call = std::make_shared<Call>();
      call->file.inode = f.inode;
      const std::vector<size_t> since = f.history.now();
      ++running;
      f.sim.world().spawn(
          [&f, call] { return fusefs::fsync(f.sim.files(), call->file, true, call->stash); },
          [&running, &durable, since](Result<void> outcome) {
            --running;
            REQUIRE(outcome.ok());
            for (size_t page = 0; page < since.size(); ++page) {
              durable[page] = std::max(durable[page], since[page]);
            }
          });
      f.sim.world().run_for(f.sim.world().random().below(100'000));
    }
    REQUIRE(f.sim.world().run_until([&] { return running <= f.seed.seed % 3; }));
    f.history.made_durable(durable);
    f.require_after_cut();
  });
}

}  // namespace
}  // namespace fusefs
