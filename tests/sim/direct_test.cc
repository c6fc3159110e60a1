// Direct I/O: neighbours within a block, parallel writes, reads beside writes.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kHalf = kBlockBytes / 2;

// Many writes at a time, and when all have ended.
struct Batch {
  explicit Batch(SimVolume& a_sim) : sim(a_sim) {}
  void write(Inode& inode, uint64_t pos, ConstBytes data) {
    ++running;
    sim.spawn_write(inode, pos, data, How::direct,
                    [this, want = data.size()](Result<size_t> written) {
                      CHECK(written.ok());
                      if (written.ok()) CHECK(written.value() == want);
                      --running;
                    });
  }
  void finish() {
    REQUIRE(sim.world().run_until([this] { return running == 0; }));
  }
  SimVolume& sim;
  size_t running = 0;
};

SimFault slow_writes(uint64_t delay_ns) {
  SimFault fault;
  fault.kind = IoKind::write;
  fault.delay_ns = delay_ns;
  return fault;
}

TEST_CASE("direct writes that share no block are at the device together, into holes as well") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const bool holes : {false, true}) {
      SimVolume sim(seed);
      const InodeRef inode = sim.create("file");
      if (holes) REQUIRE(sim.truncate(*inode, 1 << 20).ok());
      constexpr uint64_t kWriters = 16;
      constexpr uint64_t kDelayNs = 100 * kNsPerMs;
      const Source source = random_source(sim.world().random(), 2 * kBlockBytes, true);
      sim.device().add_fault(slow_writes(kDelayNs));
      Batch batch(sim);
      Content model(holes ? 1 << 20 : 0);
      for (uint64_t i = 0; i < kWriters; ++i) {
        const uint64_t pos = i * 3 * kBlockBytes;
        batch.write(*inode, pos, source.bytes);
        put(model, pos, source.bytes);
      }
      batch.finish();
      CHECK(sim.files().direct.in_flight_max == kWriters);
      sim.device().clear_faults();
      CHECK(sim.read_all(*inode) == model);
    }
  });
}

TEST_CASE("the halves of a buffer that the kernel has cut within a block become one device write") {
  uint64_t joined = 0;
  const bool all = for_each_seed(8, [&joined](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("file");
    Content model;
    for (const uint64_t pos : {uint64_t{0}, uint64_t{64} * kBlockBytes, uint64_t{1} << 20}) {
      const size_t len = 64 * kBlockBytes;
      const Source source = random_source(random, len, false);
      Batch batch(sim);
      batch.write(*inode, pos, source.bytes.first(len - 48));
      batch.write(*inode, pos + len - 48, source.bytes.subspan(len - 48));
      batch.finish();
      put(model, pos, source.bytes);
      CHECK(sim.read_all(*inode) == model);
    }
    joined += sim.files().direct.edge_joined_count;
    REQUIRE(sim.sync().ok());
    CHECK(inode->disk_size == model.size());
    CHECK(sim.read_all(*inode) == model);
  });
  if (all) CHECK(joined > 0);
}

