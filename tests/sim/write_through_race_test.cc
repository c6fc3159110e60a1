// O_SYNC writes against everything else on the same blocks, and the power cut at each device write
// of it.
//
//     first    O_SYNC or O_DSYNC, some with O_DIRECT, of: part of a page; a page; four
//              pages, both ends in part; the end of the file and beyond
//     second   the same kinds of write, and every other change of the same blocks; both begin at
//              once, or the second when the first is at the device
//     layout   the file's blocks shared or its own; the page absent, clean or dirty in memory
//
// What must come of it, block by block:
//
//     no cut            one of the two orders
//     cut, first back   the first is there: an order, or the first alone
//     cut, not back     any of these, the second alone, or as it was
//
// A second that promises durability is judged likewise. The device itself checks that no block is
// ever in two writes at a time, and that the memory of a write stays as it is.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "core/file/fault.h"
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPages = 8;
constexpr uint64_t kPos = 3 * kPageBytes;
constexpr uint64_t kSize = kPages * kPageBytes + 300;

enum class First { part, page, pages, append };
enum class Second {
  sync_part,
  sync_pages,
  buffered,
  mapped,
  direct,
  write_fault,
  read_fault,
  cut_before,
  cut_within,
  punch,
  punch_within,
  clone_over,
  clone_from,
  dedupe,
  fsync
};
constexpr const char* kFirstNames[] = {"part", "page", "pages", "append"};
constexpr const char* kSecondNames[] = {"sync part",  "sync pages",  "buffered",     "mapped",
                                        "direct",     "write fault", "read fault",   "cut before",
                                        "cut within", "punch",       "punch within", "clone over",
                                        "clone from", "dedupe",      "fsync"};
constexpr int kSeconds = static_cast<int>(std::size(kSecondNames));

enum class Page { absent, clean, dirty };
struct Layout {
  bool shared = false;
  Page page = Page::absent;
  bool at_once = true;
  How level = How::dsync;
  bool has_fua = false;
  bool lone = false;
};

struct Span {
  uint64_t pos;
  size_t len;
  char what;
};
Span span_of(First first) {
  if (first == First::part) return {kPos + 100, 50, 'S'};
  if (first == First::page) return {kPos, kPageBytes, 'S'};
  if (first == First::pages) return {kPos - 50, 2 * kPageBytes + 150, 'S'};
  return {kSize, 5000, 'S'};
}
// Of those that write.
Span span_of(Second second) {
  if (second == Second::sync_part) return {kPos + 120, 200, 'T'};
  if (second == Second::sync_pages) return {kPos - kPageBytes, 3 * kPageBytes + 10, 'U'};
  if (second == Second::buffered) return {kPos + 110, 2 * kPageBytes, 'B'};
  if (second == Second::mapped) return {kPos, kPageBytes, 'M'};
  return {kPos + 512, kPageBytes, 'X'};
}

void fill(Content& content, uint64_t pos, size_t len, char what) {
  if (content.size() < pos + len) content.resize(pos + len);
  std::fill_n(content.begin() + static_cast<ptrdiff_t>(pos), len, static_cast<std::byte>(what));
}
void apply(First first, Content& content) {
  const Span span = span_of(first);
  fill(content, span.pos, span.len, span.what);
}
void apply(Second second, Content& content) {
  switch (second) {
    case Second::sync_part:
    case Second::sync_pages:
    case Second::buffered:
    case Second::mapped:
    case Second::direct: {
      const Span span = span_of(second);
      return fill(content, span.pos, span.len, span.what);
    }
    case Second::write_fault:
      return fill(content, kPos + 200, 50, 'W');
    case Second::cut_before:
      return content.resize(kPos - kPageBytes + 50);
    case Second::cut_within:
      return content.resize(kPos + 120);
    case Second::punch:
      return fill(content, kPos, kPageBytes, 0);
    case Second::punch_within:
      return fill(content, kPos + 130, 100, 0);
    case Second::clone_over:
      return fill(content, kPos - kPageBytes, 3 * kPageBytes, 'C');
    case Second::read_fault:
    case Second::clone_from:
    case Second::dedupe:
    case Second::fsync:
      return;
  }
}
bool is_durable(Second second) {
  return second == Second::sync_part || second == Second::sync_pages;
}

