// The journal and power cuts: what was confirmed is read back, in order, and nothing else is.
#include <algorithm>
#include <string>
#include <vector>

#include "core/journal/batch.h"
#include "tests/sim/journal_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kRingBlocks = 40;

bool block_holds(const SimImage& image, uint64_t addr, ConstBytes expected) {
  std::vector<std::byte> found(expected.size());
  image.read(addr, found);
  return std::ranges::equal(found, expected);
}

// Reads the log of what a power cut has left and holds it against the model.
LogRead check_survivors(const SimImage& image, const JournalModel& model, double forced) {
  LogRead log = read_log(image, test_ring(kRingBlocks), model.tail, forced);
  REQUIRE(log.outcome.ok());
  uint64_t seq = model.tail_seq;
  for (const LogEntry& entry : log.entries) {
    REQUIRE(entry.seq == seq);
    REQUIRE(entry.intact);
    REQUIRE(entry.id == model.id_of.at(seq));
    if (model.shows_data.contains(entry.id)) {
      REQUIRE(block_holds(image, data_addr(entry.id), data_of(entry.id).bytes()));
    }
    ++seq;
  }
  REQUIRE(seq > model.confirmed_seq);
  return log;
}

// A history with a power cut, and a second one on what it has left.
struct Session {
  uint64_t seed;
  double forced;
  std::optional<uint64_t> cut_after_writes;
  uint64_t per_appender;
};

// Four appenders at once, until all are done or the power is cut. The device's content then.
SimImage run_session(const Session& session, JournalModel& model, uint64_t first_id,
                     const SimImage& image, const JournalMark& head, uint64_t next_seq) {
  SimWorldOptions options;
  options.forced_restart_probability = session.forced;
  options.device.cut_after_writes = session.cut_after_writes;
  JournalRig rig(session.seed, options, test_ring(kRingBlocks), model, image, head, next_seq);
  rig.start_checkpointer();
  int live = 4;
  for (uint64_t i = 0; i < 4; ++i) {
    rig.world.spawn(Appender(rig, first_id + i * 1000, session.per_appender),
                    [&live](Result<void> outcome) {
                      CHECK(outcome.ok());
                      --live;
                    });
  }
  rig.world.run_until([&live] { return live == 0; });
  return rig.world.power_cut();
}

