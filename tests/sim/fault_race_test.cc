// Something happens between two attempts of a fault or a write: every pair, in every gap, on
// private and on shared blocks, without and with forced restarts.
//
// The first operation works on page 3 and is stopped after each of its attempts in turn; the second
// then runs to its end, or until it waits for the first. What must come of it:
//
//                     | read fault | write fault | mapped    | buffered  | O_SYNC,   | O_SYNC,
//                     |            |             | writeback | write     | of a part | of a page
//     ----------------+------------+-------------+-----------+-----------+-----------+----------
//     cut before      | beyond_eof | beyond_eof  | after     | after     | after     | after
//     cut within      | after      | after       | after     | after     | after     | after
//     punch           | after      | after       | after     | after     | after     | after
//     punch within    | after      | after       | after     | after     | after     | after
//     clone over it   | after      | after       | after     | after     | after     | after
//     clone from it   | after      | after       | after     | after     | after     | after
//     dedupe          | after      | after       | after     | after     | after     | after
//     unlink          | after      | after       | after     | after     | after     | after
//     direct write    | after      | after       | after     | after     | after     | after
//     reclaim         | after      | after       | after     | after     | after     | after
//     device error    | io_failed  | io_failed   | after     | io_failed | io_failed | after
//     no space        | after      | no_space    | after     | no_space  | no_space  | no_space
//     power cut       | cut        | cut         | cut       | cut       | cut       | cut
//
//     after       if the second has ended in the gap, the first sees all of it, and its own bytes
//                 are there afterwards; if the second had to wait, it sees all of the first
//     an error    in that case the first may fail with it, and has changed nothing; it must in some
//                 gap
//     cut         after the next mount: the file as it was, or with all of the first
//
// A mapped writeback brings the whole page and needs no old bytes, and has a reserve of space. It
// and a buffered write beyond the new end make the file longer again, as any write does. A large
// buffered write (a column as that of a buffered write) is of more pages than are copied inside the
// monitor: in one of its gaps its folios are locked, its blocks chosen by the extents it found, and
// it holds nothing of the file.
#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/file/dedupe.h"
#include "core/file/fault.h"
#include "tests/support/sim_volume.h"
#include "tests/support/stepped.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using How = SimVolume::How;
using Content = std::vector<std::byte>;

constexpr uint64_t kPages = 8;
constexpr uint64_t kPage = 3;
constexpr uint64_t kPos = kPage * kPageBytes;
constexpr uint64_t kLargePos = kPageBytes + 100;  // six pages, the first and the last in part
constexpr uint64_t kLargeBytes = 5 * kPageBytes;

enum class First {
  read_fault,
  write_fault,
  mapped_writeback,
  buffered_write,
  sync_part,
  sync_page,
  large_write
};
enum class Second {
  cut_before,
  cut_within,
  punch,
  punch_within,
  clone_over,
  clone_from,
  dedupe,
  unlink,
  direct_write,
  reclaim,
  device_error,
  no_space,
  power_cut
};
constexpr int kFirsts = 7;
constexpr int kSeconds = 13;
constexpr const char* kFirstNames[kFirsts] = {
    "read fault",  "write fault", "mapped writeback",    "buffered write",
    "O_SYNC part", "O_SYNC page", "large buffered write"};
constexpr const char* kSecondNames[kSeconds] = {
    "cut before", "cut within",   "punch",   "punch within", "clone over", "clone from", "dedupe",
    "unlink",     "direct write", "reclaim", "device error", "no space",   "power cut"};

// The table above. Without a value: `after`, or `cut`.
std::optional<Error> expected_error(First first, Second second) {
  const bool is_fault = first == First::read_fault || first == First::write_fault;
  if (second == Second::cut_before && is_fault) return Error::beyond_eof;
  const bool whole_page = first == First::mapped_writeback || first == First::sync_page;
  if (second == Second::device_error && !whole_page) return Error::io_failed;
  const bool needs_space = first != First::read_fault && first != First::mapped_writeback;
  if (second == Second::no_space && needs_space) return Error::no_space;
  return std::nullopt;
}

void put(Content& content, uint64_t pos, size_t len, char what) {
  if (content.size() < pos + len) content.resize(pos + len);
  std::fill_n(content.begin() + static_cast<ptrdiff_t>(pos), len, static_cast<std::byte>(what));
}

