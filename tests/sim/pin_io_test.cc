// Direct I/O whose buffer is pinned or mapped: a window of a file, its own or another one's.
#include "core/file/mapped_io.h"
#include "tests/sim/pin_meeting.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kFirst = 2 * kPageBytes;  // of what is pinned
constexpr uint64_t kLen = 8 * kPageBytes;

void for_each_held(uint64_t seeds, const std::function<void(Meeting&)>& body) {
  for (const Held held : {Held::pinned, Held::mapped}) {
    CAPTURE(static_cast<int>(held));
    for_each_seed(seeds, [&](const TestSeed& seed) {
      Meeting meeting(seed, {}, held);
      body(meeting);
    });
  }
}

Result<size_t> write_from(Meeting& m, Inode& to, uint64_t pos, uint64_t from_pos, uint64_t len) {
  MappedIoStash stash;
  return m.sim.world().run([&] {
    return write_mapped(m.sim.files(), to, pos, {m.inode.get(), from_pos, len}, stash);
  });
}
Result<size_t> read_into(Meeting& m, Inode& from, uint64_t pos, uint64_t to_pos, uint64_t len) {
  MappedIoStash stash;
  return m.sim.world().run([&] {
    return read_mapped(m.sim.files(), from, pos, {m.inode.get(), to_pos, len}, stash);
  });
}

// Another file, page i of states {900 + i, ...}.
Inode& other_file(Meeting& m, PageHistory& history) {
  m.others.push_back(pinnable_file(m.sim, "other", kPages, 900, &history));
  return *m.others.back();
}

TEST_CASE("a direct write from pinned pages: the device takes them from their frames") {
  for_each_held(4, [](Meeting& m) {
    PageHistory other_history(kPages);
    Inode& other = other_file(m, other_history);
    const DirectStats before = m.sim.files().direct;
    const std::vector<size_t> since = m.history.now();
    CHECK(write_from(m, other, 3 * kPageBytes, kFirst, kLen).value() == kLen);
    const DirectStats& after = m.sim.files().direct;
    CHECK(after.bounce_bytes == before.bounce_bytes);
    CHECK(after.self_retry_count == before.self_retry_count);
    CHECK(after.write_bytes == before.write_bytes + kLen);
    const auto check = [&] {
      const Content content = m.sim.read_all(other);
      for (uint64_t page = 2; page < 10; ++page) {
        const auto state = state_of(content.data() + (page + 1) * kPageBytes);
        CHECK(m.history.has(page, state, since[page]));
      }
    };
    check();
    m.stores_during([&] {
      for (int i = 0; i < 4; ++i) {
        REQUIRE(write_from(m, other, 3 * kPageBytes, kFirst, kLen).value() == kLen);
        check();
      }
    });
    CHECK(m.inode->mapping.pinned_count() == kRange.count().value());
    m.require_fsync();
    m.require_after_cut();
  });
}

TEST_CASE("a direct read into pinned pages arrives in their frames, and is durable after fsync") {
  for_each_held(4, [](Meeting& m) {
    PageHistory other_history(kPages);
    Inode& other = other_file(m, other_history);
    const bool pinned = !m.pinner->is_mapped();
    for (uint64_t page = 2; page < 10; ++page) m.will_be(page, page + 1, 900 + page - 1);
    const std::vector<size_t> since = m.history.now();
    CHECK(read_into(m, other, kPageBytes, kFirst, kLen).value() == kLen);
    CHECK(m.sim.files().direct.pinned_read_bytes == (pinned ? kLen : 0));
    for (uint64_t page = 2; page < 10; ++page) {
      CHECK(state_of(m.pinner->frame(page)) == other_history.last(page - 1));
    }
    m.require_now(since);
    m.require_fsync();
    // Somebody stores all the time: in the end there is one or the other.
    m.stores_during([&] {
      for (uint64_t page = 2; page < 10; ++page) m.will_be(page, page + 1, 900 + page - 1);
      REQUIRE(read_into(m, other, kPageBytes, kFirst, kLen).value() == kLen);
      m.require_fsync();
    });
    m.require_after_cut();
  });
}

TEST_CASE("a window is written to another part of its own file, and read from it") {
  for_each_held(4, [](Meeting& m) {
    REQUIRE(m.sim.truncate(*m.inode, 24 * kPageBytes).ok());
    const std::vector<PageState> states = [&] {
      std::vector<PageState> all;
      for (uint64_t page = 2; page < 10; ++page) all.push_back(m.history.last(page));
      return all;
    }();
    if (m.pinner->is_mapped()) {
      REQUIRE(fsync(m.sim, m.inode).ok());  // a store may come with its protection
      m.pinner->observe();
    }
    CHECK(write_from(m, *m.inode, 14 * kPageBytes, kFirst, kLen).value() == kLen);
    Content content = m.sim.read_all(*m.inode);
    for (uint64_t page = 2; page < 10; ++page) {
      const auto state = state_of(content.data() + (page + 12) * kPageBytes);
      CHECK(state == m.history.last(page));
    }
    // Back, a page further.
    CHECK(read_into(m, *m.inode, 13 * kPageBytes, kFirst, kLen).value() == kLen);
    CHECK(state_of(m.pinner->frame(2)) == PageState{});
    for (uint64_t page = 3; page < 10; ++page) {
      CHECK(state_of(m.pinner->frame(page)) == state_of(content.data() + (page + 11) * kPageBytes));
    }
    m.pinner->observe();
    REQUIRE(fsync(m.sim, m.inode).ok());
  });
}