// Neighbours, some of them within one block, in every order, over written blocks and holes.
TEST_CASE("writes of parts of one block at the same time lose no byte") {
  uint64_t joined = 0;
  const bool all = for_each_seed(10, [&joined](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("file");
    Content model;
    if (seed.seed % 2 == 0) {
      model = random_bytes(random, 40'000);
      REQUIRE(sim.write(*inode, 0, model, How::buffered).ok());
    }
    for (int round = 0; round < 6; ++round) {
      std::vector<Source> sources;
      std::vector<uint64_t> at;
      uint64_t pos = random.below(30'000);
      for (int i = 0; i < 10; ++i) {
        const size_t len = random.chance(0.6) ? random.between(1, 1500) : random.between(1, 20'000);
        sources.push_back(random_source(random, len, random.chance(0.5)));
        at.push_back(pos);
        put(model, pos, sources.back().bytes);
        pos += len;
      }
      Batch batch(sim);
      std::vector<size_t> order(sources.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
      for (const size_t i : order) batch.write(*inode, at[i], sources[i].bytes);
      batch.finish();
      CHECK(sim.read_all(*inode) == model);
    }
    joined += sim.files().direct.edge_joined_count;
    REQUIRE(sim.sync().ok());
    CHECK(sim.read_all(*inode) == model);
  });
  if (all) CHECK(joined > 0);
}

TEST_CASE("when the write that others have joined fails, theirs are done all the same") {
  uint64_t joined = 0;
  const bool all = for_each_seed(10, [&joined](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("file");
    Content model = random_bytes(random, 4 * kBlockBytes);
    REQUIRE(sim.write(*inode, 0, model, How::direct).ok());
    NodePins pins;
    const auto extent = sim.world().run([&] {
      return extent_at(sim.volume().store().tree(), inode->ino, FileBlock(1), FileBlock(2), pins);
    });
    REQUIRE(extent.ok());
    for (int round = 0; round < 4; ++round) {
      SimFault fault;
      fault.addr_first = block_addr(extent.value().start);
      fault.addr_end = fault.addr_first + kBlockBytes;
      fault.kind = IoKind::write;
      fault.count = 1;
      fault.error = Error::no_space;  // of a sparse image: it leaves the content alone
      const SimDevice::FaultId id = sim.device().add_fault(fault);
      std::vector<Source> sources;
      std::vector<bool> failed(4);
      size_t running = 0;
      for (uint64_t i = 0; i < 4; ++i) {
        sources.push_back(random_source(random, 1000, true));
        ++running;
        sim.spawn_write(*inode, kBlockBytes + i * 1000, sources[i].bytes, How::direct,
                        [&running, &failed, i](Result<size_t> written) {
                          failed[i] = !written.ok();
                          --running;
                        });
      }
      REQUIRE(sim.world().run_until([&running] { return running == 0; }));
      sim.device().remove_fault(id);
      for (uint64_t i = 0; i < 4; ++i) {
        if (!failed[i]) put(model, kBlockBytes + i * 1000, sources[i].bytes);
      }
      CHECK(std::count(failed.begin(), failed.end(), true) <= 1);
      CHECK(sim.read_all(*inode) == model);
    }
    joined += sim.files().direct.edge_joined_count;
  });
  if (all) CHECK(joined > 0);
}

// Each half of each block has one byte throughout, whoever wrote it last.
TEST_CASE("a read beside direct writes of parts of blocks sees each of them wholly or not") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("file");
    constexpr uint64_t kBlocks = 6;
    REQUIRE(sim.write(*inode, 0, Content(kBlocks * kBlockBytes, std::byte{1}), How::direct).ok());
    if (seed.seed % 2 == 0) {  // dirty pages in between
      REQUIRE(
          sim.write(*inode, kBlockBytes, Content(kBlockBytes, std::byte{2}), How::buffered).ok());
    }
    for (int round = 0; round < 6; ++round) {
      Batch batch(sim);
      std::vector<std::unique_ptr<Source>> sources;
      for (int i = 0; i < 8; ++i) {
        const uint64_t first = random.below(2 * kBlocks);
        const uint64_t halves = random.between(1, std::min<uint64_t>(4, 2 * kBlocks - first));
        sources.push_back(
            std::make_unique<Source>(random_source(random, halves * kHalf, random.chance(0.5))));
        std::fill_n(const_cast<std::byte*>(sources.back()->bytes.data()), halves * kHalf,
                    static_cast<std::byte>(3 + i));
        batch.write(*inode, first * kHalf, sources.back()->bytes);
      }
      do {
        const Content content = sim.read_all(*inode);
        REQUIRE(content.size() == kBlocks * kBlockBytes);
        for (uint64_t half = 0; half < 2 * kBlocks; ++half) {
          const auto* at = content.data() + half * kHalf;
          REQUIRE(std::all_of(at, at + kHalf, [at](std::byte byte) { return byte == *at; }));
        }
      } while (batch.running != 0);
    }
  });
}

TEST_CASE("whole blocks in memory that the device takes are not copied") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("file");
    const DirectStats& stats = sim.files().direct;
    const Source aligned = random_source(random, 20 * kBlockBytes, true);
    REQUIRE(sim.write(*inode, 0, aligned.bytes, How::direct).ok());
    // The end lies within a block: of that one only the edge is made up.
    REQUIRE(sim.write(*inode, 0, aligned.bytes.first(10'000), How::direct).ok());
    CHECK(stats.bounce_bytes == 0);
    CHECK(stats.unaligned_count == 1);
    CHECK(stats.edge_read_count == 1);
    const Source shifted = random_source(random, 4 * kBlockBytes, false);
    REQUIRE(sim.write(*inode, 0, shifted.bytes, How::direct).ok());
    CHECK(stats.bounce_bytes == 4 * kBlockBytes);
    CHECK(stats.unaligned_count == 1);
  });
}

}  // namespace
}  // namespace fusefs
