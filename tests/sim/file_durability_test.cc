// When data of files is durable, what that costs, and what happens when the device refuses it.
#include <algorithm>

#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("a failed write of data is reported once by the fsync of each open file, and retried") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("unlucky");
    const Content data = random_bytes(random, 50'000);
    REQUIRE(sim.write(*inode, 0, data, How::buffered).ok());
    OpenFile first;
    first.inode = inode;
    REQUIRE(sim.fsync(first).ok());
    OpenFile second = first;

    const SimDevice::FaultId id = sim.device().add_fault(sim.data_fault(IoKind::write));
    const Content more = random_bytes(random, 50'000);
    REQUIRE(sim.write(*inode, 0, more, How::buffered).ok());
    sim.world().run_for(3 * kNsPerSecond);  // the flusher meets the error
    CHECK(inode->mapping.dirty_count() != 0);
    sim.device().remove_fault(id);
    CHECK(sim.fsync(first).error() == Error::io_failed);
    CHECK(sim.fsync(first).ok());
    CHECK(sim.fsync(second).error() == Error::io_failed);
    CHECK(sim.fsync(second).ok());
    CHECK(sim.volume().writable());
    CHECK(inode->mapping.dirty_count() == 0);
    CHECK(sim.read_all(*inode) == more);
  });
}

TEST_CASE("the first fsync after a crash flushes what was written before it, too") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.has_fua = true;  // so that the mount itself flushes nothing
    SimVolume sim(seed, options);
    REQUIRE(sim.write(*sim.create("file"), 0, Content(50'000, std::byte{'a'}), How::buffered).ok());
    REQUIRE(sim.sync().ok());
    SimVolume crashed(seed, options, sim.power_cut());
    OpenFile file;
    file.inode = crashed.lookup("file");
    REQUIRE(crashed.fsync(file).ok());
    CHECK(crashed.files().write_cache.flush_count() == 1);
    REQUIRE(crashed.fsync(file).ok());
    CHECK(crashed.files().write_cache.flush_count() == 1);
    crashed.world().inside([&] { file.inode.reset(); });
    SimVolume unmounted(seed, options, crashed.unmount());
    OpenFile clean;
    clean.inode = unmounted.lookup("file");
    REQUIRE(unmounted.fsync(clean).ok());
    CHECK(unmounted.files().write_cache.flush_count() == 0);
  });
}

TEST_CASE("a direct write that the device refuses leaves the file as it was") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("refused");
    const uint64_t free_before = sim.volume().space().stats().available_blocks;
    const SimDevice::FaultId id = sim.device().add_fault(sim.data_fault(IoKind::write));
    CHECK(sim.write(*inode, 0, random_bytes(random, 20'000), How::direct).error() ==
          Error::io_failed);
    sim.device().remove_fault(id);
    CHECK(inode->attr.size == 0);
    CHECK(sim.volume().space().stats().available_blocks == free_before);
    const Content data = random_bytes(random, 20'000);
    REQUIRE(sim.write(*inode, 0, data, How::direct).ok());
    CHECK(sim.read_all(*inode) == data);
  });
}

TEST_CASE("writers are told when the device takes nothing any more, instead of waiting for ever") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("doomed");
    REQUIRE(sim.write(*inode, 0, random_bytes(random, 1000), How::buffered).ok());
    REQUIRE(sim.sync().ok());
    sim.device().add_fault(sim.data_fault(IoKind::write));
    const Content data = random_bytes(random, 100'000);
    bool refused = false;
    for (uint64_t i = 0; i < 100 && !refused; ++i) {
      refused = !sim.write(*inode, i * data.size(), data, How::buffered).ok();
    }
    CHECK(refused);
  });
}

