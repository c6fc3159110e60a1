// Direct I/O whose buffer is a file in memory: its own, or another that is written from it.
//
// What each byte must be is computed beside: as it was in the buffer, at some moment of the call.
#include "core/file/mapped_io.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPages = 24;
constexpr uint64_t kFileBytes = kPages * kPageBytes;

struct Rig {
  explicit Rig(const TestSeed& seed, SelfIoPolicy policy = SelfIoPolicy::buffered)
      : sim(seed, options(policy)), random(sim.world().random().fork()) {
    for (int i = 0; i < 2; ++i) {
      files.push_back(sim.create(i == 0 ? "a" : "b"));
      contents.push_back(random_bytes(random, kFileBytes));
      REQUIRE(sim.write(*files.back(), 0, contents.back(), How::direct).ok());
    }
    REQUIRE(sim.sync().ok());
  }
  static SimVolumeOptions options(SelfIoPolicy policy) {
    SimVolumeOptions options;
    options.self_io = policy;
    return options;
  }

  // Some pages in memory, some of them dirty, as a program that uses its window leaves them.
  void touch_pages(size_t which) {
    for (uint64_t i = 0; i < kPages; ++i) {
      if (random.chance(0.5)) continue;
      const uint64_t pos = i * kPageBytes + random.below(kPageBytes - 100);
      const Content bytes = random_bytes(random, 100);
      REQUIRE(sim.write(*files[which], pos, bytes, How::buffered).ok());
      put(contents[which], pos, bytes);
    }
  }
  Result<size_t> write(size_t to, uint64_t pos, size_t from, uint64_t from_pos, uint64_t len) {
    MappedIoStash stash;
    return sim.world().run([&] {
      return write_mapped(sim.files(), *files[to], pos, {files[from].get(), from_pos, len}, stash);
    });
  }
  Result<size_t> read(size_t from, uint64_t pos, size_t to, uint64_t to_pos, uint64_t len) {
    MappedIoStash stash;
    return sim.world().run([&] {
      return read_mapped(sim.files(), *files[from], pos, {files[to].get(), to_pos, len}, stash);
    });
  }
  void check_contents() {
    for (size_t i = 0; i < files.size(); ++i) CHECK(sim.read_all(*files[i]) == contents[i]);
  }

  SimVolume sim;
  Random random;
  std::vector<InodeRef> files;
  std::vector<Content> contents;
};

// An aligned place, or not.
uint64_t some_pos(Random& random, uint64_t below, bool aligned) {
  const uint64_t pos = random.below(below);
  return aligned ? pos - pos % kPageBytes : pos;
}

// Byte by byte: what the buffer had when the call began, or what an earlier part of the call may
// have put there.
void check_overlapping(const Content& before, const Content& after, uint64_t pos, uint64_t from_pos,
                       uint64_t len) {
  REQUIRE(after.size() == std::max<size_t>(before.size(), pos + len));
  for (uint64_t i = 0; i < after.size(); ++i) {
    if (i < pos || i >= pos + len) {
      REQUIRE(after[i] == (i < before.size() ? before[i] : std::byte{0}));
      continue;
    }
    std::set<std::byte> allowed;
    uint64_t at = i;
    for (int hops = 0; hops < 64 && at >= pos && at < pos + len; ++hops) {
      at = from_pos + (at - pos);
      allowed.insert(before[at]);
      if (from_pos == pos) break;
    }
    REQUIRE(allowed.contains(after[i]));
  }
}