// What each of the two does to a file, on a vector of bytes.
void apply(First first, Content& content) {
  if (first == First::write_fault) put(content, kPos + 100, 50, 'W');
  if (first == First::buffered_write) put(content, kPos + 100, 50, 'B');
  if (first == First::large_write) put(content, kLargePos, kLargeBytes, 'B');
  if (first == First::mapped_writeback) put(content, kPos, kPageBytes, 'M');
  if (first == First::sync_part) put(content, kPos + 100, 50, 'B');
  if (first == First::sync_page) put(content, kPos, kPageBytes, 'B');
}
void apply(Second second, Content& content) {
  if (second == Second::cut_before) content.resize(kPos - kPageBytes + 50);
  if (second == Second::cut_within) content.resize(std::min<size_t>(content.size(), kPos + 120));
  if (second == Second::punch) put(content, kPos, kPageBytes, 0);
  if (second == Second::punch_within) put(content, kPos + 200, 100, 0);
  if (second == Second::clone_over) put(content, kPos - kPageBytes, 3 * kPageBytes, 'C');
  if (second == Second::direct_write) put(content, kPos, kPageBytes, 'D');
}

struct Layout {
  bool shared = false;          // the file's blocks have two owners
  bool page_in_memory = false;  // the page of the shared block, or a clean one of the file
};

// One volume, the file, and one pair.
class Race {
 public:
  Race(const TestSeed& seed, First first, Second second, Layout layout)
      : sim_(seed),
        first_(first),
        second_(second),
        layout_(layout),
        data_(kPageBytes + kLargeBytes) {
    file_ = sim_.create("file");
    for (uint64_t i = 0; i < kPages; ++i) put(before_, i * kPageBytes, kPageBytes, char('a' + i));
    REQUIRE(sim_.write(*file_, 0, before_, How::direct).ok());
    other_ = sim_.create("other");
    if (layout_.shared) {
      REQUIRE(sim_.clone(*file_, 0, *other_, 0, before_.size()).ok());
    }
    source_ = sim_.create("source");
    REQUIRE(sim_.write(*source_, 0, Content(3 * kPageBytes, std::byte{'C'}), How::direct).ok());
    sim_.world().inside([this] { sim_.volume().space().keep_writeback_reserve(BlockCount(64)); });
    twin_ = sim_.create("twin");
    REQUIRE(sim_.write(*twin_, 0, before_, How::direct).ok());
    REQUIRE(sim_.sync().ok());
    if (layout_.page_in_memory && layout_.shared) {
      REQUIRE(sim_.read(*other_, 0, before_.size()).ok());
    }
    if (layout_.page_in_memory && !layout_.shared) {
      FaultStash stash;
      REQUIRE(sim_.world()
                  .run([&] {
                    return fault(sim_.files(), *file_, FileBlock(kPage), FaultKind::read, stash);
                  })
                  .ok());
    }
    std::memset(data_.data(), 'D', kPageBytes);
    std::memset(data_.data() + kPageBytes, first == First::mapped_writeback ? 'M' : 'B',
                kLargeBytes);
  }

  // Stops the first after `gap` attempts. False if it had ended before.
  bool run(uint64_t gap, std::set<Error>& errors) {
    Stepped<void> first(sim_.world(), [this] { return attempt_first(); });
    while (first.attempts() < gap && !first.ended() && first.step()) continue;
    const bool in_time = !first.ended();
    if (second_ == Second::power_cut) {
      check_cut();
      return in_time;
    }
    Stepped<void> second(sim_.world(), second_operation());
    const bool second_ended = second.finish();
    // A writethrough has happened when the device has done it, whatever it waits for then.
    const bool happened = sim_.files().stats.through_bytes != 0;
    const bool first_is_last = second_ended && in_time && !happened;
    REQUIRE(first.finish());
    REQUIRE(second.finish());
    CHECK(second.outcome().ok());
    if (second_ == Second::reclaim) {  // what has been read is not read again
      const bool writes = first_ == First::sync_part;
      CHECK(std::count(first.reasons().begin(), first.reasons().end(), RestartReason::data_io) <=
            (writes ? 2 : 1));
    }
    undo_second();
    check(first.outcome(), first_is_last, errors);
    return in_time;
  }

