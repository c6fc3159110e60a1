#include "core/format/node_format.h"

#include <algorithm>
#include <array>

namespace fusefs {
namespace {

// Bytes of the node that a value has claimed, one bit each.
class ClaimedBytes {
 public:
  // False: some of [first, end) is claimed already.
  bool claim(uint32_t first, uint32_t end) {
    while (first < end) {
      const uint32_t bit = first % 64;
      const uint32_t len = std::min(end - first, 64 - bit);
      const uint64_t mask = (len == 64 ? ~uint64_t{0} : (uint64_t{1} << len) - 1) << bit;
      uint64_t& word = words_[first / 64];
      if ((word & mask) != 0) return false;
      word |= mask;
      first += len;
    }
    return true;
  }

 private:
  std::array<uint64_t, kNodeBytes / 64> words_ = {};
};

// Blocks of a volume are counted in 51 bits; larger numbers in memory are not places.
constexpr uint64_t kBlockNoEnd = uint64_t{1} << 51;

bool value_verifies(ConstBytes node, const NodeSlot& slot, bool leaf) {
  if (leaf) return slot.value_len <= kItemValueBytesMax;
  if (slot.value_len != sizeof(ChildPointer)) return false;
  const auto& child = view_as<ChildPointer>(node.subspan(slot.value_first));
  return child.block < kBlockNoEnd;
}

bool slots_verify(ConstBytes node) {
  const NodeHeader& header = view_as<NodeHeader>(node);
  const auto* slots = reinterpret_cast<const NodeSlot*>(node.data() + sizeof(NodeHeader));
  const uint32_t count = header.count;
  const bool leaf = header.level == 0;
  ClaimedBytes claimed;
  uint32_t value_bytes = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const NodeSlot& slot = slots[i];
    const uint32_t first = slot.value_first;
    const uint32_t end = first + slot.value_len;
    if (slot.zero != 0 || slot.zero2 != 0) return false;
    if (slot.key.type > static_cast<unsigned char>(KeyType::orphan)) return false;
    if (first < header.values_first || end > kNodeBytes) return false;
    if (!value_verifies(node, slot, leaf) || !claimed.claim(first, end)) return false;
    if (i > 0 && slots[i - 1].key.key() >= slot.key.key()) return false;
    value_bytes += slot.value_len;
  }
  return value_bytes + header.garbage_bytes == kNodeBytes - header.values_first;
}

}  // namespace

bool node_verifies(ConstBytes node, BlockNo at, uint64_t generation, uint64_t checksum_seed) {
  if (node.size() != kNodeBytes) return false;
  if (!block_verifies(node, BlockKind::node, at, checksum_seed)) return false;
  const NodeHeader& header = view_as<NodeHeader>(node);
  if (header.header.generation != generation) return false;
  if (header.level >= kTreeLevelsMax || header.count == 0) return false;
  const uint64_t slots_end = sizeof(NodeHeader) + uint64_t{header.count} * sizeof(NodeSlot);
  if (slots_end > header.values_first || header.values_first > kNodeBytes) return false;
  if (header.garbage_bytes > kNodeBytes) return false;
  return slots_verify(node);
}

}  // namespace fusefs
