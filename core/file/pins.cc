#include "core/file/pins.h"

#include <algorithm>

namespace fusefs {

Pins::~Pins() {
  for (auto& [id, pin] : pins_) {
    for (FolioRef& folio : pin->folios_) {
      if (folio->mapping != nullptr) cache_.unpin(*folio, pin->kind == PinKind::write);
    }
    for (auto& [index, folio] : pin->mapped_) {
      if (folio->mapping == nullptr) continue;
      if (folio->is_storable()) cache_.unpin(*folio, true);
      cache_.unpin(*folio, false);
    }
    pin->folios_.clear();
    pin->mapped_.clear();
    pin->inode_.reset();
  }
}

void Pins::add_storable_inodes(std::vector<InodeRef>& inodes) const {
  for (const auto& [id, pin] : pins_) {
    if (pin->inode_->mapping.storable_count() == 0) continue;
    if (std::find(inodes.begin(), inodes.end(), pin->inode_) == inodes.end()) {
      inodes.push_back(pin->inode_);
    }
  }
}

const PinStats& Pins::stats() {
  stats_.pinned_pages = cache_.pinned_pages();
  stats_.pins = pins_.size();
  stats_.windows = 0;
  for (const auto& [id, pin] : pins_) stats_.windows += pin->external ? 1 : 0;
  return stats_;
}

Result<void> Pins::check_limits(uint32_t uid, uint64_t bytes) const {
  if (bytes > bytes_max - std::min(bytes_, bytes_max)) return Error::pin_limit;
  const auto user = user_bytes_.find(uid);
  const uint64_t user_bytes = user == user_bytes_.end() ? 0 : user->second;
  if (bytes > bytes_max_per_user - std::min(user_bytes, bytes_max_per_user)) {
    return Error::pin_limit_per_user;
  }
  return {};
}

void Pins::count(Pin& pin, uint64_t bytes) {
  pin.bytes_ += bytes;
  bytes_ += bytes;
  user_bytes_[pin.uid] += bytes;
  if (!pin.external) cache_bytes_ += bytes;
}

Result<Ref<Pin>> Pins::start(Inode& inode, FileRange range, PinKind kind, uint32_t uid,
                             Timestamp since, bool external) {
  for (const auto& [id, pin] : pins_) {
    const bool overlaps =
        pin->inode() == &inode && pin->range.first < range.end && range.first < pin->range.end;
    if (overlaps && (kind == PinKind::mapped || pin->is_mapped())) return Error::too_busy;
  }
  const uint64_t bytes = kind == PinKind::mapped ? 0 : block_bytes(range.count());
  TRY_OK(check_limits(uid, bytes));
  const uint64_t cache_bytes_max = cache_.arena().memory().size() / kPinnedCacheShare;
  if (!external && bytes > cache_bytes_max - cache_bytes_) return Error::no_memory;

  ++inode.open_count;
  Ref<Pin> pin = make_ref<Pin>(++last_id_, InodeRef(&inode), range, kind, uid, since, external);
  count(*pin, bytes);
  pins_.emplace(pin->id, pin);
  return pin;
}

Result<void> Pins::charge(Pin& pin) {
  TRY_OK(check_limits(pin.uid, kPageBytes));
  count(pin, kPageBytes);
  return {};
}

void Pins::finish(Pin& pin) {
  CHECK(pin.inode_ && pin.folios_.empty() && pin.mapped_.empty());
  const uint64_t bytes = pin.bytes_;
  bytes_ -= bytes;
  // A mapped range may count nothing, and its user's others may have ended.
  uint64_t& user_bytes = user_bytes_[pin.uid];
  user_bytes -= bytes;
  if (user_bytes == 0) user_bytes_.erase(pin.uid);
  if (!pin.external) cache_bytes_ -= bytes;
  const InodeRef inode = std::move(pin.inode_);
  --inode->open_count;
  const InodeNo ino = inode->ino;
  pins_.erase(pin.id);  // `pin` may be gone
  if (on_end) on_end(ino);
}

}  // namespace fusefs
