// What the tests of clone, dedupe and unshare have in common.
#pragma once

#include <algorithm>
#include <vector>

#include "core/file/dedupe.h"
#include "core/file/unshare.h"
#include "tests/sim/file_content.h"

#include <doctest/doctest.h>

namespace fusefs {

inline Content part(const Content& content, uint64_t pos, uint64_t len) {
  const auto first = content.begin() + static_cast<ptrdiff_t>(pos);
  return {first, first + static_cast<ptrdiff_t>(len)};
}

inline void write(SimVolume& sim, Inode& inode, uint64_t pos, ConstBytes data,
                  How how = How::buffered) {
  const Result<size_t> written = sim.write(inode, pos, data, how);
  REQUIRE(written.ok());
  REQUIRE(written.value() == data.size());
}

inline Result<uint64_t> clone(SimVolume& sim, Inode& from, uint64_t from_pos, Inode& to,
                              uint64_t to_pos, uint64_t len) {
  CopyStash stash;
  return sim.world().run(
      [&] { return copy_range(sim.files(), from, from_pos, to, to_pos, len, stash); });
}

struct Deduped {
  Result<uint64_t> same_bytes = Error::io_failed;
  uint64_t shared = 0;
  bool same = false;
};
inline Deduped dedupe(SimVolume& sim, Inode& from, uint64_t from_pos, Inode& to, uint64_t to_pos,
                      uint64_t len) {
  DedupeStash stash;
  Deduped result;
  result.same_bytes = sim.world().run(
      [&] { return dedupe_range(sim.files(), from, from_pos, to, to_pos, len, stash); });
  result.shared = stash.shared;
  result.same = stash.same;
  return result;
}

inline Result<uint64_t> unshare(SimVolume& sim, Inode& inode, uint64_t pos, uint64_t len,
                                bool keep_holes) {
  UnshareStash stash;
  return sim.world().run(
      [&] { return unshare_range(sim.files(), inode, pos, len, keep_holes, stash); });
}

inline std::vector<Extent> extents_of(SimVolume& sim, Inode& inode) {
  std::vector<Extent> extents;
  const FileBlock end = file_block_end(inode.attr.size);
  for (FileBlock at{0}; at < end; at = extents.back().range.end) {
    NodePins pins;
    const auto found = sim.world().run(
        [&] { return extent_at(sim.volume().store().tree(), inode.ino, at, end, pins); });
    REQUIRE(found.ok());
    extents.push_back(found.value());
  }
  return extents;
}

inline uint64_t shared_items(SimVolume& sim) {
  uint64_t count = 0;
  Key at = shared_key(BlockNo(0));
  while (true) {
    NodePins pins;
    std::optional<Key> found;
    const auto asked = sim.world().run([&]() -> Attempt<void> {
      ATTEMPT(const std::optional<ItemView> item,
              sim.volume().store().tree().at_or_after(at, pins));
      found.reset();
      if (item && item->key.object == kSharedObject) found = item->key;
      return {};
    });
    REQUIRE(asked.ok());
    if (!found) return count;
    ++count;
    at = {found->object, found->type, found->offset + 1};
  }
}

inline uint64_t transactions(SimVolume& sim) {
  return sim.volume().store().journal().stats().transaction_count;
}

inline uint64_t device_reads(SimVolume& sim) {
  return sim.device().stats().submitted(IoKind::read);
}

// What "file" holds after a power cut; `inode` is the last reference to one of the volume's.
inline Content after_cut(const TestSeed& seed, SimVolume& sim, InodeRef& inode) {
  sim.world().inside([&] { inode.reset(); });
  SimVolume again(seed, {}, sim.power_cut());
  return again.read_all(*again.lookup("file"));
}

// Everything written, and no transaction to come from anybody else.
inline void settle(SimVolume& sim) {
  REQUIRE(sim.sync().ok());
  sim.world().run_for(5 * kNsPerSecond);
}

}  // namespace fusefs
