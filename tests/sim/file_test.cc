// Files against a vector of bytes: what is read is what was written, whatever the page cache, the
// flusher and the device do meanwhile, and never what the device held before.
#include <algorithm>
#include <array>
#include <map>

#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using How = SimVolume::How;
using Content = std::vector<std::byte>;

// Bytes that are neither zero nor canary.
Content random_bytes(Random& random, size_t len) {
  Content bytes(len);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(1 + random.below(0xC0));
  return bytes;
}

void put(Content& content, uint64_t pos, ConstBytes data) {
  if (content.size() < pos + data.size()) content.resize(pos + data.size());
  std::copy(data.begin(), data.end(), content.begin() + static_cast<ptrdiff_t>(pos));
}

// A direct write takes its bytes from anywhere; the device takes them from aligned memory only.
struct Source {
  AlignedBuffer buffer;
  ConstBytes bytes;
};
Source random_source(Random& random, size_t len, bool aligned) {
  const size_t offset = aligned ? 0 : 1 + random.below(100);
  Source source{AlignedBuffer((offset + len + kBlockBytes) / kBlockBytes * kBlockBytes), {}};
  const Content data = random_bytes(random, len);
  std::copy(data.begin(), data.end(), source.buffer.data() + offset);
  source.bytes = ConstBytes(source.buffer.data() + offset, len);
  return source;
}

constexpr uint64_t kFileBytes = 600'000;  // more than the cache holds

// One random operation on one file, done to the model too.
void random_step(SimVolume& sim, Random& random, Inode& inode, Content& model) {
  const uint64_t what = random.below(100);
  const bool aligned = random.chance(0.5);
  uint64_t pos = random.below(kFileBytes);
  size_t len = random.chance(0.2) ? random.between(1, 200'000) : random.between(1, 9'000);
  if (aligned) {
    pos -= pos % kBlockBytes;
    len += kBlockBytes - len % kBlockBytes;
  }
  if (what < 70) {
    const How how = what < 40 ? How::buffered : How::direct;
    const bool append = random.chance(0.1);
    const Source source = random_source(random, len, random.chance(0.5));
    const Result<size_t> written = sim.write(inode, pos, source.bytes, how, append);
    REQUIRE(written.ok());
    REQUIRE(written.value() == len);
    put(model, append ? model.size() : pos, source.bytes);
  } else if (what < 90) {
    const auto got = sim.read(inode, pos, len);
    REQUIRE(got.ok());
    const uint64_t first = std::min<uint64_t>(pos, model.size());
    const uint64_t end = std::min<uint64_t>(pos + len, model.size());
    REQUIRE(std::equal(got.value().begin(), got.value().end(),
                       model.begin() + static_cast<ptrdiff_t>(first),
                       model.begin() + static_cast<ptrdiff_t>(end)));
  } else if (what < 94) {
    const uint64_t size = random.below(kFileBytes);
    REQUIRE(sim.truncate(inode, size).ok());
    model.resize(size);
  } else if (what < 97) {
    const bool punch = random.chance(0.5);
    const FallocateMode mode = punch ? FallocateMode::punch_hole : FallocateMode::allocate;
    REQUIRE(sim.fallocate(inode, mode, pos, len, true).ok());
    if (punch) {
      for (uint64_t i = pos; i < std::min<uint64_t>(pos + len, model.size()); ++i) {
        model[i] = std::byte{0};
      }
    }
  } else {
    OpenFile file;
    file.inode = InodeRef(&inode);
    REQUIRE(sim.fsync(file, random.chance(0.5)).ok());
  }
  REQUIRE(inode.attr.size == model.size());
}

TEST_CASE("a file reads as it was written, buffered or direct, aligned or not, after a remount") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    std::array<InodeRef, 2> inodes = {sim.create("a"), sim.create("b")};
    std::array<Content, 2> models;
    for (int step = 0; step < 120; ++step) {
      const size_t which = random.below(2);
      random_step(sim, random, *inodes[which], models[which]);
      if (random.chance(0.1)) sim.world().run_for(random.below(2 * kNsPerSecond));
    }
    for (size_t i = 0; i < 2; ++i) CHECK(sim.read_all(*inodes[i]) == models[i]);
    for (InodeRef& inode : inodes) sim.world().inside([&] { inode.reset(); });

    SimVolume again(seed, {}, sim.unmount());
    const InodeRef a = again.lookup("a");
    const InodeRef b = again.lookup("b");
    CHECK(again.read_all(*a) == models[0]);
    CHECK(again.read_all(*b) == models[1]);
    CHECK(a->delayed_blocks == BlockCount(0));
  });
}

