// What the tests of the allocator share: a formatted volume on a simulated device with only the
// allocator on it, checkpoints of it, and a journal that is durable when the test says so.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/format/node_format.h"
#include "core/space/space.h"
#include "tests/support/sim_world.h"

namespace fusefs {

class FakeDurability final : public Durability {
 public:
  JournalSeq durable_seq() const override { return durable_; }
  void kick() override { ++kick_count; }
  Waitable& durable_changed() override { return changed_; }

  void set_durable(uint64_t seq) {
    durable_ = JournalSeq(seq);
    changed_.wake_all();
  }
  uint64_t kick_count = 0;

 private:
  JournalSeq durable_;
  Waitable changed_;
};

class SpaceRig {
 public:
  SpaceRig(uint64_t seed, double forced, uint64_t volume_bytes);

  SimWorld& world() { return *world_; }
  Space& space() { return *space_; }
  Health& health() { return *health_; }
  FakeDurability& durability() { return durability_; }
  const Superblock& superblock() const { return superblock_; }
  Superblock& superblock() { return superblock_; }

  // Mounts what the superblock and the device hold.
  Result<void> open();

  Result<Reservation> reserve(uint64_t blocks);
  // Reserves and takes; not committed yet.
  Result<BlockRange> allocate(uint64_t want, std::optional<BlockNo> goal = {});
  // Takes from a promise.
  Result<BlockRange> allocate_from(Reservation& reservation, uint64_t want,
                                   std::optional<BlockNo> goal = {});
  Result<void> commit(BlockRange blocks);
  Result<void> release(BlockRange blocks, uint64_t seq);
  Result<bool> is_allocated(BlockNo block);

  // One checkpoint, as the store does it: `node_count` new nodes, `released` no longer used.
  // begin: one attempt, then the pages are written. end: the superblock is (not) written.
  struct Checkpoint {
    std::vector<BlockNo> nodes;
    Superblock superblock;
  };
  Result<Checkpoint> begin_checkpoint(uint64_t node_count, std::vector<BlockNo> released);
  void end_checkpoint(const Checkpoint& checkpoint, bool durable);
  Result<std::vector<BlockNo>> checkpoint(uint64_t node_count = 0,
                                          std::vector<BlockNo> released = {});

  uint64_t read_bytes() { return world_->device().stats().bytes(IoKind::read); }

 private:
  std::unique_ptr<SimWorld> world_;
  FakeDurability durability_;
  std::unique_ptr<Health> health_;
  Superblock superblock_{};
  std::unique_ptr<Space> space_;
};

}  // namespace fusefs
