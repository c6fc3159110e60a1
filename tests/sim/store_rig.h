// What the tests of the store share: a formatted volume on a simulated device with allocator and
// store on it, mounted as often as the test wants, and the content of it as a map.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/space/space.h"
#include "core/tree/store.h"
#include "core/tree/superblock_io.h"
#include "tests/support/sim_world.h"

namespace fusefs {

using StoreValue = std::vector<std::byte>;
using StoreContent = std::map<Key, StoreValue>;

inline constexpr uint64_t kStoreVolumeBytes = 64ull << 20;

// The same allocator with a smaller reserve for nodes, as the store sees it.
class TightSpace final : public SpaceMap {
 public:
  TightSpace(Space& space, uint64_t node_reserve) : space_(space), node_reserve_(node_reserve) {}

  Attempt<void> prepare_change(BlockRange blocks) override { return space_.prepare_change(blocks); }
  void commit_allocate(BlockRange blocks) override { space_.commit_allocate(blocks); }
  void commit_release(BlockRange blocks, JournalSeq seq) override {
    space_.commit_release(blocks, seq);
  }
  void commit_unshare(BlockRange blocks, JournalSeq seq) override {
    space_.commit_unshare(blocks, seq);
  }
  void set_replaying(bool replaying) override { space_.set_replaying(replaying); }
  Attempt<void> prepare_nodes(uint64_t count) override { return space_.prepare_nodes(count); }
  BlockNo allocate_node() override { return space_.allocate_node(); }
  void release_node(BlockNo first) override { space_.release_node(first); }
  uint64_t node_reserve() const override { return node_reserve_; }
  std::vector<FrozenPage> freeze(CheckpointNo checkpoint) override {
    return space_.freeze(checkpoint);
  }
  void write_summary_slots(unsigned char* slots) const override {
    space_.write_summary_slots(slots);
  }
  uint64_t free_blocks_frozen() const override { return space_.free_blocks_frozen(); }
  void checkpoint_durable(CheckpointNo checkpoint) override {
    space_.checkpoint_durable(checkpoint);
  }
  void checkpoint_failed(CheckpointNo checkpoint) override { space_.checkpoint_failed(checkpoint); }

 private:
  Space& space_;
  const uint64_t node_reserve_;
};

// An empty volume: it holds the root inode.
SimImage formatted_image(uint64_t seed);

class StoreRig {
 public:
  struct Options {
    uint64_t seed = 1;
    double forced = 0.0;
    bool read_only = false;
    uint64_t cached_nodes_max = 64;
    uint64_t node_reserve = 0;  // 0: the allocator's own
    uint32_t logical_block_bytes = 4096;
    std::optional<uint64_t> cut_after_writes = {};
  };
  StoreRig(const Options& options, SimImage image);
  ~StoreRig();

  // As a volume does it: superblock, summaries, replay, start.
  Result<void> mount();
  // The last checkpoint; the volume is clean then.
  Result<void> unmount();

  SimWorld& world() { return world_; }
  Store& store() { return *store_; }
  Space& space() { return *space_; }
  Health& health() { return health_; }
  // What mount() found on the device.
  const FoundSuperblock& found() const { return found_; }
  // What is on the device now.
  FoundSuperblock read_superblock();

  // Stages with `fill(txn)`, which may restart, and commits.
  template <class Fn>
  Result<JournalSeq> transact(Fn fill) {
    NodePins pins;
    return world_.run([&]() -> Attempt<JournalSeq> {
      Transaction txn(*store_, pins);
      ATTEMPT_OK(fill(txn));
      ATTEMPT_OK(txn.prepare());
      return txn.commit();
    });
  }
  Result<JournalSeq> put(const Key& key, const StoreValue& value);
  Result<JournalSeq> erase(const Key& key);
  Result<void> wait_durable(JournalSeq seq);
  Result<void> checkpoint();

  StoreContent content();
  bool is_allocated(BlockNo block);

  uint64_t max_inode() const { return max_inode_; }

 private:
  SimWorld world_;
  const Options options_;
  WriteCache write_cache_;
  Health health_;
  FoundSuperblock found_{};
  std::unique_ptr<Store> store_;
  std::unique_ptr<Space> space_;
  std::unique_ptr<TightSpace> tight_;
  uint64_t max_inode_ = 0;
};

StoreValue store_value(Random& random, size_t len_max);
StoreValue number_value(uint64_t number);
uint64_t value_number(const StoreValue& value);

}  // namespace fusefs
