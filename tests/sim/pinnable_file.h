// A file on a volume of its own that may be pinned, and all that its pages have looked like. Who
// pins it stores into it when he is told to; pin_meeting.h has one who is about while others come.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tests/sim/pin_rig.h"

#include <doctest/doctest.h>

namespace fusefs {

inline constexpr uint64_t kPages = 12;
inline constexpr FileRange kRange{FileBlock(2), FileBlock(10)};

struct PinnableFile {
  explicit PinnableFile(const TestSeed& a_seed, const SimVolumeOptions& an_options = {},
                        uint64_t pages = kPages)
      : seed(a_seed),
        options(an_options),
        sim(seed, options),
        history(pages),
        inode(pinnable_file(sim, "file", pages, 1, &history)) {}

  // He pins nothing yet.
  Pinner& add_pinner(FileRange range = kRange) {
    pinner = std::make_unique<Pinner>(sim, inode, range, history);
    return *pinner;
  }
  // Another file, and let go with this one.
  Inode& create(const char* name) {
    others.push_back(sim.create(name));
    return *others.back();
  }

  // What the file looks like now, or later, is durable.
  void require_fsync() { REQUIRE(fsync(sim, inode, &history).ok()); }
  // What the file reads as must be what it looked like at or after `since`.
  void require_read(const std::vector<size_t>& since) {
    history.require(sim.read_all(*inode), since);
  }

  // No reference to the volume's files is left.
  void let_go() {
    if (pinner) pinner->forget();
    sim.world().inside([this] {
      inode.reset();
      others.clear();
    });
  }
  // What the file holds when the power has been cut, or after an unmount: the end of `sim`.
  Content after_cut() {
    let_go();
    return content_of(sim.power_cut());
  }
  Content after_unmount() {
    let_go();
    return content_of(sim.unmount());
  }
  // What was durable is there, or what came later.
  void require_after_cut() { history.require(after_cut(), history.durable()); }

  const TestSeed seed;
  const SimVolumeOptions options;
  SimVolume sim;
  PageHistory history;
  InodeRef inode;
  std::vector<InodeRef> others;
  std::unique_ptr<Pinner> pinner;

 private:
  Content content_of(SimImage image) const {
    SimVolume again(seed, options, std::move(image));
    return again.read_all(*again.lookup("file"));
  }
};

// Whatever the volume does with pages that are pinned and dirty.
inline void for_each_policy(
    uint64_t seeds, const std::function<void(const TestSeed&, const SimVolumeOptions&)>& body) {
  for (const PinnedPolicy policy :
       {PinnedPolicy::redirty, PinnedPolicy::keep, PinnedPolicy::unpin}) {
    CAPTURE(static_cast<int>(policy));
    SimVolumeOptions options;
    options.pinned_policy = policy;
    for_each_seed(seeds, [&](const TestSeed& seed) { body(seed, options); });
  }
}

}  // namespace fusefs