TEST_CASE("what was fsynced is there after a power cut, and nothing that was never written is") {
  for_each_seed(12, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    InodeRef inode = sim.create("database");
    Content model;
    Content synced;
    // Every byte that a position has held since the last fsync, by step.
    std::vector<Content> since;
    for (int step = 0; step < 40; ++step) {
      const uint64_t pos = random.below(300'000);
      const Source source = random_source(random, random.between(1, 30'000), random.chance(0.5));
      const How how = random.chance(0.5) ? How::buffered : How::direct;
      REQUIRE(sim.write(*inode, pos, source.bytes, how).ok());
      put(model, pos, source.bytes);
      since.push_back(model);
      if (random.chance(0.2)) {
        OpenFile file;
        file.inode = inode;
        REQUIRE(sim.fsync(file, random.chance(0.5)).ok());
        synced = model;
        since.clear();
        sim.world().inside([&] { file.inode.reset(); });
      }
      if (random.chance(0.1)) sim.world().run_for(random.below(3 * kNsPerSecond));
    }
    if (since.empty()) {
      REQUIRE(sim.write(*inode, 0, random_bytes(random, 100), How::buffered).ok());
      since.push_back(sim.read_all(*inode));
    }
    sim.world().inside([&] { inode.reset(); });

    SimVolume again(seed, {}, sim.power_cut());
    if (synced.empty()) return;  // the file need not be there
    const Content content = again.read_all(*again.lookup("database"));
    CHECK(content.size() >= synced.size());
    CHECK(content.size() <= since.back().size());
    for (size_t i = 0; i < content.size(); ++i) {
      bool known = i < synced.size() ? content[i] == synced[i] : content[i] == std::byte{0};
      for (const Content& version : since) {
        known = known || (i < version.size() && content[i] == version[i]);
      }
      REQUIRE(known);
    }
  });
}

TEST_CASE("what is two seconds old is durable without being asked for") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    InodeRef inode = sim.create("unsynced");
    const Content data = random_bytes(random, 70'001);
    REQUIRE(sim.write(*inode, 0, data, How::buffered).ok());
    sim.world().run_for(4 * kNsPerSecond);
    CHECK(inode->mapping.dirty_count() == 0);
    sim.world().inside([&] { inode.reset(); });
    SimVolume again(seed, {}, sim.power_cut());
    CHECK(again.read_all(*again.lookup("unsynced")) == data);
  });
}

TEST_CASE("fsync of a file that is durable asks nothing of the device") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("quiet");
    REQUIRE(sim.write(*inode, 0, random_bytes(random, 8192), How::buffered).ok());
    OpenFile file;
    file.inode = inode;
    REQUIRE(sim.fsync(file).ok());
    const SimDeviceStats before = sim.device().stats();
    REQUIRE(sim.fsync(file).ok());
    CHECK(sim.device().stats().submitted(IoKind::flush) == before.submitted(IoKind::flush));
    CHECK(sim.device().stats().submitted(IoKind::write) == before.submitted(IoKind::write));
  });
}

TEST_CASE("fdatasync of a pure overwrite is one write and one flush") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("overwritten");
    OpenFile file;
    file.inode = inode;
    REQUIRE(sim.write(*inode, 0, random_bytes(random, 16384), How::buffered).ok());
    REQUIRE(sim.fsync(file).ok());
    const SimDeviceStats before = sim.device().stats();
    const Source source = random_source(random, 4096, true);
    REQUIRE(sim.write(*inode, 4096, source.bytes, How::direct).ok());
    REQUIRE(sim.fsync(file, true).ok());
    CHECK(sim.device().stats().submitted(IoKind::write) == before.submitted(IoKind::write) + 1);
    CHECK(sim.device().stats().submitted(IoKind::flush) == before.submitted(IoKind::flush) + 1);
  });
}

