// Writethroughs, and direct writes with the same promise: which device writes they are, what is
// dirty afterwards, and what is left after errors. Races and power cuts are in
// write_through_race_test.cc.
#include <algorithm>
#include <memory>

#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// What the device has been asked since clear_log().
struct Log {
  uint64_t reads = 0;
  uint64_t data_writes = 0;
  uint64_t fua_data_writes = 0;
  uint64_t other_writes = 0;  // the journal's
  uint64_t flushes = 0;
};
Log log_of(SimVolume& sim) {
  const uint64_t data_first = block_addr(sim.volume().space().data_first());
  Log log;
  for (const SimIoRecord& record : sim.device().log()) {
    const bool data = record.addr >= data_first;
    if (record.kind == IoKind::read) ++log.reads;
    if (record.kind == IoKind::flush) ++log.flushes;
    if (record.kind != IoKind::write) continue;
    ++(data ? log.data_writes : log.other_writes);
    if (data && record.fua) ++log.fua_data_writes;
  }
  return log;
}

// A file of `content` on the device, with nothing of it dirty and nothing of it in memory.
struct File {
  File(SimVolume& sim, uint64_t len) : inode(sim.create("file")) {
    Random random(7);
    const Source source = random_source(random, len, true);
    content.assign(source.bytes.begin(), source.bytes.end());
    write(sim, *inode, 0, source.bytes, How::direct);
    settle(sim);
    sim.device().clear_log();
  }
  void overwrite(SimVolume& sim, uint64_t pos, size_t len, How how, bool aligned = true) {
    Random random(pos + len);
    const Source source = random_source(random, len, aligned);
    put(content, pos, source.bytes);
    write(sim, *inode, pos, source.bytes, how);
  }
  InodeRef inode;
  Content content;
};

TEST_CASE("an O_DSYNC overwrite is one device write, with FUA or a flush, and nothing follows") {
  for (const bool has_fua : {false, true}) {
    for_each_seed(2, [&](const TestSeed& seed) {
      CAPTURE(has_fua);
      SimVolumeOptions options;
      options.has_fua = has_fua;
      options.slow_outside = false;  // no flusher comes meanwhile
      SimVolume sim(seed, options);
      File file(sim, 64 * kBlockBytes);
      file.overwrite(sim, 8 * kBlockBytes, 4 * kBlockBytes, How::dsync);
      const Log log = log_of(sim);
      CHECK(log.reads == 0);
      CHECK(log.data_writes == 1);
      CHECK(log.fua_data_writes == (has_fua ? 1 : 0));
      CHECK(log.flushes == (has_fua ? 0 : 1));
      CHECK(log.other_writes == 0);
      CHECK(file.inode->mapping.size() == 0);
      // The times follow with the journal, the page does not.
      settle(sim);
      CHECK(log_of(sim).data_writes == 1);
      CHECK(after_cut(seed, sim, file.inode) == file.content);
    });
  }
}

TEST_CASE("an O_DIRECT|O_DSYNC overwrite is one device write, and leaves dirty pages beside it") {
  for (const bool has_fua : {false, true}) {
    for_each_seed(4, [&](const TestSeed& seed) {
      CAPTURE(has_fua);
      SimVolumeOptions options;
      options.has_fua = has_fua;
      options.slow_outside = false;  // no flusher comes meanwhile
      SimVolume sim(seed, options);
      File file(sim, 64 * kBlockBytes);
      file.overwrite(sim, 20 * kBlockBytes, 3 * kBlockBytes, How::buffered);
      sim.device().clear_log();
      file.overwrite(sim, 8 * kBlockBytes, 4 * kBlockBytes, How::direct_dsync);
      const Log log = log_of(sim);
      CHECK(log.reads == 0);
      CHECK(log.data_writes == 1);
      CHECK(log.fua_data_writes == (has_fua ? 1 : 0));
      CHECK(log.flushes == (has_fua ? 0 : 1));
      CHECK(log.other_writes == 0);
      CHECK(file.inode->mapping.dirty_count() == 3);
      const CompletionStats& completions = sim.files().completions.stats();
      const uint64_t owed = completions.deferred_count[static_cast<size_t>(DeferReason::flush)];
      CHECK(owed == (has_fua ? 0 : 1));
      // The power fails now: what was written is there, what is dirty is not.
      const Content& content = file.content;
      const Content found = after_cut(seed, sim, file.inode);
      CHECK(part(found, 8 * kBlockBytes, 4 * kBlockBytes) ==
            part(content, 8 * kBlockBytes, 4 * kBlockBytes));
      CHECK(part(found, 20 * kBlockBytes, 3 * kBlockBytes) !=
            part(content, 20 * kBlockBytes, 3 * kBlockBytes));
    });
  }
}

