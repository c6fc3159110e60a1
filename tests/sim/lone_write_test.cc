// Durable overwrites with nobody about to share a flush with: one request each, on a device with a
// volatile cache and without FUA. What they promise, and what an error of one means, which does not
// say whether the data or the flush has failed.
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

SimVolumeOptions without_fua() {
  SimVolumeOptions options;
  options.has_fua = false;
  options.slow_outside = false;  // the flusher's writes would be in their way
  options.completion = CompletionPolicy::issuer;
  return options;
}

uint64_t flushes(SimVolume& sim) { return sim.device().stats().submitted(IoKind::flush); }
uint64_t writes(SimVolume& sim) { return sim.device().stats().submitted(IoKind::write); }

// A file of whole blocks, each of one value.
struct File {
  File(SimVolume& sim, uint64_t blocks) : inode(sim.create("file")), content(blocks * kBlockBytes) {
    AlignedBuffer zeroes(content.size());
    std::fill_n(zeroes.data(), zeroes.size(), std::byte{0});
    write(sim, *inode, 0, zeroes.bytes(), How::direct);
    settle(sim);
  }
  Result<size_t> put(SimVolume& sim, uint64_t block, uint64_t count, int value, How how) {
    AlignedBuffer data(count * kBlockBytes);
    std::fill_n(data.data(), data.size(), static_cast<std::byte>(value));
    const Result<size_t> written = sim.write(*inode, block * kBlockBytes, data.bytes(), how);
    if (!written.ok()) return written;
    content.resize(std::max<size_t>(content.size(), (block + count) * kBlockBytes));
    std::fill_n(content.begin() + static_cast<ptrdiff_t>(block * kBlockBytes), data.size(),
                static_cast<std::byte>(value));
    return written;
  }
  // The first of several durable overwrites: others have written before it.
  void warm_up(SimVolume& sim) { REQUIRE(put(sim, 0, 1, 1, How::dsync).ok()); }

  InodeRef inode;
  Content content;
};

TEST_CASE("an O_DSYNC overwrite with nobody about is one request, and there after a power cut") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const How how : {How::dsync, How::direct_dsync}) {
      SimVolume sim(seed, without_fua());
      File file(sim, 8);
      file.warm_up(sim);
      const uint64_t flushes_before = flushes(sim), writes_before = writes(sim);
      const uint64_t inline_before = sim.files().completions.stats().issuer_count;
      for (int i = 0; i < 5; ++i) {
        REQUIRE(file.put(sim, static_cast<uint64_t>(i), 1, 2 + i, how).ok());
      }
      CHECK(flushes(sim) == flushes_before);
      CHECK(writes(sim) == writes_before + 5);
      CHECK(sim.files().stats.lone_write_count == 5);
      // Nothing is owed after it: each ends where its completion arrives.
      const bool forced = seed.forced_restart_probability != 0;
      if (!forced) CHECK(sim.files().completions.stats().issuer_count > inline_before);
      CHECK(after_cut(seed, sim, file.inode) == file.content);
    }
  });
}

TEST_CASE("what needs more than its own bytes to be durable is never a lone write") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, without_fua());
    File file(sim, 64);
    REQUIRE(sim.fallocate(*file.inode, FallocateMode::punch_hole, 8 * kBlockBytes, 4 * kBlockBytes,
                          true)
                .ok());
    InodeRef copy = sim.create("copy");
    REQUIRE(clone(sim, *file.inode, 16 * kBlockBytes, *copy, 0, 4 * kBlockBytes).ok());
    settle(sim);
    // Whether it is one when nothing else stands in its way.
    const auto is_lone = [&](uint64_t block, uint64_t count, How how) {
      file.warm_up(sim);
      const uint64_t before = sim.files().stats.lone_write_count;
      REQUIRE(file.put(sim, block, count, 7, how).ok());
      return sim.files().stats.lone_write_count != before;
    };
    for (const How how : {How::dsync, How::direct_dsync}) {
      const uint64_t step = how == How::dsync ? 0 : 1;
      CHECK(is_lone(40, 2, how));
      CHECK_FALSE(is_lone(8 + step, 1, how));   // a hole
      CHECK_FALSE(is_lone(16 + step, 1, how));  // shared with the clone
      CHECK_FALSE(is_lone(63 + step, 2, how));  // the end of the file, and beyond
      CHECK_FALSE(is_lone(7, 2, how));          // two places of the device
      CHECK_FALSE(is_lone(20, 32, how));        // the kernel might split it
      CHECK(is_lone(40, 1, how));
    }
    CHECK_FALSE(is_lone(41, 1, How::sync));  // the times, beside the data
    CHECK_FALSE(is_lone(41, 1, How::direct_sync));
    CHECK_FALSE(is_lone(41, 1, How::direct));
    sim.world().inside([&] { copy.reset(); });
    const Content& content = file.content;
    const Content found = after_cut(seed, sim, file.inode);
    CHECK(part(found, 0, 41 * kBlockBytes) == part(content, 0, 41 * kBlockBytes));
  });
}

