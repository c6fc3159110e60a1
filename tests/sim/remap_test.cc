// Clones, and everything that shares blocks together: what is shared reads as before, costs what it
// should, and is counted right afterwards.
#include <algorithm>
#include <array>
#include <numeric>

#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("a clone of 10 GiB in a few extents is one transaction") {
  SimVolumeOptions options;
  options.size_bytes = uint64_t{12} << 30;
  options.canary = false;
  SimVolume sim(TestSeed{1}, options);
  const InodeRef source = sim.create("source");
  const InodeRef target = sim.create("target");
  constexpr uint64_t kBytes = uint64_t{10} << 30;
  REQUIRE(sim.fallocate(*source, FallocateMode::allocate, 0, kBytes, false).ok());
  NodePins pins;
  const FileRange whole{FileBlock(0), file_block_end(kBytes)};
  REQUIRE(sim.world()
              .run([&]() -> Attempt<void> {
                Transaction txn(sim.volume().store(), pins);
                ATTEMPT(const ExtentChange change, mark_written(txn, source->ino, whole));
                CHECK(change.done == whole.end);
                ATTEMPT_OK(txn.prepare());
                txn.commit();
                return {};
              })
              .ok());
  settle(sim);
  const size_t extents = extents_of(sim, *source).size();
  CHECK(extents <= 4);
  const uint64_t before = transactions(sim);
  const uint64_t attempts = sim.world().scheduler().stats().attempt_count;
  const Result<uint64_t> copied = clone(sim, *source, 0, *target, 0, kBytes);
  REQUIRE(copied.ok());
  CHECK(copied.value() == kBytes);
  CHECK(transactions(sim) == before + 1);
  CHECK(sim.world().scheduler().stats().attempt_count - attempts <= 20);
  CHECK(extents_of(sim, *target).size() == extents);
  CHECK(shared_items(sim) <= extents);
  CHECK(sim.volume().store().shared_blocks() == kBytes / kBlockBytes);
  CHECK(target->attr.size == kBytes);

  // What is one block already is not compared.
  const uint64_t reads = device_reads(sim);
  const Deduped again = dedupe(sim, *source, 0, *target, 0, kBytes);
  CHECK(again.same);
  CHECK(again.same_bytes.value() == kBytes);
  CHECK(again.shared == 0);
  CHECK(device_reads(sim) - reads <= 8);  // of tree nodes, at most
}

constexpr uint64_t kAtomicBlocks = kRemapAtomicBytes / kBlockBytes;

// Two files of the documented size, as scattered as can be, every block with one to four owners.
struct Scattered {
  explicit Scattered(SimVolume& sim) : random(sim.world().random().fork()) {
    for (size_t which = 0; which < 2; ++which) {
      const InodeRef origin = sim.create(which == 0 ? "origin0" : "origin1");
      const Content data = random_bytes(random, 3 * kRemapAtomicBytes);
      write(sim, *origin, 0, data);
      files[which] = sim.create(which == 0 ? "source" : "target");
      std::vector<uint64_t> order(3 * kAtomicBlocks);
      std::iota(order.begin(), order.end(), 0);
      for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[random.below(i + 1)]);
      const InodeRef others[2] = {sim.create(which == 0 ? "a0" : "a1"),
                                  sim.create(which == 0 ? "b0" : "b1")};
      const auto share_block = [&](Inode& to, uint64_t at, uint64_t block) {
        REQUIRE(clone(sim, *origin, block * kBlockBytes, to, at * kBlockBytes, kBlockBytes).ok());
      };
      for (uint64_t at = 0; at < kAtomicBlocks; ++at) {
        share_block(*files[which], at, order[at]);
        put(contents[which], at * kBlockBytes, part(data, order[at] * kBlockBytes, kBlockBytes));
        if (random.chance(0.5)) share_block(*others[0], at, order[at]);
        if (random.chance(0.3)) share_block(*others[1], at, order[at]);
      }
    }
    settle(sim);
  }
  Random random;
  std::array<InodeRef, 2> files;
  std::array<Content, 2> contents;
};

SimVolumeOptions atomic_options() {
  SimVolumeOptions options;
  options.size_bytes = kRemapAtomicVolumeBytes;
  options.cache_bytes = 16 << 20;
  options.canary = false;
  return options;
}

TEST_CASE("a clone of the documented size is one transaction, however scattered it lies") {
  SimVolume sim(TestSeed{1}, atomic_options());
  Scattered scattered(sim);
  CHECK(extents_of(sim, *scattered.files[0]).size() > kAtomicBlocks * 9 / 10);
  const uint64_t before = transactions(sim);
  REQUIRE(clone(sim, *scattered.files[0], 0, *scattered.files[1], 0, kRemapAtomicBytes).ok());
  CHECK(transactions(sim) == before + 1);
  CHECK(sim.read_all(*scattered.files[1]) == scattered.contents[0]);
  for (InodeRef& file : scattered.files) sim.world().inside([&] { file.reset(); });
  require_consistent(sim.unmount(), atomic_options());
}