TEST_CASE("O_DIRECT|O_SYNC and |O_DSYNC writes are durable when they return, wherever they go") {
  for_each_seed(8, [](const TestSeed& seed) {
    for (const How how : {How::direct_dsync, How::direct_sync}) {
      SimVolume sim(seed);
      File file(sim, 16 * kBlockBytes + 300);
      REQUIRE(sim.fallocate(*file.inode, FallocateMode::punch_hole, 4 * kBlockBytes,
                            4 * kBlockBytes, true)
                  .ok());
      std::fill_n(file.content.begin() + 4 * kBlockBytes, 4 * kBlockBytes, std::byte{0});
      file.overwrite(sim, kBlockBytes, kBlockBytes, how);
      file.overwrite(sim, 2 * kBlockBytes + 100, 50, how, false);
      file.overwrite(sim, 3 * kBlockBytes + 1, 2 * kBlockBytes, how, false);  // into the hole
      file.overwrite(sim, 16 * kBlockBytes + 300, kBlockBytes, how, false);   // beyond the end
      file.overwrite(sim, 20 * kBlockBytes, kBlockBytes, how);
      // Both halves of a buffer that was cut within a block; and one that promises nothing.
      Random random(9);
      const size_t half = kBlockBytes / 2;
      const Source source = random_source(random, 4 * half, true);
      put(file.content, 9 * kBlockBytes + half, source.bytes);
      int left = 2;
      const auto done = [&left](Result<size_t> result) {
        REQUIRE(result.ok());
        --left;
      };
      const ConstBytes bytes = source.bytes;
      sim.spawn_write(*file.inode, 9 * kBlockBytes + half, bytes.first(2 * half),
                      seed.seed % 2 == 0 ? how : How::direct, done);
      sim.spawn_write(*file.inode, 10 * kBlockBytes + half, bytes.subspan(2 * half), how, done);
      REQUIRE(sim.world().run_until([&left] { return left == 0; }));
      CHECK(sim.read_all(*file.inode) == file.content);
      const bool all = how == How::direct_sync && seed.seed % 2 == 0;
      if (all) CHECK_FALSE(file.inode->attr_dirty);
      const Content& content = file.content;
      const Content found = after_cut(seed, sim, file.inode);
      REQUIRE(found.size() == content.size());
      // All but the first half, which nobody promised, if it promised nothing.
      const size_t from = seed.seed % 2 == 0 ? 0 : 10 * kBlockBytes + half;
      CHECK(part(found, from, found.size() - from) == part(content, from, content.size() - from));
      CHECK(part(found, 0, 9 * kBlockBytes) == part(content, 0, 9 * kBlockBytes));
    }
  });
}

TEST_CASE("the times of an O_DIRECT|O_SYNC overwrite are written beside its data") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 16 * kBlockBytes);
    file.overwrite(sim, kBlockBytes, kBlockBytes, How::direct_sync);
    CHECK(log_of(sim).data_writes == 1);
    CHECK(log_of(sim).other_writes == 1);
    const auto& log = sim.device().log();
    const auto is_write = [](const SimIoRecord& record) { return record.kind == IoKind::write; };
    const auto first = std::find_if(log.begin(), log.end(), is_write);
    const auto second = std::find_if(first + 1, log.end(), is_write);
    CHECK(second->submit_ns < first->complete_ns);
    const Timestamp mtime = file.inode->attr.mtime;
    sim.world().inside([&] { file.inode.reset(); });
    SimVolume again(seed, {}, sim.power_cut());
    CHECK(again.lookup("file")->attr.mtime == mtime);
  });
}

