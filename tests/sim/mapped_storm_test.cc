// Writers of mapped pages on a full volume: whatever the kernel had dirty when the volume became
// full is written, into holes, into blocks that clones share and into blocks of the file's own.
#include <algorithm>
#include <memory>
#include <vector>

#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr size_t kFiles = 4;  // two clones of one original, one of holes, one of its own
constexpr uint64_t kPages = 48;
constexpr uint64_t kReservePages = 256;
constexpr size_t kWriters = 5;
constexpr int kWritesEach = 60;

class MappedStorm {
 public:
  explicit MappedStorm(const TestSeed& seed)
      : sim_(seed), random_(sim_.world().random().fork()), models_(kFiles) {
    sim_.world().inside(
        [this] { sim_.volume().space().keep_writeback_reserve(BlockCount(kReservePages)); });
    const Content original = random_bytes(random_, kPages * kPageBytes);
    for (size_t i = 0; i < kFiles; ++i) {
      files_.push_back(sim_.create("file" + std::to_string(i)));
      REQUIRE(sim_.truncate(*files_[i], original.size()).ok());
      models_[i] = i == 2 ? Content(original.size()) : original;
    }
    write(sim_, *files_[0], 0, original);
    REQUIRE(clone(sim_, *files_[0], 0, *files_[1], 0, original.size()).ok());
    write(sim_, *files_[3], 0, original);
    ballast_ = sim_.create("ballast");
    settle(sim_);
  }

  void run() {
    fill();
    const uint64_t offered = sim_.volume().space().stats().available_blocks;
    CHECK(offered == 0);
    for (size_t i = 0; i < kWriters; ++i) {
      ++running_;
      next(i, kWritesEach);
    }
    ++running_;
    next_greedy(40);
    REQUIRE(sim_.world().run_until([this] { return running_ == 0; }));
    check();
    REQUIRE(sim_.sync().ok());
    check();
    CHECK(refused_ > 0);
    for (InodeRef& file : files_) CHECK(file->delayed_blocks == BlockCount(0));
    sim_.world().inside([this] {
      files_.clear();
      ballast_.reset();
    });
    const SimImage image = sim_.unmount();
    require_consistent(image, {});
    SimVolume again(TestSeed{3}, {}, image);
    for (size_t i = 0; i < kFiles; ++i) {
      CHECK(again.read_all(*again.lookup("file" + std::to_string(i))) == models_[i]);
    }
  }

 private:
  // Until nobody gets a block any more.
  void fill() {
    const Content chunk(1 << 20, std::byte{'f'});
    for (const size_t len : {size_t{1} << 20, size_t{16} << 10, size_t{kPageBytes}}) {
      while (true) {
        const Result<size_t> written =
            sim_.write(*ballast_, ballast_->attr.size, ConstBytes(chunk).first(len), How::buffered);
        if (!written.ok()) {
          REQUIRE(written.error() == Error::no_space);
          settle(sim_);
          if (sim_.volume().space().stats().available_blocks < len / kPageBytes) break;
        }
      }
    }
  }

  void check() {
    for (size_t i = 0; i < kFiles; ++i) CHECK(sim_.read_all(*files_[i]) == models_[i]);
  }

  // A writer has every kWriters-th page of every file for itself.
  void next(size_t writer, int left) {
    if (left == 0) {
      --running_;
      return;
    }
    const size_t file = random_.below(kFiles);
    const uint64_t page = random_.below(kPages / kWriters) * kWriters + writer;
    auto data = std::make_shared<Content>(random_bytes(random_, kPageBytes));
    sim_.spawn_write(*files_[file], page * kPageBytes, *data, How::mapped,
                     [this, writer, left, file, page, data](Result<size_t> written) {
                       REQUIRE(written.ok());
                       REQUIRE(written.value() == kPageBytes);
                       put(models_[file], page * kPageBytes, *data);
                       next(writer, left - 1);
                     });
  }

  // An ordinary writer that takes whatever it is given.
  void next_greedy(int left) {
    if (left == 0) {
      --running_;
      return;
    }
    auto data = std::make_shared<Content>(kPageBytes, std::byte{'g'});
    sim_.spawn_write(*ballast_, ballast_->attr.size, *data, How::buffered,
                     [this, left, data](Result<size_t> written) {
                       if (!written.ok()) {
                         REQUIRE(written.error() == Error::no_space);
                         ++refused_;
                       }
                       next_greedy(left - 1);
                     });
  }

  SimVolume sim_;
  Random random_;
  std::vector<InodeRef> files_;
  std::vector<Content> models_;
  InodeRef ballast_;
  size_t running_ = 0;
  uint64_t refused_ = 0;
};

TEST_CASE("a storm of mapped writers on a full volume is written, all of it, out of the reserve") {
  for_each_seed(6, [](const TestSeed& seed) { MappedStorm(seed).run(); });
}

}  // namespace
}  // namespace fusefs
