// The rest of a file's last block (core/file/tail.h), after a write that was to extend the file has
// reached the device and its commit has not: whoever grows the file later finds zeroes there.
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kOldSize = 1000;
// Where growing puts its bytes: blocks 1 and 2 stay holes.
constexpr uint64_t kFar = 3 * kBlockBytes;

struct Outcome {
  uint64_t begun = 0;  // changes that the device had seen before the write, and after it
  uint64_t ended = 0;
  SimImage image;
};

// A file of kOldSize durable bytes, and then a write behind them that the power cut may meet.
Outcome extend(const TestSeed& seed, How how, bool whole, std::optional<uint64_t> cut) {
  SimVolumeOptions options;
  options.cut_after_writes = cut;
  SimVolume sim(seed, options);
  Random random(5);
  const Source source = random_source(random, 2 * kBlockBytes, true);
  const ConstBytes bytes = source.bytes;
  InodeRef inode = sim.create("file");
  OpenFile file;
  file.inode = inode;
  write(sim, *inode, 0, bytes.first(kOldSize));
  REQUIRE(sim.fsync(file).ok());
  REQUIRE(sim.sync().ok());
  Outcome outcome;
  outcome.begun = sim.device().stats().change_count;
  // The old bytes are the same either way: only the new ones can show.
  const uint64_t pos = whole ? 0 : kOldSize;
  const uint64_t end = whole ? kBlockBytes : kOldSize + 700;
  const Result<size_t> written = sim.write(*inode, pos, bytes.subspan(pos, end - pos), how);
  if (written.ok() && !sim.device().dead()) (void)sim.fsync(file);
  outcome.ended = sim.device().stats().change_count;
  sim.world().inside([&] {
    file.inode.reset();
    inode.reset();
  });
  outcome.image = sim.power_cut();
  return outcome;
}

enum class Grow { truncate, buffered, direct, dsync, mapped, fallocate, clone, copy, append };
constexpr Grow kGrows[] = {Grow::truncate,  Grow::buffered, Grow::direct, Grow::dsync, Grow::mapped,
                           Grow::fallocate, Grow::clone,    Grow::copy,   Grow::append};

void grow(SimVolume& sim, Inode& inode, Grow how, ConstBytes bytes) {
  switch (how) {
    case Grow::truncate:
      REQUIRE(sim.truncate(inode, kFar).ok());
      return;
    case Grow::buffered:
      return write(sim, inode, kFar, bytes, How::buffered);
    case Grow::direct:
      return write(sim, inode, kFar, bytes, How::direct);
    case Grow::dsync:
      return write(sim, inode, kFar, bytes, How::dsync);
    case Grow::mapped:
      return write(sim, inode, kFar, bytes, How::mapped);
    case Grow::fallocate:
      REQUIRE(sim.fallocate(inode, FallocateMode::allocate, kFar, kBlockBytes, false).ok());
      return;
    case Grow::clone:
    case Grow::copy: {
      const InodeRef source = sim.create("source");
      write(sim, *source, 0, bytes);
      const uint64_t from = how == Grow::clone ? 0 : 1;
      const Result<uint64_t> copied = sim.clone(*source, from, inode, kFar, bytes.size() - from);
      REQUIRE(copied.ok());
      REQUIRE(copied.value() == bytes.size() - from);
      return;
    }
    // Through the page of the last block, which keeps its zeroes; then a direct write, whose commit
    // must not come before that page.
    case Grow::append:
      write(sim, inode, inode.attr.size, bytes.first(2 * kBlockBytes - 10), How::buffered);
      write(sim, inode, kFar, bytes, How::direct);
      return;
  }
}

// Old bytes, zeroes, new bytes.
void check_content(const Content& content, uint64_t size, Grow how) {
  CAPTURE(static_cast<int>(how));
  const uint64_t gap_first = how == Grow::append ? size + 2 * kBlockBytes - 10 : size;
  REQUIRE(content.size() >= gap_first);
  const size_t gap_end = std::min<size_t>(content.size(), kFar);
  size_t stale = 0;
  for (size_t i = gap_first; i < gap_end; ++i) stale += content[i] != std::byte{0} ? 1 : 0;
  CHECK(stale == 0);
}