TEST_CASE("a device without a volatile cache needs neither FUA nor flush") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.has_volatile_cache = false;
    SimVolume sim(seed, options);
    File file(sim, 16 * kBlockBytes);
    file.overwrite(sim, 0, kBlockBytes, seed.seed % 2 == 0 ? How::direct_dsync : How::dsync);
    CHECK(log_of(sim).data_writes == 1);
    CHECK(log_of(sim).fua_data_writes == 0);
    CHECK(log_of(sim).flushes == 0);
    CHECK(log_of(sim).other_writes == 0);
  });
}

TEST_CASE("the times of an O_SYNC overwrite are written beside its data, in one batch") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 16 * kBlockBytes);
    file.overwrite(sim, kBlockBytes, kBlockBytes, How::sync);
    CHECK(log_of(sim).data_writes == 1);
    CHECK(log_of(sim).other_writes == 1);
    CHECK_FALSE(file.inode->attr_dirty);
    const Timestamp mtime = file.inode->attr.mtime;
    const auto& log = sim.device().log();
    const auto is_write = [](const SimIoRecord& record) { return record.kind == IoKind::write; };
    const auto first = std::find_if(log.begin(), log.end(), is_write);
    const auto second = std::find_if(first + 1, log.end(), is_write);
    CHECK(second->submit_ns < first->complete_ns);

    sim.world().inside([&] { file.inode.reset(); });
    SimVolume again(seed, {}, sim.power_cut());
    const InodeRef found = again.lookup("file");
    CHECK(again.read_all(*found) == file.content);
    CHECK(found->attr.mtime == mtime);
  });
}

TEST_CASE("part of a block goes through its page, which is clean afterwards as before") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 16 * kBlockBytes);
    file.overwrite(sim, 5 * kBlockBytes + 100, 50, How::dsync);
    CHECK(log_of(sim).reads == 1);  // the old bytes
    CHECK(log_of(sim).data_writes == 1);
    CHECK(file.inode->mapping.size() == 1);
    CHECK(file.inode->mapping.dirty_count() == 0);
    // The next one finds the page.
    file.overwrite(sim, 5 * kBlockBytes + 120, 300, How::dsync);
    CHECK(log_of(sim).reads == 1);
    CHECK(log_of(sim).data_writes == 2);
    CHECK(sim.read_all(*file.inode) == file.content);
    settle(sim);
    CHECK(log_of(sim).data_writes == 2);
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

TEST_CASE("a writethrough cleans the pages it writes, and no others") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 32 * kBlockBytes);
    file.overwrite(sim, 4 * kBlockBytes + 10, 8 * kBlockBytes, How::buffered);
    REQUIRE(file.inode->mapping.dirty_count() == 9);
    sim.device().clear_log();
    file.overwrite(sim, 6 * kBlockBytes + 500, 2 * kBlockBytes, How::dsync, false);
    CHECK(file.inode->mapping.dirty_count() == 6);
    CHECK(log_of(sim).data_writes == 1);
    for (const uint64_t dirty : {4u, 5u, 9u, 10u, 11u, 12u}) {
      CHECK(file.inode->mapping.find(FileBlock(dirty))->dirty);
    }
    CHECK(sim.read_all(*file.inode) == file.content);
    // What was beside the bytes in their pages has become durable with them.
    const Content now = after_cut(seed, sim, file.inode);
    CHECK(std::equal(now.begin() + 6 * kBlockBytes, now.begin() + 9 * kBlockBytes,
                     file.content.begin() + 6 * kBlockBytes));
  });
}

TEST_CASE("the file grows to the end of the bytes, and reads as written after a power cut") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 3 * kBlockBytes + 300);
    const How how = seed.seed % 2 == 0 ? How::dsync : How::sync;
    file.overwrite(sim, 3 * kBlockBytes + 300, 2 * kBlockBytes + 77, how, false);
    file.overwrite(sim, 9 * kBlockBytes + 1, 100, how, false);  // leaves a hole
    CHECK(file.inode->attr.size == 9 * kBlockBytes + 101);
    CHECK(file.inode->disk_size == file.inode->attr.size);
    CHECK(sim.read_all(*file.inode) == file.content);
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

