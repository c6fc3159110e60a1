// A truncate, a punch or a zero range that fails on its way: what it has not cut is as it was
// written, whether the device has it or only memory, and what it has cut is zeroes for ever.
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// So many that they take several nodes of the tree and several transactions.
constexpr uint64_t kPieces = 2'000;
constexpr uint64_t kFileBytes = 2 * kPieces * kBlockBytes;

enum class Cut { truncate, punch, zero_range };

// What every case begins with: every second block of "file" is written, nothing is in memory.
struct Scattered {
  SimImage image;
  Content content = Content(kFileBytes);

  explicit Scattered(const TestSeed& seed) {
    SimVolume sim(seed);
    Random random(seed.seed);
    InodeRef inode = sim.create("file");
    const Content data = random_bytes(random, kFileBytes);
    for (uint64_t i = 0; i < kPieces; ++i) {
      const uint64_t pos = 2 * i * kBlockBytes;
      write(sim, *inode, pos, part(data, pos, kBlockBytes), How::direct);
      put(content, pos, part(data, pos, kBlockBytes));
    }
    write(sim, *inode, kFileBytes - 1, part(data, kFileBytes - 1, 1), How::direct);
    put(content, kFileBytes - 1, part(data, kFileBytes - 1, 1));
    sim.world().inside([&] { inode.reset(); });
    image = sim.unmount();
  }
};

Result<void> cut(SimVolume& sim, Inode& inode, Cut how, uint64_t pos, uint64_t end) {
  switch (how) {
    case Cut::truncate:
      return sim.truncate(inode, pos);
    case Cut::punch:
      return sim.fallocate(inode, FallocateMode::punch_hole, pos, end - pos, true);
    case Cut::zero_range:
      return sim.fallocate(inode, FallocateMode::zero_range, pos, end - pos, true);
  }
  return Error::invalid_argument;
}

// How many bytes of [pos, end) are neither as in `old` nor zero, and how many outside are not as in
// `old`.
size_t count_wrong(const Content& now, const Content& old, uint64_t pos, uint64_t end) {
  size_t wrong = 0;
  for (size_t i = 0; i < now.size(); ++i) {
    const bool may_be_zero = i >= pos && i < end;
    wrong += now[i] != old[i] && !(may_be_zero && now[i] == std::byte{0}) ? 1 : 0;
  }
  return wrong;
}

// The I/O of one kind that follows the first `skip` fails while the file is cut. False if there was
// none.
bool cut_with_error(const TestSeed& seed, const Scattered& scattered, Cut how, IoKind kind,
                    uint64_t skip) {
  CAPTURE(static_cast<int>(how));
  CAPTURE(static_cast<int>(kind));
  CAPTURE(skip);
  SimVolume sim(seed, {}, scattered.image);
  Random random(seed.seed + 1);
  InodeRef inode = sim.lookup("file");
  Content content = scattered.content;
  for (int i = 0; i < 3; ++i) {
    const uint64_t pos = random.below(kFileBytes - 20'000);
    const Content data = random_bytes(random, 1 + random.below(20'000));
    write(sim, *inode, pos, data);
    put(content, pos, data);
  }
  const uint64_t pos = 10 * kBlockBytes + 1 + random.below(50 * kBlockBytes);
  const uint64_t end = how == Cut::truncate ? kFileBytes : kFileBytes - random.below(100'000);

  SimFault fault = sim.data_fault(kind);
  fault.skip = skip;
  sim.device().add_fault(fault);
  const Result<void> outcome = cut(sim, *inode, how, pos, end);
  const bool struck = sim.device().stats().failed_count != 0;
  sim.device().clear_faults();

  if (!outcome.ok()) CHECK(outcome.error() == Error::io_failed);
  if (outcome.ok()) {
    std::fill(content.begin() + static_cast<ptrdiff_t>(pos),
              content.begin() + static_cast<ptrdiff_t>(end), std::byte{0});
  }
  const Content now = sim.read_all(*inode);
  REQUIRE((now.size() == kFileBytes || (how == Cut::truncate && now.size() == pos)));
  CHECK(count_wrong(now, content, pos, end) == 0);
  // What was cut off does not come back when the file grows, at once or in steps.
  content = now;
  if (now.size() == pos) {
    const uint64_t far = pos + 3 * kBlockBytes;
    const Content data = random_bytes(random, 10);
    if (random.chance(0.5)) {
      write(sim, *inode, far, data);
      put(content, far, data);
    }
    REQUIRE(sim.truncate(*inode, kFileBytes).ok());
    content.resize(kFileBytes);
    CHECK(sim.read_all(*inode) == content);
  }
  REQUIRE(sim.sync().ok());
  CHECK(sim.read_all(*inode) == content);
  sim.world().inside([&] { inode.reset(); });
  SimVolume again(seed, {}, sim.power_cut());
  inode = again.lookup("file");
  CHECK(again.read_all(*inode) == content);
  again.world().inside([&] { inode.reset(); });
  require_consistent(again.unmount(), {});
  return struck;
}

TEST_CASE("a cut that the device fails loses nothing that it has not cut") {
  for_each_seed(1, [](const TestSeed& seed) {
    const Scattered scattered(seed);
    for (const Cut how : {Cut::truncate, Cut::punch, Cut::zero_range}) {
      for (const IoKind kind : {IoKind::read, IoKind::write}) {
        for (uint64_t skip = 0; cut_with_error(seed, scattered, how, kind, skip); ++skip) {
        }
      }
    }
  });
}

}  // namespace
}  // namespace fusefs
