// The simulated device keeps the contract of BlockDevice, and uses all the freedom it leaves.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "tests/support/death.h"
#include "tests/support/device_bench.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint32_t kSector = 512;

TEST_CASE("what was written is read back, and what was not is zero, on 16 TiB") {
  DeviceBench bench({.size_bytes = uint64_t{16} << 40});
  const uint64_t last = (uint64_t{16} << 40) - kBlockBytes;
  bench.write(last, kBlockBytes, 7);
  bench.write(0, 2 * kBlockBytes, 8);
  CHECK(bench.read(last, kBlockBytes) == std::vector<int>{7});
  CHECK(bench.read(0, 3 * kBlockBytes) == std::vector<int>{8, 8, 0});
  CHECK(bench.read(uint64_t{8} << 40, kBlockBytes) == std::vector<int>{0});
  CHECK(bench.device.snapshot().page_count() == 3);
}

TEST_CASE("buffers are filled and drained in order") {
  DeviceBench bench;
  AlignedBuffer& one = bench.filled(kBlockBytes, 1);
  AlignedBuffer& two = bench.filled(2 * kBlockBytes, 2);
  IoRequest write = IoRequest::write(kBlockBytes, one.data(), kBlockBytes);
  write.buffers.push_back({two.data(), two.size()});
  write.len = 3 * kBlockBytes;
  REQUIRE(bench.finish(bench.submit(write)).ok());
  CHECK(bench.read(0, 4 * kBlockBytes) == std::vector<int>{0, 1, 2, 2});

  IoRequest read = IoRequest::read(2 * kBlockBytes, one.data(), kBlockBytes);
  read.buffers.push_back({two.data(), kBlockBytes});
  read.len = 2 * kBlockBytes;
  two.data()[kBlockBytes] = std::byte{9};
  REQUIRE(bench.finish(bench.submit(read)).ok());
  CHECK(one.data()[0] == std::byte{2});
  CHECK(two.data()[kBlockBytes] == std::byte{9});  // beyond what was asked for
}

TEST_CASE("nothing completes inline, and requests overtake each other") {
  DeviceBench bench;
  std::vector<Ref<IoTicket>> tickets;
  for (uint64_t i = 0; i < 50; ++i) {
    tickets.push_back(bench.submit_write(i * kBlockBytes, kBlockBytes, 1));
  }
  bench.device.deliver_due();
  CHECK(
      std::all_of(tickets.begin(), tickets.end(), [](auto& ticket) { return ticket->pending(); }));
  CHECK(bench.device.stats().in_flight_max == 50);
  bench.settle();
  std::vector<uint64_t> times;
  for (const SimIoRecord& record : bench.device.log()) times.push_back(record.complete_ns);
  CHECK(times.size() == 50);
  CHECK_FALSE(std::is_sorted(times.begin(), times.end()));
}

TEST_CASE("a ticket of several requests ends with the last of them") {
  DeviceBench bench;
  Ref<IoTicket> ticket = make_ref<IoTicket>();
  for (uint64_t i = 0; i < 5; ++i) {
    bench.device.submit(
        IoRequest::write(i * kBlockBytes, bench.filled(kBlockBytes, 1).data(), kBlockBytes),
        ticket);
  }
  while (auto next = bench.device.next_event_ns()) {
    CHECK(ticket->pending());
    bench.clock.advance_to(*next);
    bench.device.deliver_due();
  }
  CHECK_FALSE(ticket->pending());
  CHECK(ticket->wait().ok());
}

// ---- Reads beside writes, discards ----

TEST_CASE("a read beside a write in flight sees the old or the new, block by block") {
  std::set<std::vector<int>> seen;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    DeviceBench bench({.seed = seed});
    bench.write(0, 2 * kBlockBytes, 1);
    SimFault slow;
    slow.kind = IoKind::write;
    slow.delay_ns = kSimSlowNs * 10;
    bench.device.add_fault(slow);
    bench.submit_write(0, 2 * kBlockBytes, 2);
    AlignedBuffer& buffer = bench.filled(2 * kBlockBytes, 0);
    const Ref<IoTicket> read = bench.submit(IoRequest::read(0, buffer.data(), buffer.size()));
    while (read->pending()) {
      bench.clock.advance_to(*bench.device.next_event_ns());
      bench.device.deliver_due();
    }
    seen.insert({static_cast<int>(buffer.data()[0]), static_cast<int>(buffer.data()[kBlockBytes])});
  }
  CHECK(seen == std::set<std::vector<int>>{{1, 1}, {1, 2}, {2, 1}, {2, 2}});
}