TEST_CASE("a direct write takes its bytes from a mapping of the same or of another file") {
  uint64_t refused = 0;
  const bool all = for_each_seed(8, [&refused](const TestSeed& seed) {
    Rig rig(seed);
    for (int round = 0; round < 12; ++round) {
      const size_t to = rig.random.below(2);
      const size_t from = rig.random.below(2);
      const bool aligned = rig.random.chance(0.5);
      uint64_t len = rig.random.between(1, 6 * kPageBytes);
      if (aligned) len = (len + kPageBytes - 1) / kPageBytes * kPageBytes;
      // Apart, when it is one file: the lower half from the upper.
      const uint64_t pos = some_pos(rig.random, kFileBytes / 2 - len, aligned);
      const uint64_t from_pos =
          kFileBytes / 2 + some_pos(rig.random, kFileBytes / 2 - len, aligned);
      rig.touch_pages(from);
      const Result<size_t> written = rig.write(to, pos, from, from_pos, len);
      REQUIRE(written.ok());
      REQUIRE(written.value() == len);
      const Content bytes(rig.contents[from].begin() + static_cast<ptrdiff_t>(from_pos),
                          rig.contents[from].begin() + static_cast<ptrdiff_t>(from_pos + len));
      put(rig.contents[to], pos, bytes);
      rig.check_contents();
    }
    // Pages apart can be held while the range is dropped: nothing goes through pages for that.
    refused += rig.sim.files().direct.self_refused_count;
    REQUIRE(rig.sim.sync().ok());
    rig.check_contents();
  });
  if (all) CHECK(refused > 0);
}

TEST_CASE("the page that is written is its own buffer: it ends, and is as it was") {
  for_each_seed(6, [](const TestSeed& seed) {
    Rig rig(seed);
    const DirectStats& stats = rig.sim.files().direct;
    for (const uint64_t len : {kPageBytes, uint64_t{100}, 5 * kPageBytes}) {
      rig.touch_pages(0);
      const uint64_t before = stats.self_buffered_bytes;
      const Result<size_t> written = rig.write(0, 2 * kPageBytes, 0, 2 * kPageBytes, len);
      REQUIRE(written.ok());
      CHECK(written.value() == len);
      CHECK(stats.self_buffered_bytes == before + len);
      rig.check_contents();
      CHECK(!rig.files[0]->mapping.any_dirty({FileBlock(2), FileBlock(3)}));
    }
    CHECK(stats.self_refused_count >= 6);  // at least twice each
  });
}

TEST_CASE("with selfio=error a page that is its own buffer is refused, others are not") {
  for_each_seed(4, [](const TestSeed& seed) {
    Rig rig(seed, SelfIoPolicy::error);
    const Result<size_t> refused = rig.write(0, 0, 0, 0, kPageBytes);
    REQUIRE(!refused.ok());
    CHECK(refused.error() == Error::bad_address);
    rig.check_contents();
    const Result<size_t> apart = rig.write(0, 0, 0, 8 * kPageBytes, 4 * kPageBytes);
    REQUIRE(apart.ok());
    CHECK(apart.value() == 4 * kPageBytes);
    CHECK(rig.sim.files().direct.self_buffered_bytes == 0);
  });
}

TEST_CASE("buffer and target overlap: every byte is one that the buffer had") {
  for_each_seed(12, [](const TestSeed& seed) {
    Rig rig(seed);
    for (int round = 0; round < 4; ++round) {
      const bool aligned = rig.random.chance(0.5);
      uint64_t len = rig.random.between(2 * kPageBytes, 8 * kPageBytes);
      uint64_t shift = rig.random.between(1, len - 1);
      if (aligned) {
        len -= len % kPageBytes;
        shift = kPageBytes;
      }
      const uint64_t low = some_pos(rig.random, kFileBytes - len - shift, aligned);
      const bool up = rig.random.chance(0.5);
      const uint64_t pos = up ? low + shift : low;
      const uint64_t from_pos = up ? low : low + shift;
      rig.touch_pages(0);
      const Content before = rig.contents[0];
      const Result<size_t> written = rig.write(0, pos, 0, from_pos, len);
      REQUIRE(written.ok());
      REQUIRE(written.value() == len);
      rig.contents[0] = rig.sim.read_all(*rig.files[0]);
      check_overlapping(before, rig.contents[0], pos, from_pos, len);
    }
  });
}

