// The store without power cuts: transactions, checkpoints, mounts, errors.
#include "core/format/item_format.h"
#include "tests/sim/store_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using Options = StoreRig::Options;
using MaybeItem = std::optional<std::pair<Key, StoreValue>>;

Key numbered(uint64_t number) { return dirent_key(InodeNo(10 + number / 100), number % 100); }

MaybeItem copy_of(const std::optional<Item>& item) {
  if (!item) return std::nullopt;
  return std::pair(item->key, StoreValue(item->value.begin(), item->value.end()));
}
MaybeItem copy_of(const StoreContent& content, StoreContent::const_iterator at) {
  return at == content.end() ? MaybeItem() : MaybeItem(*at);
}

// Compares what a transaction sees around `key` with the model.
Attempt<void> compare(Transaction& txn, const StoreContent& model, const Key& key) {
  ATTEMPT(const auto exact, txn.find(key));
  REQUIRE(copy_of(exact) == copy_of(model, model.find(key)));
  ATTEMPT(const auto after, txn.at_or_after(key));
  REQUIRE(copy_of(after) == copy_of(model, model.lower_bound(key)));
  ATTEMPT(const auto before, txn.at_or_before(key));
  const auto above = model.upper_bound(key);
  const auto expected = above == model.begin() ? MaybeItem() : MaybeItem(*std::prev(above));
  REQUIRE(copy_of(before) == expected);
  return {};
}

}  // namespace

TEST_CASE("a transaction sees its own changes on top of the tree, and nobody else does") {
  for_each_seed(2, [](const TestSeed& seed) {
    StoreRig rig({.seed = seed.seed, .forced = seed.forced_restart_probability},
                 formatted_image(seed.seed));
    REQUIRE(rig.mount().ok());
    Random random(seed.seed + 100);
    StoreContent committed = rig.content();
    for (int round = 0; round < 30; ++round) {
      // The steps are drawn once: an attempt that restarts does the same again.
      const uint64_t steps_seed = random.next();
      StoreContent model;
      const auto fill = [&](Transaction& txn) -> Attempt<void> {
        Random steps(steps_seed);
        model = committed;
        for (int step = 0; step < 20; ++step) {
          const Key key = numbered(steps.below(300));
          if (steps.below(2) == 0) {
            txn.erase(key);
            model.erase(key);
          } else {
            model[key] = store_value(steps, 200);
            txn.put(key, model[key]);
          }
          ATTEMPT_OK(compare(txn, model, numbered(steps.below(300))));
        }
        return {};
      };
      if (random.below(4) == 0) {
        // Dropped without a commit.
        NodePins pins;
        REQUIRE(rig.world()
                    .run([&]() -> Attempt<void> {
                      Transaction txn(rig.store(), pins);
                      return fill(txn);
                    })
                    .ok());
      } else {
        REQUIRE(rig.transact(fill).ok());
        committed = model;
      }
      REQUIRE(rig.content() == committed);
    }
  });
}

TEST_CASE("erasing everything leaves nothing to find at either side") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  REQUIRE(rig.transact([&](Transaction& txn) -> Attempt<void> {
               for (uint64_t i = 0; i < 10; ++i) txn.put(numbered(i), {});
               return {};
             })
              .ok());
  REQUIRE(rig.transact([&](Transaction& txn) -> Attempt<void> {
               for (uint64_t i = 0; i < 10; ++i) txn.erase(numbered(i));
               txn.erase(inode_key(kRootInode));
               ATTEMPT(const auto first, txn.at_or_after(Key{}));
               CHECK_FALSE(first.has_value());
               ATTEMPT(const auto last, txn.at_or_before(orphan_key(InodeNo(~uint64_t{0}))));
               CHECK_FALSE(last.has_value());
               return {};
             })
              .ok());
  CHECK(rig.content().empty());
  REQUIRE(rig.unmount().ok());
  CHECK(rig.read_superblock().superblock.tree_root_generation == 0);
}

TEST_CASE(
    "a transaction may empty a leaf and fill its place again, with the neighbours not cached") {
  for_each_seed(1, [](const TestSeed& seed) {
    // Four items fill a leaf.
    const StoreValue large(4000);
    StoreContent model;
    StoreRig rig({.seed = seed.seed}, formatted_image(seed.seed));
    REQUIRE(rig.mount().ok());
    for (uint64_t i = 0; i < 400; ++i) REQUIRE(rig.put(numbered(2 * i), large).ok());
    model = rig.content();
    REQUIRE(rig.unmount().ok());

    StoreRig again(
        {.seed = seed.seed, .forced = seed.forced_restart_probability, .cached_nodes_max = 4},
        rig.world().power_cut());
    REQUIRE(again.mount().ok());
    for (uint64_t i = 40; i < 360; i += 11) {
      const Key last = numbered(2 * (i + 7) + 1);
      REQUIRE(again
                  .transact([&](Transaction& txn) -> Attempt<void> {
                    for (uint64_t k = i; k < i + 8; ++k) txn.erase(numbered(2 * k));
                    txn.put(last, {});
                    return {};
                  })
                  .ok());
      for (uint64_t k = i; k < i + 8; ++k) model.erase(numbered(2 * k));
      model[last] = {};
    }
    CHECK(again.content() == model);
  });
}

