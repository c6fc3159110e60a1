// Faults one by one: what they read, what they move, what they hold while they wait, and what is
// left after an error. What happens between their attempts: fault_race_test.cc.
#include "core/file/fault.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/memory/shared_blocks.h"
#include "tests/support/sim_volume.h"
#include "tests/support/stepped.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using How = SimVolume::How;
using Content = std::vector<std::byte>;

constexpr uint64_t kPages = 32;

Content pattern(uint64_t pages, int first) {
  Content content(pages * kPageBytes);
  for (uint64_t i = 0; i < content.size(); ++i) {
    content[i] = static_cast<std::byte>(first + static_cast<int>(i / kPageBytes + i % 7) % 60);
  }
  return content;
}

// A file on the device and nowhere else.
InodeRef cold_file(SimVolume& sim, const std::string& name, const Content& content) {
  const InodeRef inode = sim.create(name);
  REQUIRE(sim.write(*inode, 0, content, How::direct).ok());
  REQUIRE(sim.sync().ok());
  return inode;
}

InodeRef clone_of(SimVolume& sim, Inode& inode, const std::string& name) {
  const InodeRef clone = sim.create(name);
  REQUIRE(sim.clone(inode, 0, *clone, 0, inode.attr.size).ok());
  REQUIRE(sim.sync().ok());
  return clone;
}

// Reads of file contents; the tree's nodes are small in number and read once.
uint64_t device_read_bytes(SimVolume& sim) { return sim.device().stats().bytes(IoKind::read); }

// One fault and, for a write, a store into the page it got.
struct FaultCall {
  FileContext& files;
  InodeRef inode;
  FileBlock index;
  FaultKind kind;
  FaultStash stash = {};
  Content got = {};

  Attempt<void> attempt() {
    Attempt<FolioRef> page = fault(files, *inode, index, kind, stash);
    if (!page.ok()) return Unfinished(page);
    const FolioRef& folio = page.value();
    REQUIRE(folio->uptodate);
    REQUIRE_FALSE(folio->locked);
    got.assign(folio->frame, folio->frame + kPageBytes);
    if (kind == FaultKind::read) return {};
    REQUIRE(folio->mapping == &inode->mapping);
    REQUIRE_FALSE(folio->writeback);
    std::memset(folio->frame, 'W', 16);
    make_dirty(files, {folio, stash.reservation.count() != BlockCount(0), false}, stash);
    touch_contents(files, *inode);
    stash.reset();
    return {};
  }
};

Result<void> run_fault(SimVolume& sim, FaultCall& call) {
  return sim.world().run([&] { return call.attempt(); });
}

bool page_is(const Content& got, const Content& file, uint64_t page) {
  return std::equal(got.begin(), got.end(),
                    file.begin() + static_cast<ptrdiff_t>(page * kPageBytes));
}

TEST_CASE("reading clones costs the device reads and the memory of one") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.cache_bytes = 4 * kPages * kPageBytes;
    SimVolume sim(seed, options);
    const Content content = pattern(kPages, 1);
    std::vector<InodeRef> files = {cold_file(sim, "original", content)};
    for (int i = 0; i < 5; ++i) {
      files.push_back(clone_of(sim, *files[0], "clone" + std::to_string(i)));
    }
    const uint64_t before = device_read_bytes(sim);
    for (const InodeRef& file : files) CHECK(sim.read_all(*file) == content);
    CHECK(device_read_bytes(sim) - before == content.size());
    CHECK(sim.volume().cache().shared().size() == kPages);
    CHECK(sim.files().faults.read_count == files.size());
    for (const InodeRef& file : files) CHECK(file->mapping.empty());
  });
}

TEST_CASE("readers of clones at the same time read each shared page once") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.cache_bytes = 4 * kPages * kPageBytes;
    SimVolume sim(seed, options);
    const Content content = pattern(kPages, 1);
    const InodeRef original = cold_file(sim, "original", content);
    const InodeRef clone = clone_of(sim, *original, "clone");
    const uint64_t before = device_read_bytes(sim);
    struct Call {
      AlignedBuffer buffer{kPages * kPageBytes};
      ReadStash stash;
    };
    size_t running = 0;
    Random random = sim.world().random().fork();
    for (int i = 0; i < 6; ++i) {
      const uint64_t first = random.below(kPages);
      const uint64_t len = random.between(1, (kPages - first) * kPageBytes);
      auto call = std::make_shared<Call>();
      ++running;
      const InodeRef& from = i % 2 == 0 ? original : clone;
      sim.world().spawn(
          [&, call, first, len] {
            return read_file(sim.files(), *from, first * kPageBytes, len, call->buffer.bytes(),
                             call->stash);
          },
          [&, call, first, len](Result<size_t> got) {
            --running;
            REQUIRE(got.ok());
            REQUIRE(got.value() == len);
            CHECK(std::equal(call->buffer.data(), call->buffer.data() + len,
                             content.begin() + static_cast<ptrdiff_t>(first * kPageBytes)));
          });
    }
    REQUIRE(sim.world().run_until([&] { return running == 0; }));
    CHECK(device_read_bytes(sim) - before <= content.size());
  });
}

