// Files on a full volume: who gets space, who does not, and that nothing is lost by it.
#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("a full volume refuses a write before anything is lost") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, {uint64_t{64} << 20, uint64_t{16} << 20});
    Random random = sim.world().random().fork();
    InodeRef inode = sim.create("filler");
    Content model;
    const Content chunk = random_bytes(random, 700'000);
    while (true) {
      const How how = random.chance(0.7) ? How::buffered : How::direct;
      const Result<size_t> written = sim.write(*inode, model.size(), chunk, how);
      if (!written.ok()) {
        REQUIRE(written.error() == Error::no_space);
        break;
      }
      REQUIRE(written.value() > 0);
      put(model, model.size(), ConstBytes(chunk).first(written.value()));
    }
    CHECK(model.size() > 30'000'000);
    CHECK(sim.write(*inode, model.size(), ConstBytes(chunk).first(1), How::buffered).ok() ==
          (model.size() % kBlockBytes != 0));
    if (model.size() % kBlockBytes != 0) put(model, model.size(), ConstBytes(chunk).first(1));
    // What is there can still be overwritten.
    const Result<size_t> over =
        sim.write(*inode, 5'000, ConstBytes(chunk).first(9'000), How::buffered);
    REQUIRE(over.ok());
    put(model, 5'000, ConstBytes(chunk).first(9'000));
    OpenFile file;
    file.inode = inode;
    CHECK(sim.fsync(file).ok());
    sim.world().inside([&] {
      inode.reset();
      file.inode.reset();
    });
    SimVolume again(seed, {uint64_t{64} << 20, uint64_t{16} << 20}, sim.power_cut());
    const InodeRef filled = again.lookup("filler");
    CHECK(again.read_all(*filled) == model);
    // And space that is freed can be written again.
    REQUIRE(again.truncate(*filled, 1'000).ok());
    const Result<size_t> more = again.write(*filled, 0, chunk, How::buffered);
    REQUIRE(more.ok());
    CHECK(more.value() == chunk.size());
  });
}

