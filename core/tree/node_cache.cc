#include "core/tree/node_cache.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr size_t kBucketsMin = 256;

}  // namespace

void Node::last_reference_dropped() {
  if (cache_ == nullptr) {
    delete this;
  } else {
    cache_->reference_dropped(*this);
  }
}

NodeCache::NodeCache(BlockDevice& device, Health& health, const Options& options)
    : device_(device), health_(health), options_(options), buckets_(kBucketsMin) {}

NodeCache::~NodeCache() {
  for (Node* first : buckets_) {
    for (Node* node = first; node != nullptr;) {
      Node* next = node->hash_next_;
      node->cache_ = nullptr;
      if (node->ref_count() == 0) delete node;
      node = next;
    }
  }
}

// ---- Hash ----

void NodeCache::insert(Node& node) {
  if (count_ >= buckets_.size()) grow();
  Node*& first = buckets_[bucket_of(node.id)];
  node.hash_next_ = first;
  first = &node;
  node.cache_ = this;
  ++count_;
}

void NodeCache::remove(Node& node) {
  Node** link = &buckets_[bucket_of(node.id)];
  while (*link != &node) link = &(*link)->hash_next_;
  *link = node.hash_next_;
  node.hash_next_ = nullptr;
  node.cache_ = nullptr;
  --count_;
}

void NodeCache::rename(Node& node, uint64_t id) {
  remove(node);
  node.id = id;
  insert(node);
}

void NodeCache::grow() {
  std::vector<Node*> old(buckets_.size() * 2);
  std::swap(old, buckets_);
  for (Node* first : old) {
    for (Node* node = first; node != nullptr;) {
      Node* next = node->hash_next_;
      Node*& bucket = buckets_[bucket_of(node->id)];
      node->hash_next_ = bucket;
      bucket = node;
      node = next;
    }
  }
}

// ---- List of what may be evicted ----

void NodeCache::list_front(Node& node) {
  CHECK(!node.evictable_);
  node.evictable_ = true;
  node.newer_ = nullptr;
  node.older_ = newest_;
  (newest_ != nullptr ? newest_->newer_ : oldest_) = &node;
  newest_ = &node;
  ++listed_count_;
}

void NodeCache::unlist(Node& node) {
  if (!node.evictable_) return;
  node.evictable_ = false;
  (node.newer_ != nullptr ? node.newer_->older_ : newest_) = node.older_;
  (node.older_ != nullptr ? node.older_->newer_ : oldest_) = node.newer_;
  node.older_ = node.newer_ = nullptr;
  --listed_count_;
}

void NodeCache::evict(uint64_t room) {
  // Every node gets its second chance once; what is then still too much is in use.
  for (uint64_t steps = 2 * listed_count_; steps > 0 && oldest_ != nullptr; --steps) {
    if (count_ + room <= options_.nodes_max) return;
    Node& node = *oldest_;
    const bool reading = node.state == NodeState::loading && node.load->pending();
    if (node.ref_count() == 0 && !reading && !node.recently_used) {
      ++evict_count_;
      forget(node);
      continue;
    }
    node.recently_used = false;
    unlist(node);
    list_front(node);
  }
}

void NodeCache::forget(Node& node) {
  if (node.state == NodeState::loading) --loading_count_;
  unlist(node);
  remove(node);
  if (node.ref_count() == 0) delete &node;
}

void NodeCache::reference_dropped(Node& node) {
  if (node.state == NodeState::failed) forget(node);
}

// ---- Loading ----

bool NodeCache::place_possible(const ChildPointer& child) const {
  const uint64_t blocks = device_.geometry().size_bytes / kBlockBytes;
  return child.block < blocks && blocks - child.block >= kNodeBlocks;
}