TEST_CASE("a write fault takes a shared page's bytes from memory and moves the page") {
  struct Teller final : Translations {
    explicit Teller(Inode& a_inode) : inode(a_inode) {}
    void unmap(FileRange range) override {
      ++told;
      CHECK(range.contains(FileBlock(3)));
      CHECK_FALSE(inode.mapping.find(FileBlock(3)));  // not visible before everybody was told
    }
    Inode& inode;
    int told = 0;
  };
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const Content content = pattern(kPages, 1);
    const InodeRef original = cold_file(sim, "original", content);
    const InodeRef clone = clone_of(sim, *original, "clone");
    CHECK(sim.read(*clone, 3 * kPageBytes, kPageBytes).ok());
    const uint64_t before = device_read_bytes(sim);

    Teller teller(*original);
    original->mapping.set_translations(&teller);
    Teller neighbour(*clone);
    clone->mapping.set_translations(&neighbour);
    FaultCall call{sim.files(), original, FileBlock(3), FaultKind::write};
    Stepped<void> write(sim.world(), [&] { return call.attempt(); });
    REQUIRE(write.finish());
    REQUIRE(write.outcome().ok());
    CHECK(write.reasons() == std::vector<RestartReason>{RestartReason::again});
    CHECK(page_is(call.got, content, 3));
    CHECK(device_read_bytes(sim) == before);
    CHECK(teller.told == 1);
    CHECK(neighbour.told == 0);
    original->mapping.set_translations(nullptr);
    clone->mapping.set_translations(nullptr);
    CHECK(sim.files().faults.page_replaced_count == 1);
    CHECK(sim.files().faults.stash_reused_count >= 1);

    Content changed = content;
    std::fill_n(changed.begin() + 3 * kPageBytes, 16, std::byte{'W'});
    CHECK(sim.read_all(*original) == changed);
    CHECK(sim.read_all(*clone) == content);
    REQUIRE(sim.sync().ok());
    CHECK(sim.read_all(*original) == changed);
    CHECK(sim.read_all(*clone) == content);
  });
}

TEST_CASE("a page of a hole is zeroes, and a page beyond the end cannot be had") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const InodeRef inode = sim.create("sparse");
    REQUIRE(sim.truncate(*inode, 3 * kPageBytes + 1).ok());
    for (const FaultKind kind : {FaultKind::read, FaultKind::write}) {
      FaultCall inside{sim.files(), inode, FileBlock(3), kind};
      REQUIRE(run_fault(sim, inside).ok());
      CHECK(inside.got == Content(kPageBytes));
      FaultCall beyond{sim.files(), inode, FileBlock(4), kind};
      CHECK(run_fault(sim, beyond).error() == Error::beyond_eof);
    }
    // Perhaps the flusher has been there.
    CHECK(inode->delayed_blocks + inode->attr.block_count == BlockCount(1));
  });
}

TEST_CASE("without space a write fault on a shared page leaves everything as it was") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const Content content = pattern(kPages, 1);
    const InodeRef original = cold_file(sim, "original", content);
    const InodeRef clone = clone_of(sim, *original, "clone");
    Reservation all = sim.take_space();
    FaultCall call{sim.files(), original, FileBlock(3), FaultKind::write};
    CHECK(run_fault(sim, call).error() == Error::no_space);
    CHECK(original->mapping.empty());
    CHECK(sim.files().faults.page_replaced_count == 0);
    sim.world().inside([&] { all.release(); });
    CHECK(sim.read_all(*original) == content);
    CHECK(sim.read_all(*clone) == content);
  });
}

// Makes the next read of file contents take a second.
SimDevice::FaultId slow_reads(SimVolume& sim) {
  SimFault fault;
  fault.kind = IoKind::read;
  fault.addr_first = block_addr(sim.volume().space().data_first());
  fault.delay_ns = kNsPerSecond;
  return sim.device().add_fault(fault);
}

