// Where direct writes end, and the deadlock that had completions in the issuer's context removed
// from Linux: a task had direct writes in flight and truncated the file; the count it then waited
// for was only taken down by its own completions, which it had yet to run.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kBlocks = 64;
constexpr uint64_t kFileBytes = kBlocks * kBlockBytes;

uint64_t deferred(const CompletionStats& stats, DeferReason reason) {
  return stats.deferred_count[static_cast<size_t>(reason)];
}

SimVolumeOptions with(CompletionPolicy policy) {
  SimVolumeOptions options;
  options.completion = policy;
  return options;
}

// A task with several direct writes in flight, which hears of their ends when it gets to it.
struct Task {
  explicit Task(SimVolume& a_sim) : sim(a_sim) {}

  void write(Inode& inode, uint64_t pos, size_t len) {
    sources.push_back(random_source(sim.world().random(), len, true));
    sim.spawn_write(inode, pos, sources.back().bytes, How::direct, [this](Result<size_t> written) {
      REQUIRE(written.ok());
      ++told;
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
  std::vector<Source> sources;
  size_t told = 0;
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
    SimVolume sim(seed, with(CompletionPolicy::issuer));
    Content content;
    const InodeRef inode = written_file(sim, content);
    const CompletionStats& stats = sim.files().completions.stats();
    const uint64_t before = stats.issuer_count;
    Task task(sim);
    for (uint64_t i = 0; i < 8; ++i) task.write(*inode, i * kBlockBytes, kBlockBytes);
    REQUIRE(task.reap());
    CHECK(stats.issuer_count == before + 8);
    for (uint64_t i = 0; i < 8; ++i) put(content, i * kBlockBytes, task.sources[i].bytes);
    CHECK(sim.read_all(*inode) == content);
  });
}

TEST_CASE("what needs a transaction or reports an error is deferred, and says why") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const CompletionPolicy policy : {CompletionPolicy::issuer, CompletionPolicy::deferred}) {
      SimVolume sim(seed, with(policy));
      Content content;
      const InodeRef inode = written_file(sim, content);
      const CompletionStats& stats = sim.files().completions.stats();
      const CompletionStats before = stats;
      Task task(sim);
      task.write(*inode, 2 * kFileBytes, kBlockBytes);  // a hole, and the end moves
      REQUIRE(task.reap());
      CHECK(deferred(stats, DeferReason::transaction) ==
            deferred(before, DeferReason::transaction) + 1);
      CHECK(stats.issuer_count == before.issuer_count);

      const uint64_t by_policy = deferred(stats, DeferReason::policy);
      task.write(*inode, 0, kBlockBytes);
      REQUIRE(task.reap());
      const bool defers = policy == CompletionPolicy::deferred;
      CHECK(deferred(stats, DeferReason::policy) == by_policy + (defers ? 1 : 0));
      CHECK(stats.issuer_count == before.issuer_count + (defers ? 0 : 1));

      SimFault fault;
      fault.kind = IoKind::write;
      fault.count = 1;
      fault.error = Error::io_failed;
      sim.device().add_fault(fault);
      const Source source = random_source(sim.world().random(), kBlockBytes, true);
      const Result<size_t> failed = sim.write(*inode, kBlockBytes, source.bytes, How::direct);
      CHECK(!failed.ok());
      CHECK(deferred(stats, DeferReason::error) == deferred(before, DeferReason::error) + 1);
      sim.device().clear_faults();
      // What a failed write held is free again.
      REQUIRE(sim.write(*inode, kBlockBytes, source.bytes, How::direct).ok());
    }
  });
}

// The regression test. Nobody runs the finishes of the task's overwrites but the task, which
// truncates instead. It must not wait for itself.
TEST_CASE("a task with direct writes in flight truncates and allocates before it hears of them") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed, with(CompletionPolicy::deferred));
    Content content;
    const InodeRef inode = written_file(sim, content);
    Random random = sim.world().random().fork();
    for (int round = 0; round < 4; ++round) {
      Task task(sim);
      sim.world().hold_deferred(true);
      SimFault slow;
      slow.kind = IoKind::write;
      slow.delay_ns = 20 * kNsPerMs;
      const SimDevice::FaultId id = sim.device().add_fault(slow);
      for (uint64_t i = 0; i < 6; ++i) task.write(*inode, (i * 3) * kBlockBytes, 2 * kBlockBytes);
      // All of them, before the first can be done: later ones would be no overwrites any more.
      REQUIRE(sim.world().run_until([&sim] { return sim.files().direct.in_flight == 6; }));
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
TEST_CASE("truncate and fallocate end among direct writes that extend and fill holes") {
  for_each_seed(8, [](const TestSeed& seed) {
    for (const CompletionPolicy policy : {CompletionPolicy::issuer, CompletionPolicy::deferred}) {
      SimVolume sim(seed, with(policy));
      const InodeRef inode = sim.create("file");
      Random random = sim.world().random().fork();
      for (int round = 0; round < 4; ++round) {
        Task task(sim);
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
    SimImage image;
    {
      SimVolume sim(seed);
      Content content;
      InodeRef inode = written_file(sim, content);
      Task task(sim);
      for (uint64_t i = 0; i < 12; ++i) task.write(*inode, i * 5 * kBlockBytes, 2 * kBlockBytes);
      sim.world().run_for(sim.world().random().below(300'000));
      sim.world().abandon();
      inode.reset();
      image = sim.power_cut();
    }
    SimVolume again(seed, {}, std::move(image));
    const InodeRef inode = again.lookup("file");
    CHECK(again.read_all(*inode).size() == inode->attr.size);
    CHECK(inode->attr.size >= kFileBytes);
  });
}

}  // namespace
}  // namespace fusefs