TEST_CASE("writes into holes, unwritten blocks and clones are durable when they return") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 24 * kBlockBytes);
    const Content before = file.content;
    InodeRef copy = sim.create("copy");
    REQUIRE(clone(sim, *file.inode, 0, *copy, 0, 8 * kBlockBytes).ok());
    const auto punch = [&](FallocateMode mode, uint64_t pos) {
      REQUIRE(sim.fallocate(*file.inode, mode, pos, 8 * kBlockBytes, true).ok());
      std::fill_n(file.content.begin() + static_cast<ptrdiff_t>(pos), 8 * kBlockBytes,
                  std::byte{0});
    };
    punch(FallocateMode::punch_hole, 8 * kBlockBytes);
    punch(FallocateMode::zero_range, 16 * kBlockBytes);
    file.overwrite(sim, 2 * kBlockBytes, 2 * kBlockBytes, How::dsync);
    file.overwrite(sim, 7 * kBlockBytes + 50, 3 * kBlockBytes, How::sync, false);
    file.overwrite(sim, 15 * kBlockBytes + 1, 3 * kBlockBytes, How::dsync, false);
    CHECK(sim.read_all(*file.inode) == file.content);
    CHECK(sim.read_all(*copy) == part(before, 0, 8 * kBlockBytes));
    sim.world().inside([&] { copy.reset(); });
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

TEST_CASE("sixteen appending or hole-filling writers share the batches of the journal") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef inode = sim.create("shared");
    const AlignedBuffer page(kBlockBytes);
    constexpr int kWriters = 16;
    constexpr int kWrites = 8;
    int done = 0;
    std::function<void(int, int)> next = [&](int writer, int write) {
      const uint64_t pos = static_cast<uint64_t>(write * kWriters + writer) * kBlockBytes;
      sim.spawn_write(*inode, pos, page.bytes(), How::dsync, [&, writer, write](auto result) {
        REQUIRE(result.ok());
        ++done;
        if (write + 1 < kWrites) next(writer, write + 1);
      });
    };
    const uint64_t before = sim.volume().store().journal().stats().batch_count;
    for (int writer = 0; writer < kWriters; ++writer) next(writer, 0);
    REQUIRE(sim.world().run_until([&] { return done == kWriters * kWrites; }));
    const JournalStats& journal = sim.volume().store().journal().stats();
    CHECK(journal.batch_count - before < kWriters * kWrites / 2);
    CHECK(journal.batch_joined.max() > 1);
    CHECK(sim.files().stats.through_not_dirtied_pages == kWriters * kWrites);
  });
}

TEST_CASE("a writethrough that the device refuses leaves its pages dirty and the rest untouched") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 8 * kBlockBytes + 300);
    const Content before = file.content;
    file.overwrite(sim, 3 * kBlockBytes, 10, How::buffered);  // a dirty page
    const SimDevice::FaultId id = sim.device().add_fault(sim.data_fault(IoKind::write));
    Random random(3);
    const Source source = random_source(random, 50, false);
    CHECK(sim.write(*file.inode, 3 * kBlockBytes + 100, source.bytes, How::sync).error() ==
          Error::io_failed);
    // Outcomes are told late, and the flusher may be at it again by then.
    const FileRange page = file_range(FileBlock(3), BlockCount(1));
    CHECK((file.inode->mapping.any_dirty(page) || file.inode->mapping.any_writeback(page)));
    // Appending: the size stays, and what lies beyond it in the page is zeroes again.
    CHECK(sim.write(*file.inode, file.inode->attr.size, source.bytes, How::dsync).error() ==
          Error::io_failed);
    CHECK(sim.write(*file.inode, 20 * kBlockBytes + 5, source.bytes, How::dsync).error() ==
          Error::io_failed);
    CHECK(file.inode->attr.size == before.size());
    CHECK_FALSE(file.inode->mapping.find(FileBlock(20)));
    sim.device().remove_fault(id);
    REQUIRE(sim.truncate(*file.inode, 9 * kBlockBytes).ok());
    put(file.content, 3 * kBlockBytes + 100, source.bytes);
    file.content.resize(9 * kBlockBytes);
    CHECK(sim.read_all(*file.inode) == file.content);
    REQUIRE(sim.sync().ok());
    CHECK(file.inode->delayed_blocks == BlockCount(0));
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