TEST_CASE("a transaction has room for a bounded number of changes and bytes") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  uint32_t changes = 0;
  const Result<JournalSeq> done = rig.transact([&](Transaction& txn) -> Attempt<void> {
    const StoreValue value(kItemValueBytesMax);
    changes = 0;
    while (txn.has_room(1)) txn.put(numbered(100 * changes++), value);
    CHECK(txn.change_count() == changes);
    return {};
  });
  REQUIRE(done.ok());
  CHECK(changes >= 20);
  CHECK(changes * uint64_t{kItemValueBytesMax} <= kTransactionBytesMax);
}

TEST_CASE("blocks that a transaction allocates and releases again are free, the others are not") {
  for_each_seed(2, [](const TestSeed& seed) {
    StoreRig rig({.seed = seed.seed, .forced = seed.forced_restart_probability},
                 formatted_image(seed.seed));
    REQUIRE(rig.mount().ok());
    const uint64_t free_before = rig.space().stats().free_blocks;
    std::optional<Reservation> reservation;
    std::optional<BlockRange> blocks;
    NodePins pins;
    const auto outcome = rig.world().run([&]() -> Attempt<JournalSeq> {
      if (!reservation) ATTEMPT_INTO(reservation, rig.space().reserve(BlockCount(16)));
      if (!blocks) {
        ATTEMPT_INTO(blocks, rig.space().allocate(BlockCount(16), std::nullopt, *reservation));
      }
      Transaction txn(rig.store(), pins);
      const BlockNo first = blocks->first;
      txn.allocate({first, first + BlockCount(6)});
      txn.allocate({first + BlockCount(6), blocks->end});
      CHECK(txn.change_count() == 1);
      txn.release({first + BlockCount(4), first + BlockCount(8)});
      txn.release({first + BlockCount(10), first + BlockCount(11)});
      ATTEMPT_OK(txn.prepare());
      return txn.commit();
    });
    REQUIRE(outcome.ok());
    REQUIRE(blocks->count() == BlockCount(16));
    REQUIRE(rig.wait_durable(outcome.value()).ok());
    const auto check = [&](StoreRig& on) {
      for (uint64_t i = 0; i < 16; ++i) {
        const bool released = (i >= 4 && i < 8) || i == 10;
        CHECK(on.is_allocated(blocks->first + BlockCount(i)) == !released);
      }
    };
    check(rig);
    const SimImage image = rig.world().power_cut();
    StoreRig again({.seed = seed.seed + 1}, image);
    REQUIRE(again.mount().ok());
    check(again);
    CHECK(again.space().stats().free_blocks == free_before - 11);
  });
}

TEST_CASE("after an unmount the volume is clean, and the next mount replays nothing") {
  for_each_seed(2, [](const TestSeed& seed) {
    const double forced = seed.forced_restart_probability;
    SimImage image = formatted_image(seed.seed);
    Random random(seed.seed);
    StoreContent model;
    for (uint64_t mounts = 1; mounts <= 3; ++mounts) {
      StoreRig rig({.seed = seed.seed + mounts, .forced = forced}, image);
      REQUIRE(rig.mount().ok());
      CHECK(rig.store().replayed_transactions() == 0);
      if (mounts == 1) {
        model = rig.content();
      } else {
        CHECK((rig.found().superblock.flags & kVolumeClean) != 0);
        CHECK(rig.content() == model);
      }
      CHECK(rig.read_superblock().superblock.mount_count == mounts);
      CHECK((rig.read_superblock().superblock.flags & kVolumeClean) == 0);
      // A checkpoint that a crash has left unfinished has used a number.
      CHECK(rig.read_superblock().superblock.checkpoint_no > rig.found().superblock.checkpoint_no);
      for (int i = 0; i < 300; ++i) {
        const Key key = numbered(random.below(1000));
        model[key] = store_value(random, 500);
        REQUIRE(rig.put(key, model[key]).ok());
      }
      rig.world().inside([&] {
        rig.store().set_label("volume " + std::to_string(mounts));
        rig.store().set_next_inode(InodeNo(100 * mounts));
      });
      REQUIRE(rig.unmount().ok());
      const Superblock sb = rig.read_superblock().superblock;
      CHECK((sb.flags & kVolumeClean) != 0);
      CHECK(std::string(reinterpret_cast<const char*>(sb.label)) ==
            "volume " + std::to_string(mounts));
      CHECK(sb.next_inode == 100 * mounts);
      image = rig.world().power_cut();
    }
  });
}

