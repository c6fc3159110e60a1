// The journal in simulation: group commit, room, errors.
#include <string>
#include <vector>

#include "tests/sim/journal_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr double kForced[] = {0.0, 0.2};

SimWorldOptions with_forced(double probability) {
  SimWorldOptions options;
  options.forced_restart_probability = probability;
  return options;
}

std::vector<SimIoRecord> writes_of(const SimDevice& device) {
  std::vector<SimIoRecord> writes;
  for (const SimIoRecord& record : device.log()) {
    if (record.kind == IoKind::write) writes.push_back(record);
  }
  return writes;
}

TEST_CASE("transactions that wait at the same time become durable with few writes") {
  for (const double forced : kForced) {
    JournalModel model;
    JournalRig rig(1, with_forced(forced), test_ring(256), model);
    for (uint64_t id = 2; id < 2 + 3 * 40; id += 3) rig.world.spawn(Appender(rig, id, 1));
    REQUIRE(rig.world.run_until_idle());
    CHECK(model.confirmed_seq == 40);
    CHECK(rig.journal.durable_seq() == JournalSeq(40));
    CHECK(rig.journal.stats().batch_count <= 4);
    CHECK(rig.journal.stats().transaction_count == 40);
    CHECK(rig.journal.stats().batch_transactions.sum() == 40);
  }
}

TEST_CASE("a transaction that nobody waits for is durable after the commit interval") {
  JournalModel model;
  JournalRig rig(2, {}, test_ring(64), model);
  REQUIRE(rig.append_now(5, false).ok());
  REQUIRE(rig.world.run_for(kCommitIntervalNs - 10 * kNsPerMs));
  CHECK(writes_of(rig.world.device()).empty());
  REQUIRE(rig.world.run_for(kSimSlowNs + 20 * kNsPerMs));
  CHECK(rig.journal.durable_seq() == JournalSeq(1));
  // And again, with the timer of the first one spent.
  REQUIRE(rig.append_now(8, false).ok());
  REQUIRE(rig.world.run_for(kCommitIntervalNs + kSimSlowNs + 20 * kNsPerMs));
  CHECK(rig.journal.durable_seq() == JournalSeq(2));
}

TEST_CASE("a kick writes what has gathered without anybody waiting") {
  JournalModel model;
  JournalRig rig(3, {}, test_ring(64), model);
  REQUIRE(rig.append_now(5, false).ok());
  rig.world.inside([&] { rig.journal.kick(); });
  REQUIRE(rig.world.run_for(kSimSlowNs + kNsPerMs));
  CHECK(rig.journal.durable_seq() == JournalSeq(1));
}

TEST_CASE("who comes while the batch is being written waits until it is durable") {
  JournalModel model;
  JournalRig rig(13, {}, test_ring(64), model);
  REQUIRE(rig.append_now(5, false).ok());
  rig.world.inside([&] { rig.journal.kick(); });
  REQUIRE(rig.world.run_until([&] { return rig.world.device().in_flight_count() == 1; }));
  REQUIRE(rig.world.run([&] { return rig.journal.wait_durable(JournalSeq(1)); }).ok());
  CHECK(rig.world.device().in_flight_count() == 0);
  CHECK(rig.journal.durable_seq() == JournalSeq(1));
}

TEST_CASE("the data that a transaction shows is flushed before the transaction is written") {
  JournalModel model;
  JournalRig rig(4, {}, test_ring(64), model);
  REQUIRE(rig.world.run(Appender(rig, 3, 1)).ok());
  const auto& log = rig.world.device().log();
  REQUIRE(log.size() == 3);
  CHECK(log[0].kind == IoKind::write);
  CHECK(log[0].addr == data_addr(3));
  CHECK(log[1].kind == IoKind::flush);
  CHECK(log[1].submit_ns >= log[0].complete_ns);
  CHECK(log[2].kind == IoKind::write);
  CHECK(log[2].fua);
  CHECK(log[2].submit_ns >= log[1].complete_ns);
  CHECK(rig.journal.stats().flush_count == 1);
}

