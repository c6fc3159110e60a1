// Tree::Impl: the state of a tree. Internal to core/tree.
//
//   tree.cc         what callers see: reading, pins, statistics
//   tree_change.cc  prepare, put, erase: splits, merges, growing and shrinking of the root
//   tree_freeze.cc  what a checkpoint needs
#pragma once

#include <array>
#include <vector>

#include "core/tree/node_cache.h"
#include "core/tree/tree.h"

namespace fusefs {

// The way from the root to a leaf; steps[d].slot is the slot of the child in steps[d + 1], and in
// the leaf whatever the user of the path puts there.
struct Path {
  struct Step {
    Node* node = nullptr;
    uint32_t slot = 0;
  };
  std::array<Step, kTreeLevelsMax> steps = {};
  uint32_t depth = 0;  // steps in use; 0: the tree is empty

  Step& leaf() { return steps[depth - 1]; }
};

// The leaf of the last descent and the keys that belong to it: most accesses stay in one leaf.
struct LeafHint {
  Ref<Node> leaf;
  Key first;
  Key end;
  bool has_end = false;
  uint64_t shape = 0;  // of the tree when it was taken
};

class Tree::Impl {
 public:
  Impl(BlockDevice& device, Health& health, const TreeRoot& root, const Options& options);

  // ---- Reading ----

  // The leaf that may hold `key`, or null: the tree is empty.
  Attempt<Node*> leaf_for(const Key& key, NodePins& pins);
  // The path to it. `for_change`: pins it as prepared.
  Attempt<void> descend(const Key& key, NodePins& pins, bool for_change, Path& path);
  // From the last step of `path` down to the leftmost or rightmost leaf.
  Attempt<void> descend_edge(bool rightmost, NodePins& pins, Path& path);
  // Goes to the next or the previous leaf. False: there is none.
  Attempt<bool> step_right(NodePins& pins, Path& path);
  Attempt<bool> step_left(NodePins& pins, Path& path);
  Attempt<Node*> get(const ChildPointer& child, uint32_t level, NodePins& pins, bool for_change);
  void read_ahead(const Key& key);

  // ---- Changing ----

  void begin_prepare();
  Attempt<void> prepare(const Key& key, size_t value_len, NodePins& pins, uint64_t& new_dirty);
  void put(const Key& key, ConstBytes value);
  void erase(const Key& key);
  std::optional<ItemView> prepared_item(const Key& key);

  // ---- Checkpoint ----

  Attempt<void> prepare_freeze(SpaceMap& space);
  Frozen freeze(CheckpointNo checkpoint, SpaceMap& space);

  bool has_root() const { return root_.block != 0 || root_.generation != 0; }

  NodeCache cache;
  uint64_t node_count = 0;
  uint64_t split_count = 0;
  uint64_t merge_count = 0;
  uint32_t root_level = 0;  // once known

 private:
  LeafHint* hint_for(const Key& key);

  // The common case of put(): false, and nothing has changed, when it is not that.
  bool put_in_hinted_leaf(const Key& key, ConstBytes value);
  // Reads the cached path to `key`; false: not all of it is cached.
  bool cached_path(const Key& key, Path& path);
  // Makes the nodes of the path dirty, from the root on.
  void make_path_dirty(Path& path);
  void make_step_dirty(Path& path, uint32_t depth);
  // Of one more item of `bytes` in the node at `depth`: how many new nodes that may mean.
  uint64_t charge(Path& path, uint32_t depth, uint64_t bytes);
  void insert_at(Path& path, uint32_t depth, uint32_t slot, const Key& key, ConstBytes value);
  void split(Path& path, uint32_t depth, uint32_t slot, const Key& key, ConstBytes value);
  void grow_root(Node& right, const Key& separator);
  // The node at `depth` has lost an item: removes it if it is empty, merges it if that fits.
  void shrink(Path& path, uint32_t depth);
  void remove_child(Path& path, uint32_t depth, uint32_t slot);
  bool merge_children(Path& path, uint32_t depth, uint32_t left_slot);
  void shrink_root();
  // Forgets a node, with its place on the device if it has one.
  void drop(Node& node);

  BlockNo freeze_node(Node& node, CheckpointNo checkpoint, SpaceMap& space, Frozen& frozen);

  ChildPointer root_{};  // block 0 and generation 0: empty
  uint64_t shape_ = 0;   // counts what makes a LeafHint wrong
  LeafHint hint_;
  std::vector<BlockNo> replaced_;  // places of nodes that the next checkpoint does not contain
  uint64_t prepare_session_ = 0;
  uint64_t prepare_empty_bytes_ = 0;  // prepared while the tree was empty
};

}  // namespace fusefs
