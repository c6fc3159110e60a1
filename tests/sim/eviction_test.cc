// What an inode knows only in memory, and what becomes of it when it leaves.
#include <string>

#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

void look_at(SimVolume& sim, const std::vector<InodeNo>& inodes) {
  for (const InodeNo ino : inodes) {
    NodePins pins;
    REQUIRE(sim.world().run([&] { return sim.volume().inodes().get(ino, pins); }).ok());
  }
}

TEST_CASE("an overwrite is durable after fsync, also if its inode has left memory in between") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    sim.volume().inodes().set_cached_max(4);
    AlignedBuffer old_block(kBlockBytes);
    AlignedBuffer new_block(kBlockBytes);
    std::fill_n(old_block.data(), kBlockBytes, std::byte{1});
    std::fill_n(new_block.data(), kBlockBytes, std::byte{2});
    const InodeNo ino = sim.create("file")->ino;
    {
      const InodeRef file = sim.lookup("file");
      REQUIRE(sim.write(*file, 0, old_block.bytes(), SimVolume::How::direct).ok());
    }
    std::vector<InodeNo> others;
    for (size_t i = 0; i < 8; ++i) {
      others.push_back(sim.create("other" + std::to_string(i))->ino);
    }
    REQUIRE(sim.sync().ok());
    {
      const InodeRef file = sim.lookup("file");
      REQUIRE(sim.write(*file, 0, new_block.bytes(), SimVolume::How::direct).ok());
    }
    REQUIRE(sim.sync().ok());  // its times; now it may go
    {
      const InodeRef file = sim.lookup("file");
      std::fill_n(new_block.data(), kBlockBytes, std::byte{3});
      REQUIRE(sim.write(*file, 0, new_block.bytes(), SimVolume::How::direct).ok());
      NodePins pins;
      REQUIRE(sim.world().run([&] { return save_attr(sim.files(), *file, pins); }).ok());
    }
    look_at(sim, others);
    {
      const WriteCache& cache = sim.files().write_cache;
      REQUIRE_FALSE(cache.durable(cache.last_write()));
    }
    REQUIRE_FALSE(sim.volume().inodes().peek(ino));
    {
      OpenFile file;
      file.inode = sim.lookup("file");
      REQUIRE(sim.fsync(file).ok());
      const WriteCache& cache = sim.files().write_cache;
      CHECK(cache.durable(cache.last_write()));
    }
    SimVolume after(seed, {}, sim.power_cut());
    CHECK(after.read_all(*after.lookup("file")).front() == std::byte{3});
  });
}

TEST_CASE("an access time that lazytime keeps in memory is saved when its inode leaves memory") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.lazytime = true;
    SimVolume sim(seed, options);
    const InodeNo ino = sim.create("file")->ino;
    const InodeNo kept = sim.create("kept")->ino;
    std::vector<InodeNo> others;
    for (size_t i = 0; i < 8; ++i) {
      others.push_back(sim.create("other" + std::to_string(i))->ino);
    }
    REQUIRE(sim.sync().ok());
    REQUIRE(sim.world().run_for(2 * kNsPerSecond));
    Timestamp read;
    Timestamp read_kept;
    sim.world().inside([&] {
      const InodeRef file = sim.volume().inodes().peek(ino);
      sim.volume().touch_atime(*file);
      CHECK_FALSE(file->attr_dirty);
      read = file->attr.atime;
      const InodeRef other = sim.volume().inodes().peek(kept);
      sim.volume().touch_atime(*other);
      read_kept = other->attr.atime;
    });
    sim.volume().inodes().set_cached_max(4);
    look_at(sim, others);
    REQUIRE(sim.world().run_for(5 * kNsPerSecond));
    look_at(sim, others);
    REQUIRE_FALSE(sim.volume().inodes().peek(ino));
    CHECK(sim.lookup("file")->attr.atime == read);
    SimVolume after(seed, {}, sim.unmount());
    CHECK(after.lookup("file")->attr.atime == read);
    CHECK(after.lookup("kept")->attr.atime == read_kept);
  });
}

}  // namespace
}  // namespace fusefs