TEST_CASE("a discard of the whole device costs nothing and may or may not zero a page") {
  DeviceBench bench({.size_bytes = uint64_t{16} << 40});
  bench.write(0, 64 * kBlockBytes, 1);
  bench.flush();
  REQUIRE(bench.finish(bench.submit(IoRequest::discard(0, uint64_t{16} << 40))).ok());
  const std::vector<int> after = bench.read(0, 64 * kBlockBytes);
  CHECK(std::count(after.begin(), after.end(), 0) > 0);
  CHECK(std::count(after.begin(), after.end(), 1) > 0);
  const bool first_zeroed = after[0] == 0;
  CHECK(possible_after_cut(bench, 0) == (first_zeroed ? std::set<int>{0, 1} : std::set<int>{1}));
}

TEST_CASE("zeroing zeroes everything, at a page's edge too") {
  DeviceBench bench({.logical_block_bytes = kSector});
  bench.write(0, 2 * kBlockBytes, 1);
  IoRequest zero{IoKind::write_zeroes, false, kSector, kBlockBytes, {}};
  REQUIRE(bench.finish(bench.submit(zero)).ok());
  const std::vector<int> sectors = bench.read(0, 2 * kBlockBytes, kSector);
  for (size_t i = 0; i < sectors.size(); ++i) CHECK(sectors[i] == (i >= 1 && i <= 8 ? 0 : 1));
}

// ---- Errors ----

TEST_CASE("a fault strikes the requests it names and no others") {
  DeviceBench bench;
  SUBCASE("by kind") {
    bench.device.add_fault({.kind = IoKind::flush, .error = Error::io_failed});
    bench.write(0, kBlockBytes, 1);
    CHECK(bench.finish(bench.submit(IoRequest::flush())).error() == Error::io_failed);
    CHECK(possible_after_cut(bench, 0) == std::set<int>{0, 1});
  }
  SUBCASE("by address") {
    bench.device.add_fault(
        {.addr_first = kBlockBytes, .addr_end = 2 * kBlockBytes, .error = Error::no_space});
    bench.write(0, kBlockBytes, 1);
    bench.write(2 * kBlockBytes, kBlockBytes, 1);
    const Ref<IoTicket> hit = bench.submit_write(0, 3 * kBlockBytes, 2);
    CHECK(bench.finish(hit).error() == Error::no_space);
    CHECK(bench.device.stats().failed_count == 1);
    bench.device.clear_faults();
    CHECK(bench.read(0, 3 * kBlockBytes) == std::vector<int>{1, 0, 1});
  }
  SUBCASE("by number") {
    bench.device.add_fault(
        {.kind = IoKind::write, .skip = 2, .count = 1, .error = Error::no_space});
    bench.write(0, kBlockBytes, 1);
    bench.write(0, kBlockBytes, 2);
    CHECK_FALSE(bench.finish(bench.submit_write(0, kBlockBytes, 3)).ok());
    bench.write(0, kBlockBytes, 4);
    CHECK(bench.device.log()[2].error == Error::no_space);
  }
  SUBCASE("by chance") {
    bench.device.add_fault({.probability = 0.5, .error = Error::io_failed});
    int failed = 0;
    for (int i = 0; i < 100; ++i) {
      failed += bench.finish(bench.submit_write(0, kBlockBytes, 1)).ok() ? 0 : 1;
    }
    CHECK(failed > 20);
    CHECK(failed < 80);
  }
  SUBCASE("until it is removed") {
    const SimDevice::FaultId id = bench.device.add_fault({.error = Error::io_failed});
    CHECK_FALSE(bench.finish(bench.submit(IoRequest::flush())).ok());
    bench.device.remove_fault(id);
    CHECK(bench.finish(bench.submit(IoRequest::flush())).ok());
  }
}

