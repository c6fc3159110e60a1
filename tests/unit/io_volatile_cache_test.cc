// VolatileCache on a temporary file: what its end takes away, and what it does not.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "core/io/uring_device.h"
#include "core/io/volatile_cache.h"
#include "tests/support/real_device.h"
#include "tests/support/temp_image.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint32_t kSector = 512;
constexpr uint64_t kImageBytes = 1 << 20;
constexpr uint64_t kLazySeed = 4;  // nothing becomes durable unasked

// A file, and the cache before it; numbers stand for contents.
class Bench {
 public:
  explicit Bench(uint64_t seed = kLazySeed) : fd_(::open(image_.path().c_str(), O_RDWR)) {
    REQUIRE(fd_.get() >= 0);
    restart(seed);
  }
  // As kill -9 and a new process.
  void restart(uint64_t seed) {
    cache_ = std::make_unique<VolatileCache>(fd_.get(), kSector, seed);
  }

  void write(uint64_t sector, uint64_t count, uint64_t number, bool fua = false) {
    std::vector<uint64_t> data(count * kSector / 8, number);
    const iovec buffer = {data.data(), data.size() * 8};
    REQUIRE(cache_->write(sector * kSector, std::span(&buffer, 1), fua) ==
            static_cast<int64_t>(count * kSector));
  }
  uint64_t read(uint64_t sector) {
    std::array<uint64_t, kSector / 8> data = {};
    const iovec buffer = {data.data(), kSector};
    REQUIRE(cache_->read(sector * kSector, std::span(&buffer, 1)) == kSector);
    return whole(data);
  }
  uint64_t on_device(uint64_t sector) {
    std::array<uint64_t, kSector / 8> data = {};
    REQUIRE(::pread(fd_.get(), data.data(), kSector, static_cast<off_t>(sector * kSector)) ==
            kSector);
    return whole(data);
  }
  void flush() { REQUIRE(cache_->flush(cache_->stamp()) == 0); }
  VolatileCache* operator->() { return cache_.get(); }

 private:
  static uint64_t whole(const std::array<uint64_t, kSector / 8>& data) {
    for (const uint64_t word : data) REQUIRE(word == data[0]);  // never torn within a block
    return data[0];
  }

  TempImage image_{kImageBytes};
  OwnedFd fd_;
  std::unique_ptr<VolatileCache> cache_;
};

TEST_CASE("a volatile cache shows what was written and loses it unless it was flushed") {
  Bench bench;
  bench.write(0, 4, 1);
  CHECK(bench.read(3) == 1);
  CHECK(bench.on_device(3) == 0);
  CHECK(bench->lost_bytes() == 4 * kSector);
  SUBCASE("killed") {
    bench.restart(kLazySeed);
    CHECK(bench.read(3) == 0);
  }
  SUBCASE("flushed, then killed") {
    bench.flush();
    CHECK(bench->lost_bytes() == 0);
    bench.restart(kLazySeed);
    for (uint64_t sector = 0; sector < 4; ++sector) CHECK(bench.read(sector) == 1);
  }
}

TEST_CASE("a write with fua is durable at once, and what it replaced never comes back") {
  Bench bench;
  bench.write(0, 2, 1);
  bench.write(0, 1, 2, true);
  CHECK(bench.on_device(0) == 2);
  CHECK(bench.on_device(1) == 0);
  bench.flush();
  CHECK(bench.on_device(0) == 2);
  CHECK(bench.on_device(1) == 1);
}

TEST_CASE("a flush that was asked for before a write promises nothing of it") {
  Bench bench;
  bench.write(0, 1, 1);
  bench.write(2, 1, 1);
  const uint64_t asked = bench->stamp();
  bench.write(1, 1, 2);
  bench.write(2, 1, 2);
  REQUIRE(bench->flush(asked) == 0);
  CHECK(bench.on_device(0) == 1);
  CHECK(bench.on_device(1) == 0);
  CHECK(bench.on_device(2) == 2);  // the older version is gone: the newer stands for it
}

TEST_CASE("a discarded or zeroed range takes along what was kept of it") {
  Bench bench;
  bench.write(0, 24, 1);
  REQUIRE(bench->write_zeroes(8 * kSector, 8 * kSector) == 0);
  const int64_t discarded = bench->discard(16 * kSector, 8 * kSector);
  CHECK((discarded == 0 || discarded == -EOPNOTSUPP));
  CHECK(bench->lost_bytes() == 8 * kSector);
  CHECK(bench.read(7) == 1);
  CHECK(bench.read(8) == 0);
  CHECK(bench.read(16) == 0);
}