class Race {
 public:
  Race(const TestSeed& seed, First first, Second second, Layout layout,
       std::optional<uint64_t> cut_after)
      : first_(first), second_(second), layout_(layout), data_(kBytes), other_data_(kBytes) {
    SimVolumeOptions options;
    options.cut_after_writes = cut_after;
    options.has_fua = layout.has_fua;
    sim_ = std::make_unique<SimVolume>(seed, options);
    std::memset(data_.data(), 'S', kBytes);
    prepare();
    first_change = sim_->device().stats().change_count;
  }

  void run() {
    start_first();
    if (!layout_.at_once) {
      sim_->world().run_until(
          [this] { return first_done_ || sim_->device().stats().change_count > first_change; });
    }
    start_second();
    sim_->world().run_until([this] { return first_done_ && second_done_; });
    last_change = sim_->device().stats().change_count;
    lone_count = sim_->files().stats.lone_write_count - lone_count;
    const bool cut = sim_->world().dead();
    if (!cut) check_now();
    check_after_cut();
  }

  uint64_t first_change = 0;  // device writes before the race, and with it
  uint64_t last_change = 0;
  uint64_t lone_count = 0;  // in the race

 private:
  static constexpr size_t kBytes = 4 * kPageBytes;

  // From memory that the device can take. Were that left to the allocator, a run with a cut would
  // not be the one that counted the device writes.
  void store(Inode& inode, const Content& content) {
    AlignedBuffer buffer(static_cast<size_t>(file_pos(file_block_end(content.size()))));
    std::copy(content.begin(), content.end(), buffer.data());
    write(*sim_, inode, 0, buffer.bytes().first(content.size()), How::direct);
  }

  void prepare() {
    file_ = sim_->create("file");
    for (uint64_t i = 0; i < kPages; ++i) fill(durable_, i * kPageBytes, kPageBytes, char('a' + i));
    fill(durable_, kPages * kPageBytes, kSize - kPages * kPageBytes, 'z');
    store(*file_, durable_);
    source_ = sim_->create("source");
    store(*source_, Content(3 * kPageBytes, std::byte{'C'}));
    other_ = sim_->create("other");
    twin_ = sim_->create("twin");
    store(*twin_, durable_);
    if (layout_.shared) REQUIRE(clone(*sim_, *file_, 0, *other_, 0, kSize).ok());
    REQUIRE(sim_->sync().ok());
    before_ = durable_;
    if (layout_.page == Page::clean) {
      for (const uint64_t page : {kPos / kPageBytes, kPages}) {
        FaultStash stash;
        REQUIRE(sim_->world()
                    .run([&] {
                      return fault(sim_->files(), *file_, FileBlock(page), FaultKind::read, stash);
                    })
                    .ok());
      }
    }
    if (layout_.page == Page::dirty) {
      for (const uint64_t pos : {kPos + 300, kPos + kPageBytes + 7}) {
        fill(before_, pos, 20, 'd');
        write(*sim_, *file_, pos, Content(20, std::byte{'d'}), How::buffered);
      }
    }
    // Two durable overwrites elsewhere: with nothing volatile behind them, the next may be a lone
    // write.
    if (layout_.lone) {
      for (int i = 0; i < 2; ++i) {
        write(*sim_, *source_, 0, Content(kPageBytes, std::byte{'C'}), How::dsync);
      }
    }
    lone_count = sim_->files().stats.lone_write_count;
  }

  void start_first() {
    const Span span = span_of(first_);
    sim_->spawn_write(*file_, span.pos, data_.bytes().first(span.len), layout_.level,
                      [this, span](Result<size_t> result) {
                        REQUIRE(result.ok());
                        REQUIRE(result.value() == span.len);
                        first_done_ = true;
                      });
  }

  template <class Stash, class Fn>
  void spawn(Fn fn) {
    sim_->world().spawn(
        [fn, stash = std::make_shared<Stash>()]() -> Attempt<void> {
          auto attempt = fn(*stash);
          if (!attempt.ok()) return Unfinished(attempt);
          return {};
        },
        [this](Result<void> result) {
          const bool cut_off = second_ == Second::write_fault || second_ == Second::read_fault;
          CHECK((result.ok() || (cut_off && result.error() == Error::beyond_eof)));
          second_done_ = true;
        });
  }