TEST_CASE("a window that is its own target, or overlaps it, ends and loses no pin") {
  for_each_held(4, [](Meeting& m) {
    REQUIRE(fsync(m.sim, m.inode).ok());
    m.pinner->observe();
    const std::vector<size_t> since = m.history.now();
    CHECK(write_from(m, *m.inode, kFirst, kFirst, kLen).value() == kLen);
    m.require_now(since);
    CHECK(read_into(m, *m.inode, kFirst, kFirst, kLen).value() == kLen);
    m.require_now(since);
    // Two pages on: what is written there may be what an earlier part has put there.
    std::vector<std::optional<PageState>> before;
    for (uint64_t page = 0; page < kPages; ++page) before.emplace_back(m.history.last(page));
    CHECK(write_from(m, *m.inode, kFirst + 2 * kPageBytes, kFirst, kLen).value() == kLen);
    const Content content = m.sim.read_all(*m.inode);
    for (uint64_t page = 4; page < kPages; ++page) {
      const auto state = state_of(content.data() + page * kPageBytes);
      bool found = false;
      for (uint64_t at = page % 2; at < page; at += 2) found = found || state == before[at];
      CHECK(found);
    }
    CHECK(m.inode->mapping.pinned_count() == kRange.count().value());
  });
}

TEST_CASE("direct I/O of a window at odd places, and past the end of a file") {
  for_each_held(6, [](Meeting& m) {
    PageHistory other_history(kPages);
    Inode& other = other_file(m, other_history);
    REQUIRE(fsync(m.sim, m.inode).ok());
    Random random(m.seed.seed * 91 + 7);
    for (int i = 0; i < 12; ++i) {
      const uint64_t len = random.between(1, 3 * kPageBytes);
      const uint64_t at = kFirst + random.below(kLen - len);
      const uint64_t pos = random.below(kPages * kPageBytes + kPageBytes);
      Content window = m.sim.read_all(*m.inode);
      Content file = m.sim.read_all(other);
      if (random.chance(0.5)) {
        const uint64_t got = std::min(len, file.size() - std::min<uint64_t>(pos, file.size()));
        CHECK(read_into(m, other, pos, at, len).value() == got);
        std::copy_n(file.begin() + static_cast<ptrdiff_t>(std::min<uint64_t>(pos, file.size())),
                    got, window.begin() + static_cast<ptrdiff_t>(at));
      } else {
        CHECK(write_from(m, other, pos, at, len).value() == len);
        if (file.size() < pos + len) file.resize(pos + len);
        std::copy_n(window.begin() + static_cast<ptrdiff_t>(at), len,
                    file.begin() + static_cast<ptrdiff_t>(pos));
      }
      CHECK(m.sim.read_all(*m.inode) == window);
      CHECK(m.sim.read_all(other) == file);
    }
    const auto from_frames = [&](uint64_t page) {
      return ConstBytes(m.pinner->frame(page), kPageBytes);
    };
    const Content window = m.sim.read_all(*m.inode);
    for (uint64_t page = 2; page < 10; ++page) {
      CHECK(std::memcmp(from_frames(page).data(), window.data() + page * kPageBytes, kPageBytes) ==
            0);
    }
  });
}

TEST_CASE("a pin that ends while the device fills its pages keeps their memory until then") {
  for_each_seed(6, [](const TestSeed& seed) {
    Meeting m(seed);
    PageHistory other_history(kPages);
    Inode& other = other_file(m, other_history);
    auto stash = std::make_shared<MappedIoStash>();
    auto ended = std::make_shared<bool>(false);
    m.sim.world().spawn(
        [&m, &other, stash] {
          return read_mapped(m.sim.files(), other, 0, {m.inode.get(), kFirst, kLen}, *stash);
        },
        [ended](Result<size_t> read) {
          CHECK(read.ok());
          *ended = true;
        });
    m.sim.world().run_for(m.seed.seed * 5'000);
    const std::weak_ptr<AlignedBuffer> frames = m.pinner->frames();
    REQUIRE(m.pinner->unpin().ok());
    m.pinner.reset();
    m.sim.world().run_until([&] { return *ended; });
    m.sim.world().inside([&] { stash.reset(); });
    CHECK(frames.expired());
    CHECK(m.inode->mapping.pinned_count() == 0);
    REQUIRE(fsync(m.sim, m.inode).ok());
  });
}

}  // namespace
}  // namespace fusefs