TEST_CASE("what is committed reaches a checkpoint by itself within the interval") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  REQUIRE(rig.put(numbered(1), StoreValue(10)).ok());
  const uint64_t before = rig.store().stats().checkpoint_count;
  REQUIRE(rig.world().run_for(kCheckpointIntervalNs + 5 * kNsPerSecond));
  CHECK(rig.store().stats().checkpoint_count == before + 1);
  CHECK(rig.store().tree().dirty_count() == 0);
  // With nothing new there is nothing to do.
  REQUIRE(rig.world().run_for(10 * kCheckpointIntervalNs));
  CHECK(rig.store().stats().checkpoint_count == before + 1);
}

TEST_CASE("many more changes than journal and node reserve hold go through, by checkpoints") {
  for_each_seed(1, [](const TestSeed& seed) {
    StoreRig rig({.seed = seed.seed, .forced = seed.forced_restart_probability / 4},
                 formatted_image(seed.seed));
    REQUIRE(rig.mount().ok());
    StoreContent model = rig.content();
    Random random(seed.seed);
    uint64_t done = 0;
    constexpr uint64_t kTransactions = 400;
    // 16 MiB through a journal of 4 MiB, spread over more leaves than may be dirty.
    for (uint64_t i = 0; i < kTransactions; ++i) {
      auto changes = std::make_shared<StoreContent>();
      for (int k = 0; k < 10; ++k) {
        (*changes)[numbered(random.below(2000))] = store_value(random, kItemValueBytesMax);
      }
      auto pins = std::make_shared<NodePins>();
      rig.world().spawn(
          [&rig, &model, changes, pins]() -> Attempt<void> {
            Transaction txn(rig.store(), *pins);
            for (const auto& [key, value] : *changes) txn.put(key, value);
            ATTEMPT_OK(txn.prepare());
            txn.commit();
            for (const auto& [key, value] : *changes) model[key] = value;
            return {};
          },
          [&done](Result<void> outcome) { done += outcome.ok() ? 1 : 0; });
    }
    REQUIRE(rig.world().run_until([&] { return done == kTransactions; }));
    CHECK(rig.store().stats().checkpoint_count > 3);
    CHECK(rig.content() == model);
    REQUIRE(rig.unmount().ok());
    StoreRig again({.seed = seed.seed + 1}, rig.world().power_cut());
    REQUIRE(again.mount().ok());
    CHECK(again.content() == model);
  });
}

TEST_CASE("a transaction that needs many nodes is not kept out for ever by small ones") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  for (uint64_t i = 0; i < 4000; ++i) REQUIRE(rig.put(numbered(i), StoreValue(1000)).ok());
  bool stop = false;
  uint64_t small_count = 0;
  for (uint64_t writer = 0; writer < 200; ++writer) {
    auto pins = std::make_shared<NodePins>();
    auto random = std::make_shared<Random>(writer);
    rig.world().spawn([&, pins, random]() -> Attempt<void> {
      while (!stop) {
        const Key key = numbered(random->below(4000));
        Transaction txn(rig.store(), *pins);
        txn.put(key, StoreValue(1000));
        ATTEMPT_OK(txn.prepare());
        txn.commit();
        ++small_count;
        Operation::current()->note_progress();
        return restart_now();
      }
      return {};
    });
  }
  REQUIRE(rig.world().run_until([&] { return small_count > 2000; }));
  const uint64_t before = small_count;
  REQUIRE(rig.transact([&](Transaction& txn) -> Attempt<void> {
               for (uint64_t i = 0; i < 24; ++i) txn.put(numbered(160 * i), StoreValue(1200));
               return {};
             })
              .ok());
  CHECK(small_count - before < 2000);
  stop = true;
  REQUIRE(rig.world().run_until_idle());
}

TEST_CASE("the number of shared blocks follows the shared items, also through replay") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  const auto shared = [](uint64_t length) {
    const SharedValue value{length, uint32_t{2}, uint32_t{0}};
    const ConstBytes bytes = bytes_of(value);
    return StoreValue(bytes.begin(), bytes.end());
  };
  const BlockNo first = rig.space().data_first();
  REQUIRE(rig.put(shared_key(first), shared(10)).ok());
  REQUIRE(rig.put(shared_key(first + BlockCount(100)), shared(5)).ok());
  REQUIRE(rig.put(shared_key(first), shared(7)).ok());
  CHECK(rig.store().shared_blocks() == 12);
  REQUIRE(rig.checkpoint().ok());
  CHECK(rig.read_superblock().superblock.shared_blocks == 12);
  const auto last = rig.erase(shared_key(first + BlockCount(100)));
  CHECK(rig.store().shared_blocks() == 7);
  REQUIRE(rig.wait_durable(last.value()).ok());
  StoreRig again({.seed = 2}, rig.world().power_cut());
  REQUIRE(again.mount().ok());
  CHECK(again.store().shared_blocks() == 7);
}