  void start_second() {
    FileContext& files = sim_->files();
    switch (second_) {
      case Second::sync_part:
        return start_write(How::dsync);
      case Second::sync_pages:
        return start_write(How::sync);
      case Second::buffered:
        return start_write(How::buffered);
      case Second::mapped:
        return start_write(How::mapped);
      case Second::direct:
        return start_write(How::direct);
      case Second::write_fault:
      case Second::read_fault:
        return spawn<FaultStash>([this, &files](FaultStash& stash) { return touch(files, stash); });
      case Second::cut_before:
      case Second::cut_within:
        return spawn<ShapeStash>([this, &files](ShapeStash& stash) {
          const bool within = second_ == Second::cut_within;
          return set_size(files, *file_, within ? kPos + 120 : kPos - kPageBytes + 50, false,
                          stash);
        });
      case Second::punch:
      case Second::punch_within:
        return spawn<ShapeStash>([this, &files](ShapeStash& stash) {
          const bool within = second_ == Second::punch_within;
          return fallocate_range(files, *file_, FallocateMode::punch_hole,
                                 within ? kPos + 130 : kPos, within ? 100 : kPageBytes, true,
                                 stash);
        });
      case Second::clone_over:
        return spawn<CopyStash>([this, &files](CopyStash& stash) {
          return copy_range(files, *source_, 0, *file_, kPos - kPageBytes, 3 * kPageBytes, stash);
        });
      case Second::clone_from:
        return spawn<CopyStash>([this, &files](CopyStash& stash) {
          return copy_range(files, *file_, 0, *source_, 0, kPages * kPageBytes, stash);
        });
      case Second::dedupe:
        return spawn<DedupeStash>([this, &files](DedupeStash& stash) {
          return dedupe_range(files, *twin_, 0, *file_, 0, kPages * kPageBytes, stash);
        });
      case Second::fsync:
        open_.inode = file_;
        return spawn<FsyncStash>([this, &files](FsyncStash& stash) {
          return fusefs::fsync(files, open_, false, stash);
        });
    }
  }

  void start_write(How how) {
    const Span span = span_of(second_);
    std::memset(other_data_.data(), span.what, kBytes);
    // Some of it from memory that the device can take, some not.
    const size_t from = span.pos % kBlockBytes == 0 ? 0 : 1;
    sim_->spawn_write(*file_, span.pos, other_data_.bytes().subspan(from, span.len), how,
                      [this](Result<size_t> result) {
                        CHECK(result.ok());
                        second_done_ = true;
                      });
  }

  Attempt<void> touch(FileContext& files, FaultStash& stash) {
    const bool write = second_ == Second::write_fault;
    Attempt<FolioRef> page = fault(files, *file_, FileBlock(kPos / kPageBytes),
                                   write ? FaultKind::write : FaultKind::read, stash);
    if (!page.ok()) return Unfinished(page);
    if (!write) return {};
    std::memset(page.value()->frame + 200, 'W', 50);
    make_dirty(files, {page.value(), stash.reservation.count() != BlockCount(0), false}, stash);
    touch_contents(files, *file_);
    stash.reset();
    return {};
  }

  // Every content that may be, whole or block by block, from `base` on.
  void add_states(const Content& base, bool both_done, std::vector<Content>& states) const {
    const auto add = [&](std::initializer_list<int> order) {
      Content content = base;
      for (const int which : order) which == 1 ? apply(first_, content) : apply(second_, content);
      states.push_back(std::move(content));
    };
    add({1, 2});
    add({2, 1});
    if (both_done) return;
    const bool second_there = second_done_ && is_durable(second_);
    if (!second_there) add({1});
    if (first_done_) return;
    add({2});
    if (!second_there) add({});
  }

