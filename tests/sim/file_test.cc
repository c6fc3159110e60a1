// Files against a vector of bytes: what is read is what was written, whatever the page cache, the
// flusher and the device do meanwhile, and never what the device held before.
#include <algorithm>
#include <array>
#include <map>

#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kFileBytes = 600'000;  // more than the cache holds

// One random operation on one file, done to the model too.
void random_step(SimVolume& sim, Random& random, Inode& inode, Content& model) {
  const uint64_t what = random.below(100);
  const bool aligned = random.chance(0.5);
  uint64_t pos = random.below(kFileBytes);
  size_t len = random.chance(0.2) ? random.between(1, 200'000) : random.between(1, 9'000);
  if (aligned) {
    pos -= pos % kBlockBytes;
    len += kBlockBytes - len % kBlockBytes;
  }
  if (what < 70) {
    const How how = what < 40 ? How::buffered : How::direct;
    const bool append = random.chance(0.1);
    const Source source = random_source(random, len, random.chance(0.5));
    const Result<size_t> written = sim.write(inode, pos, source.bytes, how, append);
    REQUIRE(written.ok());
    REQUIRE(written.value() == len);
    put(model, append ? model.size() : pos, source.bytes);
  } else if (what < 90) {
    const auto got = sim.read(inode, pos, len);
    REQUIRE(got.ok());
    const uint64_t first = std::min<uint64_t>(pos, model.size());
    const uint64_t end = std::min<uint64_t>(pos + len, model.size());
    REQUIRE(std::equal(got.value().begin(), got.value().end(),
                       model.begin() + static_cast<ptrdiff_t>(first),
                       model.begin() + static_cast<ptrdiff_t>(end)));
  } else if (what < 94) {
    const uint64_t size = random.below(kFileBytes);
    REQUIRE(sim.truncate(inode, size).ok());
    model.resize(size);
  } else if (what < 97) {
    const bool punch = random.chance(0.5);
    const FallocateMode mode = punch ? FallocateMode::punch_hole : FallocateMode::allocate;
    REQUIRE(sim.fallocate(inode, mode, pos, len, true).ok());
    if (punch) {
      for (uint64_t i = pos; i < std::min<uint64_t>(pos + len, model.size()); ++i) {
        model[i] = std::byte{0};
      }
    }
  } else {
    OpenFile file;
    file.inode = InodeRef(&inode);
    REQUIRE(sim.fsync(file, random.chance(0.5)).ok());
  }
  REQUIRE(inode.attr.size == model.size());
}

TEST_CASE("a file reads as it was written, buffered or direct, aligned or not, after a remount") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    std::array<InodeRef, 2> inodes = {sim.create("a"), sim.create("b")};
    std::array<Content, 2> models;
    for (int step = 0; step < 120; ++step) {
      const size_t which = random.below(2);
      random_step(sim, random, *inodes[which], models[which]);
      if (random.chance(0.1)) sim.world().run_for(random.below(2 * kNsPerSecond));
    }
    for (size_t i = 0; i < 2; ++i) CHECK(sim.read_all(*inodes[i]) == models[i]);
    for (InodeRef& inode : inodes) sim.world().inside([&] { inode.reset(); });

    SimVolume again(seed, {}, sim.unmount());
    const InodeRef a = again.lookup("a");
    const InodeRef b = again.lookup("b");
    CHECK(again.read_all(*a) == models[0]);
    CHECK(again.read_all(*b) == models[1]);
    CHECK(a->delayed_blocks == BlockCount(0));
  });
}