TEST_CASE("after a failed flush who needs one is told, and a batch or a checkpoint ends it all") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.has_fua = seed.seed % 2 == 0;
    SimVolume sim(seed, options);
    Random random = sim.world().random().fork();
    OpenFile file;
    file.inode = sim.create("file");
    const Source source = random_source(random, 2 * kBlockBytes, true);
    const auto write = [&](uint64_t pos, How how) {
      return sim.write(*file.inode, pos, source.bytes.first(kBlockBytes), how);
    };
    REQUIRE(sim.write(*file.inode, 0, source.bytes, How::direct).ok());
    REQUIRE(sim.fsync(file).ok());
    REQUIRE(write(0, How::direct).ok());
    // The device would do the next one.
    sim.device().add_fault({.kind = IoKind::flush, .count = 1, .error = Error::io_failed});
    for (int i = 0; i < 2; ++i) CHECK(sim.fsync(file).error() == Error::io_failed);
    CHECK(write(kBlockBytes, How::dsync).ok() == options.has_fua);
    CHECK(sim.device().stats().failed_count == 1);

    const auto wait_for_batch = [&] {
      Journal& journal = sim.volume().store().journal();
      return sim.world().run([&] { return journal.wait_durable(journal.last_seq()); });
    };
    sim.create("name");
    REQUIRE(wait_for_batch().ok());
    CHECK(sim.volume().writable());
    if (seed.seed % 4 < 2) {
      REQUIRE(write(2 * kBlockBytes, How::direct).ok());
      CHECK(wait_for_batch().error() == Error::io_failed);
    } else {
      sim.world().run_for(kCheckpointIntervalNs + kNsPerSecond);
    }
    CHECK_FALSE(sim.volume().writable());
  });
}

TEST_CASE("a sync that finds the flusher's write at the device tells when that fails") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    InodeRef inode = sim.create("file");
    const Content data = random_bytes(random, 50'000);
    REQUIRE(sim.write(*inode, 0, data, How::buffered).ok());
    SimFault fault = sim.data_fault(IoKind::write);
    fault.count = 1;
    fault.delay_ns = 2 * kNsPerSecond;
    sim.device().add_fault(fault);
    REQUIRE(sim.world().run_until([&] { return inode->mapping.writeback_count() != 0; }));
    CHECK(sim.sync().error() == Error::io_failed);
    CHECK(inode->mapping.dirty_count() != 0);
    REQUIRE(sim.sync().ok());
    sim.world().inside([&] { inode.reset(); });
    SimVolume again(seed, {}, sim.power_cut());
    CHECK(again.read_all(*again.lookup("file")) == data);
  });
}

// What had been written before, without a flag, is in the same page.
TEST_CASE("an fsync that finds an O_DSYNC write of its page at the device tells when that fails") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    OpenFile file;
    file.inode = sim.create("file");
    const Content data = random_bytes(random, 4 * kBlockBytes);
    REQUIRE(sim.write(*file.inode, 0, data, How::direct).ok());
    REQUIRE(sim.fsync(file).ok());
    const Content first = random_bytes(random, 2 * kBlockBytes);
    REQUIRE(sim.write(*file.inode, kBlockBytes, first, How::buffered).ok());
    SimFault fault = sim.data_fault(IoKind::write);
    fault.count = 1;
    fault.delay_ns = kNsPerSecond / 2;
    sim.device().add_fault(fault);
    const Content second = random_bytes(random, kBlockBytes + 100);
    std::optional<Result<size_t>> written;
    sim.spawn_write(*file.inode, kBlockBytes, second, How::dsync,
                    [&](Result<size_t> outcome) { written.emplace(outcome); });
    const auto under_way = [&] { return file.inode->mapping.writeback_count() == 2; };
    REQUIRE(sim.world().run_until(under_way));
    CHECK(sim.fsync(file).error() == Error::io_failed);
    REQUIRE(sim.world().run_until([&] { return written.has_value(); }));
    CHECK(written->error() == Error::io_failed);
    REQUIRE(sim.fsync(file).ok());
    const Content now = sim.read_all(*file.inode);
    sim.world().inside([&] { file.inode.reset(); });
    SimVolume again(seed, {}, sim.power_cut());
    CHECK(again.read_all(*again.lookup("file")) == now);
  });
}

}  // namespace
}  // namespace fusefs