TEST_CASE("sixteen writers of one file share their flushes as if there were no lone writes") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed, without_fua());
    File file(sim, 64);
    file.warm_up(sim);
    const AlignedBuffer page(kBlockBytes);
    constexpr uint64_t kWriters = 16;
    constexpr uint64_t kWrites = 20;
    uint64_t done = 0;
    const uint64_t flushes_before = flushes(sim);
    std::function<void(uint64_t, uint64_t)> next = [&](uint64_t writer, uint64_t number) {
      sim.spawn_write(*file.inode, (writer * 4 + number % 4) * kBlockBytes, page.bytes(),
                      How::dsync, [&, writer, number](auto result) {
                        REQUIRE(result.ok());
                        ++done;
                        if (number + 1 < kWrites) next(writer, number + 1);
                      });
    };
    for (uint64_t writer = 0; writer < kWriters; ++writer) next(writer, 0);
    REQUIRE(sim.world().run_until([&] { return done == kWriters * kWrites; }));
    CHECK(flushes(sim) - flushes_before < kWriters * kWrites / 2);
    CHECK(sim.files().stats.lone_write_count < kWrites);
  });
}

// ---- Errors ----

SimFault fault_of(SimVolume& sim, bool behind_data) {
  SimFault fault = sim.data_fault(IoKind::write);
  fault.behind_data = behind_data;
  return fault;
}

TEST_CASE("a lone write that fails is an error of that write, and the volume goes on") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const bool behind_data : {false, true}) {
      for (const How how : {How::dsync, How::direct_dsync}) {
        CAPTURE(behind_data);
        SimVolume sim(seed, without_fua());
        File file(sim, 8);
        file.warm_up(sim);
        SimFault fault = fault_of(sim, behind_data);
        fault.count = 1;
        sim.device().add_fault(fault);
        const uint64_t before = sim.files().stats.lone_write_count;
        CHECK(file.put(sim, 3, 1, 9, how).error() == Error::io_failed);
        CHECK(sim.files().stats.lone_write_count == before + 1);
        // The same again, and others: durable, whatever the device has dropped.
        for (uint64_t block = 2; block < 6; ++block) REQUIRE(file.put(sim, block, 1, 5, how).ok());
        REQUIRE(sim.sync().ok());
        CHECK_FALSE(sim.files().health.failed());
        CHECK(after_cut(seed, sim, file.inode) == file.content);
      }
    }
  });
}

TEST_CASE("a page that a lone write had in memory is written again after its error") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed, without_fua());
    File file(sim, 8);
    REQUIRE(file.put(sim, 3, 1, 4, How::buffered).ok());
    REQUIRE(sim.sync().ok());
    file.warm_up(sim);
    SimFault fault = fault_of(sim, true);
    fault.count = 1;
    sim.device().add_fault(fault);
    CHECK_FALSE(file.put(sim, 3, 1, 9, How::dsync).ok());
    OpenFile open;
    open.inode = file.inode;
    REQUIRE(sim.fsync(open).ok());
    sim.world().inside([&] { open.inode.reset(); });
    std::fill_n(file.content.begin() + 3 * kBlockBytes, kBlockBytes, std::byte{9});
    CHECK(after_cut(seed, sim, file.inode) == file.content);
  });
}

TEST_CASE("a lone write that fails while others write turns the volume read-only") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const bool behind_data : {false, true}) {
      CAPTURE(behind_data);
      SimVolume sim(seed, without_fua());
      File file(sim, 8);
      InodeRef other = sim.create("other");
      const AlignedBuffer page(kBlockBytes);
      write(sim, *other, 0, page.bytes(), How::direct);
      settle(sim);
      file.warm_up(sim);
      SimFault fault = fault_of(sim, behind_data);
      fault.count = 1;
      fault.delay_ns = kNsPerSecond / 2;
      sim.device().add_fault(fault);
      bool failed = false;
      sim.spawn_write(*file.inode, kBlockBytes, page.bytes(), How::dsync, [&](auto result) {
        CHECK(result.error() == Error::io_failed);
        failed = true;
      });
      const uint64_t before = writes(sim);
      REQUIRE(sim.world().run_until([&] { return writes(sim) != before; }));
      REQUIRE(sim.write(*other, 0, page.bytes(), How::direct).ok());
      REQUIRE(sim.world().run_until([&] { return failed; }));
      OpenFile open;
      open.inode = other;
      CHECK_FALSE(sim.fsync(open).ok());
      CHECK_FALSE(sim.write(*other, 0, page.bytes(), How::dsync).ok());
      // With the first transaction that needs a flush.
      CHECK_FALSE(sim.write(*other, kBlockBytes, page.bytes(), How::dsync).ok());
      CHECK(sim.files().health.failed());
      sim.world().inside([&] {
        open.inode.reset();
        other.reset();
      });
      const Content& content = file.content;
      const Content found = after_cut(seed, sim, file.inode);
      CHECK(part(found, 0, kBlockBytes) == part(content, 0, kBlockBytes));
    }
  });
}

// ---- Everything at once ----

