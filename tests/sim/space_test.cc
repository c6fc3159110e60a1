// What the allocator promises its users, one promise at a time.
#include <map>
#include <vector>

#include "tests/sim/space_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

// A file as the allocator sees it: where it goes on, and in how many pieces it lies.
struct Stream {
  std::optional<BlockNo> goal;
  uint64_t blocks = 0;
  std::vector<BlockRange> extents;

  void append(SpaceRig& rig, uint64_t want) {
    while (want > 0) {
      const Result<BlockRange> got = rig.allocate(want, goal);
      REQUIRE(got.ok());
      REQUIRE(rig.commit(got.value()).ok());
      const BlockRange range = got.value();
      if (goal && *goal == range.first) {
        extents.back().end = range.end;
      } else {
        extents.push_back(range);
      }
      goal = range.end;
      blocks += range.count().value();
      want -= range.count().value();
    }
  }
};

// Promises everything that can be promised, and places it.
std::vector<BlockRange> fill(SpaceRig& rig) {
  std::vector<BlockRange> taken;
  Result<Reservation> all = rig.reserve(rig.space().stats().available_blocks);
  REQUIRE(all.ok());
  Reservation reservation = std::move(all).value();
  while (reservation.count() > BlockCount(0)) {
    std::optional<BlockNo> goal;
    if (!taken.empty()) goal = taken.back().end;
    const Result<BlockRange> got = rig.allocate_from(reservation, 1024, goal);
    REQUIRE(got.ok());
    REQUIRE(rig.commit(got.value()).ok());
    taken.push_back(got.value());
  }
  return taken;
}

void set_durable(SpaceRig& rig, uint64_t seq) {
  rig.world().inside([&] { rig.durability().set_durable(seq); });
}

TEST_CASE("a file of 1 GiB written in sequence has a handful of extents") {
  for_each_seed(1, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, 2 * kGiB);
    Stream file;
    std::vector<BlockNo> nodes;
    while (file.blocks < kGiB / kBlockBytes) {
      file.append(rig, rig.world().random().between(256, 1024));
      if (!rig.world().random().chance(0.05)) continue;
      Result<std::vector<BlockNo>> written = rig.checkpoint(8, std::move(nodes));
      REQUIRE(written.ok());
      nodes = std::move(written).value();
    }
    CHECK_LE(file.extents.size(), 3);
  });
}

TEST_CASE("files that grow at the same time each get room to grow in") {
  SpaceRig rig(1, 0.0, 4 * kGiB);
  std::vector<Stream> files(6);
  for (int round = 0; round < 60; ++round) {
    for (Stream& file : files) file.append(rig, 1024);
  }
  for (const Stream& file : files) CHECK_LE(file.extents.size(), 3);
}

TEST_CASE("small new files lie behind each other") {
  SpaceRig rig(1, 0.0, kGiB);
  std::optional<BlockNo> end;
  for (int i = 0; i < 500; ++i) {
    Stream file;
    file.append(rig, 1 + static_cast<uint64_t>(i) % 5);
    REQUIRE_EQ(file.extents.size(), 1);
    if (end) CHECK(file.extents.front().first == *end);
    end = file.extents.front().end;
  }
}

TEST_CASE("a file whose place is taken goes on nearby") {
  SpaceRig rig(1, 0.0, kGiB);
  Stream first;
  first.append(rig, 8);
  Stream second;
  second.append(rig, 8);
  first.append(rig, 8);
  REQUIRE_EQ(first.extents.size(), 2);
  CHECK(first.extents[1].first == second.extents[0].end);
}

TEST_CASE("a volume of 64 MiB gives more than 85 percent of it to files") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  CHECK_GE(rig.space().stats().available_blocks * kBlockBytes * 100, 85 * 64 * kMiB);
}

