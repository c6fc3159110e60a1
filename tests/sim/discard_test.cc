// -o discard: what becomes free durably is discarded, nothing else, and never under a new owner.
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/random.h"
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kBlocks = 200;  // one request, on the smallest volume

SimVolumeOptions with_discard() {
  SimVolumeOptions options;
  options.discard = true;
  return options;
}

Content pattern(uint64_t blocks, uint64_t key) {
  Content data(blocks * kBlockBytes);
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t word = (key << 32) + i + 1;
    std::memcpy(data.data() + i * kBlockBytes, &word, sizeof word);
  }
  return data;
}

InodeRef written_file(SimVolume& sim, std::string_view name) {
  const InodeRef inode = sim.create(name);
  write(sim, *inode, 0, pattern(kBlocks, 1), How::direct);
  return inode;
}

// Where the file lies on the device.
std::set<uint64_t> blocks_of(SimVolume& sim, Inode& inode) {
  std::set<uint64_t> blocks;
  for (const Extent& extent : extents_of(sim, inode)) {
    if (extent.state == ExtentState::hole) continue;
    for (BlockNo block = extent.start; block < extent.blocks().end; block += BlockCount(1)) {
      blocks.insert(block.value());
    }
  }
  return blocks;
}

std::set<uint64_t> discarded(SimVolume& sim) {
  std::set<uint64_t> blocks;
  for (const SimIoRecord& io : sim.device().log()) {
    if (io.kind != IoKind::discard) continue;
    for (uint64_t addr = io.addr; addr < io.addr + io.len; addr += kBlockBytes) {
      CHECK(blocks.insert(addr / kBlockBytes).second);
    }
  }
  return blocks;
}

uint64_t discards(SimVolume& sim) { return sim.device().stats().submitted(IoKind::discard); }

void unlink(SimVolume& sim, InodeRef inode, std::string_view name) {
  NamespaceStash stash;
  REQUIRE(
      sim.world().run([&] { return sim.volume().names().unlink(kRootInode, name, stash); }).ok());
  const InodeNo ino = inode->ino;
  inode.reset();
  sim.world().inside([&] { sim.volume().release_inode(ino); });
  REQUIRE(sim.world().run_until_idle());
}

}  // namespace

TEST_CASE("with discard, exactly the freed blocks are discarded, in large ranges") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed, with_discard());
    InodeRef kept = sim.create("kept");
    InodeRef gone = sim.create("gone");
    const auto data = pattern(kBlocks, seed.seed);
    REQUIRE(sim.write(*kept, 0, data, How::buffered).ok());
    REQUIRE(sim.write(*gone, 0, data, How::buffered).ok());
    REQUIRE(sim.sync().ok());
    std::set<uint64_t> freed = blocks_of(sim, *gone);
    REQUIRE(freed.size() == kBlocks);
    const std::set<uint64_t> whole = blocks_of(sim, *kept);
    REQUIRE(
        sim.fallocate(*kept, FallocateMode::punch_hole, 10 * kBlockBytes, 20 * kBlockBytes, true)
            .ok());
    const std::set<uint64_t> rest = blocks_of(sim, *kept);
    for (const uint64_t block : whole) {
      if (rest.count(block) == 0) freed.insert(block);
    }
    REQUIRE(freed.size() == kBlocks + 20);
    CHECK(discards(sim) == 0);
    sim.device().clear_log();
    unlink(sim, std::move(gone), "gone");
    REQUIRE(sim.world().run_for(5 * kNsPerSecond));
    CHECK(discarded(sim) == freed);
    CHECK(discards(sim) <= 8);
    CHECK(sim.volume().space().stats().trimming_blocks == 0);
    CHECK(sim.read_all(*kept).size() == data.size());
    kept.reset();
    require_consistent(sim.unmount(), with_discard());
  });
}

TEST_CASE("without discard, nothing is discarded") {
  for_each_seed(1, [](const TestSeed& seed) {
    SimVolume sim(seed);
    unlink(sim, written_file(sim, "gone"), "gone");
    REQUIRE(sim.world().run_for(5 * kNsPerSecond));
    CHECK(discards(sim) == 0);
  });
}