// The file of `image` grows each way, and then the power fails again.
void grow_each_way(const TestSeed& seed, const SimImage& image, bool cloned) {
  Random random(6);
  const Source source = random_source(random, 2 * kBlockBytes, true);
  for (const Grow how : kGrows) {
    for (const bool read_first : {false, true}) {
      SimVolume sim(seed, {}, image);
      InodeRef inode = sim.lookup("file");
      if (cloned) {  // the rest of a shared block: the clone's is no better
        const InodeRef copy = sim.create("copy");
        REQUIRE(sim.clone(*inode, 0, *copy, 0, inode->attr.size).ok());
        sim.world().inside([&] { inode = copy; });
      }
      const uint64_t size = inode->attr.size;
      if (read_first) CHECK(sim.read_all(*inode).size() == size);
      grow(sim, *inode, how, source.bytes);
      check_content(sim.read_all(*inode), size, how);
      if (cloned) continue;
      OpenFile file;
      file.inode = inode;
      // What survives the next cut has zeroes there, too, whether this fsync has come or not.
      if (read_first) REQUIRE(sim.fsync(file).ok());
      if (!read_first) sim.world().run_for(random.below(2 * kNsPerSecond));
      sim.world().inside([&] {
        file.inode.reset();
        inode.reset();
      });
      SimVolume again(seed, {}, sim.power_cut());
      const InodeRef found = again.lookup("file");
      const Content after = again.read_all(*found);
      if (how != Grow::append) {
        check_content(after, std::min<uint64_t>(size, after.size()), how);
      } else {
        // Each byte is one that was written, or zero.
        size_t foreign = 0;
        for (size_t i = size; i < std::min<size_t>(after.size(), kBlockBytes); ++i) {
          const std::byte now = source.bytes[i - size];
          foreign += after[i] != now && after[i] != std::byte{0} ? 1 : 0;
        }
        CHECK(foreign == 0);
      }
    }
  }
}

void check_cuts(How how, bool whole) {
  for_each_seed(2, [&](const TestSeed& seed) {
    const Outcome uncut = extend(seed, how, whole, {});
    REQUIRE(uncut.ended > uncut.begun);
    for (uint64_t cut = uncut.begun; cut < uncut.ended; ++cut) {
      CAPTURE(cut);
      const SimImage image = extend(seed, how, whole, cut).image;
      grow_each_way(seed, image, false);
      grow_each_way(seed, image, true);
    }
  });
}

TEST_CASE("tail: a direct write behind the end, the power cut before its commit") {
  check_cuts(How::direct, false);
}
TEST_CASE("tail: a direct write of the whole last block, the power cut before its commit") {
  check_cuts(How::direct, true);
}
TEST_CASE("tail: a writethrough behind the end, the power cut before its commit") {
  check_cuts(How::dsync, false);
}
TEST_CASE("tail: writeback behind the end, the power cut before its commit") {
  check_cuts(How::buffered, false);
}

// What is between the size on the device and the new end is only in memory, and so is the new rest
// of the tail.
TEST_CASE("tail: a truncate to within what has been written but not to the device") {
  for_each_seed(2, [](const TestSeed& seed) {
    const Outcome uncut = extend(seed, How::dsync, false, {});
    for (uint64_t cut = uncut.begun; cut < uncut.ended; ++cut) {
      CAPTURE(cut);
      SimVolume sim(seed, {}, extend(seed, How::dsync, false, cut).image);
      Random random(7);
      const Content data = random_bytes(random, 3 * kBlockBytes);
      InodeRef inode = sim.lookup("file");
      const uint64_t size = inode->attr.size;
      write(sim, *inode, size, data);
      const uint64_t end = kBlockBytes + random.below(2 * kBlockBytes);
      REQUIRE(sim.truncate(*inode, end).ok());
      Journal& journal = sim.volume().store().journal();
      REQUIRE(sim.world().run([&] { return journal.wait_durable(journal.last_seq()); }).ok());
      sim.world().inside([&] { inode.reset(); });
      SimVolume again(seed, {}, sim.power_cut());
      const Content after = again.read_all(*again.lookup("file"));
      REQUIRE(after.size() <= end);
      size_t foreign = 0;
      for (size_t i = size; i < after.size(); ++i) {
        foreign += after[i] != data[i - size] && after[i] != std::byte{0} ? 1 : 0;
      }
      CHECK(foreign == 0);
    }
  });
}