TEST_CASE("what is promised can be placed, and not a block more is promised") {
  for_each_seed(2, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, 64 * kMiB);
    const uint64_t available = rig.space().stats().available_blocks;
    CHECK(rig.reserve(available + 1).error() == Error::no_space);
    {
      const Result<Reservation> all = rig.reserve(available);
      REQUIRE(all.ok());
      CHECK(rig.reserve(1).error() == Error::no_space);
      CHECK_EQ(rig.space().stats().available_blocks, 0);
    }
    const std::vector<BlockRange> taken = fill(rig);
    CHECK(rig.reserve(1).error() == Error::no_space);
    CHECK(rig.world().run([&] { return rig.space().check_room(); }).error() == Error::no_space);
    // Full, and checkpoints still find their nodes, again and again.
    std::vector<BlockNo> nodes;
    for (int i = 0; i < 3; ++i) {
      Result<std::vector<BlockNo>> written =
          rig.checkpoint(rig.space().node_reserve(), std::move(nodes));
      REQUIRE(written.ok());
      nodes = std::move(written).value();
    }
    CHECK_EQ(rig.space().stats().available_blocks, 0);
  });
}

TEST_CASE("who finds the volume full waits for blocks that are about to become free") {
  for_each_seed(2, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, 64 * kMiB);
    const std::vector<BlockRange> taken = fill(rig);
    REQUIRE(rig.release(taken[0], 7).ok());
    const BlockCount freed = taken[0].count();
    CHECK_EQ(rig.space().stats().available_blocks, freed.value());
    CHECK(rig.reserve(freed.value() + 1).error() == Error::no_space);

    bool done = false;
    rig.world().spawn(
        [&]() -> Attempt<void> {
          ATTEMPT(const Reservation promise, rig.space().reserve(freed));
          return {};
        },
        [&](Result<void> result) {
          REQUIRE(result.ok());
          done = true;
        });
    rig.world().run_for(kNsPerMs);
    CHECK(!done);
    CHECK_GE(rig.durability().kick_count, 1);
    set_durable(rig, 6);
    rig.world().run_for(kNsPerMs);
    CHECK(!done);
    set_durable(rig, 7);
    rig.world().run_for(kNsPerMs);
    CHECK(done);
    CHECK_EQ(rig.space().stats().free_blocks,
             rig.space().stats().metadata_reserve_blocks + freed.value());
  });
}

TEST_CASE("a failed volume makes nobody wait for space") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  const std::vector<BlockRange> taken = fill(rig);
  REQUIRE(rig.release(taken[0], 7).ok());
  bool done = false;
  rig.world().spawn(
      [&]() -> Attempt<void> {
        ATTEMPT(const Reservation promise, rig.space().reserve(BlockCount(1)));
        return {};
      },
      [&](Result<void> result) {
        CHECK(result.error() == Error::io_failed);
        done = true;
      });
  rig.world().run_for(kNsPerMs);
  rig.world().inside([&] {
    rig.health().fail(Error::io_failed, "journal, block 33");
    rig.durability().durable_changed().wake_all();
  });
  rig.world().run_for(kNsPerMs);
  CHECK(done);
}

TEST_CASE("however the free space is broken, promises are kept and checkpoints find their nodes") {
  for_each_seed(2, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, 64 * kMiB);
    // Every second block of everything that data may have is freed: no chunk among it is whole.
    uint64_t seq = 0;
    for (const BlockRange& blocks : fill(rig)) {
      for (BlockNo at = blocks.first; at < blocks.end; at += BlockCount(2)) {
        if (seq == 3000) break;  // enough of it, and the rest stays full
        REQUIRE(rig.release(block_range(at, BlockCount(1)), ++seq).ok());
      }
    }
    set_durable(rig, seq);
    const uint64_t reserve = rig.space().node_reserve();
    std::vector<BlockNo> nodes;
    for (int round = 0; round < 3; ++round) {
      const std::vector<BlockRange> taken = fill(rig);
      CHECK(rig.reserve(1).error() == Error::no_space);
      // A tree of half the reserve becomes one of the whole reserve, and small again.
      for (const uint64_t count : {reserve, reserve / 2}) {
        Result<std::vector<BlockNo>> written = rig.checkpoint(count, std::move(nodes));
        REQUIRE(written.ok());
        nodes = std::move(written).value();
      }
      for (const BlockRange& blocks : taken) REQUIRE(rig.release(blocks, ++seq).ok());
      set_durable(rig, seq);
    }
  });
}