TEST_CASE("a clone of the documented size happens completely or not, wherever the power is cut") {
  SimImage image;
  std::array<Content, 2> contents;
  {
    SimVolume sim(TestSeed{1}, atomic_options());
    Scattered scattered(sim);
    contents = scattered.contents;
    for (InodeRef& file : scattered.files) sim.world().inside([&] { file.reset(); });
    image = sim.unmount();
  }
  int was_old = 0;
  int was_new = 0;
  for (uint64_t cut = 0; was_new < 3; ++cut) {
    REQUIRE(cut < 100);
    SimVolumeOptions options = atomic_options();
    SimWorldOptions world_options;
    world_options.device.size_bytes = options.size_bytes;
    world_options.device.cut_after_writes = cut;
    SimWorld world(cut + 1, world_options, image);
    VolumeOptions volume_options;
    volume_options.cache_bytes = options.cache_bytes;
    auto volume = std::make_unique<Volume>(world.scheduler(), world.device(), world.clock(),
                                           volume_options, [](const std::string&) {});
    if (world.run([&] { return volume->mount(); }).ok()) {
      NamespaceStash names[2];
      const auto source =
          world.run([&] { return volume->names().lookup(kRootInode, "source", names[0]); });
      const auto target =
          world.run([&] { return volume->names().lookup(kRootInode, "target", names[1]); });
      REQUIRE(source.ok());
      REQUIRE(target.ok());
      CopyStash stash;
      (void)world.run([&] {
        return copy_range(volume->files(), *source.value(), 0, *target.value(), 0,
                          kRemapAtomicBytes, stash);
      });
      FsyncStash sync;
      (void)world.run([&] { return sync_all(volume->files(), sync); });
    }
    const SimImage left = world.power_cut();
    volume.reset();
    require_consistent(left, options);
    SimVolume after(TestSeed{1}, options, left);
    const Content content = after.read_all(*after.lookup("target"));
    const bool is_new = content == contents[0];
    CHECK((is_new || content == contents[1]));
    ++(is_new ? was_new : was_old);
    CHECK(after.volume().store().shared_blocks() != 0);
    require_consistent(after.unmount(), options);
  }
  CHECK(was_old > 0);
}

TEST_CASE("pieces that are cloned one by one become one extent and one count again") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef source = sim.create("source");
    const InodeRef target = sim.create("target");
    const Content data = random_bytes(random, 256 << 10);
    write(sim, *source, 0, data);
    REQUIRE(sim.sync().ok());
    const size_t extents = extents_of(sim, *source).size();
    std::array<uint64_t, 8> order{};
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[random.below(i + 1)]);
    constexpr uint64_t kPiece = 32 << 10;
    for (uint64_t i : order) {
      REQUIRE(clone(sim, *source, i * kPiece, *target, i * kPiece, kPiece).ok());
    }
    CHECK(extents_of(sim, *target).size() == extents);
    CHECK(shared_items(sim) == extents);
    CHECK(sim.read_all(*target) == data);

    // A write in the middle cuts them, and a clone over it mends them.
    write(sim, *target, 3 * kPiece, random_bytes(random, 100));
    REQUIRE(sim.sync().ok());
    CHECK(extents_of(sim, *target).size() > extents);
    REQUIRE(clone(sim, *source, 3 * kPiece, *target, 3 * kPiece, kPiece).ok());
    CHECK(extents_of(sim, *target).size() == extents);
    CHECK(shared_items(sim) == extents);

    REQUIRE(unshare(sim, *target, 0, 0, true).ok());
    CHECK(shared_items(sim) == 0);
    CHECK(sim.volume().store().shared_blocks() == 0);
    CHECK(extents_of(sim, *source).size() == extents);
    CHECK(extents_of(sim, *target).size() <= 2);
    CHECK(sim.read_all(*target) == data);
  });
}

