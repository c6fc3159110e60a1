// Changing the tree: room for it, splits, merges, growing and shrinking of the root.
#include "core/base/check.h"
#include "core/tree/tree_impl.h"

namespace fusefs {
namespace {

constexpr uint32_t kChildItemBytes = NodePage::item_bytes(sizeof(ChildPointer));

// A node with less is merged into a neighbour, if both together leave room for new items.
constexpr uint32_t kUnderfullBytes = kNodePayloadBytes / 4;
constexpr uint32_t kMergedBytesMax = kNodePayloadBytes / 4 * 3;

// How many times a node can split while `bytes` are added to it. A split in the middle leaves both
// halves room for at least kSplitBytesMin, but the first two splits can be had for a byte: one at
// the end, which leaves the left node full, and one of that full node.
constexpr uint64_t kSplitBytesMin = 1900;
uint64_t splits_possible(Node& node) {
  if (node.prepare_bytes <= node.page().free_bytes()) return 0;
  return 2 + node.prepare_bytes / kSplitBytesMin;
}

uint32_t bytes_added(Node& leaf, const Key& key, size_t value_len) {
  const NodePage page = leaf.page();
  const uint32_t slot = page.lower_bound(key);
  if (!page.holds(slot, key)) return NodePage::item_bytes(value_len);
  const size_t old_len = page.value(slot).size();
  return value_len > old_len ? static_cast<uint32_t>(value_len - old_len) : 0;
}

}  // namespace

// ---- Preparing ----

void Tree::Impl::begin_prepare() {
  ++prepare_session_;
  prepare_empty_bytes_ = 0;
}

Attempt<void> Tree::Impl::prepare(const Key& key, size_t value_len, NodePins& pins,
                                  uint64_t& new_dirty) {
  const auto enter = [this](Node& node) {
    if (node.prepare_session == prepare_session_) return false;
    node.prepare_session = prepare_session_;
    node.prepare_bytes = 0;
    return true;
  };
  // The parents of a dirty leaf are dirty, so they are cached and stay.
  if (LeafHint* hint = hint_for(key); hint != nullptr && hint->leaf->dirty()) {
    Node& leaf = *hint->leaf;
    enter(leaf);
    const uint32_t bytes = bytes_added(leaf, key, value_len);
    if (leaf.prepare_bytes + bytes <= leaf.page().free_bytes()) {
      leaf.prepare_bytes += bytes;
      return {};
    }
  }
  Path path;
  ATTEMPT_OK(descend(key, pins, true, path));
  if (path.depth == 0) {
    if (prepare_empty_bytes_ == 0) new_dirty += 2;
    const uint64_t before = prepare_empty_bytes_ / kSplitBytesMin;
    prepare_empty_bytes_ += NodePage::item_bytes(value_len);
    new_dirty += prepare_empty_bytes_ / kSplitBytesMin - before;
    return {};
  }
  for (uint32_t d = 0; d < path.depth; ++d) {
    Node& node = *path.steps[d].node;
    if (enter(node) && !node.dirty()) ++new_dirty;
  }
  new_dirty += charge(path, path.depth - 1, bytes_added(*path.leaf().node, key, value_len));
  const bool root_may_split = splits_possible(*path.steps[0].node) != 0;
  if (root_may_split && root_level + 1 >= kTreeLevelsMax) return Error::corrupt;  // absurdly deep
  return {};
}

uint64_t Tree::Impl::charge(Path& path, uint32_t depth, uint64_t bytes) {
  Node& node = *path.steps[depth].node;
  const uint64_t before = splits_possible(node);
  node.prepare_bytes += static_cast<uint32_t>(bytes);
  const uint64_t added = splits_possible(node) - before;
  if (added == 0) return 0;
  return added + (depth == 0 ? 1 : charge(path, depth - 1, added * kChildItemBytes));
}

// ---- Making nodes dirty ----

bool Tree::Impl::cached_path(const Key& key, Path& path) {
  path.depth = 0;
  Node* node = cache.find_ready(root_.block);
  while (node != nullptr) {
    const NodePage page = node->page();
    const uint32_t slot = page.level() == 0 ? page.lower_bound(key) : page.child_slot(key);
    path.steps[path.depth++] = {node, slot};
    if (page.level() == 0) return true;
    node = cache.find_ready(page.child(slot).block);
  }
  return false;
}

void Tree::Impl::make_step_dirty(Path& path, uint32_t depth) {
  Node* node = path.steps[depth].node;
  if (node->dirty()) return;
  replaced_.push_back(BlockNo(node->id));
  if (node->state == NodeState::clean) {
    cache.make_dirty(*node);
  } else {
    node = &cache.copy_frozen(*node);
    path.steps[depth].node = node;
    ++shape_;
  }
  const ChildPointer pointer{node->id, uint64_t{0}};
  if (depth == 0) {
    root_ = pointer;
  } else {
    const Path::Step& parent = path.steps[depth - 1];
    parent.node->page().set_child(parent.slot, pointer);
  }
}

void Tree::Impl::make_path_dirty(Path& path) {
  for (uint32_t d = 0; d < path.depth; ++d) make_step_dirty(path, d);
}

void Tree::Impl::drop(Node& node) {
  if (!node.dirty()) replaced_.push_back(BlockNo(node.id));
  --node_count;
  ++shape_;
  cache.detach(node);
}

// ---- Put ----

bool Tree::Impl::put_in_hinted_leaf(const Key& key, ConstBytes value) {
  const LeafHint* hint = hint_for(key);
  if (hint == nullptr || !hint->leaf->dirty()) return false;
  NodePage page = hint->leaf->page();
  const uint32_t slot = page.lower_bound(key);
  if (page.holds(slot, key)) return page.replace(slot, value);
  // In front of a leaf's first item, the separators above it may have to be lowered.
  return slot > 0 && page.insert(slot, key, value);
}

void Tree::Impl::put(const Key& key, ConstBytes value) {
  CHECK(value.size() <= kItemValueBytesMax);
  if (put_in_hinted_leaf(key, value)) return;
  if (!has_root()) {
    Node& leaf = cache.create(0);
    leaf.page().insert(0, key, value);
    root_ = {leaf.id, uint64_t{0}};
    root_level = 0;
    ++node_count;
    ++shape_;
    return;
  }
  Path path;
  const bool prepared = cached_path(key, path);
  CHECK_MSG(prepared, "put() without prepare()");
  make_path_dirty(path);
  for (uint32_t d = 0; d + 1 < path.depth; ++d) {
    // Left of everything: the separators must not be above what they separate.
    NodePage page = path.steps[d].node->page();
    if (path.steps[d].slot == 0 && key < page.key(0)) page.set_key(0, key);
  }
  NodePage page = path.leaf().node->page();
  const uint32_t slot = path.leaf().slot;
  if (page.holds(slot, key)) {
    if (page.replace(slot, value)) return;
    page.erase(slot);
  }
  insert_at(path, path.depth - 1, slot, key, value);
}

void Tree::Impl::insert_at(Path& path, uint32_t depth, uint32_t slot, const Key& key,
                           ConstBytes value) {
  if (path.steps[depth].node->page().insert(slot, key, value)) return;
  split(path, depth, slot, key, value);
}

void Tree::Impl::split(Path& path, uint32_t depth, uint32_t slot, const Key& key,
                       ConstBytes value) {
  NodePage left = path.steps[depth].node->page();
  Node& right_node = cache.create(left.level());
  NodePage right = right_node.page();
  ++node_count;
  ++split_count;
  ++shape_;

  const NodePage::Split halves = left.split_for(slot, NodePage::item_bytes(value.size()));
  right.append_from(left, halves.stay);
  left.truncate(halves.stay);
  const bool fits = halves.goes_right ? right.insert(slot - halves.stay, key, value)
                                      : left.insert(slot, key, value);
  CHECK(fits);

  const Key separator = right.key(0);
  if (depth == 0) {
    grow_root(right_node, separator);
    return;
  }
  const ChildPointer pointer{right_node.id, uint64_t{0}};
  insert_at(path, depth - 1, path.steps[depth - 1].slot + 1, separator, bytes_of(pointer));
}

void Tree::Impl::grow_root(Node& right, const Key& separator) {
  CHECK(root_level + 1 < kTreeLevelsMax);
  Node& root = cache.create(++root_level);
  ++node_count;
  const ChildPointer right_pointer{right.id, uint64_t{0}};
  root.page().insert(0, Key{}, bytes_of(root_));
  root.page().insert(1, separator, bytes_of(right_pointer));
  root_ = {root.id, uint64_t{0}};
}

// ---- Erase ----

void Tree::Impl::erase(const Key& key) {
  if (!has_root()) return;
  Path path;
  // Where prepare() found the key is still cached; so what is not cached does not hold it.
  if (!cached_path(key, path)) return;
  const uint32_t slot = path.leaf().slot;
  if (!path.leaf().node->page().holds(slot, key)) return;
  make_path_dirty(path);
  path.leaf().node->page().erase(slot);
  shrink(path, path.depth - 1);
}

void Tree::Impl::shrink(Path& path, uint32_t depth) {
  Node& node = *path.steps[depth].node;
  const NodePage page = node.page();
  if (page.count() == 0) {
    drop(node);
    if (depth == 0) {
      root_ = {};
    } else {
      remove_child(path, depth - 1, path.steps[depth - 1].slot);
    }
    return;
  }
  if (depth == 0) {
    shrink_root();
    return;
  }
  if (page.used_bytes() >= kUnderfullBytes) return;
  const Path::Step& parent = path.steps[depth - 1];
  if (parent.slot > 0 && merge_children(path, depth - 1, parent.slot - 1)) return;
  if (parent.slot + 1 < parent.node->page().count()) {
    merge_children(path, depth - 1, parent.slot);
  }
}

void Tree::Impl::remove_child(Path& path, uint32_t depth, uint32_t slot) {
  NodePage page = path.steps[depth].node->page();
  const Key first = page.key(0);
  page.erase(slot);
  // What may lie left of the second child belongs to it now.
  if (slot == 0 && page.count() > 0) page.set_key(0, first);
  ++shape_;
  shrink(path, depth);
}

bool Tree::Impl::merge_children(Path& path, uint32_t depth, uint32_t left_slot) {
  const NodePage parent = path.steps[depth].node->page();
  Node* left = cache.find_ready(parent.child(left_slot).block);
  Node* right = cache.find_ready(parent.child(left_slot + 1).block);
  if (left == nullptr || right == nullptr) return false;
  if (left->page().used_bytes() + right->page().used_bytes() > kMergedBytesMax) return false;

  path.steps[depth].slot = left_slot;
  path.steps[depth + 1].node = left;
  make_step_dirty(path, depth + 1);
  path.steps[depth + 1].node->page().append_from(right->page(), 0);
  drop(*right);
  ++merge_count;
  remove_child(path, depth, left_slot + 1);
  return true;
}

void Tree::Impl::shrink_root() {
  for (;;) {
    Node* root = cache.find_ready(root_.block);
    if (root == nullptr || root->page().level() == 0 || root->page().count() > 1) return;
    root_ = root->page().child(0);
    --root_level;
    drop(*root);
  }
}

}  // namespace fusefs
