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

}  // namespace
}  // namespace fusefs