TEST_CASE("overlapping and impossible ranges are refused") {
  SimVolume sim(TestSeed{1});
  Random random = sim.world().random().fork();
  const InodeRef file = sim.create("file");
  const Content data = random_bytes(random, 100'000);
  write(sim, *file, 0, data);
  CHECK(clone(sim, *file, 0, *file, 4096, 8192).error() == Error::overlapping_ranges);
  CHECK(clone(sim, *file, 8192, *file, 4096, 8192).error() == Error::overlapping_ranges);
  CHECK(dedupe(sim, *file, 0, *file, 4096, 8192).same_bytes.error() == Error::overlapping_ranges);
  CHECK(dedupe(sim, *file, 0, *file, 5000, 4096).same_bytes.error() == Error::invalid_argument);
  CHECK(dedupe(sim, *file, 0, *file, 98304, 4096).same_bytes.error() == Error::invalid_argument);
  CHECK(sim.read_all(*file) == data);
  // Not overlapping, in one file.
  CHECK(clone(sim, *file, 0, *file, 16384, 16384).ok());
  Content model = data;
  put(model, 16384, part(data, 0, 16384));
  CHECK(sim.read_all(*file) == model);
  CHECK(sim.volume().store().shared_blocks() == 4);
}

// A writer keeps the first and the last block of a file at the same generation, first block first.
TEST_CASE("a clone is the source at one moment, while it is written") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef source = sim.create("source");
    constexpr uint64_t kBlocks = 40;
    std::vector<Content> generations;
    for (int g = 0; g < 12; ++g) generations.emplace_back(kBlockBytes, std::byte(g + 1));
    write(sim, *source, 0, Content(kBlocks * kBlockBytes, std::byte{1}));
    size_t step = 0;
    bool writing = true;
    std::function<void(Result<size_t>)> next = [&](Result<size_t> written) {
      REQUIRE(written.ok());
      if (++step == 2 * generations.size()) {
        writing = false;
        return;
      }
      const uint64_t at = step % 2 == 0 ? 0 : (kBlocks - 1) * kBlockBytes;
      const How how = (seed.seed + step / 3) % 2 == 0 ? How::buffered : How::direct;
      sim.spawn_write(*source, at, generations[step / 2], how, next);
    };
    sim.spawn_write(*source, 0, generations[0], How::buffered, next);
    int clones = 0;
    while (writing) {
      const InodeRef target = sim.create("clone" + std::to_string(clones++));
      REQUIRE(clone(sim, *source, 0, *target, 0, kBlocks * kBlockBytes).ok());
      const Content content = sim.read_all(*target);
      REQUIRE(content.size() == kBlocks * kBlockBytes);
      const int first = std::to_integer<int>(content.front());
      const int last = std::to_integer<int>(content.back());
      CHECK(first >= last);
      CHECK(first <= last + 1);
      CHECK(std::count(content.begin(), content.begin() + kBlockBytes, content.front()) ==
            static_cast<ptrdiff_t>(kBlockBytes));
    }
    CHECK(clones > 0);
  });
}