  // `cut_tail`: a truncate has zeroed the end of its last block, and got no further.
  void check(const Content& found, std::vector<Content> states, bool cut_tail) {
    const bool known_size = std::any_of(states.begin(), states.end(), [&](const Content& state) {
      return state.size() == found.size();
    });
    CHECK(known_size);
    if (cut_tail) {
      for (size_t i = 0, count = states.size(); i < count; ++i) {
        Content zeroed = states[i];
        if (zeroed.size() > kPos + 120) fill(zeroed, kPos + 120, kPageBytes - 120, 0);
        states.push_back(zeroed);
      }
    }
    for (uint64_t pos = 0; pos < found.size(); pos += kBlockBytes) {
      const size_t len = std::min<size_t>(kBlockBytes, found.size() - pos);
      const bool known = std::any_of(states.begin(), states.end(), [&](Content state) {
        state.resize(std::max<size_t>(state.size(), pos + len));
        return std::memcmp(state.data() + pos, found.data() + pos, len) == 0;
      });
      CAPTURE(pos);
      CHECK(known);
    }
  }

  void check_now() {
    std::vector<Content> states;
    add_states(before_, true, states);
    check(sim_->read_all(*file_), states, false);
    if (layout_.shared) CHECK(sim_->read_all(*other_) == durable_);
    CHECK(sim_->read_all(*twin_) == durable_);
    for (const SimIoRecord& record : sim_->device().log()) CHECK_FALSE(record.error);
  }

  void check_after_cut() {
    sim_->world().abandon();
    sim_->world().inside([this] {
      open_.inode.reset();
      file_.reset();
      other_.reset();
      source_.reset();
      twin_.reset();
    });
    SimVolume again({7, 0.0}, {}, sim_->power_cut());
    std::vector<Content> states;
    add_states(before_, false, states);
    if (!(second_ == Second::fsync && second_done_)) add_states(durable_, false, states);
    const bool cut_tail = second_ == Second::cut_within && !second_done_;
    check(again.read_all(*again.lookup("file")), states,
          cut_tail || (second_ == Second::cut_within && !first_done_));
    if (layout_.shared) CHECK(again.read_all(*again.lookup("other")) == durable_);
    CHECK(again.read_all(*again.lookup("twin")) == durable_);
    require_consistent(again.unmount(), {});
  }

  const First first_;
  const Second second_;
  const Layout layout_;
  AlignedBuffer data_;
  AlignedBuffer other_data_;
  std::unique_ptr<SimVolume> sim_;
  InodeRef file_, other_, source_, twin_;
  OpenFile open_;
  Content durable_;  // on the device
  Content before_;   // with what is dirty
  bool first_done_ = false;
  bool second_done_ = false;
};

void race(First first) {
  uint64_t lone_count = 0;
  for_each_seed(1, [first, &lone_count](const TestSeed& seed) {
    for (int number = 0; number < kSeconds; ++number) {
      const auto second = static_cast<Second>(number);
      for (int which = 0; which < 12; ++which) {
        Layout layout{which % 2 == 1, static_cast<Page>(which / 2 % 3), which / 6 == 0};
        constexpr How kLevels[] = {How::sync, How::dsync, How::direct_dsync, How::dsync,
                                   How::direct_sync};
        layout.level = kLevels[(which + number) % 5];
        layout.has_fua = (which + number) % 4 < 2;
        layout.lone = !layout.has_fua;
        CAPTURE(std::string(kFirstNames[static_cast<int>(first)]));
        CAPTURE(std::string(kSecondNames[number]));
        CAPTURE(layout.shared);
        CAPTURE(static_cast<int>(layout.page));
        CAPTURE(layout.at_once);
        Race whole(seed, first, second, layout, std::nullopt);
        whole.run();
        lone_count += whole.lone_count;
        for (uint64_t cut = whole.first_change; cut < whole.last_change; ++cut) {
          CAPTURE(cut);
          Race(seed, first, second, layout, cut).run();
        }
      }
    }
  });
  // Beyond the end there is always something to commit.
  if (first != First::append) CHECK(lone_count > 0);
}

TEST_CASE("an O_SYNC write of part of a page against everything else, the power cut anywhere") {
  race(First::part);
}
TEST_CASE("an O_SYNC write of a page against everything else, the power cut anywhere") {
  race(First::page);
}
TEST_CASE("an O_SYNC write across pages against everything else, the power cut anywhere") {
  race(First::pages);
}
TEST_CASE("an O_SYNC write beyond the end against everything else, the power cut anywhere") {
  race(First::append);
}

}  // namespace
}  // namespace fusefs