TEST_CASE("a released block is not given away while I/O that began before is under way") {
  for_each_seed(2, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, 64 * kMiB);
    const std::vector<BlockRange> taken = fill(rig);
    std::optional<IoGuard> before;
    std::optional<IoGuard> after;
    rig.world().inside([&] { before = rig.space().guard_io(); });
    REQUIRE(rig.release(taken[0], 1).ok());
    rig.world().inside([&] { after = rig.space().guard_io(); });
    set_durable(rig, 1);
    bool done = false;
    rig.world().spawn(
        [&]() -> Attempt<void> {
          ATTEMPT(const Reservation promise, rig.space().reserve(BlockCount(1)));
          return {};
        },
        [&](Result<void> result) { done = result.ok(); });
    rig.world().run_for(kNsPerMs);
    CHECK(!done);
    rig.world().inside([&] { before.reset(); });
    rig.world().run_for(kNsPerMs);
    CHECK(done);
    rig.world().inside([&] { after.reset(); });
  });
}

TEST_CASE("who has I/O under way itself is told that the volume is full, and does not wait") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  const std::vector<BlockRange> taken = fill(rig);
  std::optional<IoGuard> guard;
  const Result<void> outcome = rig.world().run([&]() -> Attempt<void> {
    if (!guard) guard = rig.space().guard_io();
    ATTEMPT_OK(rig.space().prepare_change(taken[0]));
    rig.space().commit_release(taken[0], JournalSeq(1));
    rig.durability().set_durable(1);
    ATTEMPT(const Reservation promise, rig.space().reserve(BlockCount(1)));
    return {};
  });
  CHECK(outcome.error() == Error::no_space);
  rig.world().inside([&] { guard.reset(); });
  CHECK(rig.reserve(1).ok());
}

TEST_CASE("a promise can be divided, joined and moved, and ends with its object") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  const uint64_t available = rig.space().stats().available_blocks;
  {
    Reservation whole = rig.reserve(100).value();
    Reservation part = whole.split(BlockCount(30));
    CHECK_EQ(whole.count().value(), 70);
    CHECK_EQ(part.count().value(), 30);
    Reservation moved = std::move(part);
    CHECK_EQ(rig.space().stats().reserved_blocks, 100);
    whole.merge(std::move(moved));
    CHECK_EQ(whole.count().value(), 100);
    whole = rig.reserve(5).value();
    CHECK_EQ(rig.space().stats().reserved_blocks, 5);
  }
  CHECK_EQ(rig.space().stats().available_blocks, available);
}

TEST_CASE("mounting 16 TiB reads the summaries, and allocating there reads next to nothing") {
  for_each_seed(1, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, 16384 * kGiB);
    const uint64_t formatted_bytes = rig.read_bytes();
    REQUIRE(rig.open().ok());
    CHECK_EQ(rig.read_bytes() - formatted_bytes, rig.superblock().summary_pages * 2 * kBlockBytes);
    std::vector<Stream> files(20);
    for (int round = 0; round < 10; ++round) {
      for (Stream& file : files) file.append(rig, round < 5 ? 3 : 1024);
    }
    REQUIRE(rig.checkpoint(100).ok());
    REQUIRE(rig.open().ok());
    const uint64_t mounted_bytes = rig.read_bytes();
    for (Stream& file : files) file.append(rig, 1024);
    CHECK_LE(rig.read_bytes() - mounted_bytes, 40 * kBlockBytes);
  });
}