// Behind the end every other block is allocated already, so that the commit of a write there takes
// several steps. Between two of them the size covers what is mapped, and nothing more is.
Outcome extend_in_steps(const TestSeed& seed, How how, ConstBytes bytes,
                        std::optional<uint64_t> cut) {
  SimVolumeOptions options;
  options.cut_after_writes = cut;
  SimVolume sim(seed, options);
  InodeRef inode = sim.create("file");
  OpenFile file;
  file.inode = inode;
  write(sim, *inode, 0, bytes.first(kBlockBytes));
  for (uint64_t pos = 2 * kBlockBytes; pos < bytes.size(); pos += 2 * kBlockBytes) {
    REQUIRE(sim.fallocate(*inode, FallocateMode::allocate, pos, kBlockBytes, true).ok());
  }
  REQUIRE(sim.sync().ok());
  Outcome outcome;
  outcome.begun = sim.device().stats().change_count;
  bool ended = false;
  sim.spawn_write(*inode, kBlockBytes, bytes.subspan(kBlockBytes), how,
                  [&](const Result<size_t>&) { ended = true; });
  // Each step that a restart leaves behind is made durable by itself.
  Store& store = sim.volume().store();
  JournalSeq seq = store.last_change().seq;
  const auto committed = [&] { return ended || store.last_change().seq != seq; };
  while (!ended && sim.world().run_until(committed)) {
    seq = store.last_change().seq;
    (void)sim.world().run([&] { return store.journal().wait_durable(seq); });
  }
  if (!sim.device().dead()) (void)sim.fsync(file);
  outcome.ended = sim.device().stats().change_count;
  sim.world().inside([&] {
    file.inode.reset();
    inode.reset();
  });
  outcome.image = sim.power_cut();
  return outcome;
}

TEST_CASE("tail: a write behind the end that is committed in steps, the power cut between them") {
  Random random(8);
  const Source source = random_source(random, 80 * kBlockBytes, true);
  const ConstBytes bytes = source.bytes;
  uint64_t between = 0;
  const bool all = for_each_seed(2, [&](TestSeed seed) {
    seed.forced_restart_probability = 0.2;  // between the steps, too
    for (const How how : {How::direct, How::dsync}) {
      const Outcome uncut = extend_in_steps(seed, how, bytes, {});
      for (uint64_t cut = uncut.begun; cut < uncut.ended; ++cut) {
        CAPTURE(static_cast<int>(how));
        CAPTURE(cut);
        SimVolume sim(seed, {}, extend_in_steps(seed, how, bytes, cut).image);
        const InodeRef inode = sim.lookup("file");
        const uint64_t size = inode->attr.size;
        between += size != kBlockBytes && size != bytes.size() ? 1 : 0;
        REQUIRE(sim.truncate(*inode, bytes.size()).ok());
        const Content content = sim.read_all(*inode);
        REQUIRE(content.size() == bytes.size());
        CHECK(std::equal(content.begin(), content.begin() + static_cast<ptrdiff_t>(size),
                         bytes.begin()));
        CHECK(std::all_of(content.begin() + static_cast<ptrdiff_t>(size), content.end(),
                          [](std::byte byte) { return byte == std::byte{0}; }));
      }
    }
  });
  if (all) CHECK(between != 0);
}

// The device may have stored what it says it has not.
TEST_CASE("tail: a write behind the end that the device refuses") {
  for_each_seed(8, [](const TestSeed& seed) {
    Random random(6);
    const Source source = random_source(random, 2 * kBlockBytes, true);
    for (const How how : {How::direct, How::dsync}) {
      for (const Grow after : kGrows) {
        CAPTURE(static_cast<int>(how));
        SimVolume sim(seed);
        const InodeRef inode = sim.create("file");
        write(sim, *inode, 0, source.bytes.first(kOldSize), How::direct);
        REQUIRE(sim.sync().ok());
        const SimDevice::FaultId id = sim.device().add_fault(sim.data_fault(IoKind::write));
        const ConstBytes whole = source.bytes.first(kBlockBytes);
        REQUIRE(sim.write(*inode, 0, whole, how).error() == Error::io_failed);
        sim.device().remove_fault(id);
        REQUIRE(inode->attr.size == kOldSize);
        grow(sim, *inode, after, source.bytes);
        check_content(sim.read_all(*inode), kOldSize, after);
      }
    }
  });
}

