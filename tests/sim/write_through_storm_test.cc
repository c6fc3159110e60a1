// A writethrough of parts of pages against others that take these pages away as soon as they are
// there: it ends, after a number of them that does not depend on how many there are.
#include <memory>

#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kBlocks = 16;
constexpr FileBlock kFirst{6};  // of the pages that are taken away
// Without forced restarts it takes about ten of them; it was thousands when a writethrough let go
// between the read of its page and the write.
constexpr uint64_t kDropsMax = 1000;

// Several who never stop: direct writes and punches of the same two blocks, all blockers.
class Droppers {
 public:
  Droppers(SimVolume& sim, Inode& inode, int count)
      : sim_(sim),
        inode_(inode),
        source_(random_source(sim.world().random(), 2 * kBlockBytes, true)) {
    for (int i = 0; i < count; ++i) start(i);
  }
  ~Droppers() {
    stopped_ = true;
    REQUIRE(sim_.world().run_until([this] { return running_ == 0; }));
  }
  uint64_t drops() const { return drops_; }

 private:
  void start(int which) {
    ++running_;
    const auto ended = [this, which](const auto& result) {
      REQUIRE(result.ok());
      --running_;
      ++drops_;
      if (!stopped_) start(which + 1);
    };
    if (which % 4 == 3) {
      sim_.world().spawn(
          [this, stash = std::make_shared<ShapeStash>()] {
            return fallocate_range(sim_.files(), inode_, FallocateMode::punch_hole,
                                   file_pos(kFirst) + 100, 2 * kBlockBytes - 200, true, *stash);
          },
          ended);
    } else {
      sim_.spawn_write(inode_, file_pos(kFirst), source_.bytes, How::direct, ended);
    }
  }

  SimVolume& sim_;
  Inode& inode_;
  const Source source_;
  int running_ = 0;
  uint64_t drops_ = 0;
  bool stopped_ = false;
};

TEST_CASE("a writethrough of parts of pages ends, however often these are taken away") {
  for_each_seed(4, [](const TestSeed& seed) {
    for (const uint64_t delay_ns : {uint64_t{0}, kNsPerMs / 10, kLockDelayNs}) {
      for (const bool two_edges : {false, true}) {
        CAPTURE(delay_ns);
        CAPTURE(two_edges);
        SimVolumeOptions options;
        options.lock_delay_ns = delay_ns;
        SimVolume sim(seed, options);
        const InodeRef inode = sim.create("file");
        const Source content = random_source(sim.world().random(), kBlocks * kBlockBytes, true);
        REQUIRE(sim.write(*inode, 0, content.bytes, How::direct).ok());
        REQUIRE(sim.sync().ok());
        Droppers droppers(sim, *inode, 3);
        REQUIRE(sim.world().run_until([&] { return droppers.drops() > 5; }));

        const Source source = random_source(sim.world().random(), kBlockBytes, false);
        const size_t len = two_edges ? kBlockBytes : kBlockBytes / 4;
        const uint64_t begin = droppers.drops();
        bool done = false;
        sim.spawn_write(*inode, file_pos(kFirst) + kBlockBytes / 2, source.bytes.first(len),
                        How::dsync, [&done](Result<size_t> result) {
                          REQUIRE(result.ok());
                          done = true;
                        });
        REQUIRE(
            sim.world().run_until([&] { return done || droppers.drops() > begin + kDropsMax; }));
        CHECK(done);
      }
    }
  });
}

}  // namespace
}  // namespace fusefs
