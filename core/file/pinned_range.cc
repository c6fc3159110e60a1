#include "core/file/pinned_range.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/base/checksum.h"
#include "core/file/placement.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};

bool is_empty(FileRange range) { return range.first >= range.end; }

// Calls `visit(folio)` for the pinned pages of `range`, in order.
template <class Visit>
void for_each_pinned(const Inode& inode, FileRange range, Visit&& visit) {
  if (inode.mapping.pinned_count() == 0) return;
  FileBlock at = range.first;
  while (at < range.end) {
    const FolioRef folio = inode.mapping.next_pinned(at);
    if (!folio || folio->index >= range.end) return;
    visit(*folio);
    at = folio->index + kOne;
  }
}

// Whether the next write of the page will need a block that it does not own, once its own has gone
// or is shared.
bool lacks_next(const Folio& folio) {
  return folio.is_storable() && folio.dirty && folio.reservation.count() == BlockCount(0);
}

BlockCount count_lacking(const Inode& inode, FileRange range) {
  range.end = std::min(range.end, file_block_end(inode.attr.size));
  BlockCount count;
  for_each_pinned(inode, range, [&](const Folio& folio) {
    if (lacks_next(folio)) count += kOne;
  });
  return count;
}

Attempt<void> reserve_next(FileContext& context, BlockCount count, Reservation& next) {
  if (next.count() >= count) return {};
  Attempt<Reservation> more = context.space.reserve(count - next.count());
  if (more.failed() && more.error() == Error::no_space) {
    ++context.pins.counters().reservation_failed_count;
  }
  if (!more.ok()) return Unfinished(more);
  next.merge(std::move(more).value());
  return {};
}

void give_next(FileContext& context, Folio& folio, Reservation& next) {
  if (!lacks_next(folio) || next.count() == BlockCount(0)) return;
  context.cache.give_reservation(folio, next.split(kOne));
}

// The device has what a page has that is pinned for reading only: it need not be written.
void make_clean(FileContext& context, Folio& folio) {
  if (folio.is_storable() || !folio.dirty) return;
  context.cache.take_reservation(folio).release();
  context.cache.begin_writeback(folio);
  context.cache.end_writeback(folio, true);
}

uint64_t zero_page_sum() {
  static const uint64_t sum = page_sum(nullptr, 0);
  return sum;
}

// Zeroes what pinned pages have of [pos, end).
void zero_bytes(Inode& inode, uint64_t pos, uint64_t end) {
  if (pos >= end) return;
  for_each_pinned(inode, {file_block_at(pos), file_block_end(end)}, [&](Folio& folio) {
    const bool changes = folio.is_storable() || folio.is_mapped();
    if (folio.locked || (folio.writeback && !changes)) return;
    const uint64_t page_pos = file_pos(folio.index);
    const uint64_t from = std::max(pos, page_pos);
    const uint64_t to = std::min(end, page_pos + kPageBytes);
    std::memset(folio.frame + (from - page_pos), 0, to - from);
  });
}

}  // namespace

// ---- Mapped ----

Attempt<void> ProtectRange::run(FileContext& context, Inode& inode, FileRange range) {
  if (!begun_) {
    std::vector<FolioRef> storing;
    for_each_pinned(inode, range, [&](Folio& folio) {
      if (folio.is_mapped() && folio.dirty && !folio.is_storable()) storing.emplace_back(&folio);
    });
    for (const FolioRef& folio : storing) {
      const std::shared_ptr<MappedRights>& rights = folio->pinned->rights;
      if (!folio->is_granting_store() || granting_.is_over(context, *rights)) continue;
      return granting_.restart(context, rights);
    }
    granting_.reset();
    begun_ = true;
    for (const FolioRef& folio : storing) {
      if (folio->is_granting_store() || are_late(context, *folio->pinned->rights)) {
        make_storable(context, inode, *folio);
      } else {
        asked_.push_back(folio);
      }
    }
    taken_.ask(context, asked_);
  }
  ATTEMPT(const bool taken, taken_.wait(context));
  for (const FolioRef& folio : asked_) {
    if (!taken && !taken_.has(*folio)) make_storable(context, inode, *folio);
  }
  asked_.clear();
  return {};
}

void ProtectRange::reset() {
  begun_ = false;
  granting_.reset();
  asked_.clear();
  taken_.reset();
}

uint64_t page_sum(const std::byte* frame, size_t valid) {
  if (valid == kPageBytes) return checksum({frame, kPageBytes});
  std::array<std::byte, kPageBytes> page{};
  if (valid != 0) std::memcpy(page.data(), frame, valid);
  return checksum(page);
}

// ---- Cut ----

Attempt<void> reserve_for_cut(FileContext& context, const Inode& inode, FileRange range,
                              Reservation& next) {
  if (is_empty(range)) return {};
  return reserve_next(context, count_lacking(inode, range), next);
}