// Many at once, each on blocks of its own but for the edges.
TEST_CASE("writers of neighbouring ranges lose none of each other's bytes") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("shared");
    Content model;
    for (int round = 0; round < 4; ++round) {
      std::vector<Source> sources;
      size_t running = 0;
      uint64_t pos = random.below(10'000);
      std::vector<uint64_t> at;
      for (int i = 0; i < 12; ++i) {
        sources.push_back(random_source(random, random.between(1, 40'000), random.chance(0.5)));
        at.push_back(pos);
        put(model, pos, sources.back().bytes);
        pos += sources.back().bytes.size();
      }
      for (size_t i = 0; i < sources.size(); ++i) {
        ++running;
        sim.spawn_write(*inode, at[i], sources[i].bytes,
                        random.chance(0.5) ? How::buffered : How::direct,
                        [&running, want = sources[i].bytes.size()](Result<size_t> written) {
                          REQUIRE(written.ok());
                          REQUIRE(written.value() == want);
                          --running;
                        });
      }
      REQUIRE(sim.world().run_until([&running] { return running == 0; }));
      CHECK(sim.read_all(*inode) == model);
    }
    REQUIRE(sim.sync().ok());
    CHECK(sim.read_all(*inode) == model);
    CHECK(inode->mapping.dirty_count() == 0);
  });
}

TEST_CASE("overlapping direct writes of one range leave one of them, block by block") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("contended");
    std::vector<Source> sources;
    size_t running = 0;
    for (int i = 0; i < 6; ++i) sources.push_back(random_source(random, 10'000, true));
    for (Source& source : sources) {
      std::fill_n(source.buffer.data(), 10'000, std::byte(1 + (&source - sources.data())));
      ++running;
      sim.spawn_write(*inode, 0, source.bytes, How::direct, [&running](Result<size_t> written) {
        REQUIRE(written.ok());
        --running;
      });
    }
    REQUIRE(sim.world().run_until([&running] { return running == 0; }));
    const Content content = sim.read_all(*inode);
    REQUIRE(content.size() == 10'000);
    CHECK(std::count(content.begin(), content.end(), content[0]) == 10'000);
  });
}

TEST_CASE("concurrent appends put their bytes one after the other") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef inode = sim.create("log");
    std::vector<Content> lines;
    for (int i = 0; i < 20; ++i) lines.emplace_back(1000 + 37 * i, std::byte(1 + i));
    size_t running = 0;
    for (const Content& line : lines) {
      auto stash = std::make_shared<WriteStash>();
      const bool direct = seed.seed % 2 == 0;
      ++running;
      sim.world().spawn(
          [&, stash, direct] {
            const WriteRequest request{0, line, true, false};
            return direct ? write_direct(sim.files(), *inode, request, *stash)
                          : write_buffered(sim.files(), *inode, request, *stash);
          },
          [&running](Result<size_t> written) {
            REQUIRE(written.ok());
            --running;
          });
    }
    REQUIRE(sim.world().run_until([&running] { return running == 0; }));
    std::map<std::byte, size_t> count;
    for (std::byte byte : sim.read_all(*inode)) ++count[byte];
    for (const Content& line : lines) CHECK(count[line[0]] == line.size());
  });
}