// Writers of blocks of their own, one version after the other, until the power fails. Whatever the
// device has failed to do and to say, a version that was promised is there, or a later one.
class Storm {
 public:
  Storm(const TestSeed& seed, bool with_faults)
      : seed_(seed), random_(seed.seed), sim_(seed, options_of(seed)) {
    file_ = sim_.create("file");
    AlignedBuffer zeroes(kBlocks * kBlockBytes);
    std::fill_n(zeroes.data(), zeroes.size(), std::byte{0});
    fusefs::write(sim_, *file_, 0, zeroes.bytes(), How::direct);
    settle(sim_);
    if (with_faults) add_faults();
    const uint64_t writers = random_.between(1, 3);
    for (uint64_t i = 0; i < writers; ++i) writers_.push_back(std::make_unique<Writer>(*this, i));
  }

  void run() {
    const uint64_t writes = random_.between(1, 150);
    for (auto& writer : writers_) start(*writer);
    sim_.world().run_until([&] { return ended_ >= writes; });
    lone_count = sim_.files().stats.lone_write_count;
    sim_.world().abandon();
    sim_.world().inside([this] {
      writers_.clear();
      file_.reset();
    });
    SimVolume again({seed_.seed + 1, 0.0}, {}, sim_.power_cut());
    const Content found = again.read_all(*again.lookup("file"));
    REQUIRE(found.size() == kBlocks * kBlockBytes);
    for (uint64_t block = 0; block < kBlocks; ++block) {
      uint64_t version = 0;
      std::memcpy(&version, found.data() + block * kBlockBytes, sizeof(version));
      CAPTURE(block);
      CHECK(version >= promised_[block]);
      CHECK(version <= last_[block]);
    }
  }

  uint64_t lone_count = 0;

 private:
  static constexpr uint64_t kBlocks = 12;
  struct Writer {
    Writer(Storm& storm, uint64_t a_number) : number(a_number) { open.inode = storm.file_; }
    const uint64_t number;
    OpenFile open;
    AlignedBuffer data{kBlockBytes};
  };

  static SimVolumeOptions options_of(const TestSeed& seed) {
    SimVolumeOptions options;
    options.has_fua = seed.seed % 8 == 0;
    return options;
  }

  void add_faults() {
    const auto add = [this](SimFault fault, double probability) {
      fault.probability = probability;
      sim_.device().add_fault(fault);
    };
    constexpr double kOften[] = {0.0, 0.02, 0.2};
    const auto draw = [&] { return kOften[random_.below(std::size(kOften))]; };
    add(fault_of(sim_, true), draw());
    add(fault_of(sim_, false), draw());
    SimFault flush;
    flush.kind = IoKind::flush;
    flush.error = Error::io_failed;
    add(flush, draw() / 2);
  }

  void start(Writer& writer) {
    const uint64_t per_writer = kBlocks / writers_.size();
    const uint64_t block = writer.number * per_writer + random_.below(per_writer);
    const uint64_t version = ++last_[block];
    std::memcpy(writer.data.data(), &version, sizeof(version));
    constexpr How kHows[] = {How::dsync, How::dsync,       How::dsync,   How::direct_dsync,
                             How::sync,  How::direct_sync, How::buffered};
    const How how = kHows[random_.below(std::size(kHows))];
    const bool promises = how != How::buffered;
    sim_.spawn_write(*file_, block * kBlockBytes, writer.data.bytes(), how,
                     [this, &writer, block, version, promises](Result<size_t> result) {
                       if (result.ok() && !promises) return start_fsync(writer, block, version);
                       ended(writer, result.ok(), block, version);
                     });
  }
  void start_fsync(Writer& writer, uint64_t block, uint64_t version) {
    sim_.world().spawn(
        [this, &writer, stash = std::make_shared<FsyncStash>()] {
          return fusefs::fsync(sim_.files(), writer.open, false, *stash);
        },
        [this, &writer, block, version](Result<void> result) {
          ended(writer, result.ok(), block, version);
        });
  }
  void ended(Writer& writer, bool ok, uint64_t block, uint64_t version) {
    if (ok) promised_[block] = version;
    ++ended_;
    start(writer);
  }

  const TestSeed seed_;
  Random random_;
  SimVolume sim_;
  InodeRef file_;
  std::vector<std::unique_ptr<Writer>> writers_;
  uint64_t ended_ = 0;
  std::array<uint64_t, kBlocks> last_ = {};
  std::array<uint64_t, kBlocks> promised_ = {};
};

TEST_CASE("durable writers and the power cut anywhere: what was promised is there") {
  uint64_t lone_count = 0, storm_count = 0;
  for_each_seed(30, [&](const TestSeed& seed) {
    Storm storm(seed, false);
    storm.run();
    lone_count += storm.lone_count;
    ++storm_count;
  });
  if (storm_count >= 20) CHECK(lone_count > 0);
}

TEST_CASE("durable writers, errors of data and of flushes, and the power cut anywhere") {
  uint64_t lone_count = 0, storm_count = 0;
  for_each_seed(60, [&](const TestSeed& seed) {
    Storm storm(seed, true);
    storm.run();
    lone_count += storm.lone_count;
    ++storm_count;
  });
  if (storm_count >= 20) CHECK(lone_count > 0);
}

}  // namespace
}  // namespace fusefs