TEST_CASE("what was freed just before the unmount is discarded by it") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, with_discard());
    InodeRef gone = written_file(sim, "gone");
    const std::set<uint64_t> freed = blocks_of(sim, *gone);
    unlink(sim, std::move(gone), "gone");
    CHECK(discards(sim) == 0);
    REQUIRE(sim.world().run([&] { return sim.volume().unmount(); }).ok());
    CHECK(discarded(sim) == freed);
  });
}

TEST_CASE("nothing is discarded before its release is durable") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, with_discard());
    InodeRef gone = written_file(sim, "gone");
    REQUIRE(sim.sync().ok());
    // The journal's writes take longer than the discarder's interval.
    SimFault slow;
    slow.kind = IoKind::write;
    slow.delay_ns = 10 * kNsPerSecond;
    const auto fault = sim.device().add_fault(slow);
    unlink(sim, std::move(gone), "gone");
    REQUIRE(sim.world().run_for(5 * kNsPerSecond));
    CHECK(discards(sim) == 0);
    sim.device().remove_fault(fault);
    REQUIRE(sim.world().run_for(30 * kNsPerSecond));
    CHECK(discards(sim) > 0);
  });
}

TEST_CASE("a failed discard is nobody's error, and the blocks are used again") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, with_discard());
    SimFault refused;
    refused.kind = IoKind::discard;
    refused.error = seed.seed % 2 == 0 ? Error::io_failed : Error::not_supported;
    sim.device().add_fault(refused);
    const uint64_t free = sim.volume().space().stats().available_blocks;
    for (int round = 0; round < 3; ++round) {
      unlink(sim, written_file(sim, "gone"), "gone");
      REQUIRE(sim.sync().ok());
      REQUIRE(sim.world().run_for(5 * kNsPerSecond));
    }
    CHECK(sim.volume().space().stats().available_blocks == free);
    // A device that knows no discards is asked once.
    CHECK(discards(sim) == (seed.seed % 2 == 0 ? 3 : 1));
    CHECK(sim.volume().writable());
  });
}

// Slow discards beside writers that need the space: SimDevice stops the program when a write meets
// a discard of the same block, and a discard that comes too late would destroy the new contents.
TEST_CASE("a block is never handed out while its discard is under way") {
  for_each_seed(3, [](const TestSeed& seed) {
    SimVolume sim(seed, with_discard());
    SimFault slow;
    slow.kind = IoKind::discard;
    slow.delay_ns = 2 * kNsPerSecond;
    sim.device().add_fault(slow);
    Random random(seed.seed);
    const uint64_t most = sim.volume().space().stats().available_blocks;
    const uint64_t each = most / 5;
    std::vector<std::pair<std::string, uint64_t>> files;
    for (uint64_t round = 0; round < 20; ++round) {
      if (files.size() == 4 || (!files.empty() && random.chance(0.3))) {
        const size_t victim = random.below(files.size());
        unlink(sim, sim.lookup(files[victim].first), files[victim].first);
        files.erase(files.begin() + static_cast<ptrdiff_t>(victim));
      }
      const std::string name = "f" + std::to_string(round);
      InodeRef inode = sim.create(name);
      const auto how = random.chance(0.5) ? How::buffered : How::direct;
      const auto written = sim.write(*inode, 0, pattern(each, round), how);
      REQUIRE(written.ok());
      CHECK(written.value() == each * kBlockBytes);
      files.emplace_back(name, round);
      REQUIRE(sim.world().run_for(random.below(3 * kNsPerSecond)));
    }
    for (const auto& [name, key] : files) {
      InodeRef inode = sim.lookup(name);
      CHECK(sim.read_all(*inode) == pattern(each, key));
    }
    CHECK(discards(sim) > 0);
    require_consistent(sim.unmount(), with_discard());
  });
}

}  // namespace fusefs
