// The write cache in simulation: who shares a flush, who needs the next one, and who needs none
// because he is alone.
#include "core/io/write_cache.h"

#include <utility>
#include <vector>

#include "core/io/aligned_buffer.h"
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

  // A write of one block that has completed.
  Result<void> write(bool fua = false) {
    return world.run([this, fua, ticket = Ref<IoTicket>()]() mutable -> Attempt<void> {
      if (!ticket) ticket = submit(fua);
      return ticket->wait();
    });
  }
  Ref<IoTicket> submit(bool fua) {
    Ref<IoTicket> ticket = make_ref<IoTicket>();
    world.device().submit(IoRequest::write(next_++ * kBlockBytes, block.data(), kBlockBytes, fua),
                          ticket);
    return ticket;
  }
  Result<void> flush() {
    return world.run([this, stamp = note_write(), ticket = Ref<IoTicket>()]() mutable {
      return cache.flush(stamp, ticket);
    });
  }
  bool begin_lone() {
    return world.inside([this] { return cache.begin_lone(); });
  }
  // A lone write with its end; `meanwhile` happens while it is in flight.
  template <class Meanwhile>
  Result<void> lone_write(Meanwhile&& meanwhile) {
    REQUIRE(begin_lone());
    const Ref<IoTicket> ticket = world.inside([this] { return submit(true); });
    meanwhile();
    REQUIRE(world.run_until([&ticket] { return !ticket->pending(); }));
    world.inside([&] { cache.end_lone(ticket->result()); });
    return ticket->result();
  }
  Result<void> lone_write() {
    return lone_write([] {});
  }

  SimWorld world;
  WriteCache cache;
  AlignedBuffer block{kBlockBytes};

 private:
  uint64_t next_ = 0;
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

// ---- Lone writes ----

TEST_CASE("a write is a lone one only when nothing that was written before can be lost") {
  CacheRig rig;
  CHECK_FALSE(rig.begin_lone());  // nobody knows what was before
  REQUIRE(rig.write().ok());
  CHECK_FALSE(rig.begin_lone());
  REQUIRE(rig.flush().ok());
  REQUIRE(rig.lone_write().ok());
  REQUIRE(rig.lone_write().ok());
  CHECK(rig.flushes() == 1);

  SUBCASE("a write in flight") {
    const Ref<IoTicket> ticket = rig.world.inside([&] { return rig.submit(false); });
    CHECK_FALSE(rig.begin_lone());
    REQUIRE(rig.world.run_until_idle());
  }
  SUBCASE("a write that is done, and nobody has taken a stamp for yet") {
    REQUIRE(rig.write().ok());
  }
  SUBCASE("a write with FUA, which makes nothing else durable") { REQUIRE(rig.write(true).ok()); }
  SUBCASE("a flush under way") {
    std::vector<Result<void>> outcomes;
    rig.spawn_flush(rig.note_write(), outcomes);
    REQUIRE(rig.world.run_until([&] { return rig.flushes() == 2; }));
    CHECK_FALSE(rig.begin_lone());
    REQUIRE(rig.world.run_until_idle());
    CHECK(rig.begin_lone());
    return;
  }
  CHECK_FALSE(rig.begin_lone());
  REQUIRE(rig.flush().ok());
  CHECK(rig.begin_lone());
}

TEST_CASE("a lone write settles nothing but itself") {
  CacheRig rig;
  REQUIRE(rig.write().ok());
  REQUIRE(rig.flush().ok());
  REQUIRE(rig.lone_write([&] { REQUIRE(rig.write().ok()); }).ok());
  CHECK_FALSE(rig.begin_lone());
  CHECK_FALSE(rig.cache.durable(rig.note_write()));
}

TEST_CASE("a flush that begins while a write is in flight does not settle that") {
  CacheRig rig;
  REQUIRE(rig.write().ok());
  const WriteStamp stamp = rig.note_write();
  rig.world.device().add_fault({.kind = IoKind::write, .count = 1, .delay_ns = kNsPerSecond});
  const Ref<IoTicket> slow = rig.world.inside([&] { return rig.submit(false); });
  std::vector<Result<void>> outcomes;
  rig.spawn_flush(stamp, outcomes);
  REQUIRE(rig.world.run_until([&] { return outcomes.size() == 1; }));
  REQUIRE(rig.world.run_until([&] { return !slow->pending(); }));
  CHECK_FALSE(rig.begin_lone());
}

TEST_CASE("many who have shared a flush go on sharing, one who had it for himself is alone") {
  CacheRig rig;
  std::vector<Result<void>> outcomes;
  const auto flush_for = [&](int count) {
    REQUIRE(rig.write().ok());
    const WriteStamp stamp = rig.note_write();
    for (int i = 0; i < count; ++i) rig.spawn_flush(stamp, outcomes);
    REQUIRE(rig.world.run_until_idle());
  };
  flush_for(2);
  CHECK_FALSE(rig.begin_lone());
  flush_for(1);
  CHECK(rig.begin_lone());
}

TEST_CASE("a device with FUA, or without a volatile cache, has no lone writes") {
  for (const bool has_cache : {false, true}) {
    SimWorldOptions options;
    options.device.has_volatile_cache = has_cache;
    options.device.has_fua = has_cache;
    CacheRig rig(options);
    REQUIRE(rig.write().ok());
    REQUIRE(rig.flush().ok());
    CHECK_FALSE(rig.begin_lone());
  }
}

TEST_CASE("a lone write that fails with nobody else about is an error of that write") {
  for (const bool behind_data : {false, true}) {
    CAPTURE(behind_data);
    CacheRig rig;
    REQUIRE(rig.write().ok());
    REQUIRE(rig.flush().ok());
    rig.world.device().add_fault(
        {.kind = IoKind::write, .count = 1, .error = Error::io_failed, .behind_data = behind_data});
    CHECK(rig.lone_write().error() == Error::io_failed);
    // Its bytes may lie in the cache.
    CHECK_FALSE(rig.begin_lone());
    REQUIRE(rig.flush().ok());
    CHECK(rig.lone_write().ok());
  }
}

TEST_CASE("a lone write that fails after others have come is a failed flush") {
  for (const bool behind_data : {false, true}) {
    CAPTURE(behind_data);
    CacheRig rig;
    REQUIRE(rig.write().ok());
    REQUIRE(rig.flush().ok());
    rig.world.device().add_fault({.kind = IoKind::write,
                                  .count = 1,
                                  .error = Error::io_failed,
                                  .delay_ns = kNsPerSecond,
                                  .behind_data = behind_data});
    WriteStamp other = 0;
    const Result<void> written = rig.lone_write([&] {
      REQUIRE(rig.write().ok());
      other = rig.note_write();
    });
    CHECK(written.error() == Error::io_failed);
    CHECK_FALSE(rig.cache.durable(other));
    CHECK(rig.flush().error() == Error::io_failed);
    CHECK_FALSE(rig.begin_lone());
    CHECK(rig.flushes() == 1);
  }
}

}  // namespace
}  // namespace fusefs
