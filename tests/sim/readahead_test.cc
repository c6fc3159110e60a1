// Readahead helps, or does nothing: it never changes what is read.
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "core/memory/shared_blocks.h"
#include "tests/sim/file_content.h"
#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kRead = 64 << 10;
constexpr uint64_t kLargeCache = 8 << 20;

SimVolumeOptions large_cache() {
  SimVolumeOptions options;
  options.cache_bytes = kLargeCache;
  return options;
}

// A file of random bytes, on the device and not in our cache, opened.
struct Opened {
  Opened(SimVolume& volume, uint64_t len) : sim(volume) {
    Random random = sim.world().random().fork();
    content = random_bytes(random, len);
    file.inode = sim.create("file");
    REQUIRE(sim.write(*file.inode, 0, content, How::direct).ok());
    REQUIRE(sim.sync().ok());
  }
  ~Opened() {
    sim.world().inside([&] { file = OpenFile(); });
  }

  // As ops_data.cc does it.
  void read(uint64_t pos, uint64_t len = kRead) {
    sim.world().inside([&] { read_ahead(sim.files(), file, pos, len); });
    const auto got = sim.read(*file.inode, pos, len);
    REQUIRE(got.ok());
    const uint64_t end = std::min<uint64_t>(content.size(), pos + len);
    REQUIRE(pos <= end);
    CHECK(std::equal(got.value().begin(), got.value().end(),
                     content.begin() + static_cast<ptrdiff_t>(pos),
                     content.begin() + static_cast<ptrdiff_t>(end)));
  }
  const ReadaheadStats& stats() { return sim.files().readahead; }
  const PageCacheStats& cache_stats() { return sim.volume().cache().stats(); }

  SimVolume& sim;
  Content content;
  OpenFile file;
};

TEST_CASE("a sequential reader finds what was read ahead, in growing windows, and nothing twice") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed, large_cache());
    Opened opened(sim, (4 << 20) + 777);
    const uint64_t before = sim.device().stats().bytes(IoKind::read);
    for (uint64_t pos = 0; pos < opened.content.size(); pos += kRead) {
      opened.read(pos);
      REQUIRE(sim.world().run_until_idle());
    }
    const ReadaheadStats& stats = opened.stats();
    CHECK(stats.sequential_count > 4);
    CHECK(stats.sequential_count < 20);  // or the windows would not have grown
    CHECK(stats.strided_count == 0);
    CHECK(stats.dropped_count == 0);
    // All but the first two reads.
    CHECK(stats.read_bytes ==
          block_bytes(file_block_end(opened.content.size()) - FileBlock()) - 2 * kRead);
    CHECK(opened.cache_stats().read_ahead_hit_bytes == stats.read_bytes);
    CHECK(opened.cache_stats().read_ahead_wasted_bytes == 0);
    // Tree nodes aside, each byte came from the device once.
    CHECK(sim.device().stats().bytes(IoKind::read) - before < opened.content.size() + (64 << 10));
  });
}

TEST_CASE(
    "a reader that skips the same distance each time finds its pieces, and only those are read") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed, large_cache());
    Opened opened(sim, 4 << 20);
    constexpr uint64_t kStride = 96 << 10;
    constexpr uint64_t kPiece = 8 << 10;
    uint64_t pieces = 0;
    for (uint64_t pos = 0; pos + kPiece <= opened.content.size(); pos += kStride) {
      opened.read(pos, kPiece);
      ++pieces;
      REQUIRE(sim.world().run_until_idle());
    }
    CHECK(opened.stats().strided_count > 0);
    CHECK(opened.stats().sequential_count == 0);
    CHECK(opened.stats().read_bytes == (pieces - 3) * kPiece);
    CHECK(opened.cache_stats().read_ahead_hit_bytes == (pieces - 3) * kPiece);
  });
}

TEST_CASE("a page read ahead is the first to go once it has been read") {
  SimVolumeOptions options;
  options.cache_bytes = 1 << 20;
  SimVolume sim({}, options);
  Opened opened(sim, 8 << 20);
  // Something worth keeping: pages of shared blocks, used twice.
  PageCache& cache = sim.volume().cache();
  constexpr uint64_t kKept = 100;
  sim.world().inside([&] {
    for (uint64_t i = 0; i < kKept; ++i) {
      Attempt<FolioRef> added = cache.shared().add(BlockNo(1'000'000 + i));
      REQUIRE(added.ok());
      cache.mark_uptodate(*added.value());
    }
    for (uint64_t i = 0; i < kKept; ++i) CHECK(cache.shared().find(BlockNo(1'000'000 + i)));
  });
  for (uint64_t pos = 0; pos < opened.content.size(); pos += kRead) {
    opened.read(pos);
    REQUIRE(sim.world().run_until_idle());
  }
  CHECK(cache.stats().reclaimed_count > 0);
  CHECK(cache.stats().read_ahead_hit_bytes > opened.content.size() / 2);
  CHECK(cache.shared().size() == kKept);
}

