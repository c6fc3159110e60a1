// Where direct writes and writethroughs end, and the deadlock that had completions in the issuer's
// context removed from Linux: a task had direct writes in flight and truncated the file; the count
// it then waited for was only taken down by its own completions, which it had yet to run.
#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kBlocks = 64;
constexpr uint64_t kFileBytes = kBlocks * kBlockBytes;
// What ends with its completion where the device has FUA.
constexpr How kHows[] = {How::direct, How::direct_dsync, How::dsync, How::mapped};

uint64_t deferred(const CompletionStats& stats, DeferReason reason) {
  return stats.deferred_count[static_cast<size_t>(reason)];
}

SimVolumeOptions with(CompletionPolicy policy, bool has_fua = true) {
  SimVolumeOptions options;
  options.completion = policy;
  options.has_fua = has_fua;
  return options;
}

// A task with several writes in flight, which hears of their ends when it gets to it.
struct Task {
  explicit Task(SimVolume& a_sim, How a_how = How::direct) : sim(a_sim), how(a_how) {}

  void write(Inode& inode, uint64_t pos, size_t len) {
    const size_t which = sources.size();
    sources.push_back(random_source(sim.world().random(), len, true));
    sim.spawn_write(inode, pos, sources.back().bytes, how, [this, which](Result<size_t> written) {
      REQUIRE(written.ok());
      ++told;
      knows.push_back(which);
    });
  }
  bool reap() {
    return sim.world().run_until([this] { return told == sources.size(); });
  }
  // Until the device has done everything, whoever may have heard of it.
  void let_device_finish() {
    REQUIRE(sim.world().run_until([this] { return sim.device().in_flight_count() == 0; }));
  }

  SimVolume& sim;
  const How how;
  std::vector<Source> sources;
  size_t told = 0;
  std::vector<size_t> knows;  // which of them have ended
};

InodeRef written_file(SimVolume& sim, Content& content) {
  InodeRef inode = sim.create("file");
  content = random_bytes(sim.world().random(), kFileBytes);
  REQUIRE(sim.write(*inode, 0, content, How::direct).ok());
  REQUIRE(sim.sync().ok());
  return inode;
}

TEST_CASE("an overwrite ends where its completion is reaped, without another attempt") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const How how : kHows) {
      SimVolume sim(seed, with(CompletionPolicy::issuer));
      Content content;
      const InodeRef inode = written_file(sim, content);
      const CompletionStats& stats = sim.files().completions.stats();
      const uint64_t before = stats.issuer_count;
      Task task(sim, how);
      for (uint64_t i = 0; i < 8; ++i) task.write(*inode, i * kBlockBytes, kBlockBytes);
      REQUIRE(task.reap());
      CHECK(stats.issuer_count == before + 8);
      for (uint64_t i = 0; i < 8; ++i) put(content, i * kBlockBytes, task.sources[i].bytes);
      CHECK(sim.read_all(*inode) == content);
      CHECK(inode->mapping.dirty_count() == 0);
    }
  });
}

TEST_CASE("a writethrough of pages in memory, also dirty ones, ends with its completion") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed, with(CompletionPolicy::issuer));
    Content content;
    const InodeRef inode = written_file(sim, content);
    Task buffered(sim, How::buffered);
    buffered.write(*inode, 3 * kBlockBytes, 2 * kBlockBytes);
    REQUIRE(buffered.reap());
    put(content, 3 * kBlockBytes, buffered.sources[0].bytes);
    const uint64_t before = sim.files().completions.stats().issuer_count;
    Task task(sim, How::dsync);
    task.write(*inode, 3 * kBlockBytes + 10, 100);
    task.write(*inode, 4 * kBlockBytes, kBlockBytes);
    task.write(*inode, 8 * kBlockBytes + 500, kBlockBytes);  // two edges, to be read first
    REQUIRE(task.reap());
    CHECK(sim.files().completions.stats().issuer_count == before + 3);
    put(content, 3 * kBlockBytes + 10, task.sources[0].bytes);
    put(content, 4 * kBlockBytes, task.sources[1].bytes);
    put(content, 8 * kBlockBytes + 500, task.sources[2].bytes);
    CHECK(inode->mapping.dirty_count() == 0);
    CHECK_FALSE(inode->mapping.any_writeback({FileBlock(0), FileBlock(kBlocks)}));
    CHECK(sim.read_all(*inode) == content);
  });
}