Node& NodeCache::start_load(const ChildPointer& child, uint32_t level) {
  Node* node = new Node(child.block, NodeState::loading);
  node->generation = child.generation;
  node->level = level;
  node->load = make_ref<NodeLoad>();
  insert(*node);
  list_front(*node);
  ++loading_count_;
  ++read_count_;
  device_.submit(
      IoRequest::read(block_addr(BlockNo(child.block)), node->load->buffer.data(), kNodeBytes),
      node->load);
  return *node;
}

Attempt<Node*> NodeCache::load(const ChildPointer& child, uint32_t level, Ref<Node>& waiting) {
  Node* node = find(child.block);
  if (node == nullptr) {
    if (is_virtual(child.block) || !place_possible(child)) {
      health_.note_corruption("tree, pointer to block " + std::to_string(child.block));
      return Error::corrupt;
    }
    evict(1);
    node = &start_load(child, level);
  }
  waiting = Ref<Node>(node);
  if (node->state == NodeState::loading) {
    if (node->load->pending()) {
      return restart_after(node->load->completion(), RestartReason::node_load);
    }
    settle(*node);
  }
  if (node->state == NodeState::failed) return node->error;
  node->recently_used = true;
  return node;
}

void NodeCache::read_ahead(const ChildPointer& child, uint32_t level) {
  if (is_virtual(child.block) || !place_possible(child)) return;
  if (find(child.block) != nullptr || loading_count_ >= kReadAheadsMax) return;
  start_load(child, level);
}

void NodeCache::settle(Node& node) {
  --loading_count_;
  const Ref<NodeLoad> load = std::move(node.load);
  node.load = nullptr;
  if (!load->result().ok()) {
    node.state = NodeState::failed;
    node.error = load->result().error();
    return;
  }
  node.buffer = std::move(load->buffer);
  const bool verifies =
      node_verifies(node.buffer.bytes(), BlockNo(node.id), node.generation, options_.checksum_seed);
  if (!verifies || (node.level != kAnyLevel && node.page().level() != node.level)) {
    node.state = NodeState::failed;
    node.error = Error::corrupt;
    health_.note_corruption("tree node, block " + std::to_string(node.id));
    return;
  }
  node.state = NodeState::clean;
}

// ---- Changing state ----

Node& NodeCache::create(uint32_t level) {
  Node* node = new Node(next_virtual_id_++, NodeState::dirty);
  node->buffer = AlignedBuffer(kNodeBytes);
  node->page().init(level);
  insert(*node);
  ++dirty_count_;
  return *node;
}

void NodeCache::make_dirty(Node& node) {
  CHECK(node.state == NodeState::clean);
  unlist(node);
  rename(node, next_virtual_id_++);
  node.state = NodeState::dirty;
  ++dirty_count_;
}

Node& NodeCache::copy_frozen(Node& node) {
  CHECK(node.state == NodeState::frozen);
  Node& copy = create(node.page().level());
  // The header's checksum may be under computation, without the monitor.
  std::memcpy(copy.buffer.data() + sizeof(BlockHeader), node.buffer.data() + sizeof(BlockHeader),
              kNodeBytes - sizeof(BlockHeader));
  copy.prepare_session = node.prepare_session;
  copy.prepare_bytes = node.prepare_bytes;
  detach(node);
  return copy;
}

void NodeCache::freeze(Node& node, BlockNo at) {
  CHECK(node.state == NodeState::dirty);
  rename(node, at.value());
  node.state = NodeState::frozen;
  --dirty_count_;
  ++frozen_count_;
}

void NodeCache::written(Node& node) {
  if (node.cache_ == nullptr) return;  // superseded meanwhile
  CHECK(node.state == NodeState::frozen);
  node.state = NodeState::clean;
  --frozen_count_;
  list_front(node);
}

void NodeCache::detach(Node& node) {
  if (node.state == NodeState::dirty) --dirty_count_;
  if (node.state == NodeState::frozen) --frozen_count_;
  unlist(node);
  remove(node);
  if (node.ref_count() == 0) delete &node;
}

}  // namespace fusefs
