// Open addressing with linear probing; filled to 7/8 at most, so that a million inodes take 32 MiB.
#include "core/inode/lookup_counts.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr size_t kSlotsMin = 64;

}  // namespace

size_t LookupCounts::home_of(uint64_t ino) const {
  return static_cast<size_t>(ino * 0x9E3779B97F4A7C15ull >> shift_);
}

size_t LookupCounts::find_slot(uint64_t ino) const {
  const size_t mask = slots_.size() - 1;
  size_t at = home_of(ino);
  while (slots_[at].ino != 0 && slots_[at].ino != ino) at = (at + 1) & mask;
  return at;
}

void LookupCounts::add(InodeNo ino, uint64_t count) {
  CHECK(ino.value() != 0);
  if (count == 0) return;
  if ((used_ + 1) * 8 > slots_.size() * 7) resize(std::max(kSlotsMin, slots_.size() * 2));
  Slot& slot = slots_[find_slot(ino.value())];
  if (slot.ino == 0) {
    slot.ino = ino.value();
    ++used_;
  }
  slot.count += count;
}

uint64_t LookupCounts::forget(InodeNo ino, uint64_t count) {
  if (slots_.empty() || ino.value() == 0) return 0;
  const size_t at = find_slot(ino.value());
  if (slots_[at].ino == 0) return 0;
  slots_[at].count -= std::min(slots_[at].count, count);
  const uint64_t left = slots_[at].count;
  if (left == 0) {
    erase(at);
    // The kernel dropped its caches: so does the table. Far below the bound for growing, so that
    // one more and one less do not resize it each time.
    if (slots_.size() > kSlotsMin && used_ * 8 < slots_.size()) resize(slots_.size() / 2);
  }
  return left;
}

uint64_t LookupCounts::count(InodeNo ino) const {
  if (slots_.empty() || ino.value() == 0) return 0;
  return slots_[find_slot(ino.value())].count;
}

void LookupCounts::clear() {
  slots_ = {};
  shift_ = 64;
  used_ = 0;
}

//   hole   next
//    v      v
//   [ ] [a] [b] [c] [ ]      b may move into the hole if probing for it passes the hole, that is,
//                            if its home is not between the hole (exclusive) and b.
void LookupCounts::erase(size_t at) {
  const size_t mask = slots_.size() - 1;
  size_t hole = at;
  for (size_t next = (hole + 1) & mask; slots_[next].ino != 0; next = (next + 1) & mask) {
    const size_t from_home = (next - home_of(slots_[next].ino)) & mask;
    const size_t from_hole = (next - hole) & mask;
    if (from_home < from_hole) continue;
    slots_[hole] = slots_[next];
    hole = next;
  }
  slots_[hole] = Slot{};
  --used_;
}

void LookupCounts::resize(size_t slots) {
  std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots));
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(slots));
  for (const Slot& slot : old) {
    if (slot.ino != 0) slots_[find_slot(slot.ino)] = slot;
  }
}

}  // namespace fusefs