// Many at once, each on blocks of its own but for the edges.
TEST_CASE("writers of neighbouring ranges lose none of each other's bytes") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("shared");
    Content model;
    for (int round = 0; round < 4; ++round) {
      std::vector<Source> sources;
      size_t running = 0;
      uint64_t pos = random.below(10'000);
      std::vector<uint64_t> at;
      for (int i = 0; i < 12; ++i) {
        sources.push_back(random_source(random, random.between(1, 40'000), random.chance(0.5)));
        at.push_back(pos);
        put(model, pos, sources.back().bytes);
        pos += sources.back().bytes.size();
      }
      for (size_t i = 0; i < sources.size(); ++i) {
        ++running;
        sim.spawn_write(*inode, at[i], sources[i].bytes,
                        random.chance(0.5) ? How::buffered : How::direct,
                        [&running, want = sources[i].bytes.size()](Result<size_t> written) {
                          REQUIRE(written.ok());
                          REQUIRE(written.value() == want);
                          --running;
                        });
      }
      REQUIRE(sim.world().run_until([&running] { return running == 0; }));
      CHECK(sim.read_all(*inode) == model);
    }
    REQUIRE(sim.sync().ok());
    CHECK(sim.read_all(*inode) == model);
    CHECK(inode->mapping.dirty_count() == 0);
  });
}

TEST_CASE("overlapping direct writes of one range leave one of them, block by block") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("contended");
    std::vector<Source> sources;
    size_t running = 0;
    for (int i = 0; i < 6; ++i) sources.push_back(random_source(random, 10'000, true));
    for (Source& source : sources) {
      std::fill_n(source.buffer.data(), 10'000, std::byte(1 + (&source - sources.data())));
      ++running;
      sim.spawn_write(*inode, 0, source.bytes, How::direct, [&running](Result<size_t> written) {
        REQUIRE(written.ok());
        --running;
      });
    }
    REQUIRE(sim.world().run_until([&running] { return running == 0; }));
    const Content content = sim.read_all(*inode);
    REQUIRE(content.size() == 10'000);
    CHECK(std::count(content.begin(), content.end(), content[0]) == 10'000);
  });
}

TEST_CASE("concurrent appends put their bytes one after the other") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef inode = sim.create("log");
    std::vector<Content> lines;
    for (int i = 0; i < 20; ++i) lines.emplace_back(1000 + 37 * i, std::byte(1 + i));
    size_t running = 0;
    for (const Content& line : lines) {
      auto stash = std::make_shared<WriteStash>();
      const bool direct = seed.seed % 2 == 0;
      ++running;
      sim.world().spawn(
          [&, stash, direct] {
            const WriteRequest request{0, line, true, false};
            return direct ? write_direct(sim.files(), *inode, request, *stash)
                          : write_buffered(sim.files(), *inode, request, *stash);
          },
          [&running](Result<size_t> written) {
            REQUIRE(written.ok());
            --running;
          });
    }
    REQUIRE(sim.world().run_until([&running] { return running == 0; }));
    std::map<std::byte, size_t> count;
    for (std::byte byte : sim.read_all(*inode)) ++count[byte];
    for (const Content& line : lines) CHECK(count[line[0]] == line.size());
  });
}

TEST_CASE("a write to one of two clones leaves the other as it was") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    std::array<InodeRef, 2> inodes = {sim.create("original"), sim.create("clone")};
    std::array<Content, 2> models;
    models[0] = random_bytes(random, 150'000);
    REQUIRE(sim.write(*inodes[0], 0, models[0], How::buffered).ok());
    for (int round = 0; round < 3; ++round) {
      const size_t from = random.below(2);
      const size_t to = 1 - from;
      CopyStash stash;
      const uint64_t len = models[from].size();
      const Result<uint64_t> copied = sim.world().run(
          [&] { return copy_range(sim.files(), *inodes[from], 0, *inodes[to], 0, len, stash); });
      REQUIRE(copied.ok());
      REQUIRE(copied.value() == len);
      put(models[to], 0, models[from]);
      for (int i = 0; i < 12; ++i) {
        const size_t which = random.below(2);
        const uint64_t pos = random.below(160'000);
        const Source source = random_source(random, random.between(1, 20'000), random.chance(0.5));
        const How how = random.chance(0.5) ? How::buffered : How::direct;
        REQUIRE(sim.write(*inodes[which], pos, source.bytes, how).ok());
        put(models[which], pos, source.bytes);
        if (random.chance(0.2)) sim.world().run_for(random.below(2 * kNsPerSecond));
      }
      for (size_t i = 0; i < 2; ++i) CHECK(sim.read_all(*inodes[i]) == models[i]);
    }
    CHECK(sim.files().stats.cow_break_bytes > 0);
    for (InodeRef& inode : inodes) sim.world().inside([&] { inode.reset(); });
    SimVolume again(seed, {}, sim.unmount());
    CHECK(again.read_all(*again.lookup("original")) == models[0]);
    CHECK(again.read_all(*again.lookup("clone")) == models[1]);
  });
}

TEST_CASE("a large file written in one go has few extents") {
  for_each_seed(1, [](const TestSeed& seed) {
    SimVolume sim(seed, {uint64_t{64} << 20, uint64_t{4} << 20});
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("large");
    const Content chunk = random_bytes(random, 1 << 20);
    for (uint64_t i = 0; i < 24; ++i) {
      REQUIRE(sim.write(*inode, i << 20, chunk, How::buffered).ok());
    }
    REQUIRE(sim.sync().ok());
    int extents = 0;
    NodePins pins;
    const FileBlock end{24 << 8};
    for (FileBlock at{0}; at < end;) {
      const auto extent = sim.world().run(
          [&] { return extent_at(sim.volume().store().tree(), inode->ino, at, end, pins); });
      REQUIRE(extent.ok());
      REQUIRE(extent.value().state == ExtentState::written);
      at = extent.value().range.end;
      ++extents;
    }
    CHECK(extents <= 6);
  });
}

}  // namespace
}  // namespace fusefs
