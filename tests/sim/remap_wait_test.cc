// Who waits for whom while a file is cloned or deduplicated, and what is left when the device
// fails.
#include <algorithm>
#include <optional>

#include "tests/sim/remap_rig.h"
#include "tests/support/stepped.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// Starts a buffered write and returns whether it has ended; others go on meanwhile.
class Writer {
 public:
  Writer(SimVolume& sim, Inode& inode, uint64_t pos, ConstBytes data) {
    sim.spawn_write(inode, pos, data, How::buffered, [ended = ended_](Result<size_t> written) {
      REQUIRE(written.ok());
      *ended = true;
    });
  }
  bool ended() const { return *ended_; }

 private:
  std::shared_ptr<bool> ended_ = std::make_shared<bool>(false);
};

TEST_CASE("while a clone runs readers do not wait, of whatever range, and writers do") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef from = sim.create("from");
    const InodeRef to = sim.create("to");
    Content model = random_bytes(random, 400'000);
    const Content old = random_bytes(random, 400'000);
    write(sim, *from, 0, model);
    write(sim, *to, 0, old);
    REQUIRE(sim.sync().ok());
    write(sim, *from, 8192, part(old, 0, 100));
    put(model, 8192, part(old, 0, 100));

    CopyStash stash;
    Stepped<uint64_t> cloning(
        sim.world(), [&] { return copy_range(sim.files(), *from, 0, *to, 0, 200'704, stash); });
    REQUIRE(cloning.step());  // leaves to write what is dirty
    REQUIRE_FALSE(stash.hold.lower.held());
    // Where it has been already: it meets it when it holds both files.
    write(sim, *from, 4096, part(old, 0, 100));
    put(model, 4096, part(old, 0, 100));
    while (!stash.hold.lower.held() || !stash.hold.higher.held()) REQUIRE(cloning.step());
    REQUIRE_FALSE(cloning.ended());

    CHECK(sim.read_all(*from) == model);
    CHECK(sim.read_all(*to) == old);
    CHECK(sim.read(*from, 300'000, 50'000).value() == part(model, 300'000, 50'000));
    CHECK(sim.read(*to, 300'000, 50'000).value() == part(old, 300'000, 50'000));
    const Content late = random_bytes(random, 5'000);
    const Writer source_writer(sim, *from, 300'000, late);
    const Writer target_writer(sim, *to, 100, late);
    sim.world().run_for(10 * kNsPerSecond);
    CHECK_FALSE(source_writer.ended());
    CHECK_FALSE(target_writer.ended());
    CHECK(sim.read_all(*from) == model);

    REQUIRE(cloning.finish());
    REQUIRE(cloning.outcome().ok());
    REQUIRE(sim.world().run_until([&] { return source_writer.ended() && target_writer.ended(); }));
    Content expected = old;
    put(expected, 0, part(model, 0, 200'704));
    put(expected, 100, late);
    put(model, 300'000, late);
    CHECK(sim.read_all(*from) == model);
    CHECK(sim.read_all(*to) == expected);
  });
}

TEST_CASE("a file that changes during every comparison is deduplicated with writers waiting") {
  for_each_seed(8, [](const TestSeed& seed) {
    SimVolume sim(seed);
    Random random = sim.world().random().fork();
    const InodeRef a = sim.create("a");
    const InodeRef b = sim.create("b");
    const Content data = random_bytes(random, 200'704);
    write(sim, *a, 0, data);
    write(sim, *b, 0, data);
    REQUIRE(sim.sync().ok());

    DedupeStash stash;
    Stepped<uint64_t> dedupe(
        sim.world(), [&] { return dedupe_range(sim.files(), *a, 0, *b, 0, data.size(), stash); });
    // Reading, or behind it already: a forced restart may have given the device the time for it.
    const auto to_comparison = [&] {
      while (stash.phase != DedupeStash::Phase::reading &&
             stash.phase != DedupeStash::Phase::comparing &&
             stash.phase != DedupeStash::Phase::verifying) {
        REQUIRE(dedupe.step());
      }
    };
    for (uint32_t attempt = 0; attempt < 2; ++attempt) {
      to_comparison();
      CHECK(stash.tries == attempt);
      CHECK(stash.let_go);
      CHECK_FALSE(stash.hold.lower.held());
      write(sim, *b, 5'000, part(data, 5'000, 100));  // the same bytes: nobody can know
      while (stash.tries == attempt) REQUIRE(dedupe.step());
    }
    to_comparison();
    CHECK(stash.tries == 2);
    CHECK_FALSE(stash.let_go);
    CHECK(stash.hold.lower.held());
    CHECK(stash.hold.higher.held());
    const Content late = random_bytes(random, 100);
    const Writer writer(sim, *b, 5'000, late);
    sim.world().run_for(10 * kNsPerSecond);
    CHECK_FALSE(writer.ended());

    REQUIRE(dedupe.finish());
    REQUIRE(dedupe.outcome().ok());
    CHECK(dedupe.outcome().value() == data.size());
    CHECK(stash.same);
    CHECK(stash.shared == data.size());
    REQUIRE(sim.world().run_until([&] { return writer.ended(); }));
    Content changed = data;
    put(changed, 5'000, late);
    CHECK(sim.read_all(*a) == data);
    CHECK(sim.read_all(*b) == changed);
  });
}

// All I/O of one kind to the data of files fails, after the first `skip`.
void fail_data(SimVolume& sim, IoKind kind, uint64_t skip) {
  SimFault fault = sim.data_fault(kind);
  fault.skip = skip;
  sim.device().add_fault(fault);
}

TEST_CASE("a dedupe that cannot read keeps what it has shared, and changes nothing else") {
  for (const uint64_t skip : {uint64_t{0}, uint64_t{2}, uint64_t{4}}) {
    for_each_seed(2, [skip](const TestSeed& seed) {
      SimVolume sim(seed);
      Random random = sim.world().random().fork();
      InodeRef a = sim.create("a");
      InodeRef b = sim.create("b");
      const Content data = random_bytes(random, 3 * kDedupePieceBytes);
      write(sim, *a, 0, data);
      write(sim, *b, 0, data);
      settle(sim);
      fail_data(sim, IoKind::read, skip);
      const Deduped failed = dedupe(sim, *a, 0, *b, 0, data.size());
      sim.device().clear_faults();
      const uint64_t done = failed.same_bytes.ok() ? failed.same_bytes.value() : 0;
      if (skip == 0) CHECK(failed.same_bytes.error() == Error::io_failed);
      CHECK(done < data.size());
      CHECK(done % kDedupePieceBytes == 0);
      CHECK(failed.shared == done);
      CHECK(sim.volume().store().shared_blocks() == done / kBlockBytes);
      CHECK(sim.read_all(*a) == data);
      CHECK(sim.read_all(*b) == data);
      // Nobody is kept out, and the next call does the rest.
      write(sim, *b, 10, part(data, 10, 100));
      const Deduped again = dedupe(sim, *a, 0, *b, 0, data.size());
      REQUIRE(again.same_bytes.ok());
      CHECK(again.same_bytes.value() == data.size());
      CHECK(sim.volume().store().shared_blocks() == data.size() / kBlockBytes);
      sim.world().inside([&] {
        a.reset();
        b.reset();
      });
      require_consistent(sim.unmount(), {});
    });
  }
}

TEST_CASE("an unshare that the device fails leaves each block shared or copied, and none lost") {
  for (const IoKind kind : {IoKind::read, IoKind::write}) {
    for (const uint64_t skip : {uint64_t{0}, uint64_t{1}, uint64_t{2}}) {
      for_each_seed(2, [kind, skip](const TestSeed& seed) {
        SimVolume sim(seed, {uint64_t{64} << 20, uint64_t{16} << 20});
        Random random = sim.world().random().fork();
        InodeRef source = sim.create("source");
        InodeRef target = sim.create("target");
        const Content data = random_bytes(random, 2 * kUnshareStepBytes + 100'000);
        write(sim, *source, 0, data);
        REQUIRE(clone(sim, *source, 0, *target, 0, data.size()).ok());
        settle(sim);
        const uint64_t shared = sim.volume().store().shared_blocks();
        const uint64_t available = sim.volume().space().stats().available_blocks;
        fail_data(sim, kind, skip);
        CHECK(unshare(sim, *target, 0, 0, true).error() == Error::io_failed);
        sim.device().clear_faults();
        const uint64_t copied = sim.files().stats.unshare_bytes / kBlockBytes;
        CHECK(copied < shared);
        CHECK(sim.volume().store().shared_blocks() == shared - copied);
        CHECK(sim.read_all(*source) == data);
        CHECK(sim.read_all(*target) == data);
        settle(sim);
        CHECK(sim.volume().space().stats().available_blocks <= available - copied);
        CHECK(sim.volume().space().stats().available_blocks + copied + 64 >= available);
        write(sim, *target, 10, part(data, 10, 100));
        REQUIRE(unshare(sim, *target, 0, 0, true).ok());
        CHECK(sim.volume().store().shared_blocks() == 0);
        CHECK(sim.read_all(*target) == data);
        sim.world().inside([&] {
          source.reset();
          target.reset();
        });
        require_consistent(sim.unmount(), {uint64_t{64} << 20, uint64_t{16} << 20});
      });
    }
  }
}

}  // namespace
}  // namespace fusefs
