#include "core/volume/node_walk.h"

#include "core/base/check.h"

namespace fusefs {
namespace {

// Reads under way ahead of the current node.
constexpr size_t kReadAhead = 32;

}  // namespace

// Keeps the memory of the read for as long as the device may use it, also when the walk is gone.
class NodeWalk::Read final : public IoTicket {
 public:
  Read() : image(kNodeBytes) {}
  AlignedBuffer image;
};

struct NodeWalk::Child {
  ChildPointer pointer;
  Key low;
  Ref<Read> read;  // null: not yet, or outside the data area
};

// The children of one interior node that are still to come.
struct NodeWalk::Level {
  uint32_t level = 0;  // of the children
  std::deque<Child> children;
  size_t reading = 0;  // of these, from the front
};

NodeWalk::NodeWalk(BlockDevice& device, const Superblock& superblock, const KeyRange& keys)
    : device_(device), superblock_(superblock), keys_(keys) {
  if (superblock.tree_root_generation == 0) return;  // an empty tree
  auto level = std::make_unique<Level>();
  level->level = kTreeLevelsMax;  // whatever the root says
  level->children.push_back({{superblock.tree_root, superblock.tree_root_generation}, Key{}, {}});
  levels_.push_back(std::move(level));
}

NodeWalk::~NodeWalk() = default;

Attempt<const WalkedNode*> NodeWalk::current() {
  if (has_node_) return static_cast<const WalkedNode*>(&node_);
  while (!levels_.empty() && levels_.back()->children.empty()) levels_.pop_back();
  if (levels_.empty()) return static_cast<const WalkedNode*>(nullptr);
  Level& level = *levels_.back();
  read_ahead(level);
  Child& child = level.children.front();
  node_ = WalkedNode{child.pointer, child.low, {}, nullptr};
  if (child.read) {
    const Attempt<void> read = child.read->wait();
    if (read.must_restart()) return Unfinished(read);
    if (read.ok()) node_.image = std::move(child.read->image);
  }
  node_.damage = damage_of(node_, level.level);
  has_node_ = true;
  level.children.pop_front();
  --level.reading;
  return static_cast<const WalkedNode*>(&node_);
}

void NodeWalk::advance() {
  CHECK(has_node_);
  has_node_ = false;
  if (node_.damage == nullptr && node_.header().level != 0) descend();
}

void NodeWalk::descend() {
  auto below = std::make_unique<Level>();
  const uint32_t count = node_.header().count;
  below->level = node_.header().level - 1u;
  for (uint32_t i = 0; i < count; ++i) {
    const Key low = node_.slot(i).key.key();
    // The first child also holds what is smaller than its slot's key.
    if (i != 0 && low > keys_.last) break;
    if (i + 1 < count && node_.slot(i + 1).key.key() <= keys_.first) continue;
    below->children.push_back({view_as<ChildPointer>(node_.value(i)), low, {}});
  }
  levels_.push_back(std::move(below));
}

void NodeWalk::read_ahead(Level& level) {
  while (level.reading < kReadAhead && level.reading < level.children.size()) {
    Child& child = level.children[level.reading++];
    if (!in_data_area(child.pointer)) continue;
    child.read = make_ref<Read>();
    device_.submit(IoRequest::read(block_addr(BlockNo(child.pointer.block)),
                                   child.read->image.data(), kNodeBytes),
                   child.read);
  }
}

bool NodeWalk::in_data_area(const ChildPointer& pointer) const {
  return pointer.block >= superblock_.data_first && pointer.block < superblock_.block_count &&
         superblock_.block_count - pointer.block >= kNodeBlocks;
}

const char* NodeWalk::damage_of(const WalkedNode& node, uint32_t level) const {
  if (!in_data_area(node.pointer)) return "lies outside the data area";
  if (node.image.size() == 0) return "cannot be read";
  if (!node_verifies(node.image_bytes(), BlockNo(node.pointer.block), node.pointer.generation,
                     superblock_.checksum_seed)) {
    return "does not verify";
  }
  if (level != kTreeLevelsMax && node.header().level != level) return "is of the wrong level";
  if (node.slot(0).key.key() < node.low) return "holds keys of its neighbour";
  return nullptr;
}

}  // namespace fusefs
