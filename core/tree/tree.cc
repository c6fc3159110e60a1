#include <algorithm>
#include <atomic>

#include "core/base/check.h"
#include "core/tree/tree_impl.h"

namespace fusefs {
namespace {

uint64_t next_pins_id() {
  static std::atomic<uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

// Of a leaf.
ItemView item_at(Node& node, uint32_t slot) {
  return {node.page().key(slot), node.page().value(slot)};
}

}  // namespace

// ---- NodePins ----

NodePins::NodePins() : id_(next_pins_id()) {}
NodePins::~NodePins() = default;
NodePins::NodePins(NodePins&&) noexcept = default;
NodePins& NodePins::operator=(NodePins&&) noexcept = default;

void NodePins::clear() {
  // Nodes remember the id of who pinned them.
  id_ = next_pins_id();
  read_.clear();
  read_next_ = 0;
  prepared_.clear();
  prepared_sorted_ = 0;
}

void NodePins::add_read(Node& node) {
  // Dirty nodes are not evicted.
  if (node.pinned_by == id_ || node.dirty()) return;
  node.pinned_by = id_;
  add_waiting(Ref<Node>(&node));
}

void NodePins::add_waiting(Ref<Node> node) {
  if (std::find(read_.begin(), read_.end(), node) != read_.end()) return;
  if (read_.size() < kReadPinsMax) {
    read_.push_back(std::move(node));
    return;
  }
  read_[read_next_] = std::move(node);
  read_next_ = (read_next_ + 1) % kReadPinsMax;
}

void NodePins::add_prepared(Node& node) {
  if (node.dirty()) return;
  prepared_.emplace_back(&node);
  // Each attempt prepares the same nodes again.
  if (prepared_.size() < 2 * prepared_sorted_ + kReadPinsMax) return;
  const auto address = [](const Ref<Node>& ref) { return reinterpret_cast<uintptr_t>(ref.get()); };
  std::sort(prepared_.begin(), prepared_.end(),
            [&](const auto& a, const auto& b) { return address(a) < address(b); });
  prepared_.erase(std::unique(prepared_.begin(), prepared_.end()), prepared_.end());
  prepared_sorted_ = prepared_.size();
}

// ---- Descending ----

Tree::Impl::Impl(BlockDevice& device, Health& health, const TreeRoot& root, const Options& options)
    : cache(device, health, {options.cached_nodes_max, options.checksum_seed}),
      node_count(options.node_count) {
  if (root.generation != 0) root_ = {root.block.value(), root.generation};
}

Attempt<Node*> Tree::Impl::get(const ChildPointer& child, uint32_t level, NodePins& pins,
                               bool for_change) {
  Node* node = cache.find_ready(child.block);
  if (node == nullptr) {
    Ref<Node> waiting;
    Attempt<Node*> loaded = cache.load(child, level, waiting);
    if (waiting) pins.add_waiting(std::move(waiting));
    if (!loaded.ok()) return loaded;
    node = loaded.value();
  }
  if (for_change) {
    pins.add_prepared(*node);
  } else {
    pins.add_read(*node);
  }
  return node;
}

Attempt<void> Tree::Impl::descend(const Key& key, NodePins& pins, bool for_change, Path& path) {
  path.depth = 0;
  if (!has_root()) return {};
  ATTEMPT(Node * node, get(root_, kAnyLevel, pins, for_change));
  root_level = node->page().level();
  Key first{};
  Key end{};
  bool has_end = false;
  for (;;) {
    const NodePage page = node->page();
    const uint32_t level = page.level();
    const uint32_t slot = level == 0 ? 0 : page.child_slot(key);
    path.steps[path.depth++] = {node, slot};
    if (level == 0) break;
    if (slot > 0) first = page.key(slot);
    if (slot + 1 < page.count()) {
      end = page.key(slot + 1);
      has_end = true;
    }
    ATTEMPT(Node * child, get(page.child(slot), level - 1, pins, for_change));
    node = child;
  }
  if (hint_.leaf.get() != node) hint_.leaf = Ref<Node>(node);
  hint_.first = first;
  hint_.end = end;
  hint_.has_end = has_end;
  hint_.shape = shape_;
  return {};
}

Attempt<void> Tree::Impl::descend_edge(bool rightmost, NodePins& pins, Path& path) {
  for (;;) {
    const Path::Step& step = path.leaf();
    const NodePage page = step.node->page();
    if (page.level() == 0) return {};
    ATTEMPT(Node * child, get(page.child(step.slot), page.level() - 1, pins, false));
    path.steps[path.depth++] = {child, rightmost ? child->page().count() - 1 : 0};
  }
}

Attempt<bool> Tree::Impl::step_right(NodePins& pins, Path& path) {
  while (path.depth > 1) {
    --path.depth;
    Path::Step& step = path.leaf();
    if (step.slot + 1 == step.node->page().count()) continue;
    ++step.slot;
    ATTEMPT_OK(descend_edge(false, pins, path));
    return true;
  }
  return false;
}

Attempt<bool> Tree::Impl::step_left(NodePins& pins, Path& path) {
  while (path.depth > 1) {
    --path.depth;
    Path::Step& step = path.leaf();
    if (step.slot == 0) continue;
    --step.slot;
    ATTEMPT_OK(descend_edge(true, pins, path));
    return true;
  }
  return false;
}

LeafHint* Tree::Impl::hint_for(const Key& key) {
  if (!hint_.leaf || hint_.shape != shape_) return nullptr;
  if (key < hint_.first || (hint_.has_end && key >= hint_.end)) return nullptr;
  return &hint_;
}

Attempt<Node*> Tree::Impl::leaf_for(const Key& key, NodePins& pins) {
  if (LeafHint* hint = hint_for(key)) {
    hint->leaf->recently_used = true;
    pins.add_read(*hint->leaf);
    return hint->leaf.get();
  }
  Path path;
  ATTEMPT_OK(descend(key, pins, false, path));
  return path.depth == 0 ? nullptr : path.leaf().node;
}

std::optional<ItemView> Tree::Impl::prepared_item(const Key& key) {
  Path path;
  if (!has_root() || !cached_path(key, path)) return std::nullopt;
  const Path::Step& leaf = path.leaf();
  if (!leaf.node->page().holds(leaf.slot, key)) return std::nullopt;
  return item_at(*leaf.node, leaf.slot);
}

void Tree::Impl::read_ahead(const Key& key) {
  if (!has_root()) return;
  Node* node = cache.find_ready(root_.block);
  while (node != nullptr && node->page().level() > 1) {
    node = cache.find_ready(node->page().child(node->page().child_slot(key)).block);
  }
  if (node == nullptr || node->page().level() == 0) return;
  const uint32_t next = node->page().child_slot(key) + 1;
  if (next < node->page().count()) cache.read_ahead(node->page().child(next), 0);
}

// ---- Tree ----

Tree::Tree(BlockDevice& device, Health& health, const TreeRoot& root, const Options& options)
    : impl_(std::make_unique<Impl>(device, health, root, options)) {}
Tree::~Tree() = default;

Attempt<std::optional<ItemView>> Tree::find(const Key& key, NodePins& pins) {
  ATTEMPT(Node * leaf, impl_->leaf_for(key, pins));
  if (leaf == nullptr) return std::optional<ItemView>();
  const uint32_t slot = leaf->page().lower_bound(key);
  if (!leaf->page().holds(slot, key)) return std::optional<ItemView>();
  return std::optional<ItemView>(item_at(*leaf, slot));
}

Attempt<std::optional<ItemView>> Tree::at_or_after(const Key& key, NodePins& pins) {
  ATTEMPT(Node * leaf, impl_->leaf_for(key, pins));
  if (leaf == nullptr) return std::optional<ItemView>();
  const uint32_t slot = leaf->page().lower_bound(key);
  if (slot < leaf->page().count()) return std::optional<ItemView>(item_at(*leaf, slot));

  Path path;
  ATTEMPT_OK(impl_->descend(key, pins, false, path));
  ATTEMPT(const bool found, impl_->step_right(pins, path));
  if (!found) return std::optional<ItemView>();
  return std::optional<ItemView>(item_at(*path.leaf().node, 0));
}

Attempt<std::optional<ItemView>> Tree::at_or_before(const Key& key, NodePins& pins) {
  ATTEMPT(Node * leaf, impl_->leaf_for(key, pins));
  if (leaf == nullptr) return std::optional<ItemView>();
  const uint32_t slot = leaf->page().lower_bound(key);
  if (leaf->page().holds(slot, key)) return std::optional<ItemView>(item_at(*leaf, slot));
  if (slot > 0) return std::optional<ItemView>(item_at(*leaf, slot - 1));

  Path path;
  ATTEMPT_OK(impl_->descend(key, pins, false, path));
  ATTEMPT(const bool found, impl_->step_left(pins, path));
  if (!found) return std::optional<ItemView>();
  Node& left = *path.leaf().node;
  return std::optional<ItemView>(item_at(left, left.page().count() - 1));
}

void Tree::begin_prepare() { impl_->begin_prepare(); }
Attempt<void> Tree::prepare(const Key& key, size_t value_len, NodePins& pins, uint64_t& new_dirty) {
  return impl_->prepare(key, value_len, pins, new_dirty);
}
void Tree::put(const Key& key, ConstBytes value) { impl_->put(key, value); }
void Tree::erase(const Key& key) { impl_->erase(key); }
std::optional<ItemView> Tree::prepared_item(const Key& key) const {
  return impl_->prepared_item(key);
}
void Tree::read_ahead(const Key& key) { impl_->read_ahead(key); }

uint64_t Tree::dirty_count() const { return impl_->cache.dirty_count(); }
uint64_t Tree::frozen_count() const { return impl_->cache.frozen_count(); }

Attempt<void> Tree::prepare_freeze(SpaceMap& space) { return impl_->prepare_freeze(space); }
Tree::Frozen Tree::freeze(CheckpointNo checkpoint, SpaceMap& space) {
  return impl_->freeze(checkpoint, space);
}

void Tree::frozen_written(const Frozen& frozen) {
  for (const FrozenNode& node : frozen.nodes) impl_->cache.written(*node.keep);
  impl_->cache.evict_to_bound();
}

TreeStats Tree::stats() const {
  const NodeCache& cache = impl_->cache;
  TreeStats stats;
  stats.cached_nodes = cache.count();
  stats.dirty_nodes = cache.dirty_count();
  stats.cached_nodes_max = cache.options().nodes_max;
  stats.hit_count = cache.hit_count();
  stats.read_count = cache.read_count();
  stats.evict_count = cache.evict_count();
  stats.split_count = impl_->split_count;
  stats.merge_count = impl_->merge_count;
  stats.levels = impl_->has_root() ? impl_->root_level + 1 : 0;
  return stats;
}

}  // namespace fusefs
