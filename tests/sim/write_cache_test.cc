// The write cache in simulation: who shares a flush, and who needs the next one.
#include "core/io/write_cache.h"

#include <vector>

#include "tests/support/sim_world.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

struct CacheRig {
  explicit CacheRig(const SimWorldOptions& options = {})
      : world(1, options), cache(world.device()) {}
  ~CacheRig() { world.abandon(); }

  WriteStamp note_write() {
    return world.inside([this] { return cache.note_write(); });
  }
  void spawn_flush(WriteStamp stamp, std::vector<Result<void>>& outcomes) {
    world.spawn(
        [this, stamp, ticket = Ref<IoTicket>()]() mutable -> Attempt<void> {
          ATTEMPT_OK(cache.flush(stamp, ticket));
          return {};
        },
        [&outcomes](Result<void> outcome) { outcomes.push_back(outcome); });
  }
  uint64_t flushes() const { return cache.flush_count(); }

  SimWorld world;
  WriteCache cache;
};

TEST_CASE("those who come before a flush starts share it") {
  CacheRig rig;
  std::vector<Result<void>> outcomes;
  for (int i = 0; i < 5; ++i) rig.note_write();
  for (WriteStamp stamp = 1; stamp <= 5; ++stamp) rig.spawn_flush(stamp, outcomes);
  REQUIRE(rig.world.run_until_idle());
  CHECK(outcomes.size() == 5);
  CHECK(rig.flushes() == 1);
  CHECK(rig.cache.durable(5));
}

TEST_CASE("a write that completes while a flush is under way needs the next one") {
  for (const double forced : {0.0, 0.2}) {
    SimWorldOptions options;
    options.forced_restart_probability = forced;
    CacheRig rig(options);
    std::vector<Result<void>> outcomes;
    rig.spawn_flush(rig.note_write(), outcomes);
    REQUIRE(rig.world.run_until([&] { return rig.flushes() == 1; }));
    const WriteStamp late = rig.note_write();
    for (int i = 0; i < 3; ++i) rig.spawn_flush(late, outcomes);
    REQUIRE(rig.world.run_until_idle());
    CHECK(outcomes.size() == 4);
    CHECK(rig.flushes() == 2);
    CHECK(rig.cache.durable(late));
  }
}

TEST_CASE("what is durable needs no flush") {
  CacheRig rig;
  std::vector<Result<void>> outcomes;
  const WriteStamp stamp = rig.note_write();
  rig.spawn_flush(stamp, outcomes);
  REQUIRE(rig.world.run_until_idle());
  rig.spawn_flush(stamp, outcomes);
  rig.spawn_flush(0, outcomes);
  REQUIRE(rig.world.run_until_idle());
  CHECK(outcomes.size() == 3);
  CHECK(rig.flushes() == 1);
}

TEST_CASE("a device without a volatile cache is never flushed") {
  SimWorldOptions options;
  options.device.has_volatile_cache = false;
  CacheRig rig(options);
  std::vector<Result<void>> outcomes;
  const WriteStamp stamp = rig.note_write();
  CHECK(rig.cache.durable(stamp));
  rig.spawn_flush(stamp, outcomes);
  REQUIRE(rig.world.run_until_idle());
  REQUIRE(outcomes.size() == 1);
  CHECK(outcomes[0].ok());
  CHECK(rig.flushes() == 0);
}

TEST_CASE("a failed flush is told to everybody who shares it, and none succeeds after it") {
  CacheRig rig;
  rig.world.device().add_fault({.kind = IoKind::flush, .count = 1, .error = Error::io_failed});
  std::vector<Result<void>> outcomes;
  const WriteStamp stamp = rig.note_write();
  for (int i = 0; i < 3; ++i) rig.spawn_flush(stamp, outcomes);
  REQUIRE(rig.world.run_until_idle());
  rig.spawn_flush(stamp, outcomes);
  REQUIRE(rig.world.run_until_idle());
  REQUIRE(outcomes.size() == 4);
  for (const Result<void>& outcome : outcomes) {
    REQUIRE_FALSE(outcome.ok());
    CHECK(outcome.error() == Error::io_failed);
  }
  CHECK(rig.flushes() == 1);
  CHECK_FALSE(rig.cache.durable(stamp));
}

}  // namespace
}  // namespace fusefs
