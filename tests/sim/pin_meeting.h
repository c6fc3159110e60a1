// A file that is pinned or mapped, and stored into while others come to it.
#pragma once

#include <functional>
#include <vector>

#include "tests/sim/pinnable_file.h"
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {

// How the pinner has its pages.
enum class Held : uint8_t {
  pinned,
  mapped,
  mapped_late,  // by somebody who may be slow to answer
};

// A file that is pinned and stored into.
struct Meeting : PinnableFile {
  explicit Meeting(const TestSeed& a_seed, const SimVolumeOptions& an_options = {},
                   Held held = Held::pinned)
      : PinnableFile(a_seed, an_options) {
    add_pinner();
    if (held != Held::pinned) {
      pinner->use_faults();
      if (held == Held::mapped_late) pinner->may_be_late();
    } else if (seed.seed % 2 == 0) {
      pinner->use_frames();
    }
    REQUIRE(pinner->pin().ok());
    pinner->store_all();
  }

  // As require_read(), and nobody stores any more.
  void require_now(const std::vector<size_t>& since) {
    pinner->stop();
    pinner->observe();
    require_read(since);
  }
  // Every page of [first, end) becomes this, at some time from now on.
  void will_be(uint64_t first, uint64_t end, uint64_t word) {
    PageState state;
    state.fill(word);
    for (uint64_t page = first; page < end; ++page) history.add(page, state);
  }
  uint64_t stores_during(const std::function<void()>& what) {
    pinner->start();
    const uint64_t before = pinner->stores();
    what();
    const uint64_t stores = pinner->stores() - before;
    pinner->stop();
    pinner->observe();
    return stores;
  }
  // Unlinked, the file lives as long as the pin, which ends here, and leaves its space.
  void require_life_until_unpin() {
    NamespaceStash stash;
    REQUIRE(sim.world()
                .run([&] { return sim.volume().names().unlink(kRootInode, "file", stash); })
                .ok());
    sim.world().inside([&] { sim.volume().release_inode(inode->ino); });
    stores_during([&] {
      sim.world().run_for(5 * kNsPerSecond);
      require_fsync();
    });
    CHECK(inode->life == Inode::Life::live);
    require_read(history.durable());
    REQUIRE(sim.sync().ok());
    const uint64_t before = sim.volume().space().stats().available_blocks;
    sim.world().inside([&] { inode.reset(); });
    REQUIRE(pinner->unpin().ok());
    sim.world().run_for(10 * kNsPerSecond);
    CHECK(sim.volume().space().stats().available_blocks >= before + kPages);
  }
  std::vector<size_t> end_states() {
    pinner->stop();
    pinner->observe();
    return history.now();
  }
};

inline void for_each_mapped(uint64_t seeds, const std::function<void(Meeting&)>& body) {
  for_each_seed(seeds, [&](const TestSeed& seed) {
    Meeting meeting(seed, {}, Held::mapped);
    body(meeting);
  });
}

}  // namespace fusefs
