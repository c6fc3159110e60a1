#include "core/tree/node_edit.h"

#include <cstring>

#include "core/base/check.h"

namespace fusefs {
namespace {

bool slot_less(const NodeSlot& slot, const Key& key) {
  const uint64_t object = slot.key.object;
  if (object != key.object) return object < key.object;
  const auto type = static_cast<KeyType>(slot.key.type);
  if (type != key.type) return type < key.type;
  return slot.key.offset < key.offset;
}

}  // namespace

void NodePage::init(uint32_t level) {
  std::memset(page_, 0, sizeof(NodeHeader));
  header().level = static_cast<uint16_t>(level);
  header().values_first = kNodeBytes;
}

uint32_t NodePage::lower_bound(const Key& key) const {
  uint32_t first = 0;
  uint32_t len = count();
  while (len > 0) {
    const uint32_t half = len / 2;
    const bool less = slot_less(slot(first + half), key);
    first = less ? first + half + 1 : first;
    len = less ? len - half - 1 : half;
  }
  return first;
}

uint32_t NodePage::child_slot(const Key& key) const {
  const uint32_t index = lower_bound(key);
  // Before the first separator means the first child: its separator is a bound, not a key.
  return holds(index, key) || index == 0 ? index : index - 1;
}

void NodePage::place_value(NodeSlot& at, ConstBytes value) {
  const auto len = static_cast<uint32_t>(value.size());
  const uint32_t first = header().values_first - len;
  if (len != 0) std::memcpy(page_ + first, value.data(), len);
  at.value_first = static_cast<uint16_t>(len != 0 ? first : kNodeBytes);
  at.value_len = static_cast<uint16_t>(len);
  header().values_first = first;
}

void NodePage::drop_value(const NodeSlot& at) {
  const uint32_t len = at.value_len;
  if (at.value_first == header().values_first) {
    header().values_first = header().values_first + len;
  } else {
    header().garbage_bytes = header().garbage_bytes + len;
  }
}

bool NodePage::insert(uint32_t index, const Key& key, ConstBytes value) {
  const uint32_t bytes = item_bytes(value.size());
  if (bytes > free_bytes()) return false;
  if (bytes > contiguous_bytes()) compact();
  const uint32_t after = count() - index;
  std::memmove(&slot(index) + 1, &slot(index), after * sizeof(NodeSlot));
  header().count = static_cast<uint16_t>(count() + 1);
  NodeSlot fresh{};
  fresh.key = KeyFormat::of(key);
  place_value(fresh, value);
  slot(index) = fresh;
  return true;
}

bool NodePage::replace(uint32_t index, ConstBytes value) {
  NodeSlot& at = slot(index);
  const auto len = static_cast<uint32_t>(value.size());
  const uint32_t old_len = at.value_len;
  if (len > old_len + free_bytes()) return false;
  if (len == old_len) {
    if (len != 0) std::memcpy(page_ + at.value_first, value.data(), len);
    return true;
  }
  drop_value(at);
  at.value_first = static_cast<uint16_t>(kNodeBytes);
  at.value_len = uint16_t{0};
  if (len > contiguous_bytes()) compact();
  place_value(at, value);
  return true;
}

void NodePage::erase(uint32_t index) {
  drop_value(slot(index));
  const uint32_t after = count() - index - 1;
  std::memmove(&slot(index), &slot(index) + 1, after * sizeof(NodeSlot));
  header().count = static_cast<uint16_t>(count() - 1);
  if (count() == 0) {
    header().values_first = kNodeBytes;
    header().garbage_bytes = uint32_t{0};
  }
}

void NodePage::set_child(uint32_t index, const ChildPointer& child) {
  CHECK(slot(index).value_len == sizeof(ChildPointer));
  std::memcpy(page_ + slot(index).value_first, &child, sizeof(child));
}

void NodePage::append_from(const NodePage& other, uint32_t from) {
  for (uint32_t i = from; i < other.count(); ++i) {
    const bool fits = insert(count(), other.key(i), other.value(i));
    CHECK(fits);
  }
}

void NodePage::truncate(uint32_t from) {
  while (count() > from) erase(count() - 1);
}

NodePage::Split NodePage::split_for(uint32_t index, uint32_t bytes) const {
  const uint32_t items = count();
  if (index == items) return {items, true};
  const uint32_t half = (used_bytes() + bytes) / 2;
  Split split{0, true};
  uint32_t left_bytes = 0;
  while (left_bytes < half) {
    if (split.stay == index && split.goes_right) {
      left_bytes += bytes;
      split.goes_right = false;
    } else {
      left_bytes += item_bytes(slot(split.stay).value_len);
      ++split.stay;
    }
  }
  return split;
}

void NodePage::compact() {
  std::byte scratch[kNodeBytes];
  uint32_t first = kNodeBytes;
  const uint32_t end = count();
  for (uint32_t i = 0; i < end; ++i) {
    NodeSlot& at = slot(i);
    const uint32_t len = at.value_len;
    first -= len;
    if (len != 0) std::memcpy(scratch + first, page_ + at.value_first, len);
    at.value_first = static_cast<uint16_t>(len != 0 ? first : kNodeBytes);
  }
  std::memcpy(page_ + first, scratch + first, kNodeBytes - first);
  header().values_first = first;
  header().garbage_bytes = uint32_t{0};
}

}  // namespace fusefs