TEST_CASE("a failed write leaves any mixture, a failed read leaves rubbish") {
  DeviceBench bench;
  bench.write(0, 64 * kBlockBytes, 1);
  bench.device.add_fault({.count = 2, .error = Error::io_failed});
  CHECK_FALSE(bench.finish(bench.submit_write(0, 64 * kBlockBytes, 2)).ok());
  AlignedBuffer& buffer = bench.filled(kBlockBytes, 1);
  CHECK_FALSE(bench.finish(bench.submit(IoRequest::read(0, buffer.data(), kBlockBytes))).ok());
  CHECK(buffer.data()[0] != std::byte{1});
  const std::vector<int> after = bench.read(0, 64 * kBlockBytes);
  CHECK(std::count(after.begin(), after.end(), 1) > 0);
  CHECK(std::count(after.begin(), after.end(), 2) > 0);
}

TEST_CASE("a device that is gone stays gone") {
  DeviceBench bench;
  bench.device.add_fault({.count = 1, .error = Error::device_gone});
  CHECK(bench.finish(bench.submit(IoRequest::flush())).error() == Error::device_gone);
  bench.device.clear_faults();
  CHECK(bench.finish(bench.submit_write(0, kBlockBytes, 1)).error() == Error::device_gone);
  CHECK_FALSE(bench.device.dead());
}

TEST_CASE("a read-only device and one that cannot discard say so") {
  DeviceBench bench({.can_discard = false, .read_only = true});
  CHECK(bench.finish(bench.submit_write(0, kBlockBytes, 1)).error() == Error::read_only_volume);
  CHECK(bench.read(0, kBlockBytes) == std::vector<int>{0});
  DeviceBench other({.can_discard = false});
  CHECK(other.finish(other.submit(IoRequest::discard(0, kBlockBytes))).error() ==
        Error::not_supported);
}

// ---- What callers may not do ----

TEST_CASE("two writes in flight to one block stop the program") {
  auto overlap = [](uint64_t addr, uint64_t len) {
    return last_words([=] {
      DeviceBench bench;
      bench.submit_write(4 * kBlockBytes, 4 * kBlockBytes, 1);
      bench.submit_write(addr * kBlockBytes, len * kBlockBytes, 2);
    });
  };
  using Range = std::pair<uint64_t, uint64_t>;
  for (auto [addr, len] : {Range{3, 2}, {4, 4}, {5, 1}, {7, 2}, {2, 10}}) {
    CHECK(overlap(addr, len).find("two writes in flight to one block") != std::string::npos);
  }
  CHECK(overlap(3, 1).empty());
  CHECK(overlap(8, 1).empty());
}

TEST_CASE("a write whose memory changes in flight stops the program") {
  const std::string words = last_words([] {
    DeviceBench bench;
    bench.submit_write(0, kBlockBytes, 1);
    bench.buffers.back().data()[100] = std::byte{9};
    bench.settle();
  });
  CHECK(words.find("changed while it was in flight") != std::string::npos);
}

TEST_CASE("requests that no device would take stop the program") {
  AlignedBuffer buffer(2 * kBlockBytes);
  auto submit = [](IoRequest request) {
    return last_words([&] {
      DeviceBench bench({.size_bytes = 1 << 20});
      bench.submit(request);
    });
  };
  CHECK(submit(IoRequest::read(512, buffer.data(), kBlockBytes)).find("unaligned") !=
        std::string::npos);
  CHECK(submit(IoRequest::read(0, buffer.data(), 512)).find("unaligned") != std::string::npos);
  CHECK(submit(IoRequest::read(0, buffer.data() + 512, kBlockBytes)).find("unaligned buffer") !=
        std::string::npos);
  CHECK(submit(IoRequest::read((1 << 20) - kBlockBytes, buffer.data(), 2 * kBlockBytes))
            .find("beyond the end") != std::string::npos);
  CHECK(submit(IoRequest::read(0, buffer.data(), 0)).find("empty") != std::string::npos);
  IoRequest short_buffers = IoRequest::read(0, buffer.data(), kBlockBytes);
  short_buffers.len = 2 * kBlockBytes;
  CHECK(submit(short_buffers).find("do not add up") != std::string::npos);
}