 private:
  Attempt<void> attempt_first() {
    if (first_ == First::read_fault || first_ == First::write_fault) {
      const bool write = first_ == First::write_fault;
      Attempt<FolioRef> page = fault(sim_.files(), *file_, FileBlock(kPage),
                                     write ? FaultKind::write : FaultKind::read, *fault_stash_);
      if (!page.ok()) return Unfinished(page);
      const FolioRef& folio = page.value();
      seen_.assign(folio->frame, folio->frame + kPageBytes);
      if (!write) return {};
      std::memset(folio->frame + 100, 'W', 50);
      make_dirty(sim_.files(), {folio, fault_stash_->reservation.count() != BlockCount(0), false},
                 *fault_stash_);
      touch_contents(sim_.files(), *file_);
      fault_stash_->reset();
      // A store through a mapping is the page's as far as the file goes.
      const uint64_t size = file_->attr.size;
      if (size < kPos + kPageBytes) {
        std::memset(folio->frame + (size - kPos), 0, kPos + kPageBytes - size);
      }
      return {};
    }
    const bool whole = first_ == First::mapped_writeback || first_ == First::sync_page;
    const bool large = first_ == First::large_write;
    WriteRequest request;
    request.pos = whole ? kPos : large ? kLargePos : kPos + 100;
    request.data = data_.bytes().subspan(kPageBytes, whole ? kPageBytes : large ? kLargeBytes : 50);
    const How how = first_ == First::mapped_writeback          ? How::mapped
                    : first_ == First::buffered_write || large ? How::buffered
                                                               : How::sync;
    const Attempt<size_t> written =
        SimVolume::write_attempt(sim_.files(), *file_, request, how, *write_stash_);
    if (!written.ok()) return Unfinished(written);
    REQUIRE(written.value() == request.data.size());
    return {};
  }

  template <class Stash, class Fn>
  static std::function<Attempt<void>()> operation(Fn fn) {
    return [fn, stash = std::make_shared<Stash>()]() -> Attempt<void> {
      auto attempt = fn(*stash);
      if (!attempt.ok()) return Unfinished(attempt);
      return {};
    };
  }

  // Where the second is no operation it has happened on return.
  std::function<Attempt<void>()> second_operation() {
    FileContext& files = sim_.files();
    switch (second_) {
      case Second::cut_before:
      case Second::cut_within:
        return operation<ShapeStash>([this, &files](ShapeStash& stash) {
          const bool within = second_ == Second::cut_within;
          return set_size(files, *file_, within ? kPos + 120 : kPos - kPageBytes + 50, false,
                          stash);
        });
      case Second::punch:
      case Second::punch_within:
        return operation<ShapeStash>([this, &files](ShapeStash& stash) {
          const bool within = second_ == Second::punch_within;
          return fallocate_range(files, *file_, FallocateMode::punch_hole,
                                 within ? kPos + 200 : kPos, within ? 100 : kPageBytes, true,
                                 stash);
        });
      case Second::clone_over:
        return operation<CopyStash>([this, &files](CopyStash& stash) {
          return copy_range(files, *source_, 0, *file_, kPos - kPageBytes, 3 * kPageBytes, stash);
        });
      case Second::clone_from:
        return operation<CopyStash>([this, &files](CopyStash& stash) {
          return copy_range(files, *file_, 0, *source_, 0, kPages * kPageBytes, stash);
        });
      case Second::dedupe:
        return operation<DedupeStash>([this, &files](DedupeStash& stash) {
          return dedupe_range(files, *twin_, 0, *file_, 0, kPages * kPageBytes, stash);
        });
      case Second::unlink:
        return operation<NamespaceStash>([this](NamespaceStash& stash) {
          return sim_.volume().names().unlink(kRootInode, "file", stash);
        });
      case Second::direct_write:
        return operation<WriteStash>([this, &files](WriteStash& stash) {
          const WriteRequest request{kPos, data_.bytes().first(kPageBytes), false, false};
          return write_direct(files, *file_, request, stash);
        });
      case Second::reclaim:
        churn();
        break;
      case Second::device_error:
        sim_.device().add_fault(sim_.data_fault(IoKind::read));
        break;
      case Second::no_space:
        take_space();
        break;
      case Second::power_cut:
        break;
    }
    return [] { return Attempt<void>(); };
  }

  void take_space() {
    sim_.world().inside([this] {
      const uint64_t available = sim_.volume().space().stats().available_blocks;
      Attempt<Reservation> taken = sim_.volume().space().reserve(BlockCount(available));
      REQUIRE(taken.ok());
      taken_ = std::move(taken).value();
    });
  }

  // Puts more clean pages into memory than fit.
  void churn() {
    const InodeRef big = sim_.create("big");
    const InodeRef clone = sim_.create("clone of big");
    const Content content(3 * kCachePagesMin * kPageBytes, std::byte{'x'});
    REQUIRE(sim_.write(*big, 0, content, How::direct).ok());
    REQUIRE(sim_.clone(*big, 0, *clone, 0, content.size()).ok());
    for (int i = 0; i < 2; ++i) CHECK(sim_.read_all(i == 0 ? *big : *clone) == content);
  }

