// What a checkpoint needs of the tree: every dirty node gets a place and stands still.
#include "core/base/check.h"
#include "core/tree/tree_impl.h"

namespace fusefs {

Attempt<void> Tree::Impl::prepare_freeze(SpaceMap& space) {
  for (const BlockNo place : replaced_) {
    ATTEMPT_OK(space.prepare_change(block_range(place, BlockCount(kNodeBlocks))));
  }
  return space.prepare_nodes(cache.dirty_count());
}

Tree::Frozen Tree::Impl::freeze(CheckpointNo checkpoint, SpaceMap& space) {
  CHECK(cache.frozen_count() == 0);
  Frozen frozen;
  frozen.nodes.reserve(cache.dirty_count());
  Node* root = has_root() ? cache.find_ready(root_.block) : nullptr;
  if (root != nullptr && root->dirty()) {
    const BlockNo at = freeze_node(*root, checkpoint, space, frozen);
    root_ = {at.value(), checkpoint.value()};
  }
  CHECK(cache.dirty_count() == 0);
  for (const BlockNo place : replaced_) space.release_node(place);
  replaced_.clear();
  frozen.root = {BlockNo(root_.block), root_.generation};
  frozen.node_count = node_count;
  return frozen;
}

BlockNo Tree::Impl::freeze_node(Node& node, CheckpointNo checkpoint, SpaceMap& space,
                                Frozen& frozen) {
  NodePage page = node.page();
  if (page.level() > 0) {
    for (uint32_t slot = 0; slot < page.count(); ++slot) {
      const uint64_t child_id = page.child(slot).block;
      if (!is_virtual(child_id)) continue;
      Node* child = cache.find_ready(child_id);
      CHECK(child != nullptr && child->dirty());
      const BlockNo at = freeze_node(*child, checkpoint, space, frozen);
      page.set_child(slot, {at.value(), checkpoint.value()});
    }
  }
  const BlockNo at = space.allocate_node();
  cache.freeze(node, at);
  set_block_header(node.buffer.bytes(), BlockKind::node, at, checkpoint.value());
  frozen.nodes.push_back({at, node.buffer.data(), Ref<Node>(&node)});
  return at;
}

}  // namespace fusefs
