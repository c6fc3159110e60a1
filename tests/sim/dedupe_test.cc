// Dedupe and unshare: the same bytes in two places become one, and one becomes two again.
#include <algorithm>

#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("the same bytes in two places become one, and change no time") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    InodeRef a = sim.create("a");
    InodeRef b = sim.create("b");
    const Content data = random_bytes(random, 3'000'123);  // three pieces, and a tail
    write(sim, *a, 0, data);
    write(sim, *b, 0, data);
    settle(sim);
    const InodeAttr before = b->attr;
    const uint64_t free_before = sim.volume().space().stats().available_blocks;
    const Deduped first = dedupe(sim, *a, 0, *b, 0, data.size());
    REQUIRE(first.same_bytes.ok());
    CHECK(first.same);
    CHECK(first.same_bytes.value() == data.size());
    CHECK(first.shared == file_pos(file_block_end(data.size())));
    CHECK(sim.volume().store().shared_blocks() == file_block_end(data.size()).value());
    CHECK(b->attr.mtime == before.mtime);
    CHECK(b->attr.ctime == before.ctime);
    CHECK(b->attr.block_count == before.block_count);
    CHECK(sim.read_all(*b) == data);

    // Again: nothing is read, nothing is written.
    settle(sim);
    CHECK(sim.volume().space().stats().available_blocks >
          free_before + file_block_at(data.size()).value() - 8);
    const uint64_t reads = device_reads(sim);
    const uint64_t before_again = transactions(sim);
    const Deduped second = dedupe(sim, *a, 0, *b, 0, data.size());
    CHECK(second.same);
    CHECK(second.shared == 0);
    CHECK(device_reads(sim) == reads);
    CHECK(transactions(sim) == before_again);

    // Only what has been written since is read.
    write(sim, *b, 8192, part(data, 8192, 4096));
    settle(sim);
    const uint64_t reads_before_third = device_reads(sim);
    const Deduped third = dedupe(sim, *a, 0, *b, 0, data.size());
    CHECK(third.same);
    CHECK(third.shared == 4096);
    CHECK(device_reads(sim) - reads_before_third <= 2);

    const Timestamp written = b->attr.mtime;
    sim.world().inside([&] {
      a.reset();
      b.reset();
    });
    SimVolumeOptions options;
    const SimImage image = sim.unmount();
    require_consistent(image, options);
    SimVolume again(seed, options, image);
    CHECK(again.read_all(*again.lookup("b")) == data);
    CHECK(again.lookup("b")->attr.mtime == written);
  });
}

TEST_CASE("bytes that differ are not shared, and what comes before their piece is") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef a = sim.create("a");
    const InodeRef b = sim.create("b");
    const Content data = random_bytes(random, 2 * kDedupePieceBytes);
    Content other = data;
    other[kDedupePieceBytes + 70'000] ^= std::byte{1};
    write(sim, *a, 0, data);
    write(sim, *b, 0, other);
    const Deduped result = dedupe(sim, *a, 0, *b, 0, data.size());
    REQUIRE(result.same_bytes.ok());
    CHECK_FALSE(result.same);
    CHECK(result.same_bytes.value() == kDedupePieceBytes);
    CHECK(sim.volume().store().shared_blocks() == kDedupePieceBytes / kBlockBytes);
    CHECK(sim.read_all(*a) == data);
    CHECK(sim.read_all(*b) == other);
  });
}