TEST_CASE("two tasks write two files, each from a mapping of the other's") {
  for_each_seed(12, [](const TestSeed& seed) {
    Rig rig(seed);
    for (int round = 0; round < 4; ++round) {
      rig.touch_pages(0);
      rig.touch_pages(1);
      const uint64_t len = rig.random.between(1, 6) * kPageBytes;
      const uint64_t pos = some_pos(rig.random, kFileBytes - len, rig.random.chance(0.5));
      const std::vector<Content> before = rig.contents;
      size_t running = 2;
      for (size_t to = 0; to < 2; ++to) {
        auto stash = std::make_shared<MappedIoStash>();
        rig.sim.world().spawn(
            [&rig, to, stash, pos, len] {
              return write_mapped(rig.sim.files(), *rig.files[to], pos,
                                  {rig.files[1 - to].get(), pos, len}, *stash);
            },
            [&running, len](Result<size_t> written) {
              REQUIRE(written.ok());
              REQUIRE(written.value() == len);
              --running;
            });
      }
      REQUIRE(rig.sim.world().run_until([&running] { return running == 0; }));
      for (size_t i = 0; i < 2; ++i) rig.contents[i] = rig.sim.read_all(*rig.files[i]);
      for (uint64_t at = 0; at < kFileBytes; ++at) {
        for (size_t i = 0; i < 2; ++i) {
          const bool inside = at >= pos && at < pos + len;
          const bool own = rig.contents[i][at] == before[i][at];
          const bool others = rig.contents[i][at] == before[1 - i][at];
          REQUIRE((inside ? own || others : own));
        }
      }
    }
  });
}

TEST_CASE("the buffer is truncated during the write: a prefix is written, or nothing") {
  for_each_seed(12, [](const TestSeed& seed) {
    for (const size_t from : {size_t{0}, size_t{1}}) {
      Rig rig(seed);
      const uint64_t len = 10 * kPageBytes;
      const uint64_t from_pos = 12 * kPageBytes;
      const uint64_t cut = from_pos + rig.random.below(len);
      auto stash = std::make_shared<MappedIoStash>();
      std::optional<Result<size_t>> outcome;
      rig.sim.world().spawn(
          [&rig, stash, from] {
            return write_mapped(rig.sim.files(), *rig.files[0], 0,
                                {rig.files[from].get(), from_pos, len}, *stash);
          },
          [&outcome](Result<size_t> written) { outcome.emplace(written); });
      rig.sim.world().run_for(rig.random.below(600'000));
      REQUIRE(rig.sim.truncate(*rig.files[from], cut).ok());
      REQUIRE(rig.sim.world().run_until([&outcome] { return outcome.has_value(); }));
      if (!outcome->ok()) CHECK(outcome->error() == Error::bad_address);
      const uint64_t written = outcome->ok() ? outcome->value() : 0;
      const Content content = rig.sim.read_all(*rig.files[0]);
      CHECK(content.size() == (from == 0 ? cut : kFileBytes));
      // Whole pages that were there at the time, and of the last one what the truncate left.
      for (uint64_t i = 0; i < written; ++i) {
        const bool as_before = content[i] == rig.contents[from][from_pos + i];
        REQUIRE((as_before || (from_pos + i >= cut && content[i] == std::byte{0})));
      }
      for (uint64_t i = written; i < std::min<uint64_t>(content.size(), from_pos); ++i) {
        const bool old = content[i] == rig.contents[0][i];
        // A part whose write failed or was cut short may have changed what it was about to.
        REQUIRE((old || i < len));
      }
    }
  });
}

TEST_CASE("a direct read fills pages of a mapping, of the same file too") {
  for_each_seed(8, [](const TestSeed& seed) {
    Rig rig(seed);
    for (int round = 0; round < 8; ++round) {
      const size_t from = rig.random.below(2);
      const size_t to = rig.random.below(2);
      const uint64_t len = rig.random.between(1, 5 * kPageBytes);
      const uint64_t pos = rig.random.below(kFileBytes / 2 - len);
      const uint64_t to_pos = kFileBytes / 2 + rig.random.below(kFileBytes / 2 - len);
      rig.touch_pages(from);
      const Result<size_t> got = rig.read(from, pos, to, to_pos, len);
      REQUIRE(got.ok());
      REQUIRE(got.value() == len);
      const Content bytes(rig.contents[from].begin() + static_cast<ptrdiff_t>(pos),
                          rig.contents[from].begin() + static_cast<ptrdiff_t>(pos + len));
      put(rig.contents[to], to_pos, bytes);
      rig.check_contents();
    }
    const Result<size_t> beyond = rig.read(0, 0, 1, kFileBytes + kPageBytes, 10);
    REQUIRE(!beyond.ok());
    CHECK(beyond.error() == Error::bad_address);
    REQUIRE(rig.sim.sync().ok());
    rig.check_contents();
  });
}

}  // namespace
}  // namespace fusefs