TEST_CASE("who waits for the device keeps nobody from cutting the file, unless told to hold") {
  for (const FaultPolicy policy : {FaultPolicy::restart, FaultPolicy::hold}) {
    for_each_seed(4, [policy](const TestSeed& seed) {
      SimVolumeOptions options;
      options.fault_policy = policy;
      SimVolume sim(seed, options);
      const Content content = pattern(kPages, 1);
      const InodeRef inode = cold_file(sim, "slow", content);
      const SimDevice::FaultId slow = slow_reads(sim);
      FaultCall call{sim.files(), inode, FileBlock(3), FaultKind::write};
      Stepped<void> write(sim.world(), [&] { return call.attempt(); });
      while (write.reasons().empty() || write.reasons().back() != RestartReason::data_io) {
        REQUIRE(write.step());
      }
      sim.device().remove_fault(slow);
      const uint64_t begin_ns = sim.world().clock().monotonic_ns();
      std::optional<uint64_t> took_ns;
      auto stash = std::make_shared<ShapeStash>();
      sim.world().spawn([&, stash]() -> Attempt<void> {
        const Attempt<void> cut = set_size(sim.files(), *inode, kPageBytes, false, *stash);
        // Not when the outcome is told: the simulation may put that off as long as it likes.
        if (cut.ok()) took_ns = sim.world().clock().monotonic_ns() - begin_ns;
        return cut;
      });
      REQUIRE(write.finish());
      REQUIRE(sim.world().run_until([&] { return took_ns.has_value(); }));
      if (policy == FaultPolicy::restart) {
        CHECK(*took_ns < kNsPerSecond / 2);
        CHECK(write.outcome().error() == Error::beyond_eof);
        CHECK(sim.files().faults.stash_discarded_count == 1);
      } else {
        CHECK(*took_ns > kNsPerSecond / 2);
        CHECK(write.outcome().ok());
      }
      CHECK(sim.files().faults.page_gone_count == 0);
      CHECK(inode->attr.size == kPageBytes);
      CHECK(sim.read_all(*inode) == Content(content.begin(), content.begin() + kPageBytes));
    });
  }
}

TEST_CASE("an error of the read is told although the page has gone meanwhile") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const Content content = pattern(kPages, 1);
    const InodeRef inode = cold_file(sim, "broken", content);
    const SimDevice::FaultId id = sim.device().add_fault(sim.data_fault(IoKind::read));
    FaultCall call{sim.files(), inode, FileBlock(3), FaultKind::write};
    Stepped<void> write(sim.world(), [&] { return call.attempt(); });
    while (write.reasons().empty() || write.reasons().back() != RestartReason::data_io) {
      REQUIRE(write.step());
    }
    sim.device().remove_fault(id);
    REQUIRE(sim.truncate(*inode, kPageBytes).ok());
    REQUIRE(write.finish());
    CHECK(write.outcome().error() == Error::io_failed);
    CHECK(inode->mapping.dirty_count() == 0);
    CHECK(sim.read_all(*inode) == Content(content.begin(), content.begin() + kPageBytes));
  });
}

TEST_CASE("a fault whose range others keep changing gets its page in the end") {
  for_each_seed(4, [](const TestSeed& seed) {
    SimVolume sim(seed);
    const Content content = pattern(kPages, 1);
    const InodeRef inode = cold_file(sim, "contended", content);
    AlignedBuffer block(kPageBytes);
    std::fill_n(block.data(), kPageBytes, std::byte{'D'});
    FaultCall call{sim.files(), inode, FileBlock(3), FaultKind::write};
    Stepped<void> write(sim.world(), [&] { return call.attempt(); });
    for (int round = 0; round < 100 && !write.ended(); ++round) {
      write.step();
      const bool reading =
          !write.reasons().empty() && write.reasons().back() == RestartReason::data_io;
      if (!reading || inode->pages_lock.holder_count() != 0) continue;
      REQUIRE(sim.write(*inode, 3 * kPageBytes, block.bytes(), How::direct).ok());
    }
    REQUIRE(write.finish());
    CHECK(write.outcome().ok());
    CHECK(sim.files().faults.stash_discarded_count == kFaultRoundsMax);
    CHECK(call.got == Content(kPageBytes, std::byte{'D'}));
  });
}

TEST_CASE("with little memory reads of clones are right, and no page is gone at a restart") {
  for_each_seed(6, [](const TestSeed& seed) {
    SimVolume sim(seed);  // 64 pages
    const Content content = pattern(4 * kPages, 1);
    const InodeRef original = cold_file(sim, "original", content);
    const InodeRef clone = clone_of(sim, *original, "clone");
    Random random = sim.world().random().fork();
    struct Call {
      AlignedBuffer buffer{4 * kPages * kPageBytes};
      ReadStash stash;
    };
    size_t running = 0;
    for (int i = 0; i < 12; ++i) {
      auto call = std::make_shared<Call>();
      ++running;
      const InodeRef& from = random.chance(0.5) ? original : clone;
      sim.world().spawn(
          [&, call] {
            return read_file(sim.files(), *from, 0, content.size(), call->buffer.bytes(),
                             call->stash);
          },
          [&, call](Result<size_t> got) {
            --running;
            REQUIRE(got.ok());
            CHECK(std::equal(content.begin(), content.end(), call->buffer.data()));
          });
    }
    REQUIRE(sim.world().run_until([&] { return running == 0; }));
    CHECK(sim.files().faults.page_gone_count == 0);
  });
}

}  // namespace
}  // namespace fusefs