TEST_CASE("without memory to spare nothing is read ahead, and nobody waits") {
  SimVolume sim({});  // 64 pages
  Opened opened(sim, 2 << 20);
  PageCache& cache = sim.volume().cache();
  Mapping other;
  std::vector<FolioRef> kept;
  sim.world().inside([&] {
    for (uint64_t i = 0; i < kCachePagesMin; ++i) {
      Attempt<FolioRef> added = cache.add(other, FileBlock(i));
      REQUIRE(added.ok());
      kept.push_back(std::move(added).value());
    }
  });
  for (uint64_t pos = 0; pos < opened.content.size(); pos += kRead) opened.read(pos);
  REQUIRE(sim.world().run_until_idle());
  CHECK(opened.stats().read_bytes == 0);
  CHECK(opened.stats().dropped_count > 0);
  sim.world().inside([&] { kept.clear(); });
  // Pages that nobody has come for are an eighth of the cache at most.
  OpenFile again;
  sim.world().inside([&] { again.inode = opened.file.inode; });
  for (uint64_t pos = 0; pos < opened.content.size(); pos += kRead) {
    sim.world().inside([&] { read_ahead(sim.files(), again, pos, kRead); });
    REQUIRE(sim.world().run_until_idle());
  }
  const uint64_t waiting = opened.stats().read_bytes - opened.cache_stats().read_ahead_wasted_bytes;
  CHECK(waiting == kCachePagesMin / 8 * kPageBytes);
  CHECK(opened.stats().read_bytes > 2 * waiting);  // newer ones take the place of the oldest
  sim.world().inside([&] { again = OpenFile(); });
}

TEST_CASE("a file that is blocked is left alone") {
  SimVolume sim({}, large_cache());
  Opened opened(sim, 2 << 20);
  Inode& inode = *opened.file.inode;
  auto held = sim.world().run([&] { return inode.pages_lock.block(); });
  REQUIRE(held.ok());
  for (uint64_t pos = 0; pos < 8 * kRead; pos += kRead) opened.read(pos);
  REQUIRE(sim.world().run_until_idle());
  CHECK(opened.stats().window_bytes > 0);
  CHECK(opened.stats().read_bytes == 0);
  CHECK(opened.stats().dropped_count > 0);
  sim.world().inside([&] { held.value().release(); });
}

TEST_CASE("pages of shared blocks that were read ahead are there for every clone") {
  SimVolume sim({}, large_cache());
  Opened opened(sim, 2 << 20);
  const InodeRef clone = sim.create("clone");
  CopyStash stash;
  REQUIRE(sim.world()
              .run([&] {
                return copy_range(sim.files(), *opened.file.inode, 0, *clone, 0,
                                  opened.content.size(), stash);
              })
              .ok());
  OpenFile of_clone;
  sim.world().inside([&] { of_clone.inode = clone; });
  for (OpenFile* file : {&opened.file, &of_clone}) {
    for (uint64_t pos = 0; pos < opened.content.size(); pos += kRead) {
      sim.world().inside([&] { read_ahead(sim.files(), *file, pos, kRead); });
      REQUIRE(sim.world().run_until_idle());
    }
    CHECK(file->inode->mapping.empty());
  }
  const size_t ahead = (opened.content.size() - 2 * kRead) / kPageBytes;
  CHECK(sim.volume().cache().shared().size() <= ahead);
  CHECK(sim.volume().cache().shared().size() == kLargeCache / kPageBytes / 8);
  CHECK(opened.stats().read_bytes - opened.cache_stats().read_ahead_wasted_bytes ==
        sim.volume().cache().shared().size() * kPageBytes);
  sim.world().inside([&] { of_clone = OpenFile(); });
}