TEST_CASE("scattered buffers are filled and written in their order, kept blocks over those below") {
  Bench bench;
  std::vector<uint64_t> data(6 * kSector / 8);
  for (size_t i = 0; i < data.size(); ++i) data[i] = i;
  auto* bytes = reinterpret_cast<std::byte*>(data.data());
  const std::array<iovec, 3> pieces = {iovec{bytes, 100}, iovec{bytes + 100, 3000 - 100},
                                       iovec{bytes + 3000, 6 * kSector - 3000}};
  REQUIRE(bench->write(kSector, pieces, false) == 6 * kSector);
  bench.flush();
  bench.write(3, 1, 77);
  std::vector<uint64_t> got(data.size());
  auto* to = reinterpret_cast<std::byte*>(got.data());
  const std::array<iovec, 2> parts = {iovec{to, 1}, iovec{to + 1, 6 * kSector - 1}};
  REQUIRE(bench->read(kSector, parts) == 6 * kSector);
  std::fill_n(data.begin() + 2 * kSector / 8, kSector / 8, uint64_t{77});
  CHECK(got == data);
}

TEST_CASE("the cache never keeps more than its bound") {
  Bench bench;
  std::vector<std::byte> data(kImageBytes);
  const iovec buffer = {data.data(), data.size()};
  // The same image over and over at other addresses: the file grows, sparse.
  for (uint64_t i = 0; i < VolatileCache::kBytesMax / kImageBytes + 3; ++i) {
    REQUIRE(bench->write(i * kImageBytes, std::span(&buffer, 1), false) > 0);
    REQUIRE(bench->lost_bytes() <= VolatileCache::kBytesMax);
  }
}

TEST_CASE("after a kill each block holds its last flushed version or a later one, and every such") {
  // Over all seeds, each outcome that is allowed must occur: none is prevented by the cache.
  std::set<int> seen;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Bench bench(seed);
    bench.write(0, 2, 1);
    bench.flush();
    bench.write(0, 2, 2);
    bench.write(40, 64, 1);  // others that may push it out
    bench.write(0, 2, 3);
    bench.write(200, 64, 1);
    bench.restart(seed);
    const auto first = static_cast<int>(bench.read(0));
    const auto second = static_cast<int>(bench.read(1));
    REQUIRE((first >= 1 && first <= 3 && second >= 1 && second <= 3));
    seen.insert(first * 10 + second);
  }
  CHECK(seen.contains(11));
  CHECK(seen.contains(33));
  CHECK(seen.contains(13));  // the blocks of one write, each for itself
  CHECK(seen.contains(31));
  CHECK(seen.contains(21) + seen.contains(12) + seen.contains(22) > 0);
}

TEST_CASE("random writes, flushes and kills agree with a model of what is durable") {
  for_each_seed(20, [](const TestSeed& seed) {
    Random random(seed.seed);
    Bench bench(random.next());
    std::map<uint64_t, std::set<uint64_t>> allowed;  // after a kill; the largest is the newest
    for (uint64_t sector = 0; sector < 64; ++sector) allowed[sector] = {0};
    for (uint64_t number = 1; number < 400; ++number) {
      const uint64_t sector = random.below(60), count = random.between(1, 4);
      const uint64_t what = random.below(20);
      if (what == 0) {
        bench.flush();
        for (auto& [_, versions] : allowed) versions = {*versions.rbegin()};
      } else if (what == 1) {
        bench.restart(random.next());
        for (auto& [at, versions] : allowed) {
          const uint64_t got = bench.read(at);
          REQUIRE(versions.contains(got));
          versions = {got};
        }
      } else {
        bench.write(sector, count, number, what == 2);
        for (uint64_t at = sector; at < sector + count; ++at) {
          if (what == 2) allowed[at].clear();
          allowed[at].insert(number);
        }
      }
      const uint64_t looked = random.below(64);
      REQUIRE(bench.read(looked) == *allowed[looked].rbegin());
    }
  });
}

TEST_CASE("a device with a volatile cache says so, and loses what was not flushed") {
  TempImage image(kImageBytes);
  DeviceOptions options;
  options.volatile_cache_seed = kLazySeed;
  AlignedBuffer data(8192), got(8192);
  std::fill_n(data.data(), data.size(), std::byte{7});
  const auto write_both = [&](bool flushed) {
    RealDevice device(image.path(), options);
    CHECK(device->geometry().has_volatile_cache);
    CHECK(device->facts().calls_directly);
    REQUIRE(device.io(IoRequest::write(4096, data.data(), 4096)).ok());
    if (flushed) REQUIRE(device.io(IoRequest::flush()).ok());
    REQUIRE(device.io(IoRequest::write(8192, data.data(), 4096)).ok());
    REQUIRE(device.io(IoRequest::read(4096, got.data(), 8192)).ok());
    CHECK(std::memcmp(got.data(), data.data(), 8192) == 0);
  };
  for (const bool flushed : {false, true}) {
    write_both(flushed);
    RealDevice device(image.path(), options);
    REQUIRE(device.io(IoRequest::read(4096, got.data(), 8192)).ok());
    CHECK(got.data()[0] == (flushed ? std::byte{7} : std::byte{0}));
    CHECK(got.data()[4096] == std::byte{0});
  }
}

}  // namespace
}  // namespace fusefs
