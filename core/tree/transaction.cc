#include "core/tree/transaction.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/base/check.h"
#include "core/tree/store_impl.h"

namespace fusefs {
namespace {

constexpr uint64_t kOffsetMax = std::numeric_limits<uint64_t>::max();

std::optional<Key> key_after(Key key) {
  if (key.offset != kOffsetMax) return Key{key.object, key.type, key.offset + 1};
  if (key.type < KeyType::orphan) {
    return Key{key.object, static_cast<KeyType>(static_cast<uint8_t>(key.type) + 1), 0};
  }
  if (key.object != kOffsetMax) return Key{key.object + 1, KeyType{}, 0};
  return std::nullopt;
}

std::optional<Key> key_before(Key key) {
  if (key.offset != 0) return Key{key.object, key.type, key.offset - 1};
  if (key.type > KeyType{}) {
    return Key{key.object, static_cast<KeyType>(static_cast<uint8_t>(key.type) - 1), kOffsetMax};
  }
  if (key.object != 0) return Key{key.object - 1, KeyType::orphan, kOffsetMax};
  return std::nullopt;
}

}  // namespace

Transaction::Transaction(Store& store, NodePins& pins) : store_(store), pins_(pins) {}
Transaction::~Transaction() = default;

// ---- Reading ----

Attempt<std::optional<Item>> Transaction::find(const Key& key) {
  const auto staged = staged_.find(key);
  if (staged == staged_.end()) return store_.impl_->tree->find(key, pins_);
  if (staged->second.erased) return std::optional<Item>();
  return std::optional<Item>(Item{key, staged->second.value});
}

Attempt<std::optional<Item>> Transaction::at_or_after(const Key& key) {
  Tree& tree = *store_.impl_->tree;
  std::optional<Key> at = key;
  while (at) {
    ATTEMPT(const std::optional<Item> item, tree.at_or_after(*at, pins_));
    auto staged = staged_.lower_bound(*at);
    // Erased here and not there: of no interest.
    while (staged != staged_.end() && staged->second.erased &&
           !(item && staged->first >= item->key)) {
      ++staged;
    }
    if (staged == staged_.end() || (item && item->key < staged->first)) return item;
    if (!staged->second.erased) {
      return std::optional<Item>(Item{staged->first, staged->second.value});
    }
    at = key_after(staged->first);
  }
  return std::optional<Item>();
}

Attempt<std::optional<Item>> Transaction::at_or_before(const Key& key) {
  Tree& tree = *store_.impl_->tree;
  std::optional<Key> at = key;
  while (at) {
    ATTEMPT(const std::optional<Item> item, tree.at_or_before(*at, pins_));
    auto above = staged_.upper_bound(*at);
    while (above != staged_.begin() && std::prev(above)->second.erased &&
           !(item && std::prev(above)->first <= item->key)) {
      --above;
    }
    if (above == staged_.begin() || (item && item->key > std::prev(above)->first)) return item;
    const auto staged = std::prev(above);
    if (!staged->second.erased) {
      return std::optional<Item>(Item{staged->first, staged->second.value});
    }
    at = key_before(staged->first);
  }
  return std::optional<Item>();
}

// ---- Staging ----

void Transaction::stage(const Key& key, Staged staged) {
  prepared_ = false;
  const uint32_t bytes = ChangeEncoder::put_bytes(staged.value.size());
  const auto [at, fresh] = staged_.try_emplace(key);
  if (!fresh) key_bytes_ -= ChangeEncoder::put_bytes(at->second.value.size());
  key_bytes_ += bytes;
  at->second = std::move(staged);
}

void Transaction::put(const Key& key, ConstBytes value) {
  CHECK(value.size() <= kItemValueBytesMax);
  stage(key, {false, std::vector<std::byte>(value.begin(), value.end())});
}

void Transaction::erase(const Key& key) { stage(key, {true, {}}); }

void Transaction::shows_data(WriteStamp stamp) { data_stamp_ = std::max(data_stamp_, stamp); }

void Transaction::add_blocks(BlockFate fate, BlockRange blocks) {
  if (blocks.empty()) return;
  if (!blocks_.empty() && blocks_.back().fate == fate) {
    BlockRange& last = blocks_.back().blocks;
    if (last.end == blocks.first) {
      last.end = blocks.end;
      return;
    }
    if (blocks.end == last.first) {
      last.first = blocks.first;
      return;
    }
  }
  blocks_.push_back({fate, blocks});
}

void Transaction::allocate(BlockRange blocks) {
  prepared_ = false;
  add_blocks(BlockFate::allocated, blocks);
}

void Transaction::release(BlockRange blocks) {
  prepared_ = false;
  // Entries are in order, so what was allocated last is released first.
  for (size_t i = blocks_.size(); i-- > 0 && !blocks.empty();) {
    const BlockChangeEntry& entry = blocks_[i];
    if (entry.fate != BlockFate::allocated || !entry.blocks.overlaps(blocks)) continue;
    const BlockRange both{std::max(entry.blocks.first, blocks.first),
                          std::min(entry.blocks.end, blocks.end)};
    release_again(i, both);
    // What lies left of it may be anywhere in the list, what lies right of it too.
    release({blocks.first, both.first});
    release({both.end, blocks.end});
    return;
  }
  add_blocks(BlockFate::released, blocks);
}

void Transaction::unshare(BlockRange blocks) { unshared_.push_back(blocks); }

// Cuts `blocks` out of an allocation.
void Transaction::release_again(size_t entry, BlockRange blocks) {
  const BlockRange whole = blocks_[entry].blocks;
  blocks_[entry] = {BlockFate::passing, blocks};
  const auto behind = blocks_.begin() + static_cast<ptrdiff_t>(entry) + 1;
  std::vector<BlockChangeEntry> rest;
  if (whole.first < blocks.first) {
    rest.push_back({BlockFate::allocated, {whole.first, blocks.first}});
  }
  if (blocks.end < whole.end) rest.push_back({BlockFate::allocated, {blocks.end, whole.end}});
  blocks_.insert(behind, rest.begin(), rest.end());
}

bool Transaction::empty() const { return staged_.empty() && blocks_.empty(); }

uint32_t Transaction::change_count() const {
  return static_cast<uint32_t>(staged_.size() + blocks_.size());
}

uint32_t Transaction::encoded_bytes() const {
  return key_bytes_ + static_cast<uint32_t>(blocks_.size()) * ChangeEncoder::block_change_bytes();
}

bool Transaction::has_room(uint32_t changes) const {
  constexpr uint32_t kChangeBytesMax = ChangeEncoder::put_bytes(kItemValueBytesMax);
  if (change_count() + changes > store_.impl_->transaction_changes_max()) return false;
  return encoded_bytes() + uint64_t{changes} * kChangeBytesMax <= kTransactionBytesMax;
}

// ---- Committing ----

Attempt<void> Transaction::prepare() {
  Store::Impl& store = *store_.impl_;
  if (!store.health.writable()) return Error::read_only_volume;
  CHECK_MSG(encoded_bytes() <= kTransactionBytesMax, "a transaction has outgrown its limit");
  store.tree->begin_prepare();
  uint64_t new_dirty = 0;
  for (const auto& [key, staged] : staged_) {
    ATTEMPT_OK(store.tree->prepare(key, staged.value.size(), pins_, new_dirty));
  }
  for (const BlockChangeEntry& entry : blocks_) {
    ATTEMPT_OK(store.space->prepare_change(entry.blocks));
  }
  ATTEMPT_OK(store.prepare_nodes(new_dirty));
  ATTEMPT_OK(store.journal->prepare(encoded_bytes()));
  prepared_ = true;
  return {};
}

void Transaction::encode(ChangeEncoder& encoder) const {
  for (const auto& [key, staged] : staged_) {
    if (staged.erased) {
      encoder.erase(key);
    } else {
      encoder.put(key, staged.value);
    }
  }
  for (const BlockChangeEntry& entry : blocks_) {
    if (entry.fate == BlockFate::allocated) encoder.allocate(entry.blocks);
    if (entry.fate == BlockFate::released) encoder.release(entry.blocks);
  }
}

JournalSeq Transaction::commit() {
  Store::Impl& store = *store_.impl_;
  if (empty()) return store.journal->last_seq();
  CHECK_MSG(prepared_, "commit() without prepare()");
  ChangeEncoder encoder;
  encode(encoder);
  const JournalSeq seq = store.journal->append(encoder.bytes(), encoder.count(), data_stamp_);
  for (const BlockChangeEntry& entry : blocks_) {
    if (entry.fate != BlockFate::released) store.space->commit_allocate(entry.blocks);
    if (entry.fate != BlockFate::allocated) store.space->commit_release(entry.blocks, seq);
  }
  for (const BlockRange& blocks : unshared_) store.space->commit_unshare(blocks, seq);
  for (const auto& [key, staged] : staged_) {
    if (!staged.erased) store.put(key, staged.value);
  }
  for (const auto& [key, staged] : staged_) {
    if (staged.erased) store.erase(key);
  }
  store.committed();
  staged_.clear();
  blocks_.clear();
  unshared_.clear();
  key_bytes_ = 0;
  data_stamp_ = 0;
  prepared_ = false;
  return seq;
}

}  // namespace fusefs
