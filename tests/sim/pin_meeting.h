// A file that is pinned or mapped, and stored into while others come to it.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tests/sim/pin_rig.h"
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {

inline constexpr uint64_t kPages = 12;
inline constexpr FileRange kRange{FileBlock(2), FileBlock(10)};

// How the pinner has its pages.
enum class Held : uint8_t {
  pinned,
  mapped,
  mapped_late,  // by somebody who may be slow to answer
};

// A file that is pinned and stored into.
struct Meeting {
  explicit Meeting(const TestSeed& a_seed, const SimVolumeOptions& an_options = {},
                   Held held = Held::pinned)
      : seed(a_seed), options(an_options), sim(seed, options), history(kPages) {
    inode = pinnable_file(sim, "file", kPages, 1, &history);
    pinner = std::make_unique<Pinner>(sim, inode, kRange, history);
    if (held != Held::pinned) {
      pinner->use_faults();
      if (held == Held::mapped_late) pinner->may_be_late();
    } else if (seed.seed % 2 == 0) {
      pinner->use_frames();
    }
    REQUIRE(pinner->pin().ok());
    pinner->store_all();
  }

  // What the file reads as must be what it looked like at or after `since`.
  void require_now(const std::vector<size_t>& since) {
    pinner->stop();
    pinner->observe();
    history.require(sim.read_all(*inode), since);
  }
  // The same on the device after a power cut, for what was durable.
  void require_after_cut() {
    pinner->forget();
    sim.world().inside([&] {
      inode.reset();
      others.clear();
    });
    SimVolume again(seed, options, sim.power_cut());
    history.require(again.read_all(*again.lookup("file")), history.durable());
  }
  // Every page of [first, end) becomes this, at some time from now on.
  void will_be(uint64_t first, uint64_t end, uint64_t word) {
    PageState state;
    state.fill(word);
    for (uint64_t page = first; page < end; ++page) history.add(page, state);
  }
  Inode& create(const char* name) {
    others.push_back(sim.create(name));
    return *others.back();
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
  std::vector<size_t> end_states() {
    pinner->stop();
    pinner->observe();
    return history.now();
  }

  const TestSeed seed;
  const SimVolumeOptions options;
  SimVolume sim;
  PageHistory history;
  InodeRef inode;
  std::vector<InodeRef> others;
  std::unique_ptr<Pinner> pinner;
};

}  // namespace fusefs