// It has let go of the file before it is attempted again.
TEST_CASE(
    "tail: a direct write behind the end that is refused while somebody waits to grow the file") {
  Random random(6);
  const Source source = random_source(random, kBlockBytes, true);
  for_each_seed(8, [&](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef inode = sim.create("file");
    write(sim, *inode, 0, source.bytes.first(kOldSize), How::direct);
    REQUIRE(sim.sync().ok());
    SimFault fault = sim.data_fault(IoKind::write);
    fault.count = 1;
    sim.device().add_fault(fault);
    bool written = false;
    sim.spawn_write(*inode, 0, source.bytes, How::direct, [&](const Result<size_t>& result) {
      CHECK(result.error() == Error::io_failed);
      written = true;
    });
    const FileRange first = file_range(FileBlock(0), BlockCount(1));
    const auto under_way = [&] { return inode->busy_ranges.free_end(first) != first.end; };
    REQUIRE(sim.world().run_until(under_way));
    REQUIRE(sim.truncate(*inode, kFar).ok());
    REQUIRE(sim.world().run_until([&] { return written; }));
    check_content(sim.read_all(*inode), kOldSize, Grow::truncate);
  });
}

// Clearing a shared tail takes a block. Without one the file stays as it is, and grows later.
TEST_CASE("tail: a last block that is shared, and no space to clear it") {
  Random random(9);
  const Source source = random_source(random, kBlockBytes, true);
  for_each_seed(4, [&](const TestSeed& seed) {
    // The last cut that leaves the old size, and perhaps new bytes behind it.
    uint64_t cut = extend(seed, How::direct, false, {}).ended;
    SimImage image;
    uint64_t size = 0;
    while (size != kOldSize) {
      image = extend(seed, How::direct, false, --cut).image;
      size = SimVolume(seed, {}, image).lookup("file")->attr.size;
    }
    SimVolume sim(seed, {}, std::move(image));
    const InodeRef inode = sim.lookup("file");
    const InodeRef copy = sim.create("copy");
    REQUIRE(sim.clone(*inode, 0, *copy, 0, kOldSize).ok());
    REQUIRE(sim.sync().ok());
    Reservation all = sim.take_space();
    for (const How how : {How::buffered, How::direct, How::dsync}) {
      CHECK(sim.write(*copy, kFar, source.bytes, how).error() == Error::no_space);
    }
    CHECK(sim.truncate(*copy, kFar).error() == Error::no_space);
    CHECK(copy->attr.size == kOldSize);
    CHECK(sim.read_all(*copy) == sim.read_all(*inode));
    sim.world().inside([&] { all.release(); });
    for (const InodeRef& file : {copy, inode}) {
      REQUIRE(sim.truncate(*file, kFar).ok());
      check_content(sim.read_all(*file), kOldSize, Grow::truncate);
    }
  });
}

TEST_CASE("tail: growing costs a write once, and nothing where the last block is whole or a hole") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.slow_outside = false;  // no flusher comes meanwhile
    SimImage image;
    {
      SimVolume sim(seed, options);
      Random random(7);
      write(sim, *sim.create("part"), 0, random_bytes(random, kOldSize));
      write(sim, *sim.create("whole"), 0, random_bytes(random, kBlockBytes));
      REQUIRE(sim.truncate(*sim.create("hole"), kOldSize).ok());
      image = sim.unmount();
    }
    SimVolume sim(seed, options, std::move(image));
    const auto writes = [&](const char* name, uint64_t size) {
      const InodeRef inode = sim.lookup(name);
      const uint64_t before = sim.device().stats().change_count;
      REQUIRE(sim.truncate(*inode, size).ok());
      return sim.device().stats().change_count - before;
    };
    CHECK(writes("whole", kFar) == 0);
    CHECK(writes("hole", kFar) == 0);
    CHECK(writes("part", kOldSize + 1) == 1);
    CHECK(writes("part", kFar) == 0);
  });
}

}  // namespace
}  // namespace fusefs