  void undo_second() {
    sim_.device().clear_faults();
    sim_.world().inside([this] { taken_.release(); });
  }

  void check(const Result<void>& outcome, bool first_is_last, std::set<Error>& errors) {
    Content expected = before_;
    if (outcome.ok()) {
      if (!first_is_last) apply(first_, expected);
      apply(second_, expected);
      const Content at_fault = expected;
      if (first_is_last) apply(first_, expected);
      if (first_ == First::write_fault && second_ == Second::cut_within) {
        expected.resize(kPos + 120);  // a fault makes no file longer
      }
      if (first_is_last && !seen_.empty()) check_seen(at_fault);
    } else {
      CAPTURE(error_name(outcome.error()));
      CHECK(expected_error(first_, second_) == outcome.error());
      errors.insert(outcome.error());
      apply(second_, expected);
    }
    CHECK(sim_.read_all(*file_) == expected);
    if (layout_.shared) CHECK(sim_.read_all(*other_) == before_);
    CHECK(sim_.read_all(*twin_) == before_);
    CHECK(sim_.files().faults.page_gone_count == 0);
    REQUIRE(sim_.sync().ok());
    CHECK(file_->delayed_blocks == BlockCount(0));
    CHECK(sim_.read_all(*file_) == expected);
    if (layout_.shared) CHECK(sim_.read_all(*other_) == before_);
  }

  // The page that a fault returned was the file's at that moment, and zeroes beyond its end.
  void check_seen(Content file) {
    file.resize(std::max<size_t>(file.size(), kPos + kPageBytes));
    CHECK(std::equal(seen_.begin(), seen_.end(), file.begin() + static_cast<ptrdiff_t>(kPos)));
  }

  void check_cut() {
    sim_.world().abandon();
    sim_.world().inside([this] {
      fault_stash_.reset();
      write_stash_.reset();
      file_.reset();
      other_.reset();
      source_.reset();
      twin_.reset();
    });
    Content with_first = before_;
    apply(first_, with_first);
    SimVolume again({7, 0.0}, {}, sim_.power_cut());
    const InodeRef file = again.lookup("file");
    const Content found = again.read_all(*file);
    CHECK((found == before_ || found == with_first));
    if (layout_.shared) CHECK(again.read_all(*again.lookup("other")) == before_);
  }

  SimVolume sim_;
  const First first_;
  const Second second_;
  const Layout layout_;
  AlignedBuffer data_;  // a page of 'D', then what the first writes
  Content before_;
  InodeRef file_, other_, source_;
  InodeRef twin_;  // the same bytes in blocks of its own
  std::unique_ptr<FaultStash> fault_stash_ = std::make_unique<FaultStash>();
  std::unique_ptr<WriteStash> write_stash_ = std::make_unique<WriteStash>();
  Content seen_;  // the page as the fault returned it
  Reservation taken_;
};

void race(First first) {
  for_each_seed(2, [first](const TestSeed& seed) {
    for (int number = 0; number < kSeconds; ++number) {
      const auto second = static_cast<Second>(number);
      std::set<Error> errors;
      for (const Layout layout :
           {Layout{false, false}, Layout{false, true}, Layout{true, false}, Layout{true, true}}) {
        for (uint64_t gap = 0;; ++gap) {
          CAPTURE(std::string(kFirstNames[static_cast<int>(first)]));
          CAPTURE(std::string(kSecondNames[number]));
          CAPTURE(layout.shared);
          CAPTURE(layout.page_in_memory);
          CAPTURE(gap);
          REQUIRE(gap < 50);
          if (!Race(seed, first, second, layout).run(gap, errors)) break;
        }
      }
      // What may fail has been seen to.
      CAPTURE(std::string(kSecondNames[number]));
      const std::optional<Error> expected = expected_error(first, second);
      CHECK(errors.size() == (expected ? 1u : 0u));
    }
  });
}

TEST_CASE("what happens between the attempts of a read fault") { race(First::read_fault); }
TEST_CASE("what happens between the attempts of a write fault") { race(First::write_fault); }
TEST_CASE("what happens between the attempts of a writeback of a mapped page") {
  race(First::mapped_writeback);
}
TEST_CASE("what happens between the attempts of a buffered write") { race(First::buffered_write); }
TEST_CASE("what happens between the attempts of an O_SYNC write of part of a page") {
  race(First::sync_part);
}
TEST_CASE("what happens between the attempts of an O_SYNC write of a page") {
  race(First::sync_page);
}
TEST_CASE("what happens between the attempts of a buffered write that is copied outside") {
  race(First::large_write);
}

}  // namespace
}  // namespace fusefs