// Returns how often the ring was freed.
uint64_t crash_twice(uint64_t seed, double forced, std::optional<uint64_t> cut,
                     uint64_t per_appender) {
  JournalModel model;
  const SimImage first =
      run_session({seed, forced, cut, per_appender}, model, 10'000, {}, ring_start(), 1);
  const LogRead log = check_survivors(first, model, forced);
  const uint64_t next_seq = log.entries.empty() ? model.tail_seq : log.entries.back().seq + 1;

  // What did not survive never happened; its numbers are given again.
  model.id_of.erase(model.id_of.lower_bound(next_seq), model.id_of.end());
  model.confirmed_seq = std::min(model.confirmed_seq, next_seq - 1);
  const SimImage second =
      run_session({seed + 1, forced, std::nullopt, 6}, model, 20'000, first, log.head, next_seq);
  const LogRead both = check_survivors(second, model, forced);
  CHECK((both.entries.empty() ? model.tail_seq - 1 : both.entries.back().seq) >= next_seq + 3);
  return model.checkpoint_count;
}

TEST_CASE("what was confirmed survives a power cut after any write, in order and complete") {
  for_each_seed(2, [](const TestSeed& seed) {
    for (uint64_t cut = 0; cut < 60; ++cut) {
      CAPTURE(cut);
      crash_twice(seed.seed * 1000 + cut, seed.forced_restart_probability, cut, 25);
    }
  });
}

TEST_CASE("the ring goes round many times, and batches of former laps are never replayed") {
  for_each_seed(3, [](const TestSeed& seed) {
    CHECK(crash_twice(seed.seed, seed.forced_restart_probability, std::nullopt, 100) > 10);
  });
}

TEST_CASE("a batch across the ring's end is read back as one") {
  JournalModel model;
  model.tail = {BlockNo(kTestRingFirst + kRingBlocks - 1), 77};
  model.tail_seq = 500;
  JournalRig rig(3, {}, test_ring(kRingBlocks), model, {}, model.tail, 500);
  ChangeEncoder changes;
  const std::vector<std::byte> value(4000, std::byte{3});
  for (uint64_t i = 0; i < 4; ++i) changes.put(Key{9, KeyType::xattr, i}, value);
  REQUIRE(rig.world
              .run([&, seq = JournalSeq()]() mutable -> Attempt<void> {
                if (seq == JournalSeq()) {
                  ATTEMPT_OK(rig.journal.prepare(static_cast<uint32_t>(changes.bytes().size())));
                  seq = rig.journal.append(changes.bytes(), changes.count(), 0);
                }
                return rig.journal.wait_durable(seq);
              })
              .ok());
  CHECK(rig.world.device().stats().submitted(IoKind::write) == 2);
  const LogRead log = read_log(rig.world.power_cut(), test_ring(kRingBlocks), model.tail);
  REQUIRE(log.outcome.ok());
  REQUIRE(log.entries.size() == 1);
  CHECK(log.entries[0].seq == 500);
  CHECK(log.head.batch == 78);
  CHECK(log.head.block == BlockNo(kTestRingFirst + 3));
}

// ---- What a device may hold ----

// Batches of one transaction each, written to an image by hand.
struct HandMadeLog {
  SimImage image;
  JournalMark head = ring_start();
  uint64_t next_seq = 1;

  // `damage` changes the image of the batch before its checksum is computed.
  template <class Damage>
  void add(uint64_t id, Damage&& damage) {
    const ChangeEncoder changes = changes_of(id);
    Batch batch(head.batch, AlignedBuffer());
    batch.append(JournalSeq(next_seq++), changes.bytes(), changes.count(), 0, 0);
    batch.close(head.block, 0);
    damage(batch.image());
    batch.seal(test_ring(kRingBlocks).checksum_seed);
    image.write(head.block.value() * kBlockBytes, batch.image());
    head.block += BlockCount(batch.blocks());
    ++head.batch;
  }
  void add(uint64_t id) {
    add(id, [](Bytes) {});
  }
  LogRead read() const { return read_log(image, test_ring(kRingBlocks), ring_start()); }
};

TEST_CASE("a log ends at the first batch that does not verify, whatever lies behind it") {
  HandMadeLog log;
  log.add(1);
  const JournalMark hole = log.head;
  log.add(2);
  log.add(3);
  CHECK(log.read().entries.size() == 3);
  CHECK(log.read().head.block == log.head.block);
  log.image.write(hole.block.value() * kBlockBytes + 100, bytes_of(std::string_view("torn")));
  const LogRead read = log.read();
  CHECK(read.outcome.ok());
  CHECK(read.entries.size() == 1);
  CHECK(read.head.block == hole.block);
  CHECK(read.head.batch == hole.batch);
}

TEST_CASE("a batch that verifies but holds nonsense is reported as corrupt") {
  const auto outcome_with = [](auto damage) {
    HandMadeLog log;
    log.add(1);
    log.add(2, damage);
    return log.read();
  };
  const auto header = [](Bytes image) -> BatchHeader& { return view_as<BatchHeader>(image); };
  const auto transaction = [](Bytes image) -> TransactionHeader& {
    return view_as<TransactionHeader>(image.subspan(sizeof(BatchHeader)));
  };
  const std::vector<LogRead> reads = {
      outcome_with([&](Bytes image) { header(image).payload_bytes = ~uint64_t{0}; }),
      outcome_with([&](Bytes image) { header(image).payload_bytes = uint64_t{0}; }),
      outcome_with([&](Bytes image) { header(image).transaction_count = 2u; }),
      outcome_with([&](Bytes image) { header(image).transaction_count = 0u; }),
      outcome_with([&](Bytes image) { header(image).first_seq = uint64_t{7}; }),
      outcome_with([&](Bytes image) { header(image).zero = uint64_t{1}; }),
      outcome_with([&](Bytes image) { transaction(image).seq = uint64_t{9}; }),
      outcome_with([&](Bytes image) { transaction(image).bytes = ~0u; }),
      outcome_with([&](Bytes image) { transaction(image).bytes = 1u; }),
      outcome_with([&](Bytes image) { transaction(image).change_count = ~0u; }),
  };
  for (const LogRead& read : reads) {
    REQUIRE_FALSE(read.outcome.ok());
    CHECK(read.outcome.error() == Error::corrupt);
    CHECK(read.entries.size() == 1);
  }
  CHECK(outcome_with([](Bytes) {}).outcome.ok());
}

TEST_CASE("a reader of garbage ends or refuses, and reads no further than the ring") {
  Random random(5);
  for (int round = 0; round < 300; ++round) {
    HandMadeLog log;
    for (uint64_t id = 1; id < 5; ++id) {
      // Damage before the checksum: the reader has to survive verified nonsense.
      log.add(id, [&](Bytes image) {
        if (random.chance(0.5)) return;
        const size_t first = random.chance(0.7) ? sizeof(BlockHeader) : 8;
        const size_t at = first + random.below(std::min<size_t>(image.size(), 200) - first);
        image[at] = static_cast<std::byte>(random.next());
      });
    }
    const LogRead read = log.read();
    CHECK((read.outcome.ok() || read.outcome.error() == Error::corrupt));
    CHECK(read.read_bytes <= kRingBlocks * kBlockBytes);
  }
}

TEST_CASE("an empty journal is read as empty, and one read is all it takes") {
  const LogRead read = read_log({}, test_ring(kRingBlocks), ring_start());
  CHECK(read.outcome.ok());
  CHECK(read.entries.empty());
  CHECK(read.head.block == ring_start().block);
  CHECK(read.head.batch == 1);
}

TEST_CASE("a damaged place behind the end of the log does not keep the log from being read") {
  HandMadeLog log;
  log.add(1);
  log.add(2);
  SimWorld world(9, {}, log.image);
  const uint64_t bad = (log.head.block.value() + 2) * kBlockBytes;
  world.device().add_fault({.kind = IoKind::read,
                            .addr_first = bad,
                            .addr_end = bad + kBlockBytes,
                            .error = Error::io_failed});
  JournalReader reader(world.device(), test_ring(kRingBlocks), ring_start());
  uint64_t count = 0;
  const Result<void> outcome = world.run([&]() -> Attempt<void> {
    for (;;) {
      ATTEMPT(const LoggedTransaction* txn, reader.current());
      if (txn == nullptr) return {};
      ++count;
      reader.advance();
    }
  });
  CHECK(outcome.ok());
  CHECK(count == 2);
}

TEST_CASE("a damaged place inside the log is an error, and not the log's end") {
  HandMadeLog log;
  log.add(1);
  const uint64_t bad = log.head.block.value() * kBlockBytes;
  log.add(2);
  SimWorld world(9, {}, log.image);
  world.device().add_fault({.kind = IoKind::read,
                            .addr_first = bad,
                            .addr_end = bad + kBlockBytes,
                            .error = Error::io_failed});
  JournalReader reader(world.device(), test_ring(kRingBlocks), ring_start());
  const Result<void> outcome = world.run([&]() -> Attempt<void> {
    for (;;) {
      ATTEMPT(const LoggedTransaction* txn, reader.current());
      if (txn == nullptr) return {};
      reader.advance();
    }
  });
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error() == Error::io_failed);
}

}  // namespace
}  // namespace fusefs