TEST_CASE("nothing of what is appended to the source shows behind the end of a clone") {
  for_each_seed(10, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    for (int round = 0; round < 4; ++round) {
      const InodeRef source = sim.create("source" + std::to_string(round));
      const InodeRef target = sim.create("target" + std::to_string(round));
      const Content data = random_bytes(random, random.between(1, 30'000));
      const Content more = random_bytes(random, random.between(1, 9'000));
      write(sim, *source, 0, data);
      size_t running = 2;
      CopyStash stash;
      sim.world().spawn(
          [&] { return copy_range(sim.files(), *source, 0, *target, 0, data.size(), stash); },
          [&](Result<uint64_t> copied) {
            REQUIRE(copied.ok());
            CHECK(copied.value() == data.size());
            --running;
          });
      sim.spawn_write(*source, data.size(), more, random.chance(0.5) ? How::buffered : How::direct,
                      [&](Result<size_t> written) {
                        REQUIRE(written.ok());
                        --running;
                      });
      REQUIRE(sim.world().run_until([&] { return running == 0; }));
      CHECK(sim.read_all(*target) == data);
      REQUIRE(sim.truncate(*target, data.size() + 10'000).ok());
      Content grown = data;
      grown.resize(data.size() + 10'000);
      CHECK(sim.read_all(*target) == grown);
    }
  });
}

// Everything at once on three files, against their contents; what is left is counted right.
TEST_CASE("files that are cloned, deduplicated, unshared and written keep their contents") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    std::array<InodeRef, 3> files = {sim.create("a"), sim.create("b"), sim.create("c")};
    std::array<Content, 3> models;
    constexpr uint64_t kBlocksMax = 60;
    for (int step = 0; step < 80; ++step) {
      const size_t which = random.below(3);
      const size_t other = random.below(3);
      Inode& file = *files[which];
      Content& model = models[which];
      const uint64_t what = random.below(100);
      const uint64_t block = random.below(kBlocksMax);
      const uint64_t pos = block * kBlockBytes;
      const uint64_t len = random.between(1, 16) * kBlockBytes;
      if (what < 30) {
        const Content data =
            random_bytes(random, random.chance(0.5) ? len : random.between(1, 20'000));
        write(sim, file, pos, data, random.chance(0.5) ? How::buffered : How::direct);
        put(model, pos, data);
      } else if (what < 50) {
        if (pos >= model.size()) continue;
        const uint64_t count = std::min<uint64_t>(len, model.size() - pos);
        const uint64_t to = random.below(kBlocksMax) * kBlockBytes;
        const bool overlap = which == other && pos < to + count && to < pos + count;
        const Result<uint64_t> copied = clone(sim, file, pos, *files[other], to, count);
        if (overlap) {
          CHECK(copied.error() == Error::overlapping_ranges);
          continue;
        }
        REQUIRE(copied.ok());
        CHECK(copied.value() == count);
        put(models[other], to, part(model, pos, count));
      } else if (what < 75) {
        // Copied first, so that there is something to be found.
        if (pos + kBlockBytes > model.size() || which == other) continue;
        const uint64_t count =
            std::min<uint64_t>(len, model.size() - pos) / kBlockBytes * kBlockBytes;
        const uint64_t to = random.below(kBlocksMax) * kBlockBytes;
        Content copy = part(model, pos, count);
        const bool differs = random.chance(0.2);
        if (differs) copy[random.below(count)] ^= std::byte{0x3F};
        write(sim, *files[other], to, copy);
        put(models[other], to, copy);
        const Deduped result = dedupe(sim, file, pos, *files[other], to, count);
        REQUIRE(result.same_bytes.ok());
        CHECK(result.same != differs);
        if (!differs) CHECK(result.same_bytes.value() == count);
      } else if (what < 87) {
        REQUIRE(unshare(sim, file, pos, len, random.chance(0.5)).ok());
      } else if (what < 92) {
        const uint64_t size = random.below(kBlocksMax * kBlockBytes);
        REQUIRE(sim.truncate(file, size).ok());
        model.resize(size);
      } else if (what < 96) {
        REQUIRE(sim.fallocate(file, FallocateMode::punch_hole, pos, len, true).ok());
        for (uint64_t i = pos; i < std::min<uint64_t>(pos + len, model.size()); ++i) {
          model[i] = std::byte{0};
        }
      } else {
        sim.world().run_for(random.below(3 * kNsPerSecond));
      }
      REQUIRE(sim.read_all(*files[other]) == models[other]);
      REQUIRE(sim.read_all(file) == model);
    }
    for (InodeRef& file : files) sim.world().inside([&] { file.reset(); });
    const SimImage image = sim.unmount();
    require_consistent(image, {});
    SimVolume again(seed, {}, image);
    CHECK(again.read_all(*again.lookup("a")) == models[0]);
    CHECK(again.read_all(*again.lookup("b")) == models[1]);
    CHECK(again.read_all(*again.lookup("c")) == models[2]);
  });
}

TEST_CASE("dedupe and unshare change nothing under writers, and lose nothing of theirs") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    std::array<InodeRef, 2> files = {sim.create("a"), sim.create("b")};
    const Content data = random_bytes(random, 300'000);
    std::array<Content, 2> models = {data, data};
    for (size_t i = 0; i < 2; ++i) write(sim, *files[i], 0, data);
    for (int round = 0; round < 3; ++round) {
      size_t running = 0;
      std::vector<Content> sources;
      sources.reserve(12);
      DedupeStash deduping;
      UnshareStash unsharing;
      ++running;
      sim.world().spawn(
          [&] { return dedupe_range(sim.files(), *files[0], 0, *files[1], 0, 300'000, deduping); },
          [&](Result<uint64_t> done) {
            REQUIRE(done.ok());
            --running;
          });
      if (round == 1) {
        ++running;
        sim.world().spawn(
            [&] { return unshare_range(sim.files(), *files[1], 0, 0, true, unsharing); },
            [&](Result<uint64_t> done) {
              REQUIRE(done.ok());
              --running;
            });
      }
      // Each on bytes of its own, so that the order does not matter.
      for (uint64_t i = 0; i < 12; ++i) {
        const size_t which = random.below(2);
        const uint64_t pos = i * 25'000 + random.below(5'000);
        const bool same = random.chance(0.5);
        sources.push_back(same ? part(models[1 - which], pos, 18'000)
                               : random_bytes(random, random.between(1, 20'000)));
        put(models[which], pos, sources.back());
        ++running;
        sim.spawn_write(*files[which], pos, sources.back(),
                        random.chance(0.5) ? How::buffered : How::direct,
                        [&](Result<size_t> written) {
                          REQUIRE(written.ok());
                          --running;
                        });
      }
      REQUIRE(sim.world().run_until([&] { return running == 0; }));
      for (size_t i = 0; i < 2; ++i) CHECK(sim.read_all(*files[i]) == models[i]);
    }
    for (InodeRef& file : files) sim.world().inside([&] { file.reset(); });
    const SimImage image = sim.unmount();
    require_consistent(image, {});
  });
}

}  // namespace
}  // namespace fusefs