TEST_CASE("bitmaps that nobody needs are dropped, whatever the size of the volume") {
  SpaceRig rig(1, 0.0, 1024 * kGiB);
  BlockNo cursor = rig.space().data_first();
  while (true) {
    std::optional<BlockRange> found;
    const Result<bool> more = rig.world().run([&]() -> Attempt<bool> {
      ATTEMPT(found, rig.space().begin_trim(cursor, rig.space().data_end(), BlockCount(1)));
      return found.has_value();
    });
    REQUIRE(more.ok());
    if (!more.value()) break;
    rig.world().inside([&] { rig.space().end_trim(*found); });
    cursor = found->end;
  }
  CHECK_GT(rig.superblock().group_count.get(), 4000);
  CHECK_LE(rig.space().stats().loaded_groups, 2048);
}

TEST_CASE("replaying a transaction twice is the same as replaying it once") {
  for_each_seed(2, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, 64 * kMiB);
    const uint64_t free = rig.space().stats().free_blocks;
    const BlockNo first = rig.space().data_first() + BlockCount(1000);
    rig.world().inside([&] { rig.space().set_replaying(true); });
    for (int i = 0; i < 2; ++i) {
      REQUIRE(rig.commit(block_range(first, BlockCount(50))).ok());
      CHECK_EQ(rig.space().stats().free_blocks, free - 50);
    }
    // Of this one a part is known already.
    REQUIRE(rig.commit(block_range(first + BlockCount(20), BlockCount(50))).ok());
    CHECK_EQ(rig.space().stats().free_blocks, free - 70);
    for (int i = 0; i < 2; ++i) {
      REQUIRE(rig.release(block_range(first, BlockCount(30)), 1).ok());
      CHECK_EQ(rig.space().stats().free_blocks, free - 40);
    }
    rig.world().inside([&] { rig.space().set_replaying(false); });
    REQUIRE(rig.checkpoint().ok());
    REQUIRE(rig.open().ok());
    CHECK_EQ(rig.space().stats().free_blocks, free - 40);
    CHECK(!rig.is_allocated(first + BlockCount(29)).value());
    CHECK(rig.is_allocated(first + BlockCount(30)).value());
  });
}

TEST_CASE("releasing what is not allocated fails the volume and frees nothing") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  const BlockRange blocks = rig.allocate(4).value();
  REQUIRE(rig.commit(blocks).ok());
  const uint64_t free = rig.space().stats().free_blocks;
  REQUIRE(rig.release({blocks.first, blocks.end + BlockCount(1)}, 1).ok());
  CHECK(rig.health().failed());
  CHECK(rig.health().error() == Error::corrupt);
  set_durable(rig, 1);
  CHECK_EQ(rig.space().stats().free_blocks, free);
  CHECK(rig.is_allocated(blocks.first).value());
}

TEST_CASE("a range outside the data area is damage, not a crash") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  const auto prepare = [&](BlockNo first, BlockNo end) {
    return rig.world().run([&] { return rig.space().prepare_change({first, end}); });
  };
  CHECK(prepare(BlockNo(0), BlockNo(5)).error() == Error::corrupt);
  CHECK(prepare(rig.space().data_end(), rig.space().data_end() + BlockCount(1)).error() ==
        Error::corrupt);
  CHECK(prepare(rig.space().data_first(), BlockNo(~uint64_t{0})).error() == Error::corrupt);
  CHECK(prepare(rig.space().data_first(), rig.space().data_end()).ok());
}

// Writes garbage over one block of the device.
void damage(SpaceRig& rig, BlockNo at) {
  AlignedBuffer garbage(kBlockBytes);
  for (size_t i = 0; i < garbage.size(); ++i) garbage.data()[i] = static_cast<std::byte>(i * 7 + 1);
  Ref<IoTicket> ticket;
  REQUIRE(rig.world()
              .run([&]() -> Attempt<void> {
                if (!ticket) {
                  ticket = make_ref<IoTicket>();
                  rig.world().device().submit(
                      IoRequest::write(block_addr(at), garbage.data(), kBlockBytes), ticket);
                }
                return ticket->wait();
              })
              .ok());
}

