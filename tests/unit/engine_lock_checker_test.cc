// The lock checker: every report it can make, that it makes no other, and that its table of what
// may be held across a wait is that of docs/ENGINE.md.
#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "core/engine/lock_checker.h"
#include "core/engine/scheduler.h"
#include "core/engine/two_state_lock.h"
#include "core/inode/busy_ranges.h"
#include "core/memory/mapping.h"
#include "tests/support/death.h"
#include "tests/support/test_operation.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// Operations whose attempts do as a test says, and what the checker has said about them.
struct Rig {
  Rig() : locks(clock), scheduler(clock), cache(kCachePagesMin * kPageBytes) {
    LockChecker::instance().forget_order();
    LockChecker::instance().set_sink(
        [this](const std::string& report) { reports.push_back(report); });
  }
  ~Rig() {
    scheduler.abandon();
    LockChecker::instance().set_sink({});
    LockChecker::instance().forget_order();
  }

  // One attempt after another until it ends or waits.
  void run(const std::string& name, TestOperation::Fn fn) {
    scheduler.start(std::make_unique<TestOperation>(name, std::move(fn)));
    Scheduler::Handout handout;
    while (scheduler.run(handout) || !handout.finished.empty()) scheduler.retire(handout.finished);
    for (Operation* operation : handout.outside) scheduler.outside_done(*operation);
  }
  bool said(const std::string& text) const {
    return reports.size() == 1 && reports[0].find(text) != std::string::npos;
  }

  SimClock clock;
  TwoStateLocks locks;
  Waitable never;
  Scheduler scheduler;
  PageCache cache;
  std::vector<std::string> reports;
};

Attempt<FolioRef> add_folio(Rig& rig, Mapping& mapping, uint64_t index) {
  ATTEMPT(FolioRef folio, rig.cache.add(mapping, FileBlock(index)));
  rig.cache.mark_uptodate(*folio);
  return folio;
}

TEST_CASE("a cycle of locks is reported with both chains, though nobody had to wait") {
  Rig rig;
  TwoStateLock lock(rig.locks, 7);
  Mapping mapping;
  rig.run("fault", [&](TestOperation&) -> Attempt<void> {
    ATTEMPT(FolioRef folio, add_folio(rig, mapping, 1));
    ATTEMPT(TwoStateHold hold, lock.add());
    rig.cache.lock(*folio);
    rig.cache.unlock(*folio);
    return {};
  });
  CHECK(rig.reports.empty());
  CHECK(LockChecker::instance().order() == "two-state lock -> folio\n");
  rig.run("readahead", [&](TestOperation&) -> Attempt<void> {
    FolioRef folio = mapping.find(FileBlock(1));
    rig.cache.lock(*folio);
    const Attempt<TwoStateHold> hold = lock.block();  // free, and yet
    rig.cache.unlock(*folio);
    return {};
  });
  REQUIRE(rig.reports.size() == 1);
  CHECK(rig.reports[0] ==
        "order: a cycle of locks\n"
        "  now:    readahead holds folio lock and asks for two-state blocker of inode 7\n"
        "  before: fault holds two-state adder of inode 7 and asks for folio lock\n");
}

TEST_CASE("a cycle of three is reported with all its chains") {
  Rig rig;
  TwoStateLock lock(rig.locks);
  BusyRanges ranges;
  Mapping mapping;
  rig.run("one", [&](TestOperation&) -> Attempt<void> {
    ATTEMPT(TwoStateHold hold, lock.block());
    BusyRangeHold busy;
    return ranges.take(file_range(FileBlock(0), BlockCount(4)), busy);
  });
  rig.run("two", [&](TestOperation&) -> Attempt<void> {
    ATTEMPT(FolioRef folio, add_folio(rig, mapping, 1));
    BusyRangeHold busy;
    ATTEMPT_OK(ranges.take(file_range(FileBlock(0), BlockCount(4)), busy));
    rig.cache.lock(*folio);
    rig.cache.unlock(*folio);
    return {};
  });
  CHECK(rig.reports.empty());
  rig.run("three", [&](TestOperation&) -> Attempt<void> {
    FolioRef folio = mapping.find(FileBlock(1));
    rig.cache.lock(*folio);
    (void)lock.block_alone();
    rig.cache.unlock(*folio);
    return {};
  });
  REQUIRE(rig.reports.size() == 1);
  CHECK(rig.said("now:    three holds folio lock and asks for two-state alone"));
  CHECK(rig.said("before: one holds two-state blocker and asks for busy range"));
  CHECK(rig.said("before: two holds busy range and asks for folio lock"));
}