TEST_CASE("a transaction that shows no new data costs one write and no flush") {
  JournalModel model;
  JournalRig rig(5, {}, test_ring(64), model);
  REQUIRE(rig.append_now(5).ok());
  CHECK(rig.world.device().stats().submitted(IoKind::flush) == 0);
  CHECK(rig.world.device().stats().submitted(IoKind::write) == 1);
  CHECK(rig.world.device().stats().fua_count == 1);
}

TEST_CASE("a full journal makes appenders wait until a checkpoint frees it") {
  for (const double forced : kForced) {
    JournalModel model;
    JournalRig rig(6, with_forced(forced), test_ring(24), model);
    uint64_t appended = 0;
    for (uint64_t id = 0; id < 150; ++id) {
      rig.world.spawn(
          [&rig, id]() -> Attempt<void> {
            const Attempt<JournalSeq> seq = rig.append(id);
            if (!seq.ok()) return Unfinished(seq);
            return {};
          },
          [&appended](Result<void> outcome) { appended += outcome.ok() ? 1 : 0; });
    }
    REQUIRE(rig.world.run_for(10 * kNsPerSecond));
    CHECK(appended > 5);
    CHECK(appended < 150);
    CHECK(rig.journal.wants_checkpoint());
    CHECK(rig.journal.stats().space_wait_count > 0);
    CHECK(rig.journal.stats().used_bytes <= rig.journal.stats().size_bytes);

    rig.start_checkpointer();
    REQUIRE(rig.world.run_until([&] { return appended == 150; }));
    CHECK(model.checkpoint_count > 1);
  }
}

TEST_CASE("what is appended after a seal lies in a later batch") {
  JournalModel model;
  JournalRig rig(7, {}, test_ring(64), model);
  REQUIRE(rig.append_now(2, false).ok());
  const uint64_t number = rig.world.inside([&] { return rig.journal.seal(); });
  REQUIRE(rig.append_now(5, false).ok());
  const auto mark = rig.world.run([&] { return rig.journal.mark_of(number); });
  REQUIRE(mark.ok());
  CHECK(rig.journal.durable_seq() >= JournalSeq(1));
  REQUIRE(rig.append_now(8).ok());

  const SimImage image = rig.world.power_cut();
  const LogRead behind = read_log(image, test_ring(64), mark.value());
  REQUIRE(behind.entries.size() == 2);
  CHECK(behind.entries[0] == LogEntry{2, 5, true});
  CHECK(behind.entries[1] == LogEntry{3, 8, true});
  CHECK(read_log(image, test_ring(64), ring_start()).entries.size() == 3);
}

TEST_CASE("sealing when nothing has been appended since gives the same mark again") {
  JournalModel model;
  JournalRig rig(8, {}, test_ring(64), model);
  const uint64_t empty = rig.world.inside([&] { return rig.journal.seal(); });
  CHECK(empty == 1);
  REQUIRE(rig.append_now(2).ok());
  const uint64_t first = rig.world.inside([&] { return rig.journal.seal(); });
  const uint64_t second = rig.world.inside([&] { return rig.journal.seal(); });
  CHECK(first == 2);
  CHECK(second == first);
  const auto mark = rig.world.run([&] { return rig.journal.mark_of(first); });
  REQUIRE(mark.ok());
  rig.world.inside([&] { rig.journal.release_before(mark.value()); });
  CHECK(rig.journal.stats().used_bytes == 0);
  CHECK(rig.world.inside([&] { return rig.journal.seal(); }) == first);
}

