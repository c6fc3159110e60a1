#include "core/memory/mapping.h"

#include <bit>

namespace fusefs {

Mapping::~Mapping() {
  while (Folio* folio = first_raw(FileBlock{})) folio->cache_.detach(*folio);
}

const Mapping::Leaf* Mapping::leaf_at(uint64_t number) const {
  if (number == last_number_) return last_leaf_;
  auto it = leaves_.find(number);
  if (it == leaves_.end()) return nullptr;
  last_number_ = number;
  last_leaf_ = const_cast<Leaf*>(&it->second);
  return last_leaf_;
}

Folio* Mapping::find_raw(FileBlock index) const {
  const Leaf* leaf = leaf_at(leaf_of(index));
  return leaf != nullptr ? leaf->slots[index.value() % kLeafPages] : nullptr;
}

FolioRef Mapping::find(FileBlock index) const {
  if (count_ == 0) return nullptr;
  return FolioRef(find_raw(index));
}

Folio* Mapping::first_raw(FileBlock index) const {
  for (auto it = leaves_.lower_bound(leaf_of(index)); it != leaves_.end(); ++it) {
    uint64_t bits = it->second.present;
    if (it->first == leaf_of(index)) bits &= ~(bit_of(index) - 1);
    if (bits != 0) return it->second.slots[static_cast<size_t>(std::countr_zero(bits))];
  }
  return nullptr;
}

FolioRef Mapping::at_or_after(FileBlock index) const { return FolioRef(first_raw(index)); }

Folio* Mapping::first_marked(const LeafNumbers& leaves, uint64_t Leaf::*marks,
                             FileBlock index) const {
  for (auto it = leaves.lower_bound(leaf_of(index)); it != leaves.end(); ++it) {
    const Leaf* leaf = leaf_at(*it);
    uint64_t bits = leaf->*marks;
    if (*it == leaf_of(index)) bits &= ~(bit_of(index) - 1);
    if (bits != 0) return leaf->slots[static_cast<size_t>(std::countr_zero(bits))];
  }
  return nullptr;
}

FolioRef Mapping::next_dirty(FileBlock index) const {
  return FolioRef(first_marked(dirty_leaves_, &Leaf::dirty, index));
}

FolioRef Mapping::any_writeback(FileRange range) const {
  Folio* folio = first_marked(writeback_leaves_, &Leaf::writeback, range.first);
  return folio != nullptr && folio->index < range.end ? FolioRef(folio) : nullptr;
}

FolioRef Mapping::any_locked(FileRange range) const {
  if (locked_count_ == 0) return nullptr;  // nearly always: a range may have many folios
  for (Folio* folio = first_raw(range.first); folio != nullptr && folio->index < range.end;
       folio = first_raw(folio->index + BlockCount(1))) {
    if (folio->locked && !folio->reading) return FolioRef(folio);
  }
  return nullptr;
}

bool Mapping::any_dirty(FileRange range) const {
  const Folio* folio = first_marked(dirty_leaves_, &Leaf::dirty, range.first);
  return folio != nullptr && folio->index < range.end;
}

FolioRef Mapping::next_pinned(FileBlock index) const {
  return FolioRef(first_marked(pinned_leaves_, &Leaf::pinned, index));
}

FolioRef Mapping::next_storable(FileBlock index) const {
  return FolioRef(first_marked(storable_leaves_, &Leaf::storable, index));
}

bool Mapping::any_pinned(FileRange range) const {
  const Folio* folio = first_marked(pinned_leaves_, &Leaf::pinned, range.first);
  return folio != nullptr && folio->index < range.end;
}

bool Mapping::any_storable(FileRange range) const {
  const Folio* folio = first_marked(storable_leaves_, &Leaf::storable, range.first);
  return folio != nullptr && folio->index < range.end;
}

void Mapping::insert(Folio& folio) {
  const uint64_t number = leaf_of(folio.index);
  if (leaf_at(number) == nullptr) {
    last_leaf_ = &leaves_[number];
    last_number_ = number;
  }
  last_leaf_->slots[folio.index.value() % kLeafPages] = &folio;
  last_leaf_->present |= bit_of(folio.index);
  ++count_;
}

void Mapping::erase(Folio& folio) {
  const uint64_t number = leaf_of(folio.index);
  CHECK(leaf_at(number) != nullptr);
  set_dirty(folio, false);
  set_writeback(folio, false);
  set_mark(pinned_leaves_, &Leaf::pinned, pinned_count_, folio, false);
  set_mark(storable_leaves_, &Leaf::storable, storable_count_, folio, false);
  last_leaf_->slots[folio.index.value() % kLeafPages] = nullptr;
  last_leaf_->present &= ~bit_of(folio.index);
  --count_;
  if (last_leaf_->present != 0) return;
  leaves_.erase(number);
  last_leaf_ = nullptr;
  last_number_ = ~uint64_t{0};
}

void Mapping::set_mark(LeafNumbers& leaves, uint64_t Leaf::*marks, size_t& count,
                       const Folio& folio, bool mark) {
  const uint64_t number = leaf_of(folio.index);
  CHECK(leaf_at(number) != nullptr);
  uint64_t& bits = last_leaf_->*marks;
  const uint64_t bit = bit_of(folio.index);
  if (((bits & bit) != 0) == mark) return;
  bits ^= bit;
  if (mark) {
    ++count;
    if (bits == bit) leaves.insert(number);
  } else {
    --count;
    if (bits == 0) leaves.erase(number);
  }
}

void Mapping::set_dirty(const Folio& folio, bool dirty) {
  set_mark(dirty_leaves_, &Leaf::dirty, dirty_count_, folio, dirty);
}

void Mapping::set_writeback(const Folio& folio, bool writeback) {
  set_mark(writeback_leaves_, &Leaf::writeback, writeback_count_, folio, writeback);
}

void Mapping::set_pins(const Folio& folio) {
  set_mark(pinned_leaves_, &Leaf::pinned, pinned_count_, folio, folio.is_pinned());
  set_mark(storable_leaves_, &Leaf::storable, storable_count_, folio, folio.is_storable());
}

}  // namespace fusefs