TEST_CASE("who asks for the other state of a lock that it holds is reported") {
  struct Case {
    TwoStateKind first;
    TwoStateKind second;
    bool deadlock;
  };
  for (const Case& each : {Case{TwoStateKind::adder, TwoStateKind::blocker, true},
                           Case{TwoStateKind::blocker, TwoStateKind::adder, true},
                           Case{TwoStateKind::blocker, TwoStateKind::loner, true},
                           Case{TwoStateKind::loner, TwoStateKind::loner, true},
                           Case{TwoStateKind::adder, TwoStateKind::adder, false},
                           Case{TwoStateKind::blocker, TwoStateKind::blocker, false}}) {
    Rig rig;
    TwoStateLock lock(rig.locks, 5);
    const auto ask = [&](TwoStateKind kind) {
      if (kind == TwoStateKind::adder) return lock.add();
      return kind == TwoStateKind::blocker ? lock.block() : lock.block_alone();
    };
    rig.run("self", [&](TestOperation&) -> Attempt<void> {
      ATTEMPT(TwoStateHold hold, ask(each.first));
      const Attempt<TwoStateHold> again = ask(each.second);
      CHECK(again.ok() != each.deadlock);
      return {};
    });
    CHECK(rig.reports.empty() != each.deadlock);
    if (each.deadlock) CHECK(rig.said("recursion: self holds two-state"));
  }
}

TEST_CASE("who waits for a folio or a range of its own is reported") {
  {
    Rig rig;
    Mapping mapping;
    rig.run("self", [&](TestOperation&) -> Attempt<void> {
      ATTEMPT(FolioRef folio, add_folio(rig, mapping, 1));
      rig.cache.lock(*folio);
      (void)restart_after(folio->changed, RestartReason::folio_locked);
      rig.cache.unlock(*folio);
      return {};
    });
    CHECK(rig.said("recursion: self waits for a folio lock"));
  }
  Rig rig;
  BusyRanges ranges;
  rig.run("self", [&](TestOperation&) -> Attempt<void> {
    BusyRangeHold one;
    BusyRangeHold two;
    ATTEMPT_OK(ranges.take(file_range(FileBlock(0), BlockCount(4)), one));
    CHECK_FALSE(ranges.take(file_range(FileBlock(3), BlockCount(4)), two).ok());
    return {};
  });
  CHECK(rig.said("recursion: self waits for a busy range"));
}

TEST_CASE("of two inodes the lower is asked for first, in whatever state") {
  Rig rig;
  TwoStateLock lower(rig.locks, 5);
  TwoStateLock higher(rig.locks, 9);
  TwoStateLock unordered(rig.locks);
  rig.run("clone", [&](TestOperation&) -> Attempt<void> {
    ATTEMPT(TwoStateHold one, lower.block_alone());
    ATTEMPT(TwoStateHold two, higher.block_alone());
    ATTEMPT(TwoStateHold three, unordered.add());
    return {};
  });
  CHECK(rig.reports.empty());
  rig.run("copy", [&](TestOperation&) -> Attempt<void> {
    ATTEMPT(TwoStateHold one, higher.add());
    ATTEMPT(TwoStateHold two, lower.add());
    return {};
  });
  CHECK(
      rig.said("inodes out of order: copy holds two-state adder of inode 9 and asks for two-state "
               "adder of inode 5"));
}

TEST_CASE("what must not be held across a wait is reported when the operation leaves") {
  struct Case {
    RestartReason reason;
    bool allowed;
  };
  for (const Case& each : {Case{RestartReason::memory, false}, Case{RestartReason::data_io, true},
                           Case{RestartReason::durable, true}}) {
    Rig rig;
    TwoStateLock lock(rig.locks, 5);
    TwoStateHold kept;
    rig.run("writer", [&](TestOperation&) -> Attempt<void> {
      ATTEMPT_INTO(kept, lock.add());
      return restart_after(rig.never, each.reason);
    });
    CHECK(rig.reports.empty() == each.allowed);
    if (!each.allowed) CHECK(rig.said("wait: writer waits for memory and holds two-state adder"));
    kept.release();
  }
  {
    Rig rig;  // scoped: gone with the attempt
    TwoStateLock lock(rig.locks, 5);
    rig.run("fault", [&](TestOperation&) -> Attempt<void> {
      ATTEMPT(TwoStateHold hold, lock.add());
      return restart_after(rig.never, RestartReason::memory);
    });
    CHECK(rig.reports.empty());
  }
  {
    Rig rig;  // copies outside are a wait as well, which a folio lock is for
    TwoStateLock lock(rig.locks, 5);
    Mapping mapping;
    FolioRef folio;
    rig.run("writer", [&](TestOperation& self) -> Attempt<void> {
      if (self.phase++ != 0) return {};
      ATTEMPT_INTO(folio, add_folio(rig, mapping, 1));
      rig.cache.lock(*folio);
      return restart_after_outside([] {});
    });
    CHECK(rig.reports.empty());
    rig.run("another", [&](TestOperation& self) -> Attempt<void> {
      if (self.phase++ == 0) return restart_after(folio->changed, RestartReason::folio_locked);
      return {};
    });
    CHECK(rig.reports.empty());  // waits for it, and holds nothing
    rig.cache.unlock(*folio);
    folio.reset();
  }
}