TEST_CASE("a batch of the largest transactions is summed up outside and read back") {
  JournalModel model;
  JournalRig rig(9, {}, test_ring(1024), model);
  std::vector<JournalSeq> seqs;
  ChangeEncoder large;
  const std::vector<std::byte> value(4000, std::byte{7});
  while (large.bytes().size() + ChangeEncoder::put_bytes(value.size()) <= kTransactionBytesMax) {
    large.put(Key{1, KeyType::xattr, large.count()}, value);
  }
  for (int i = 0; i < 8; ++i) {
    const auto seq = rig.world.run([&]() -> Attempt<JournalSeq> {
      ATTEMPT_OK(rig.journal.prepare(static_cast<uint32_t>(large.bytes().size())));
      return rig.journal.append(large.bytes(), large.count(), 0);
    });
    REQUIRE(seq.ok());
    seqs.push_back(seq.value());
  }
  REQUIRE(rig.world.run([&] { return rig.journal.wait_durable(seqs.back()); }).ok());
  CHECK(rig.world.scheduler().stats().restart_count[static_cast<size_t>(RestartReason::outside)] >
        0);
  const LogRead log = read_log(rig.world.power_cut(), test_ring(1024), ring_start());
  CHECK(log.outcome.ok());
  CHECK(log.entries.size() == 8);
}

TEST_CASE("a journal write that fails turns the volume read-only and is told to who waits") {
  for (const double forced : kForced) {
    JournalModel model;
    JournalRig rig(10, with_forced(forced), test_ring(64), model);
    REQUIRE(rig.append_now(2).ok());
    rig.world.device().add_fault({.kind = IoKind::write, .error = Error::io_failed});
    std::vector<Result<void>> outcomes;
    for (uint64_t id = 5; id < 5 + 3 * 6; id += 3) {
      rig.world.spawn(Appender(rig, id, 1),
                      [&outcomes](Result<void> outcome) { outcomes.push_back(outcome); });
    }
    REQUIRE(rig.world.run_until([&] { return outcomes.size() == 6; }));
    for (const Result<void>& outcome : outcomes) CHECK_FALSE(outcome.ok());
    CHECK(rig.health.failed());
    CHECK(rig.health.error() == Error::io_failed);
    CHECK(rig.health.reason().find("journal, block ") == 0);

    const Result<void> refused = rig.append_now(50);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error() == Error::read_only_volume);
    // What was durable before still is, and is said to be.
    CHECK(rig.world.run([&] { return rig.journal.wait_durable(JournalSeq(1)); }).ok());
    const LogRead log = read_log(rig.world.power_cut(), test_ring(64), ring_start());
    REQUIRE(log.entries.size() >= 1);
    CHECK(log.entries[0] == LogEntry{1, 2, true});
  }
}

TEST_CASE("a failed flush keeps the transaction that shows the data out of the journal") {
  JournalModel model;
  JournalRig rig(11, {}, test_ring(64), model);
  rig.world.device().add_fault({.kind = IoKind::flush, .count = 1, .error = Error::io_failed});
  const Result<void> outcome = rig.world.run(Appender(rig, 3, 1));
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error() == Error::io_failed);
  CHECK(rig.health.failed());
  CHECK(read_log(rig.world.power_cut(), test_ring(64), ring_start()).entries.empty());
}

TEST_CASE("who waits for journal space is refused when the volume fails") {
  JournalModel model;
  JournalRig rig(12, {}, test_ring(24), model);
  uint64_t refused = 0;
  uint64_t done = 0;
  for (uint64_t id = 0; id < 150; ++id) {
    rig.world.spawn(
        [&rig, id]() -> Attempt<void> {
          const Attempt<JournalSeq> seq = rig.append(id);
          if (!seq.ok()) return Unfinished(seq);
          return {};
        },
        [&](Result<void> outcome) {
          ++done;
          refused += !outcome.ok() && outcome.error() == Error::read_only_volume ? 1 : 0;
        });
  }
  REQUIRE(rig.world.run_for(5 * kNsPerSecond));
  REQUIRE(done < 150);
  rig.world.inside([&] {
    rig.health.fail(Error::io_failed, "tree node");
    rig.journal.wake_after_failure();
  });
  REQUIRE(rig.world.run_until([&] { return done == 150; }));
  CHECK(refused > 0);
}

}  // namespace
}  // namespace fusefs