TEST_CASE("a write to one of two clones leaves the other as it was") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    std::array<InodeRef, 2> inodes = {sim.create("original"), sim.create("clone")};
    std::array<Content, 2> models;
    models[0] = random_bytes(random, 150'000);
    REQUIRE(sim.write(*inodes[0], 0, models[0], How::buffered).ok());
    for (int round = 0; round < 3; ++round) {
      const size_t from = random.below(2);
      const size_t to = 1 - from;
      CopyStash stash;
      const uint64_t len = models[from].size();
      const Result<uint64_t> copied = sim.world().run(
          [&] { return copy_range(sim.files(), *inodes[from], 0, *inodes[to], 0, len, stash); });
      REQUIRE(copied.ok());
      REQUIRE(copied.value() == len);
      put(models[to], 0, models[from]);
      for (int i = 0; i < 12; ++i) {
        const size_t which = random.below(2);
        const uint64_t pos = random.below(160'000);
        const Source source = random_source(random, random.between(1, 20'000), random.chance(0.5));
        const How how = random.chance(0.5) ? How::buffered : How::direct;
        REQUIRE(sim.write(*inodes[which], pos, source.bytes, how).ok());
        put(models[which], pos, source.bytes);
        if (random.chance(0.2)) sim.world().run_for(random.below(2 * kNsPerSecond));
      }
      for (size_t i = 0; i < 2; ++i) CHECK(sim.read_all(*inodes[i]) == models[i]);
    }
    CHECK(sim.files().stats.cow_break_bytes > 0);
    for (InodeRef& inode : inodes) sim.world().inside([&] { inode.reset(); });
    SimVolume again(seed, {}, sim.unmount());
    CHECK(again.read_all(*again.lookup("original")) == models[0]);
    CHECK(again.read_all(*again.lookup("clone")) == models[1]);
  });
}

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

TEST_CASE("a failed write of data is reported once by the fsync of each open file, and retried") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("unlucky");
    const Content data = random_bytes(random, 50'000);
    REQUIRE(sim.write(*inode, 0, data, How::buffered).ok());
    OpenFile first;
    first.inode = inode;
    REQUIRE(sim.fsync(first).ok());
    OpenFile second = first;

    SimFault fault;
    fault.kind = IoKind::write;
    fault.addr_first = block_addr(sim.volume().space().data_first());
    fault.error = Error::io_failed;
    const SimDevice::FaultId id = sim.device().add_fault(fault);
    const Content more = random_bytes(random, 50'000);
    REQUIRE(sim.write(*inode, 0, more, How::buffered).ok());
    sim.world().run_for(3 * kNsPerSecond);  // the flusher meets the error
    CHECK(inode->mapping.dirty_count() != 0);
    sim.device().remove_fault(id);
    CHECK(sim.fsync(first).error() == Error::io_failed);
    CHECK(sim.fsync(first).ok());
    CHECK(sim.fsync(second).error() == Error::io_failed);
    CHECK(sim.fsync(second).ok());
    CHECK(sim.volume().writable());
    CHECK(inode->mapping.dirty_count() == 0);
    CHECK(sim.read_all(*inode) == more);
  });
}

TEST_CASE("a direct write that the device refuses leaves the file as it was") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("refused");
    const uint64_t free_before = sim.volume().space().stats().available_blocks;
    SimFault fault;
    fault.kind = IoKind::write;
    fault.addr_first = block_addr(sim.volume().space().data_first());
    fault.error = Error::io_failed;
    const SimDevice::FaultId id = sim.device().add_fault(fault);
    CHECK(sim.write(*inode, 0, random_bytes(random, 20'000), How::direct).error() ==
          Error::io_failed);
    sim.device().remove_fault(id);
    CHECK(inode->attr.size == 0);
    CHECK(sim.volume().space().stats().available_blocks == free_before);
    const Content data = random_bytes(random, 20'000);
    REQUIRE(sim.write(*inode, 0, data, How::direct).ok());
    CHECK(sim.read_all(*inode) == data);
  });
}

TEST_CASE("writers are told when the device takes nothing any more, instead of waiting for ever") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("doomed");
    REQUIRE(sim.write(*inode, 0, random_bytes(random, 1000), How::buffered).ok());
    REQUIRE(sim.sync().ok());
    SimFault fault;
    fault.kind = IoKind::write;
    fault.addr_first = block_addr(sim.volume().space().data_first());
    fault.error = Error::io_failed;
    sim.device().add_fault(fault);
    const Content data = random_bytes(random, 100'000);
    bool refused = false;
    for (uint64_t i = 0; i < 100 && !refused; ++i) {
      refused = !sim.write(*inode, i * data.size(), data, How::buffered).ok();
    }
    CHECK(refused);
  });
}

