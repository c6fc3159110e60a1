#include <set>

#include "core/base/random.h"
#include "core/memory/frame_arena.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("frames taken one after the other lie in a row") {
  FrameArena arena(64 * kPageBytes);
  std::byte* previous = arena.take();
  for (int i = 1; i < 64; ++i) {
    std::byte* frame = arena.take();
    REQUIRE(frame == previous + kPageBytes);
    previous = frame;
  }
  CHECK(arena.take() == nullptr);
  CHECK(arena.frames_used() == 64);
}

TEST_CASE("a frame is never handed out twice, and all of them can be had") {
  Random random(7);
  FrameArena arena(200 * kPageBytes);
  std::vector<std::byte*> taken;
  std::set<std::byte*> in_use;
  for (int step = 0; step < 20'000; ++step) {
    if (taken.empty() || random.chance(0.55)) {
      std::byte* frame = arena.take();
      REQUIRE((frame == nullptr) == (taken.size() == 200));
      if (frame == nullptr) continue;
      REQUIRE(in_use.insert(frame).second);
      REQUIRE(static_cast<size_t>(frame - arena.memory().data()) % kPageBytes == 0);
      taken.push_back(frame);
    } else {
      std::swap(taken[random.below(taken.size())], taken.back());
      in_use.erase(taken.back());
      arena.give_back(taken.back());
      taken.pop_back();
    }
    REQUIRE(arena.frames_used() == taken.size());
  }
}

TEST_CASE("frames that were used before are used again before fresh memory is touched") {
  FrameArena arena(1024 * kPageBytes);
  std::byte* highest = arena.memory().data();
  for (int round = 0; round < 50; ++round) {
    std::vector<std::byte*> frames;
    for (int i = 0; i < 8; ++i) frames.push_back(arena.take());
    for (std::byte* frame : frames) highest = std::max(highest, frame);
    for (std::byte* frame : frames) arena.give_back(frame);
  }
  CHECK(highest == arena.memory().data() + 7 * kPageBytes);
}

}  // namespace
}  // namespace fusefs