TEST_CASE("dedupe compares to the end of both files, and whole blocks otherwise") {
  SimVolume sim(TestSeed{1});
  Random random = sim.world().random().fork();
  const InodeRef a = sim.create("a");
  const InodeRef b = sim.create("b");
  const Content data = random_bytes(random, 20'000);
  write(sim, *a, 0, data);
  Content longer = data;
  longer.resize(30'000, std::byte{9});
  write(sim, *b, 0, longer);
  // The source's last block is not the target's.
  Deduped result = dedupe(sim, *a, 0, *b, 0, data.size());
  CHECK(result.same);
  CHECK(result.same_bytes.value() == 16'384);
  CHECK(sim.read_all(*b) == longer);
  // The same place in both.
  REQUIRE(sim.truncate(*b, data.size()).ok());
  result = dedupe(sim, *a, 0, *b, 0, data.size());
  CHECK(result.same_bytes.value() == data.size());
  CHECK(result.shared == 4096);
  CHECK(sim.volume().store().shared_blocks() == 5);
  // Nothing of the shared block shows when one of them grows.
  REQUIRE(sim.truncate(*b, 22'000).ok());
  Content grown = data;
  grown.resize(22'000);
  CHECK(sim.read_all(*b) == grown);
}

TEST_CASE("zeroes in the target become a hole where the source has one, and holes stay holes") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef hole = sim.create("hole");
    const InodeRef zeroes = sim.create("zeroes");
    REQUIRE(sim.truncate(*hole, 65'536).ok());
    write(sim, *zeroes, 0, Content(65'536));
    settle(sim);
    // Nothing to gain: the target has no blocks.
    Deduped result = dedupe(sim, *zeroes, 0, *hole, 0, 65'536);
    CHECK(result.same);
    CHECK(result.shared == 0);
    CHECK(hole->attr.block_count == BlockCount(0));
    CHECK(zeroes->attr.block_count == BlockCount(16));
    result = dedupe(sim, *hole, 0, *zeroes, 0, 65'536);
    CHECK(result.same);
    CHECK(result.shared == 65'536);
    CHECK(zeroes->attr.block_count == BlockCount(0));
    CHECK(sim.read_all(*zeroes) == Content(65'536));
  });
}

TEST_CASE("after unshare a range can be written on a full volume, holes included if asked") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, {uint64_t{64} << 20, uint64_t{16} << 20});
    Random random = sim.world().random().fork();
    const InodeRef source = sim.create("source");
    const InodeRef target = sim.create("target");
    Content model = random_bytes(random, 5'000'000);
    write(sim, *source, 0, model);
    REQUIRE(sim.fallocate(*source, FallocateMode::punch_hole, 1 << 20, 1 << 16, true).ok());
    std::fill_n(model.begin() + (1 << 20), 1 << 16, std::byte{0});
    REQUIRE(clone(sim, *source, 0, *target, 0, model.size()).ok());
    const Content source_model = model;

    CHECK(unshare(sim, *target, 0, 2'000'000, true).value() == (489 - 16) * kBlockBytes);
    const bool keep_holes = seed.seed % 2 == 0;
    const Result<uint64_t> copied = unshare(sim, *target, 0, 0, keep_holes);
    REQUIRE(copied.ok());
    CHECK(copied.value() == block_bytes(file_block_end(model.size()) - FileBlock(489)));
    CHECK(sim.volume().store().shared_blocks() == 0);
    CHECK(sim.read_all(*target) == model);
    CHECK(unshare(sim, *target, 0, 0, keep_holes).value() == 0);

    const InodeRef filler = sim.create("filler");
    const Content chunk = random_bytes(random, 1 << 20);
    for (uint64_t pos = 0;;) {
      const Result<size_t> written = sim.write(*filler, pos, chunk, How::buffered);
      if (!written.ok()) break;
      pos += written.value();
    }
    for (uint64_t pos = 0; pos < model.size();) {
      const bool in_hole = pos >= (1 << 20) && pos < (1 << 20) + (1 << 16);
      const Content data = random_bytes(random, 4096);
      if (!in_hole || !keep_holes) {
        write(sim, *target, pos, data, random.chance(0.5) ? How::buffered : How::direct);
        put(model, pos, data);
      }
      pos += 4096 * random.between(1, 12);
    }
    CHECK(sim.sync().ok());
    CHECK(sim.read_all(*target) == model);
    CHECK(sim.read_all(*source) == source_model);
  });
}

TEST_CASE("an unshare that needs more than there is copies nothing") {
  SimVolume sim(TestSeed{1}, {uint64_t{64} << 20, uint64_t{16} << 20});
  Random random = sim.world().random().fork();
  const InodeRef source = sim.create("source");
  const InodeRef target = sim.create("target");
  const Content data = random_bytes(random, 30 << 20);
  write(sim, *source, 0, data);
  REQUIRE(clone(sim, *source, 0, *target, 0, data.size()).ok());
  settle(sim);
  const uint64_t shared = sim.volume().store().shared_blocks();
  CHECK(unshare(sim, *target, 0, 0, true).error() == Error::no_space);
  CHECK(sim.volume().store().shared_blocks() == shared);
  CHECK(unshare(sim, *target, 0, 1 << 20, true).value() == 1 << 20);
  CHECK(sim.files().stats.unshare_bytes == 1 << 20);
}

}  // namespace
}  // namespace fusefs