// Writers, direct writers, truncates, punches and clones, while everything is being read ahead.
TEST_CASE("what is read ahead is never stale, whatever becomes of the file meanwhile") {
  for_each_seed(12, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.cache_bytes = 1 << 20;
    SimVolume sim(seed, options);
    Opened opened(sim, 600'000);
    Random random = sim.world().random().fork();
    Inode& inode = *opened.file.inode;
    const InodeRef clone = sim.create("clone");
    Content& model = opened.content;
    uint64_t cursor = 0;
    for (int step = 0; step < 150; ++step) {
      // Several steps ahead of the reader, most of them under way while something else happens.
      for (int i = 0; i < 3; ++i) {
        const uint64_t len = 4096 * random.between(1, 8);
        sim.world().inside([&] { read_ahead(sim.files(), opened.file, cursor, len); });
        cursor = cursor + len < model.size() ? cursor + len : 0;
      }
      if (random.chance(0.5)) sim.world().run_for(random.below(kNsPerSecond / 10'000));
      const uint64_t pos = random.below(model.size());
      const uint64_t what = random.below(12);
      if (what < 6) {
        const size_t len = random.between(1, 30'000);
        const Source source = random_source(random, len, random.chance(0.5));
        const How how = random.chance(0.5) ? How::buffered : How::direct;
        REQUIRE(sim.write(inode, pos, source.bytes, how).ok());
        put(model, pos, source.bytes);
      } else if (what == 6) {
        REQUIRE(sim.truncate(inode, pos + 1).ok());
        model.resize(pos + 1);
        if (random.chance(0.7)) {
          const uint64_t size = pos + 1 + random.below(300'000);
          REQUIRE(sim.truncate(inode, size).ok());
          model.resize(size);
        }
      } else if (what == 7) {
        const uint64_t len = std::min<uint64_t>(random.between(1, 50'000), model.size() - pos);
        REQUIRE(sim.fallocate(inode, FallocateMode::punch_hole, pos, len, true).ok());
        std::fill_n(model.begin() + static_cast<ptrdiff_t>(pos), len, std::byte{0});
      } else if (what == 8) {
        CopyStash stash;
        REQUIRE(sim.world()
                    .run([&] {
                      return copy_range(sim.files(), inode, 0, *clone, 0, model.size(), stash);
                    })
                    .ok());
      } else {
        opened.read(pos, std::min<uint64_t>(random.between(1, 100'000), model.size() - pos));
      }
      if (random.chance(0.1)) REQUIRE(sim.sync().ok());
      if (random.chance(0.2)) CHECK(sim.read_all(inode) == model);
      if (model.size() < 100'000) {
        const Source source = random_source(random, 400'000, true);
        REQUIRE(sim.write(inode, 0, source.bytes, How::direct).ok());
        put(model, 0, source.bytes);
      }
    }
    REQUIRE(sim.world().run_until_idle());
    CHECK(sim.read_all(inode) == model);
    CHECK(opened.stats().read_bytes > 0);
  });
}

TEST_CASE("a file that is removed while it is read ahead leaves nothing behind") {
  for_each_seed(10, [](const TestSeed& seed) {
    SimVolume sim(seed, large_cache());
    {
      Opened opened(sim, 1 << 20);
      for (uint64_t pos = 0; pos < 4 * kRead; pos += kRead) {
        sim.world().inside([&] { read_ahead(sim.files(), opened.file, pos, kRead); });
      }
      NamespaceStash stash;
      Result<InodeRef> gone =
          sim.world().run([&] { return sim.volume().names().unlink(kRootInode, "file", stash); });
      REQUIRE(gone.ok());
      const InodeNo ino = opened.file.inode->ino;
      sim.world().inside([&] {
        opened.file = OpenFile();
        gone = Result<InodeRef>(Error::not_found);
        sim.volume().release_inode(ino);
      });
      REQUIRE(sim.world().run_until_idle());
      sim.world().inside([&] { CHECK_FALSE(sim.volume().inodes().peek(ino)); });
    }
    CHECK(sim.volume().cache().stats().used_bytes == 0);
  });
}

TEST_CASE("an error of a page read ahead is not told, and who needs the page reads it again") {
  SimVolume sim({}, large_cache());
  Opened opened(sim, 1 << 20);
  SimFault fault;
  fault.kind = IoKind::read;
  fault.count = 1;
  fault.error = Error::io_failed;
  sim.device().add_fault(fault);
  sim.world().inside([&] {
    for (uint64_t pos = 0; pos < 2 * kRead; pos += kRead) {
      read_ahead(sim.files(), opened.file, pos, kRead);
    }
  });
  REQUIRE(sim.world().run_until_idle());
  CHECK(opened.stats().read_bytes > 0);
  CHECK(opened.file.inode->mapping.empty());
  for (uint64_t pos = 0; pos < opened.content.size(); pos += kRead) opened.read(pos);
}

}  // namespace
}  // namespace fusefs