// ---- Images and replay ----

TEST_CASE("a snapshot shares pages until one side writes, and never changes") {
  DeviceBench bench;
  bench.write(0, 100 * kBlockBytes, 1);
  std::vector<SimImage> snapshots;
  for (int i = 0; i < 2000; ++i) {
    snapshots.push_back(bench.device.snapshot());
    if (i % 100 == 0) bench.write(0, kBlockBytes, i / 100 + 2);
  }
  CHECK(first_byte(snapshots[0], 0) == 1);
  CHECK(first_byte(snapshots[1], 0) == 2);
  CHECK(first_byte(snapshots[1999], 0) == 21);
  CHECK(first_byte(snapshots[0], 99 * kBlockBytes) == 1);
  CHECK(snapshots[0].fingerprint() != snapshots[1].fingerprint());
  CHECK(snapshots[1].fingerprint() == snapshots[2].fingerprint());
}

TEST_CASE("images are equal by content, whether zeroes are written or absent") {
  SimImage image;
  const SimImage empty;
  const std::vector<std::byte> ones(1000, std::byte{1});
  const std::vector<std::byte> zeroes(1000);
  image.write(4000, ones);  // across a page
  CHECK(image.fingerprint() != empty.fingerprint());
  CHECK(image.page_count() == 2);
  std::vector<std::byte> back(1002);
  image.read(3999, back);
  CHECK(back.front() == std::byte{0});
  CHECK(back[1] == std::byte{1});
  CHECK(back[1000] == std::byte{1});
  CHECK(back.back() == std::byte{0});
  image.write(4000, zeroes);
  CHECK(image.fingerprint() == empty.fingerprint());
}

TEST_CASE("the same seed and the same requests are the same history") {
  auto history = [](uint64_t seed) {
    DeviceBench bench({.seed = seed, .slow_probability = 0.1});
    bench.device.add_fault({.probability = 0.2, .error = Error::io_failed});
    Random random(99);
    for (uint64_t i = 0; i < 200; ++i) {
      bench.submit_write(random.below(64) * 4 * kBlockBytes + 256 * kBlockBytes * (i % 64),
                         kBlockBytes, static_cast<int>(i));
      if (i % 20 == 19) bench.settle();
    }
    std::vector<uint64_t> times;
    for (const SimIoRecord& record : bench.device.log()) times.push_back(record.complete_ns);
    times.push_back(bench.device.power_cut(random).fingerprint());
    return times;
  };
  CHECK(history(1) == history(1));
  CHECK(history(1) != history(2));
}

TEST_CASE("the log remembers the latest requests, and the counters all of them") {
  DeviceBench bench({.log_records_max = 3});
  for (uint64_t i = 0; i < 5; ++i) bench.write(i * kBlockBytes, kBlockBytes, 1, i == 4);
  bench.flush();
  REQUIRE(bench.device.log().size() == 3);
  CHECK(bench.device.log()[1].addr == 4 * kBlockBytes);
  CHECK(bench.device.log()[1].fua);
  CHECK(bench.device.log()[2].kind == IoKind::flush);
  CHECK(bench.device.log()[2].complete_ns > bench.device.log()[2].submit_ns);
  const SimDeviceStats& stats = bench.device.stats();
  CHECK(stats.submitted(IoKind::write) == 5);
  CHECK(stats.completed(IoKind::write) == 5);
  CHECK(stats.bytes(IoKind::write) == 5 * kBlockBytes);
  CHECK(stats.submitted(IoKind::flush) == 1);
  CHECK(stats.fua_count == 1);
  CHECK(stats.change_count == 5);
  bench.device.clear_log();
  bench.write(0, kBlockBytes, 1);
  CHECK(bench.device.log().size() == 1);
}

}  // namespace
}  // namespace fusefs
