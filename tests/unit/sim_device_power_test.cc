// What a power cut leaves on the simulated device: what the contract of BlockDevice promises, and
// by chance everything that it does not forbid.
#include <algorithm>
#include <set>
#include <vector>

#include "core/base/random.h"
#include "tests/support/device_bench.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint32_t kSector = 512;

TEST_CASE("a completed write may be lost until a flush submitted after it has completed") {
  DeviceBench bench;
  bench.write(0, kBlockBytes, 1);
  SUBCASE("without a flush") { CHECK(possible_after_cut(bench, 0) == std::set<int>{0, 1}); }
  SUBCASE("with the flush in flight") {
    bench.submit(IoRequest::flush());
    CHECK(possible_after_cut(bench, 0) == std::set<int>{0, 1});
  }
  SUBCASE("after the flush") {
    bench.flush();
    CHECK(possible_after_cut(bench, 0) == std::set<int>{1});
  }
}

TEST_CASE("a flush promises nothing about a write that completed after its submission") {
  DeviceBench bench({.latency_ns_min = 1000, .latency_ns_max = 1000, .slow_probability = 0});
  const Ref<IoTicket> early = bench.submit_write(0, kBlockBytes, 1);
  bench.clock.advance_to(bench.clock.monotonic_ns() + 500);
  const Ref<IoTicket> flush = bench.submit(IoRequest::flush());
  bench.settle();
  REQUIRE_FALSE(early->pending());
  REQUIRE_FALSE(flush->pending());
  CHECK(possible_after_cut(bench, 0) == std::set<int>{0, 1});
}

TEST_CASE("a write with fua is durable when it completes, and alone") {
  DeviceBench bench;
  bench.write(0, kBlockBytes, 1);
  bench.write(kBlockBytes, kBlockBytes, 2, true);
  CHECK(possible_after_cut(bench, 0) == std::set<int>{0, 1});
  CHECK(possible_after_cut(bench, kBlockBytes) == std::set<int>{2});
}

TEST_CASE("a power cut brings back no version older than the durable one, but any newer one") {
  DeviceBench bench;
  bench.write(0, kBlockBytes, 1);
  bench.write(0, kBlockBytes, 2);
  bench.flush();
  bench.write(0, kBlockBytes, 3);
  bench.write(0, kBlockBytes, 4);
  bench.submit_write(0, kBlockBytes, 5);
  CHECK(possible_after_cut(bench, 0) == std::set<int>{2, 3, 4, 5});
}

TEST_CASE("a fua write overtakes what was written before it and not flushed") {
  DeviceBench bench;
  bench.write(0, 2 * kBlockBytes, 1);
  bench.write(0, kBlockBytes, 2, true);
  SUBCASE("at a power cut") {
    CHECK(possible_after_cut(bench, 0) == std::set<int>{2});
    CHECK(possible_after_cut(bench, kBlockBytes) == std::set<int>{0, 1});
  }
  SUBCASE("at the next flush") {
    bench.flush();
    CHECK(possible_after_cut(bench, 0) == std::set<int>{2});
    CHECK(possible_after_cut(bench, kBlockBytes) == std::set<int>{1});
  }
}

TEST_CASE("what a failed flush covered stays visible, and a later flush may not bring it back") {
  std::set<int> values;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    DeviceBench bench({.seed = seed});
    bench.write(0, kBlockBytes, 1);
    bench.flush();
    bench.write(0, kBlockBytes, 2);
    bench.device.add_fault({.kind = IoKind::flush, .count = 1, .error = Error::io_failed});
    CHECK_FALSE(bench.finish(bench.submit(IoRequest::flush())).ok());
    CHECK(bench.read(0, kBlockBytes) == std::vector<int>{2});
    bench.write(kBlockBytes, kBlockBytes, 3);
    bench.flush();
    CHECK(bench.read(0, kBlockBytes) == std::vector<int>{2});
    values.merge(possible_after_cut(bench, 0));
    CHECK(possible_after_cut(bench, kBlockBytes) == std::set<int>{3});
  }
  CHECK(values == std::set<int>{1, 2});
}

TEST_CASE("a write with fua may fail behind its data, and takes others along") {
  std::set<int> own, other;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    DeviceBench bench({.seed = seed});
    bench.write(0, kBlockBytes, 1);
    bench.device.add_fault(
        {.kind = IoKind::write, .count = 1, .error = Error::io_failed, .behind_data = true});
    bench.write(2 * kBlockBytes, kBlockBytes, 2);  // without fua: not struck
    CHECK_FALSE(bench.finish(bench.submit_write(kBlockBytes, kBlockBytes, 2, true)).ok());
    bench.device.clear_faults();
    CHECK(bench.read(0, 2 * kBlockBytes) == std::vector<int>{1, 2});
    bench.flush();
    other.merge(possible_after_cut(bench, 0));
    own.merge(possible_after_cut(bench, kBlockBytes));
  }
  CHECK(other == std::set<int>{0, 1});
  CHECK(own == std::set<int>{0, 2});
}

TEST_CASE("without a volatile cache every completed write is durable") {
  DeviceBench bench({.has_volatile_cache = false});
  bench.write(0, kBlockBytes, 1);
  bench.submit_write(kBlockBytes, kBlockBytes, 2);
  CHECK(possible_after_cut(bench, 0) == std::set<int>{1});
  CHECK(possible_after_cut(bench, kBlockBytes) == std::set<int>{0, 2});
}