void zero_cut(FileContext& context, Inode& inode, FileRange range, Reservation& next) {
  for_each_pinned(inode, range, [&](Folio& folio) {
    std::memset(folio.frame, 0, kPageBytes);
    make_clean(context, folio);
    if (folio.is_storable()) folio.pinned->device_sum = zero_page_sum();
    give_next(context, folio, next);
  });
}

void forget_device_sum(Inode& inode, FileBlock index) {
  const FolioRef folio = inode.mapping.find(index);
  if (folio && folio->pinned) folio->pinned->device_sum.reset();
}

// ---- Grow ----

void grow_over_pins(FileContext& context, Inode& inode, uint64_t pos, uint64_t end) {
  const uint64_t size = inode.attr.size;
  if (inode.mapping.pinned_count() == 0 || end <= size) return;
  zero_bytes(inode, size, pos);
  zero_bytes(inode, std::max(size, end), file_pos(file_block_end(end)));
  // Pages that were beyond the end may have lost their blocks. Where there is no space their bounce
  // will say so.
  const FileRange grown{file_block_end(size), file_block_end(end)};
  if (is_empty(grown)) return;
  BlockCount lacking;
  for_each_pinned(inode, grown, [&](const Folio& folio) {
    if (lacks_next(folio)) lacking += kOne;
  });
  if (lacking == BlockCount(0)) return;
  Attempt<Reservation> next = context.space.reserve(lacking, SpaceUse::writeback);
  if (!next.ok()) return;
  for_each_pinned(inode, grown, [&](Folio& folio) { give_next(context, folio, next.value()); });
}

// ---- Sharing ----

Attempt<void> PinnedSharing::prepare(FileContext& context, Inode& from, FileRange source, Inode& to,
                                     FileBlock target, bool new_content, NodePins& pins) {
  const FileRange target_range = file_range(target, source.count());
  if (prepared_ || (from.mapping.pinned_count() == 0 && to.mapping.pinned_count() == 0)) return {};
  if (new_content) ATTEMPT_OK(protect_.run(context, to, target_range));
  // The target may grow over pages that are beyond its end now.
  BlockCount lacking = count_lacking(from, source);
  for_each_pinned(to, target_range, [&](const Folio& folio) {
    if (lacks_next(folio)) lacking += kOne;
  });
  ATTEMPT_OK(reserve_next(context, lacking, next_));
  if (new_content && !ticket_) {
    ATTEMPT_OK(read_content(context, from, source, to, target, pins));
  }
  if (ticket_) {
    ATTEMPT_OK(ticket_->wait());
    guard_.release();
  }
  prepared_ = true;
  return {};
}

Attempt<void> PinnedSharing::read_content(FileContext& context, Inode& from, FileRange source,
                                          Inode& to, FileBlock target, NodePins& pins) {
  std::vector<FileBlock> pages;
  std::vector<Extent> extents;  // of the source, a page each
  FileBlock at = target;
  const FileBlock end = target + source.count();
  while (at < end) {
    const FolioRef folio = to.mapping.next_pinned(at);
    if (!folio || folio->index >= end) break;
    const FileBlock in_source = source.first + (folio->index - target);
    ATTEMPT(const Extent extent,
            extent_at(context.store.tree(), from.ino, in_source, in_source + kOne, pins));
    pages.push_back(folio->index);
    extents.push_back(extent);
    at = folio->index + kOne;
  }
  if (pages.empty()) return {};

  // Nothing restarts from here on.
  pages_ = std::move(pages);
  content_ = AlignedBuffer(pages_.size() * kPageBytes);  // zeroes
  guard_ = context.space.guard_io();
  ticket_ = make_ref<IoTicket>();
  IoGather reads(context.device, IoKind::read, ticket_);
  for (size_t i = 0; i < pages_.size(); ++i) {
    if (extents[i].state != ExtentState::written) continue;
    reads.add(extents[i].start, content_.data() + i * kPageBytes, kPageBytes);
  }
  return {};
}

void PinnedSharing::shared(FileContext& context, Inode& from, FileRange source, Inode& to,
                           FileBlock target) {
  if (!prepared_) return;
  for_each_pinned(from, source, [&](Folio& folio) { give_next(context, folio, next_); });
  auto page = std::lower_bound(pages_.begin(), pages_.end(), target);
  for_each_pinned(to, file_range(target, source.count()), [&](Folio& folio) {
    if (page != pages_.end() && *page == folio.index) {
      const std::byte* bytes = content_.data() + (page - pages_.begin()) * ptrdiff_t{kPageBytes};
      std::memcpy(folio.frame, bytes, kPageBytes);
      make_clean(context, folio);
      if (folio.is_storable()) folio.pinned->device_sum = page_sum(bytes, kPageBytes);
      ++page;
    }
    give_next(context, folio, next_);
  });
}

void PinnedSharing::reset() {
  next_.release();
  pages_.clear();
  content_ = AlignedBuffer();
  ticket_.reset();
  guard_.release();
  protect_.reset();
  prepared_ = false;
}

}  // namespace fusefs