TEST_CASE("allocated ranges can be written on a full volume") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, {uint64_t{64} << 20, uint64_t{16} << 20});
    Random random = sim.world().random().fork();
    const InodeRef promised = sim.create("promised");
    REQUIRE(sim.fallocate(*promised, FallocateMode::allocate, 0, 500'000, false).ok());
    const InodeRef filler = sim.create("filler");
    const Content chunk = random_bytes(random, 1 << 20);
    uint64_t pos = 0;
    while (true) {
      const Result<size_t> written = sim.write(*filler, pos, chunk, How::buffered);
      if (!written.ok()) break;
      pos += written.value();
    }
    const ConstBytes data = ConstBytes(chunk).first(500'000);
    for (const How how : {How::buffered, How::direct}) {
      const Result<size_t> written = sim.write(*promised, 0, data, how);
      REQUIRE(written.ok());
      REQUIRE(written.value() == 500'000);
    }
    CHECK(sim.read_all(*promised) == Content(data.begin(), data.end()));
    CHECK(sim.sync().ok());
  });
}

constexpr SimVolumeOptions kSmallVolume{uint64_t{64} << 20, uint64_t{16} << 20};

// Until no block is to be had, by ordinary means.
void fill(SimVolume& sim, Inode& inode) {
  Random random(1);
  const Content chunk = random_bytes(random, 400 * kBlockBytes);
  uint64_t pos = inode.attr.size;
  for (size_t len = chunk.size(); len >= kBlockBytes;) {
    const auto written = sim.write(inode, pos, ConstBytes(chunk).first(len), How::direct);
    if (written.ok()) pos += written.value();
    if (!written.ok()) {
      REQUIRE(written.error() == Error::no_space);
      len = len == kBlockBytes ? 0 : kBlockBytes;
    }
  }
}

SpaceStats space_of(SimVolume& sim) {
  return sim.world().inside([&] { return sim.volume().space().stats(); });
}

uint64_t available_blocks(SimVolume& sim) {
  const auto stat = sim.world().run([&] { return sim.volume().stat_volume(); });
  REQUIRE(stat.ok());
  return stat.value().available_blocks;
}

bool refuses_ordinary_writes(SimVolume& sim, Inode& inode) {
  const Content block(kBlockBytes, std::byte{1});
  const uint64_t pos = file_pos(file_block_end(inode.attr.size));
  for (const How how : {How::buffered, How::direct}) {
    const auto written = sim.write(inode, pos, block, how);
    if (written.ok() || written.error() != Error::no_space) return false;
  }
  return true;
}

TEST_CASE("mapped pages get blocks on a full volume, into holes and into clones, and nobody else") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed, kSmallVolume);
    Random random = sim.world().random().fork();
    const uint64_t offered = available_blocks(sim);
    const BlockCount kept = sim.world().inside(
        [&] { return sim.volume().space().keep_writeback_reserve(BlockCount(600)); });
    CHECK(kept == BlockCount(600));
    CHECK(available_blocks(sim) == offered - 600);

    InodeRef original = sim.create("original");
    InodeRef copy = sim.create("copy");
    InodeRef sparse = sim.create("sparse");
    InodeRef filler = sim.create("filler");
    const Content old = random_bytes(random, 200 * kBlockBytes);
    REQUIRE(sim.write(*original, 0, old, How::buffered).ok());
    REQUIRE(sim.sync().ok());
    CopyStash stash;
    REQUIRE(
        sim.world()
            .run([&] { return copy_range(sim.files(), *original, 0, *copy, 0, old.size(), stash); })
            .ok());
    REQUIRE(sim.truncate(*sparse, 300 * kBlockBytes).ok());
    fill(sim, *filler);
    CHECK(available_blocks(sim) == 0);
    CHECK(refuses_ordinary_writes(sim, *filler));
    NamespaceStash names;
    const auto created = sim.world().run([&] {
      CreateRequest request;
      request.mode = 0100644;
      return sim.volume().names().create(kRootInode, "more", request, Caller{}, names);
    });
    CHECK(!created.ok());

    // Page by page in any order, as the kernel's flusher does.
    Content in_copy = old;
    Content in_sparse(300 * kBlockBytes);
    for (int i = 0; i < 400; ++i) {
      const bool into_copy = random.chance(0.4);
      Content& model = into_copy ? in_copy : in_sparse;
      const uint64_t block = random.below(model.size() / kBlockBytes);
      const Content page = random_bytes(random, kBlockBytes);
      const auto written =
          sim.write(into_copy ? *copy : *sparse, block * kBlockBytes, page, How::mapped);
      REQUIRE(written.ok());
      REQUIRE(written.value() == kBlockBytes);
      put(model, block * kBlockBytes, page);
      if (random.chance(0.02)) REQUIRE(sim.sync().ok());
    }
    CHECK(available_blocks(sim) == 0);
    CHECK(refuses_ordinary_writes(sim, *filler));
    CHECK(space_of(sim).writeback_reserve_free_blocks < 600);
    REQUIRE(sim.sync().ok());
    CHECK(sim.read_all(*original) == old);
    for (InodeRef* inode : {&original, &copy, &sparse, &filler}) inode->reset();
    SimVolume again(seed, kSmallVolume, sim.power_cut());
    CHECK(again.read_all(*again.lookup("original")) == old);
    CHECK(again.read_all(*again.lookup("copy")) == in_copy);
    CHECK(again.read_all(*again.lookup("sparse")) == in_sparse);
  });
}