TEST_CASE("a write in flight at a power cut is torn at logical blocks and nowhere else") {
  DeviceBench bench({.logical_block_bytes = kSector});
  bench.write(0, kBlockBytes, 1);
  bench.flush();
  bench.submit_write(0, kBlockBytes, 2);
  bench.device.cut_power();
  Random random(1);
  std::set<int> new_blocks;
  for (int i = 0; i < 300; ++i) {
    const SimImage image = bench.device.surviving_image(random);
    int count = 0;
    for (uint64_t block = 0; block < kBlockBytes / kSector; ++block) {
      std::vector<std::byte> bytes(kSector);
      image.read(block * kSector, bytes);
      REQUIRE(std::count(bytes.begin(), bytes.end(), bytes[0]) == kSector);
      const int value = static_cast<int>(bytes[0]);
      REQUIRE((value == 1 || value == 2));
      count += value == 2 ? 1 : 0;
    }
    new_blocks.insert(count);
  }
  CHECK(new_blocks.contains(0));
  CHECK(new_blocks.contains(8));
  CHECK(new_blocks.size() >= 8);
}

TEST_CASE("the dead device completes nothing and takes nothing more") {
  DeviceBench bench;
  const Ref<IoTicket> before = bench.submit_write(0, kBlockBytes, 1);
  bench.device.cut_power();
  const Ref<IoTicket> after = bench.submit_write(0, kBlockBytes, 2);
  CHECK_FALSE(bench.device.next_event_ns().has_value());
  bench.clock.advance_to(kNsPerSecond);
  bench.device.deliver_due();
  CHECK(before->pending());
  CHECK(after->pending());
  CHECK(possible_after_cut(bench, 0) == std::set<int>{0, 1});
}

TEST_CASE("the power can be cut at each write in turn") {
  for (uint64_t cut = 0; cut <= 5; ++cut) {
    DeviceBench bench({.cut_after_writes = cut});
    uint64_t written = 0;
    while (written < 5 && !bench.device.dead()) {
      bench.submit_write(written * kBlockBytes, kBlockBytes, 1, true);
      bench.settle();
      ++written;
    }
    CHECK(bench.device.dead() == (cut < 5));
    CHECK(written == std::min<uint64_t>(cut + 1, 5));
    bench.device.cut_power();
    Random random(3);
    for (uint64_t i = 0; i < 5; ++i) {
      const int value = first_byte(bench.device.surviving_image(random), i * kBlockBytes);
      if (i < cut) CHECK(value == 1);
      if (i > cut) CHECK(value == 0);
    }
  }
}

TEST_CASE("a device restarted with the surviving image holds it durably") {
  DeviceBench bench;
  bench.write(0, kBlockBytes, 1);
  Random random(5);
  const SimImage image = bench.device.power_cut(random);
  DeviceBench again({}, image);
  CHECK(again.read(0, kBlockBytes)[0] == first_byte(image, 0));
  CHECK(possible_after_cut(again, 0) == std::set<int>{first_byte(image, 0)});
}

// Reads and power cuts of a random history, against a list of the versions of each block.
TEST_CASE("a power cut leaves each block at a version no older than the last durable one") {
  for_each_seed(20, [](const TestSeed& seed) {
    constexpr uint64_t kBlocks = 8;
    Random random(seed.seed);
    DeviceBench bench({.seed = seed.seed, .latency_ns_min = 100, .latency_ns_max = 100'000});
    struct Version {
      Ref<IoTicket> ticket;
      bool fua;
    };
    std::vector<std::vector<Version>> versions(kBlocks);
    struct Flush {
      Ref<IoTicket> ticket;
      std::vector<size_t> completed;  // per block: how many versions had completed at submit
    };
    std::vector<Flush> flushes;
    auto completed = [&](uint64_t block) {
      const auto& list = versions[block];
      const bool last_pending = !list.empty() && list.back().ticket->pending();
      return list.size() - (last_pending ? 1 : 0);
    };
    for (int step = 0; step < 60; ++step) {
      const uint64_t block = random.below(kBlocks);
      if (random.chance(0.1)) {
        Flush flush;
        for (uint64_t b = 0; b < kBlocks; ++b) flush.completed.push_back(completed(b));
        flush.ticket = bench.submit(IoRequest::flush());
        flushes.push_back(std::move(flush));
      } else if (completed(block) == versions[block].size()) {
        const bool fua = random.chance(0.2);
        const auto value = static_cast<int>(versions[block].size() + 1);
        versions[block].push_back(
            {bench.submit_write(block * kBlockBytes, kBlockBytes, value, fua), fua});
      }
      if (auto next = bench.device.next_event_ns(); next && random.chance(0.6)) {
        bench.clock.advance_to(*next);
        bench.device.deliver_due();
      }
    }
    bench.device.cut_power();
    for (int cut = 0; cut < 10; ++cut) {
      const SimImage image = bench.device.surviving_image(random);
      for (uint64_t block = 0; block < kBlocks; ++block) {
        size_t durable = 0;
        for (const Flush& flush : flushes) {
          if (!flush.ticket->pending()) durable = std::max(durable, flush.completed[block]);
        }
        for (size_t i = 0; i < completed(block); ++i) {
          if (versions[block][i].fua) durable = std::max(durable, i + 1);
        }
        const auto value = static_cast<size_t>(first_byte(image, block * kBlockBytes));
        REQUIRE(value >= durable);
        REQUIRE(value <= versions[block].size());
      }
    }
  });
}

}  // namespace
}  // namespace fusefs