TEST_CASE("a durable overwrite that owes a flush, or times, is deferred for that reason") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const How how : {How::dsync, How::direct_dsync, How::sync, How::direct_sync}) {
      const bool only_times = how == How::sync || how == How::direct_sync;
      SimVolume sim(seed, with(CompletionPolicy::issuer, only_times));
      Content content;
      const InodeRef inode = written_file(sim, content);
      const CompletionStats& stats = sim.files().completions.stats();
      const CompletionStats before = stats;
      Task task(sim, how);
      task.write(*inode, kBlockBytes, kBlockBytes);
      REQUIRE(task.reap());
      CHECK(deferred(stats, DeferReason::flush) == deferred(before, DeferReason::flush) + 1);
      CHECK(stats.issuer_count == before.issuer_count);
    }
  });
}

TEST_CASE("what a writethrough held is free when the device is done, whoever hears of that later") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const bool has_fua : {false, true}) {
      SimVolume sim(seed, with(CompletionPolicy::deferred, has_fua));
      Content content;
      const InodeRef inode = written_file(sim, content);
      Task task(sim, How::dsync);
      sim.world().hold_deferred(true);
      task.write(*inode, 2 * kBlockBytes + 30, 2 * kBlockBytes);
      const FileRange range{FileBlock(2), FileBlock(5)};
      REQUIRE(
          sim.world().run_until([&] { return inode->busy_ranges.free_end(range) < range.end; }));
      REQUIRE(
          sim.world().run_until([&] { return inode->busy_ranges.free_end(range) == range.end; }));
      CHECK_FALSE(inode->mapping.any_writeback(range));
      CHECK(task.told == 0);
      put(content, 2 * kBlockBytes + 30, task.sources[0].bytes);
      // A blocker, and an adder of the same blocks.
      const Source buffered = random_source(sim.world().random(), kBlockBytes, true);
      REQUIRE(sim.fallocate(*inode, FallocateMode::punch_hole, 2 * kBlockBytes, kBlockBytes, true)
                  .ok());
      REQUIRE(sim.write(*inode, 4 * kBlockBytes, buffered.bytes, How::buffered).ok());
      std::fill_n(content.begin() + 2 * kBlockBytes, kBlockBytes, std::byte{0});
      put(content, 4 * kBlockBytes, buffered.bytes);
      CHECK(task.told == 0);
      sim.world().hold_deferred(false);
      REQUIRE(task.reap());
      CHECK(sim.read_all(*inode) == content);
    }
  });
}

TEST_CASE("what needs a transaction or reports an error is deferred, and says why") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const How how : {How::direct, How::direct_dsync, How::dsync}) {
      const bool defers = seed.seed % 2 == 0;
      SimVolume sim(seed, with(defers ? CompletionPolicy::deferred : CompletionPolicy::issuer));
      Content content;
      const InodeRef inode = written_file(sim, content);
      const CompletionStats& stats = sim.files().completions.stats();
      const CompletionStats before = stats;
      Task task(sim, how);
      task.write(*inode, 2 * kFileBytes, kBlockBytes);  // a hole, and the end moves
      REQUIRE(task.reap());
      CHECK(deferred(stats, DeferReason::transaction) ==
            deferred(before, DeferReason::transaction) + 1);
      CHECK(stats.issuer_count == before.issuer_count);

      const uint64_t by_policy = deferred(stats, DeferReason::policy);
      task.write(*inode, 0, kBlockBytes);
      REQUIRE(task.reap());
      CHECK(deferred(stats, DeferReason::policy) == by_policy + (defers ? 1 : 0));
      CHECK(stats.issuer_count == before.issuer_count + (defers ? 0 : 1));

      SimFault fault;
      fault.kind = IoKind::write;
      fault.count = 1;
      fault.error = Error::io_failed;
      sim.device().add_fault(fault);
      const Source source = random_source(sim.world().random(), kBlockBytes, true);
      const Result<size_t> failed = sim.write(*inode, kBlockBytes, source.bytes, how);
      CHECK(!failed.ok());
      CHECK(deferred(stats, DeferReason::error) == deferred(before, DeferReason::error) + 1);
      sim.device().clear_faults();
      // What a failed write held is free again.
      REQUIRE(sim.write(*inode, kBlockBytes, source.bytes, How::direct).ok());
      REQUIRE(sim.write(*inode, kBlockBytes, source.bytes, how).ok());
    }
  });
}