TEST_CASE("a damaged summary page refuses the mount and is named") {
  SpaceRig rig(1, 0.0, kGiB);
  damage(rig, BlockNo(rig.superblock().summary_first));
  CHECK(rig.open().error() == Error::corrupt);
  CHECK(rig.health().saw_corruption());
  CHECK(rig.health().reason().find("summary page 0, block " +
                                   std::to_string(rig.superblock().summary_first)) !=
        std::string::npos);
}

TEST_CASE("around a damaged bitmap page, allocation goes on elsewhere") {
  for_each_seed(1, [](const TestSeed& seed) {
    SpaceRig rig(seed.seed, seed.forced_restart_probability, kGiB);
    Stream file;
    file.append(rig, 2 * kGroupBlocks + 100);
    REQUIRE(rig.checkpoint().ok());
    const uint64_t group = (*file.goal - rig.space().data_first()).value() / kGroupBlocks;
    // Both slots: whichever is the committed one.
    for (uint64_t slot = 0; slot < 2; ++slot) {
      damage(rig, BlockNo(rig.superblock().bitmap_first + 2 * group + slot));
    }
    REQUIRE(rig.open().ok());
    const uint64_t free = rig.space().stats().free_blocks;
    file.append(rig, 1024);
    CHECK(rig.health().saw_corruption());
    CHECK(!rig.health().failed());
    CHECK((file.extents.back().first - rig.space().data_first()).value() / kGroupBlocks != group);
    CHECK_LT(rig.space().stats().free_blocks, free - 1024);
    CHECK(rig.is_allocated(rig.space().data_first() + BlockCount(group * kGroupBlocks)).error() ==
          Error::corrupt);
  });
}

TEST_CASE("a checkpoint that was not completed leaves the slots of the last one untouched") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  const BlockRange first = rig.allocate(10).value();
  REQUIRE(rig.commit(first).ok());
  REQUIRE(rig.checkpoint().ok());
  const BlockRange second = rig.allocate(10, first.end).value();
  REQUIRE(rig.commit(second).ok());
  for (int i = 0; i < 3; ++i) {
    const Result<SpaceRig::Checkpoint> failed = rig.begin_checkpoint(0, {});
    REQUIRE(failed.ok());
    rig.end_checkpoint(failed.value(), false);
  }
  SUBCASE("after a crash the last one is there") {
    REQUIRE(rig.open().ok());
    CHECK(rig.is_allocated(first.first).value());
    CHECK(!rig.is_allocated(second.first).value());
  }
  SUBCASE("the next one contains everything") {
    REQUIRE(rig.checkpoint().ok());
    REQUIRE(rig.open().ok());
    CHECK(rig.is_allocated(first.first).value());
    CHECK(rig.is_allocated(second.first).value());
  }
}

TEST_CASE("what changes while a checkpoint is written belongs to the next one") {
  SpaceRig rig(1, 0.0, 64 * kMiB);
  const BlockRange first = rig.allocate(10).value();
  REQUIRE(rig.commit(first).ok());
  const Result<SpaceRig::Checkpoint> begun = rig.begin_checkpoint(0, {});
  REQUIRE(begun.ok());
  const BlockRange second = rig.allocate(10, first.end).value();
  REQUIRE(rig.commit(second).ok());
  rig.end_checkpoint(begun.value(), true);
  SUBCASE("not of the one that was frozen before") {
    REQUIRE(rig.open().ok());
    CHECK(rig.is_allocated(first.first).value());
    CHECK(!rig.is_allocated(second.first).value());
  }
  SUBCASE("which needs no further change to be written") {
    REQUIRE(rig.checkpoint().ok());
    REQUIRE(rig.open().ok());
    CHECK(rig.is_allocated(second.first).value());
  }
}

}  // namespace
}  // namespace fusefs