TEST_CASE("a read-only volume replays in memory and writes nothing") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  StoreContent model = rig.content();
  JournalSeq last;
  for (uint64_t i = 0; i < 500; ++i) {
    model[numbered(7 * i)] = StoreValue(300);
    last = rig.put(numbered(7 * i), model[numbered(7 * i)]).value();
  }
  model[inode_key(InodeNo(77))] = StoreValue(sizeof(InodeValue));
  last = rig.put(inode_key(InodeNo(77)), model[inode_key(InodeNo(77))]).value();
  REQUIRE(rig.wait_durable(last).ok());
  const SimImage image = rig.world().power_cut();
  for (int times = 0; times < 2; ++times) {
    StoreRig again({.seed = 2, .read_only = true}, image);
    REQUIRE(again.mount().ok());
    CHECK(again.content() == model);
    CHECK(again.store().replayed_transactions() > 0);
    CHECK(again.store().replayed_bytes() > 0);
    CHECK(again.max_inode() == 77);
    CHECK(again.put(numbered(1), {}).error() == Error::read_only_volume);
    CHECK(again.unmount().ok());
    REQUIRE(again.world().run_for(2 * kCheckpointIntervalNs));
    CHECK(again.world().device().stats().change_count == 0);
  }
}

TEST_CASE("when a checkpoint cannot be written the volume turns read-only and keeps what it had") {
  for_each_seed(1, [](const TestSeed& seed) {
    for (const bool superblock : {false, true}) {
      CAPTURE(superblock);
      StoreRig rig({.seed = seed.seed, .forced = seed.forced_restart_probability},
                   formatted_image(seed.seed));
      REQUIRE(rig.mount().ok());
      StoreContent model = rig.content();
      JournalSeq last;
      for (uint64_t i = 0; i < 200; ++i) {
        model[numbered(i)] = StoreValue(100);
        last = rig.put(numbered(i), model[numbered(i)]).value();
      }
      REQUIRE(rig.wait_durable(last).ok());
      SimFault fault;
      fault.kind = IoKind::write;
      fault.error = Error::io_failed;
      if (superblock) {
        fault.addr_end = block_addr(BlockNo(kFirstUsableBlock));
      } else {
        fault.addr_first = block_addr(rig.space().data_first());
      }
      rig.world().inside([&] { rig.world().device().add_fault(fault); });
      CHECK(rig.checkpoint().error() == Error::io_failed);
      CHECK(rig.health().failed());
      CHECK(rig.health().reason().find("checkpoint") != std::string::npos);
      CHECK(rig.health().reason().find(superblock ? "superblock" : "block ") != std::string::npos);
      CHECK(rig.put(numbered(1), {}).error() == Error::read_only_volume);
      CHECK(rig.checkpoint().error() == Error::io_failed);
      CHECK(rig.unmount().error() == Error::io_failed);
      CHECK(rig.content() == model);

      StoreRig again({.seed = seed.seed + 1}, rig.world().power_cut());
      REQUIRE(again.mount().ok());
      CHECK(again.content() == model);
    }
  });
}

TEST_CASE("a journal that cannot be written fails whoever waits for room, nodes or durability") {
  StoreRig rig({}, formatted_image(1));
  REQUIRE(rig.mount().ok());
  const Superblock& sb = rig.found().superblock;
  SimFault fault;
  fault.kind = IoKind::write;
  fault.error = Error::io_failed;
  fault.addr_first = block_addr(BlockNo(sb.journal_first));
  fault.addr_end = block_addr(BlockNo(sb.journal_first + sb.journal_blocks));
  rig.world().inside([&] { rig.world().device().add_fault(fault); });
  int told = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    auto pins = std::make_shared<NodePins>();
    rig.world().spawn(
        [&rig, i, pins]() -> Attempt<void> {
          Transaction txn(rig.store(), *pins);
          for (uint64_t k = 0; k < 10; ++k) txn.put(numbered(1000 * i + 100 * k), StoreValue(4000));
          ATTEMPT_OK(txn.prepare());
          txn.commit();
          return {};
        },
        [&told](Result<void> outcome) { told += outcome.ok() ? 0 : 1; });
  }
  REQUIRE(rig.world().run_until_idle());
  CHECK(told > 0);
  CHECK(rig.health().failed());
  CHECK(rig.checkpoint().error() == Error::io_failed);
}

}  // namespace fusefs