// The regression test. Nobody runs the finishes of the task's overwrites but the task, which
// truncates instead. It must not wait for itself.
TEST_CASE("a task with writes in flight truncates and allocates before it hears of them") {
  for_each_seed(8, [](const TestSeed& seed) {
    const How how = kHows[seed.seed % std::size(kHows)];
    SimVolume sim(seed, with(CompletionPolicy::deferred, seed.seed % 3 == 0));
    Content content;
    const InodeRef inode = written_file(sim, content);
    Random random = sim.world().random().fork();
    for (int round = 0; round < 4; ++round) {
      Task task(sim, how);
      sim.world().hold_deferred(true);
      SimFault slow;
      slow.kind = IoKind::write;
      slow.delay_ns = 20 * kNsPerMs;
      const SimDevice::FaultId id = sim.device().add_fault(slow);
      for (uint64_t i = 0; i < 6; ++i) task.write(*inode, (i * 3) * kBlockBytes, 2 * kBlockBytes);
      // All of them, before the first can be done: later ones would be no overwrites any more.
      REQUIRE(sim.world().run_until([&sim] { return sim.device().in_flight_count() >= 6; }));
      sim.device().remove_fault(id);
      if (random.chance(0.5)) task.let_device_finish();
      switch (random.below(4)) {
        case 0:
          REQUIRE(sim.truncate(*inode, kFileBytes / 2).ok());
          REQUIRE(sim.truncate(*inode, kFileBytes).ok());
          break;
        case 1:
          REQUIRE(sim.truncate(*inode, 5 * kBlockBytes + 100).ok());
          REQUIRE(sim.truncate(*inode, kFileBytes).ok());
          break;
        case 2:
          REQUIRE(sim.fallocate(*inode, FallocateMode::punch_hole, 0, 3 * kBlockBytes, true).ok());
          break;
        default:
          REQUIRE(sim.fallocate(*inode, FallocateMode::allocate, 0, 2 * kFileBytes, true).ok());
          break;
      }
      sim.world().hold_deferred(false);
      REQUIRE(task.reap());
      CHECK(inode->attr.size == kFileBytes);
      REQUIRE(sim.write(*inode, 0, content, How::direct).ok());
      CHECK(sim.read_all(*inode) == content);
    }
  });
}

// With holes and a moving end: their transactions are nobody's but the volume's.
TEST_CASE("truncate and fallocate end among writes that extend and fill holes") {
  for_each_seed(8, [](const TestSeed& seed) {
    for (const CompletionPolicy policy : {CompletionPolicy::issuer, CompletionPolicy::deferred}) {
      const How how = kHows[seed.seed % std::size(kHows)];
      SimVolume sim(seed, with(policy, seed.seed % 3 == 0));
      const InodeRef inode = sim.create("file");
      Random random = sim.world().random().fork();
      for (int round = 0; round < 4; ++round) {
        Task task(sim, how);
        for (int i = 0; i < 8; ++i) {
          task.write(*inode, random.below(2 * kBlocks) * kBlockBytes,
                     random.between(1, 4) * kBlockBytes);
        }
        const uint64_t size = random.below(kFileBytes);
        REQUIRE(sim.truncate(*inode, size).ok());
        REQUIRE(sim.fallocate(*inode, FallocateMode::allocate, 0, kFileBytes, false).ok());
        REQUIRE(task.reap());
        CHECK(inode->attr.size >= kFileBytes);
        CHECK(sim.read_all(*inode).size() == inode->attr.size);
      }
      REQUIRE(sim.sync().ok());
      CHECK(inode->attr.size == inode->disk_size);
    }
  });
}

TEST_CASE("the power may fail among completions, inline or deferred") {
  for_each_seed(6, [](const TestSeed& seed) {
    for (const How how : kHows) {
      SimImage image;
      std::vector<std::pair<uint64_t, Content>> promised;
      {
        SimVolume sim(seed);
        Content content;
        InodeRef inode = written_file(sim, content);
        Task task(sim, how);
        for (uint64_t i = 0; i < 12; ++i) task.write(*inode, i * 5 * kBlockBytes, 2 * kBlockBytes);
        sim.world().run_for(sim.world().random().below(300'000));
        sim.world().abandon();
        inode.reset();
        if (how == How::dsync || how == How::direct_dsync) {
          for (const size_t which : task.knows) {
            const ConstBytes bytes = task.sources[which].bytes;
            promised.emplace_back(which * 5 * kBlockBytes, Content(bytes.begin(), bytes.end()));
          }
        }
        image = sim.power_cut();
      }
      SimVolume again(seed, {}, std::move(image));
      const InodeRef inode = again.lookup("file");
      const Content found = again.read_all(*inode);
      CHECK(found.size() == inode->attr.size);
      CHECK(inode->attr.size >= kFileBytes);
      for (const auto& [pos, bytes] : promised) {
        CHECK(std::equal(bytes.begin(), bytes.end(), found.begin() + static_cast<ptrdiff_t>(pos)));
      }
    }
  });
}

}  // namespace
}  // namespace fusefs