TEST_CASE("a piece that the device has refused is not tried again behind those that it took") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 300 * kBlockBytes);
    SimFault fault;
    fault.kind = IoKind::write;
    fault.addr_first = block_addr(extents_of(sim, *file.inode).front().start + BlockCount(257));
    fault.count = 1;  // a second time it would succeed
    fault.error = Error::io_failed;
    sim.device().add_fault(fault);
    Random random(3);
    const Source source = random_source(random, file.content.size(), true);
    const Result<size_t> written = sim.write(*file.inode, 0, source.bytes, How::dsync);
    REQUIRE(written.ok());
    CHECK(written.value() == 257 * kBlockBytes);  // the first piece
  });
}

TEST_CASE("without space a writethrough has changed nothing, or is short") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 4 * kBlockBytes);
    Reservation taken = sim.take_space(3);
    Random random(5);
    const Source source = random_source(random, 16 * kBlockBytes, true);
    const Result<size_t> some = sim.write(*file.inode, 4 * kBlockBytes, source.bytes, How::dsync);
    REQUIRE(some.ok());
    CHECK(some.value() > 0);
    CHECK(some.value() <= 3 * kBlockBytes);
    put(file.content, 4 * kBlockBytes, source.bytes.first(some.value()));
    while (true) {
      const uint64_t size = file.inode->attr.size;
      const auto more = sim.write(*file.inode, size, source.bytes, How::dsync);
      if (!more.ok()) {
        CHECK(more.error() == Error::no_space);
        CHECK(file.inode->attr.size == size);
        break;
      }
      put(file.content, size, source.bytes.first(more.value()));
    }
    CHECK(sim.write(*file.inode, 40 * kBlockBytes + 9, source.bytes.first(9), How::sync).error() ==
          Error::no_space);
    CHECK(sim.read_all(*file.inode) == file.content);
    // Over what has its blocks there is always room.
    file.overwrite(sim, 10, 2 * kBlockBytes, How::sync, false);
    CHECK(sim.read_all(*file.inode) == file.content);
    sim.world().inside([&] { taken.release(); });
  });
}

TEST_CASE("the kernel's writeback goes to the device at once, and never becomes dirty here") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 32 * kBlockBytes);
    file.overwrite(sim, 4 * kBlockBytes, 8 * kBlockBytes, How::mapped);
    CHECK(log_of(sim).data_writes == 1);
    CHECK(log_of(sim).flushes == 0);
    CHECK(file.inode->mapping.size() == 0);
    CHECK(sim.files().stats.through_not_dirtied_pages == 8);
    OpenFile open;
    open.inode = file.inode;
    REQUIRE(sim.fsync(open).ok());
    sim.world().inside([&] { open.inode.reset(); });
    CHECK(log_of(sim).data_writes == 1);
    CHECK(log_of(sim).flushes >= 1);
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

TEST_CASE("pages of the kernel's writeback that the device refuses stay in memory until it can") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 8 * kBlockBytes);
    const SimDevice::FaultId id = sim.device().add_fault(sim.data_fault(IoKind::write));
    file.overwrite(sim, 2 * kBlockBytes, 3 * kBlockBytes, How::mapped);
    // What the flusher has at the device already.
    sim.world().run_until([&] { return file.inode->mapping.writeback_count() == 0; });
    CHECK(file.inode->mapping.dirty_count() == 3);
    sim.device().remove_fault(id);
    REQUIRE(sim.sync().ok());
    CHECK(sim.read_all(*file.inode) == file.content);
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

TEST_CASE("writers of parts of one block take turns, and lose nothing") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    File file(sim, 2 * kBlockBytes);
    int left = 0;
    std::vector<std::unique_ptr<Source>> sources;
    for (uint64_t i = 0; i < 16; ++i) {
      Random random(i + 1);
      sources.push_back(std::make_unique<Source>(random_source(random, 500, false)));
      const uint64_t pos = i * 512;  // one of them across the border
      put(file.content, pos, sources.back()->bytes);
      ++left;
      const How how = i % 3 == 0 ? How::sync : i % 3 == 1 ? How::dsync : How::buffered;
      sim.spawn_write(*file.inode, pos, sources.back()->bytes, how, [&left](auto result) {
        REQUIRE(result.ok());
        --left;
      });
    }
    REQUIRE(sim.world().run_until([&left] { return left == 0; }));
    CHECK(sim.read_all(*file.inode) == file.content);
    CHECK(sim.files().stats.through_overlap_wait_count > 0);
    REQUIRE(sim.sync().ok());
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

}  // namespace
}  // namespace fusefs
