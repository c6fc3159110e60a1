// Pages of shared blocks go when their blocks are no longer shared: whatever a commit does to the
// owners of blocks, nothing stale is found afterwards.
#include "core/memory/shared_blocks.h"

#include <algorithm>
#include <vector>

#include "tests/sim/space_rig.h"
#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using How = SimVolume::How;

constexpr uint64_t kFileBlocks = 24;

FileRange whole_file() { return {FileBlock(0), FileBlock(kFileBlocks)}; }

// A page for every block of `blocks` that has none.
void fill(PageCache& cache, BlockRange blocks) {
  for (BlockNo at = blocks.first; at < blocks.end; ++at) {
    if (cache.shared().find(at)) continue;
    Attempt<FolioRef> added = cache.shared().add(at);
    REQUIRE(added.ok());
    cache.mark_uptodate(*added.value());
  }
}

bool has(PageCache& cache, BlockNo block) { return static_cast<bool>(cache.shared().find(block)); }

TEST_CASE("the page of a block goes at once when the block is released or left with one owner") {
  PageCache cache(kCachePagesMin * kPageBytes);
  SpaceRig rig(1, 0.0, uint64_t{64} << 20);
  rig.space().set_owners_listener(cache.shared());
  const Result<BlockRange> got = rig.allocate(10);
  REQUIRE(got.ok());
  REQUIRE(rig.commit(got.value()).ok());
  const BlockNo first = got.value().first;
  const auto part = [&](uint64_t from, uint64_t end) {
    return BlockRange{first + BlockCount(from), first + BlockCount(end)};
  };
  rig.world().inside([&] { fill(cache, part(0, 10)); });
  REQUIRE(rig.release(part(2, 4), 1).ok());
  rig.world().inside([&] { rig.space().commit_unshare(part(6, 9), JournalSeq(2)); });
  rig.world().inside([&] {
    for (uint64_t i = 0; i < 10; ++i) {
      const bool gone =
          part(2, 4).contains(first + BlockCount(i)) || part(6, 9).contains(first + BlockCount(i));
      CHECK(has(cache, first + BlockCount(i)) != gone);
    }
    cache.shared().forget(part(0, 10));
  });
}

struct Clones {
  explicit Clones(SimVolume& volume) : sim(volume) {
    const std::vector<std::byte> data(kFileBlocks * kBlockBytes, std::byte{1});
    inodes.push_back(sim.create("original"));
    inodes.push_back(sim.create("clone"));
    REQUIRE(sim.write(*inodes[0], 0, data, How::buffered).ok());
    clone(0, 1);
  }
  ~Clones() {
    sim.world().inside([&] { inodes.clear(); });
  }

  void clone(size_t from, size_t to) {
    CopyStash stash;
    REQUIRE(sim.world()
                .run([&] {
                  return copy_range(sim.files(), *inodes[from], 0, *inodes[to], 0,
                                    kFileBlocks * kBlockBytes, stash);
                })
                .ok());
  }
  // The block of each page of the file, and whether it has several owners.
  struct Owned {
    BlockNo block;
    bool shared = false;
  };
  std::vector<Owned> blocks(size_t which) {
    NodePins pins;
    const auto found = sim.world().run([&]() -> Attempt<std::vector<Owned>> {
      Tree& tree = sim.files().store.tree();
      std::vector<Owned> blocks;
      for (FileBlock at(0); at < whole_file().end; ++at) {
        ATTEMPT(const Extent extent,
                extent_at(tree, inodes[which]->ino, at, at + BlockCount(1), pins));
        if (extent.state != ExtentState::written) continue;
        ATTEMPT(const Ownership owned, ownership(tree, extent.blocks(), pins));
        blocks.push_back({extent.start, owned.owners > 1});
      }
      return blocks;
    });
    REQUIRE(found.ok());
    return found.value();
  }

  SimVolume& sim;
  std::vector<InodeRef> inodes;
};

TEST_CASE("only pages of blocks with two owners are ever found, whatever becomes of the clones") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Clones clones(sim);
    PageCache& cache = sim.volume().cache();
    Random random = sim.world().random().fork();
    size_t unshared = 0;
    for (int step = 0; step < 25; ++step) {
      std::vector<Clones::Owned> before = clones.blocks(0);
      sim.world().inside([&] {
        for (const Clones::Owned& owned : before) {
          if (owned.shared) fill(cache, block_range(owned.block, BlockCount(1)));
        }
      });
      const size_t which = random.below(2);
      Inode& inode = *clones.inodes[which];
      const uint64_t pos = random.below(kFileBlocks) * kBlockBytes;
      const std::vector<std::byte> data(kBlockBytes * random.between(1, 4), std::byte{2});
      const uint64_t what = random.below(10);
      if (what < 4) {
        REQUIRE(sim.write(inode, pos, data, How::buffered).ok());
      } else if (what < 7) {
        REQUIRE(sim.write(inode, pos, data, How::direct).ok());
      } else if (what < 8) {
        REQUIRE(sim.truncate(inode, pos).ok());
        REQUIRE(sim.truncate(inode, kFileBlocks * kBlockBytes).ok());
      } else if (what < 9) {
        REQUIRE(sim.fallocate(inode, FallocateMode::punch_hole, pos, data.size(), true).ok());
      } else {
        clones.clone(which, 1 - which);
      }
      REQUIRE(sim.sync().ok());
      std::vector<Clones::Owned> after = clones.blocks(0);
      for (const Clones::Owned& owned : clones.blocks(1)) after.push_back(owned);
      sim.world().inside([&] {
        for (const Clones::Owned& owned : before) {
          const bool shared = std::any_of(after.begin(), after.end(), [&](const auto& now) {
            return now.block == owned.block && now.shared;
          });
          unshared += owned.shared && !shared;
          if (!shared) CHECK_FALSE(has(cache, owned.block));
        }
      });
    }
    CHECK(unshared > 0);
  });
}

}  // namespace
}  // namespace fusefs