TEST_CASE("who holds a folio and waits for the two-state lock is reported twice") {
  Rig rig;
  TwoStateLock lock(rig.locks, 5);
  Mapping mapping;
  FolioRef folio;
  TwoStateHold blocking;
  rig.run("fault", [&](TestOperation&) -> Attempt<void> {
    ATTEMPT_INTO(folio, add_folio(rig, mapping, 1));
    ATTEMPT(TwoStateHold hold, lock.add());
    rig.cache.lock(*folio);
    rig.cache.unlock(*folio);
    return {};
  });
  rig.run("truncate", [&](TestOperation&) -> Attempt<void> {
    ATTEMPT_INTO(blocking, lock.block_alone());
    return restart_after(rig.never, RestartReason::data_io);
  });
  rig.run("readahead", [&](TestOperation&) -> Attempt<void> {
    rig.cache.lock(*folio);
    return Unfinished(lock.add());
  });
  REQUIRE(rig.reports.size() == 2);
  CHECK(rig.reports[0].find("order: a cycle") == 0);
  CHECK(rig.reports[1] ==
        "wait: readahead waits for two_state and holds folio lock: a folio lock must not be held "
        "across that\n");
  rig.cache.unlock(*folio);
  folio.reset();
  blocking.release();
}

TEST_CASE("what an I/O's completion releases is not held any more") {
  Rig rig;
  TwoStateLock lock(rig.locks, 5);
  Mapping mapping;
  FolioRef folio;
  TwoStateHold kept;
  rig.run("writer", [&](TestOperation& self) -> Attempt<void> {
    if (self.phase++ == 0) {
      ATTEMPT_INTO(folio, add_folio(rig, mapping, 1));
      ATTEMPT_INTO(kept, lock.add());
      rig.cache.mark_dirty(*folio);
      rig.cache.begin_writeback(*folio);
      return restart_after(rig.never, RestartReason::data_io);
    }
    return restart_after(rig.never, RestartReason::memory);
  });
  rig.cache.end_writeback(*folio, true);
  kept.release();
  rig.never.wake_all();
  rig.run("nobody", [](TestOperation&) -> Attempt<void> { return {}; });
  CHECK(rig.reports.empty());
  folio.reset();
}

TEST_CASE("without a sink a report is printed and stops the program") {
  const std::string words = last_words([] {
    SimClock clock;
    TwoStateLocks locks(clock);
    TwoStateLock lock(locks, 3);
    Scheduler scheduler(clock);
    scheduler.start(std::make_unique<TestOperation>("self", [&](TestOperation&) -> Attempt<void> {
      ATTEMPT(TwoStateHold hold, lock.add());
      return Unfinished(lock.block());
    }));
    Scheduler::Handout handout;
    scheduler.run(handout);
  });
  CHECK(words.find("lock checker: recursion: self holds two-state adder of inode 3") == 0);
}

TEST_CASE("docs/ENGINE.md has the checker's table of what may be held across which wait") {
  std::ifstream document(FUSEFS_SOURCE_DIR "/docs/ENGINE.md");
  REQUIRE(document.is_open());
  std::vector<std::string> lines;
  for (std::string line; std::getline(document, line);) lines.push_back(line);
  for (int i = 0; i < kLockClassCount; ++i) {
    const auto lock_class = static_cast<LockClass>(i);
    const std::string row = "| " + std::string(lock_class_name(lock_class)) + " | " +
                            LockChecker::allowed_waits(lock_class) + " |";
    CAPTURE(row);
    CHECK(std::count(lines.begin(), lines.end(), row) == 1);
  }
}

}  // namespace
}  // namespace fusefs
