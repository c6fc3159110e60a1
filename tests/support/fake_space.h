// FakeSpace: a SpaceMap that keeps everything in memory, for tests of tree and store.
//
// Nodes are handed out from the front of a range, and again when the checkpoint that no longer
// contains them is durable. What transactions allocate and release is recorded in a set.
#pragma once

#include <deque>
#include <set>
#include <vector>

#include "core/base/check.h"
#include "core/format/node_format.h"
#include "core/tree/space_map.h"

namespace fusefs {

class FakeSpace final : public SpaceMap {
 public:
  FakeSpace(BlockNo nodes_first, uint64_t node_count, uint64_t node_reserve)
      : node_reserve_(node_reserve) {
    for (uint64_t i = 0; i < node_count; ++i) {
      free_.push_back(nodes_first + BlockCount(i * kNodeBlocks));
    }
  }

  Attempt<void> prepare_change(BlockRange) override { return {}; }
  void commit_allocate(BlockRange blocks) override {
    for (BlockNo at = blocks.first; at < blocks.end; ++at) CHECK(allocated_.insert(at).second);
  }
  void commit_unshare(BlockRange, JournalSeq) override {}
  void commit_release(BlockRange blocks, JournalSeq) override {
    for (BlockNo at = blocks.first; at < blocks.end; ++at) CHECK(allocated_.erase(at) == 1);
  }

  Attempt<void> prepare_nodes(uint64_t count) override {
    if (count > free_.size()) return Error::no_space;
    return {};
  }
  BlockNo allocate_node() override {
    CHECK(!free_.empty());
    const BlockNo at = free_.front();
    free_.pop_front();
    CHECK(nodes_.insert(at).second);
    return at;
  }
  void release_node(BlockNo first) override {
    CHECK(nodes_.erase(first) == 1);
    released_.push_back(first);
  }
  uint64_t node_reserve() const override { return node_reserve_; }

  std::vector<FrozenPage> freeze(CheckpointNo) override {
    releasing_ = std::move(released_);
    released_.clear();
    return {};
  }
  void write_summary_slots(unsigned char*) const override {}
  uint64_t free_blocks_frozen() const override { return free_.size() * kNodeBlocks; }
  void checkpoint_durable(CheckpointNo) override {
    free_.insert(free_.end(), releasing_.begin(), releasing_.end());
    releasing_.clear();
  }
  void checkpoint_failed(CheckpointNo) override { ++failed_count; }

  // A node of the tree on the device, for a FakeSpace that has just been made.
  void node_in_use(BlockNo first) {
    std::erase(free_, first);
    nodes_.insert(first);
  }
  const std::set<BlockNo>& allocated() const { return allocated_; }
  const std::set<BlockNo>& nodes() const { return nodes_; }

  int failed_count = 0;

 private:
  const uint64_t node_reserve_;
  std::deque<BlockNo> free_;
  std::set<BlockNo> nodes_;
  std::vector<BlockNo> released_;
  std::vector<BlockNo> releasing_;
  std::set<BlockNo> allocated_;
};

}  // namespace fusefs