TEST_CASE("the reserve for mapped pages ends, and is refilled before others get space") {
  for_each_seed(3, [](const TestSeed& seed) {
    SimVolume sim(seed, kSmallVolume);
    (void)sim.world().inside(
        [&] { return sim.volume().space().keep_writeback_reserve(BlockCount(200)); });
    InodeRef sparse = sim.create("sparse");
    InodeRef filler = sim.create("filler");
    fill(sim, *filler);
    const Content data(250 * kBlockBytes, std::byte{7});
    uint64_t written = 0;
    while (written < data.size()) {
      const auto more = sim.write(*sparse, written, ConstBytes(data).subspan(written), How::mapped);
      if (!more.ok()) {
        CHECK(more.error() == Error::no_space);
        break;
      }
      written += more.value();
    }
    // The tree that the filler has grown takes some of it.
    CHECK(written >= 150 * kBlockBytes);
    CHECK(written <= 200 * kBlockBytes);
    REQUIRE(sim.sync().ok());
    CHECK(space_of(sim).writeback_reserve_free_blocks == 0);

    // What becomes free goes to the reserve, and to others only when that is whole.
    uint64_t size = filler->attr.size;
    const auto free_some = [&](uint64_t blocks) {
      size -= blocks * kBlockBytes;
      REQUIRE(sim.truncate(*filler, size).ok());
      REQUIRE(sim.sync().ok());
      REQUIRE(sim.world().run_for(10 * kNsPerSecond));
    };
    free_some(150);
    CHECK(refuses_ordinary_writes(sim, *sparse));
    CHECK(space_of(sim).writeback_reserve_free_blocks >= 100);
    free_some(1000);
    CHECK(space_of(sim).writeback_reserve_free_blocks == 200);
    CHECK(available_blocks(sim) > 500);
    CHECK(sim.write(*sparse, written, data, How::buffered).ok());
    sparse.reset();
    filler.reset();
    (void)sim.unmount();
  });
}

TEST_CASE("a clone that finds no space leaves what has been written to its target") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed, kSmallVolume);
    Random random = sim.world().random().fork();
    InodeRef source = sim.create("source");
    InodeRef target = sim.create("target");
    Content model = random_bytes(random, 100'000);
    REQUIRE(sim.write(*source, 0, random_bytes(random, 100'000), How::direct).ok());
    REQUIRE(sim.write(*target, 0, model, How::direct).ok());
    InodeRef filler = sim.create("filler");
    fill(sim, *filler);
    REQUIRE(sim.sync().ok());
    fill(sim, *filler);
    // Over its own blocks: it takes none.
    const Content data = random_bytes(random, 50'000);
    REQUIRE(sim.write(*target, 20'000, data, How::buffered).ok());
    put(model, 20'000, data);
    const Result<uint64_t> cloned = sim.clone(*source, 0, *target, 0, 100'000);
    REQUIRE_FALSE(cloned.ok());
    CHECK(cloned.error() == Error::no_space);
    CHECK(sim.read_all(*target) == model);
    REQUIRE(sim.sync().ok());
    CHECK(sim.read_all(*target) == model);
    // With space it is done, and what was dirty goes.
    REQUIRE(sim.truncate(*filler, 20 << 20).ok());
    REQUIRE(sim.sync().ok());
    REQUIRE(sim.write(*target, 30'000, data, How::buffered).ok());
    REQUIRE(sim.clone(*source, 0, *target, 0, 100'000).ok());
    CHECK(sim.read_all(*target) == sim.read_all(*source));
    source.reset();
    target.reset();
    filler.reset();
    (void)sim.unmount();
  });
}

TEST_CASE("a small volume keeps a 16th of itself for mapped pages at most") {
  for_each_seed(1, [](const TestSeed& seed) {
    SimVolume sim(seed, kSmallVolume);
    const uint64_t blocks = space_of(sim).block_count;
    const BlockCount kept = sim.world().inside(
        [&] { return sim.volume().space().keep_writeback_reserve(BlockCount(1 << 20)); });
    CHECK(kept.value() == blocks / 16);
    CHECK(space_of(sim).writeback_reserve_blocks == blocks / 16);
  });
}

}  // namespace
}  // namespace fusefs