TEST_CASE("what was fsynced is there after a power cut, and nothing that was never written is") {
  for_each_seed(12, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    InodeRef inode = sim.create("database");
    Content model;
    Content synced;
    // Every byte that a position has held since the last fsync, by step.
    std::vector<Content> since;
    for (int step = 0; step < 40; ++step) {
      const uint64_t pos = random.below(300'000);
      const Source source = random_source(random, random.between(1, 30'000), random.chance(0.5));
      const How how = random.chance(0.5) ? How::buffered : How::direct;
      REQUIRE(sim.write(*inode, pos, source.bytes, how).ok());
      put(model, pos, source.bytes);
      since.push_back(model);
      if (random.chance(0.2)) {
        OpenFile file;
        file.inode = inode;
        REQUIRE(sim.fsync(file, random.chance(0.5)).ok());
        synced = model;
        since.clear();
        sim.world().inside([&] { file.inode.reset(); });
      }
      if (random.chance(0.1)) sim.world().run_for(random.below(3 * kNsPerSecond));
    }
    if (since.empty()) {
      REQUIRE(sim.write(*inode, 0, random_bytes(random, 100), How::buffered).ok());
      since.push_back(sim.read_all(*inode));
    }
    sim.world().inside([&] { inode.reset(); });

    SimVolume again(seed, {}, sim.power_cut());
    if (synced.empty()) return;  // the file need not be there
    const Content content = again.read_all(*again.lookup("database"));
    CHECK(content.size() >= synced.size());
    CHECK(content.size() <= since.back().size());
    for (size_t i = 0; i < content.size(); ++i) {
      bool known = i < synced.size() ? content[i] == synced[i] : content[i] == std::byte{0};
      for (const Content& version : since) {
        known = known || (i < version.size() && content[i] == version[i]);
      }
      REQUIRE(known);
    }
  });
}

TEST_CASE("what is two seconds old is durable without being asked for") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    InodeRef inode = sim.create("unsynced");
    const Content data = random_bytes(random, 70'001);
    REQUIRE(sim.write(*inode, 0, data, How::buffered).ok());
    sim.world().run_for(4 * kNsPerSecond);
    CHECK(inode->mapping.dirty_count() == 0);
    sim.world().inside([&] { inode.reset(); });
    SimVolume again(seed, {}, sim.power_cut());
    CHECK(again.read_all(*again.lookup("unsynced")) == data);
  });
}

TEST_CASE("fsync of a file that is durable asks nothing of the device") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("quiet");
    REQUIRE(sim.write(*inode, 0, random_bytes(random, 8192), How::buffered).ok());
    OpenFile file;
    file.inode = inode;
    REQUIRE(sim.fsync(file).ok());
    const SimDeviceStats before = sim.device().stats();
    REQUIRE(sim.fsync(file).ok());
    CHECK(sim.device().stats().submitted(IoKind::flush) == before.submitted(IoKind::flush));
    CHECK(sim.device().stats().submitted(IoKind::write) == before.submitted(IoKind::write));
  });
}

TEST_CASE("fdatasync of a pure overwrite is one write and one flush") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("overwritten");
    OpenFile file;
    file.inode = inode;
    REQUIRE(sim.write(*inode, 0, random_bytes(random, 16384), How::buffered).ok());
    REQUIRE(sim.fsync(file).ok());
    const SimDeviceStats before = sim.device().stats();
    const Source source = random_source(random, 4096, true);
    REQUIRE(sim.write(*inode, 4096, source.bytes, How::direct).ok());
    REQUIRE(sim.fsync(file, true).ok());
    CHECK(sim.device().stats().submitted(IoKind::write) == before.submitted(IoKind::write) + 1);
    CHECK(sim.device().stats().submitted(IoKind::flush) == before.submitted(IoKind::flush) + 1);
  });
}

TEST_CASE("a large file written in one go has few extents") {
  for_each_seed(1, [](const TestSeed& seed) {
    SimVolume sim(seed, {uint64_t{64} << 20, uint64_t{4} << 20});
    Random random = sim.world().random().fork();
    const InodeRef inode = sim.create("large");
    const Content chunk = random_bytes(random, 1 << 20);
    for (uint64_t i = 0; i < 24; ++i) {
      REQUIRE(sim.write(*inode, i << 20, chunk, How::buffered).ok());
    }
    REQUIRE(sim.sync().ok());
    int extents = 0;
    NodePins pins;
    const FileBlock end{24 << 8};
    for (FileBlock at{0}; at < end;) {
      const auto extent = sim.world().run(
          [&] { return extent_at(sim.volume().store().tree(), inode->ino, at, end, pins); });
      REQUIRE(extent.ok());
      REQUIRE(extent.value().state == ExtentState::written);
      at = extent.value().range.end;
      ++extents;
    }
    CHECK(extents <= 6);
  });
}

}  // namespace
}  // namespace fusefs
