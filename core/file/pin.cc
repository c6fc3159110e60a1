#include "core/file/pin.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "core/file/late_rights.h"
#include "core/file/pinned_range.h"
#include "core/file/placement.h"
#include "core/file/write.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};
// Pages that one attempt pins or lets go of: each is compared or copied within the monitor.
constexpr uint64_t kBatchPages = 64;

}  // namespace

// One attempt. Everything that outlives it is in the pin and the stash.
class Pinning {
 public:
  Pinning(FileContext& context, Inode& inode, Pin& pin)
      : context_(context), cache_(context.cache), inode_(inode), pin_(pin) {}

  Attempt<void> pin_batch(const PinRequest& request, FileBlock end, FaultStash& fault);
  Attempt<void> unpin_batch();
  void begin_mapped(const PinRequest& request);
  Attempt<FolioRef> load(FileBlock index, FaultStash& fault);
  Attempt<FolioRef> store(FileBlock index, FaultStash& fault);
  void set_ending() { pin_.ending_ = true; }
  bool done() const { return pin_.is_mapped() || pin_.pinned_end() == pin_.range.end; }
  bool empty() const { return pin_.folios_.empty() && pin_.mapped_.empty(); }

 private:
  Attempt<void> pin_for_writing(const PinRequest& request, FileBlock end, FaultStash& fault);
  Attempt<void> pin_for_reading(const PinRequest& request, FileBlock end, FaultStash& fault);
  Attempt<FolioRef> own_page(FileRange range, FaultStash& fault);
  Result<FolioRef> place(FolioRef folio, std::byte* frames, const std::shared_ptr<void>& owner);
  Result<FolioRef> map(FolioRef folio);
  FolioRef mapped(FileBlock index) const;
  bool ends() const { return pin_.ending_ || pin_.inode() == nullptr; }
  FolioRef last() const;
  void pop_last();
  Attempt<void> unpin(Folio& folio);
  bool settle(Folio& folio);
  void settle_late(Folio& folio);
  bool is_storable() const { return pin_.kind == PinKind::write; }

  FileContext& context_;
  PageCache& cache_;
  Inode& inode_;
  Pin& pin_;
};

// ---- Beginning ----

// Pages before `end`, which is behind the first that is not pinned.
Attempt<void> Pinning::pin_batch(const PinRequest& request, FileBlock end, FaultStash& fault) {
  const FileBlock batch_end = std::min(pin_.pinned_end() + BlockCount(kBatchPages), end);
  const Attempt<void> step = is_storable() ? pin_for_writing(request, batch_end, fault)
                                           : pin_for_reading(request, batch_end, fault);
  if (!step.must_restart()) fault.reset();
  return step;
}

// The page in the frame it is to have: where it is, or moved.
Result<FolioRef> Pinning::place(FolioRef folio, std::byte* frames,
                                const std::shared_ptr<void>& owner) {
  if (frames == nullptr) return folio;
  std::byte* frame = frames + block_bytes(folio->index - pin_.range.first);
  if (folio->frame == frame) return folio;
  if (folio->is_pinned()) return Error::too_busy;
  return cache_.move_out(*folio, frame, owner);
}

// Uptodate, whatever it was.
void fill_blank(PageCache& cache, const FaultPage& page) {
  if (!page.blank) return;
  std::memset(page.folio->frame, 0, kPageBytes);
  cache.mark_uptodate(*page.folio);
}

Attempt<void> Pinning::pin_for_writing(const PinRequest& request, FileBlock end,
                                       FaultStash& fault) {
  const FileRange range{pin_.pinned_end(), end};
  Attempt<std::vector<FaultPage>> pages = fault_for_write(context_, inode_, range, {}, fault);
  if (!pages.ok()) return Unfinished(pages);
  // Nothing restarts from here on.
  for (FaultPage& page : pages.value()) {
    if (file_pos(page.folio->index) >= inode_.attr.size) return Error::beyond_eof;
    fill_blank(cache_, page);
    const bool was_clean = !page.folio->dirty && !page.folio->is_storable();
    TRY(FolioRef folio, place(std::move(page.folio), request.frames, request.frames_owner));
    make_dirty(context_, {folio, page.needs_block, false}, fault);
    cache_.pin(*folio, true);
    // What is clean is what the device has; a hole is zeroes.
    if (was_clean) folio->pinned->device_sum = page_sum(folio->frame, kPageBytes);
    pin_.folios_.push_back(std::move(folio));
  }
  return {};
}

// The first page of `range` as a folio of the file itself, also over a shared block. The others are
// likely to be wanted next.
Attempt<FolioRef> Pinning::own_page(FileRange range, FaultStash& fault) {
  const FileBlock index = range.first;
  Attempt<FolioRef> found = fault_for_read(context_, inode_, range, fault);
  if (!found.ok() || !found.value()->of_shared_block) return found;
  const FolioRef shared = std::move(found).value();
  Attempt<FolioRef> added = cache_.add(inode_.mapping, index);
  if (!added.ok()) {
    fault.reset();  // who waits for memory must not keep any
    return added;
  }
  inode_.mapping.unmap(file_range(index, kOne));
  std::memcpy(added.value()->frame, shared->frame, kPageBytes);
  cache_.mark_uptodate(*added.value());
  return added;
}

Attempt<void> Pinning::pin_for_reading(const PinRequest& request, FileBlock end,
                                       FaultStash& fault) {
  while (pin_.pinned_end() < end) {
    Attempt<FolioRef> found = own_page({pin_.pinned_end(), end}, fault);
    if (!found.ok()) return Unfinished(found);
    // A writethrough that has planned to write from this page has to find it. Not before the fault:
    // that may be reading the page.
    ATTEMPT_OK(inode_.busy_ranges.wait_free(file_range(pin_.pinned_end(), kOne)));
    const FolioRef folio = std::move(found).value();
    const bool moves = request.frames != nullptr && !folio->is_pinned();
    if (moves && folio->writeback) {
      return restart_after(folio->changed, RestartReason::writeback);
    }
    TRY(const FolioRef placed, place(folio, request.frames, request.frames_owner));
    cache_.pin(*placed, false);
    pin_.folios_.push_back(placed);
    fault.reset();
    note_progress();
  }
  return {};
}

// ---- Mapped ----

void Pinning::begin_mapped(const PinRequest& request) {
  pin_.frames_ = request.frames;
  pin_.frames_owner_ = request.frames_owner;
  pin_.rights_ = std::make_shared<MappedRights>(request.protect, context_.pins.rights_wait_ns);
  pin_.stores_ = request.stores;
}

FolioRef Pinning::mapped(FileBlock index) const {
  const auto found = pin_.mapped_.find(index);
  return found == pin_.mapped_.end() ? FolioRef() : found->second;
}

// The page in its frame, pinned. Requires that it is not under writeback, nor planned to be
// written from by a writethrough.
Result<FolioRef> Pinning::map(FolioRef folio) {
  if (FolioRef there = mapped(folio->index)) return there;
  TRY_OK(context_.pins.charge(pin_));
  Result<FolioRef> placed = place(std::move(folio), pin_.frames_, pin_.frames_owner_);
  CHECK(placed.ok());  // nobody else pins what is mapped
  cache_.pin_mapped(*placed.value(), pin_.rights_);
  pin_.mapped_[placed.value()->index] = placed.value();
  return placed;
}

Attempt<FolioRef> Pinning::load(FileBlock index, FaultStash& fault) {
  if (ends() && !fault.begun()) return Error::bad_address;
  if (FolioRef there = mapped(index); there && !fault.begun()) return there;
  Attempt<FolioRef> found = own_page(file_range(index, kOne), fault);
  if (!found.ok()) return found;
  if (ends()) return Error::bad_address;
  const FolioRef folio = std::move(found).value();
  if (!mapped(index)) {
    ATTEMPT_OK(inode_.busy_ranges.wait_free(file_range(index, kOne)));
    if (folio->writeback) return restart_after(folio->changed, RestartReason::writeback);
  }
  TRY(FolioRef there, map(folio));
  return there;
}

Attempt<FolioRef> Pinning::store(FileBlock index, FaultStash& fault) {
  if (!fault.begun()) {
    if (ends()) return Error::bad_address;
    if (!pin_.stores_) return Error::not_permitted;
    if (!context_.health.writable()) return Error::read_only_volume;
    const FolioRef there = mapped(index);
    if (!there || !there->dirty) ATTEMPT_OK(throttle_dirtier(context_));
  }
  Attempt<std::vector<FaultPage>> pages =
      fault_for_write(context_, inode_, file_range(index, kOne), {}, fault);
  if (!pages.ok()) return Unfinished(pages);
  // Nothing restarts from here on.
  const FaultPage& page = pages.value().front();
  if (ends()) return Error::bad_address;
  if (file_pos(index) >= inode_.attr.size) return Error::beyond_eof;
  fill_blank(cache_, page);
  TRY(FolioRef there, map(page.folio));
  make_dirty(context_, {there, page.needs_block, false}, fault);
  touch_contents(context_, inode_);
  return there;
}

// ---- Ending ----

FolioRef Pinning::last() const {
  return pin_.is_mapped() ? pin_.mapped_.rbegin()->second : pin_.folios_.back();
}

void Pinning::pop_last() {
  if (pin_.is_mapped()) {
    pin_.mapped_.erase(std::prev(pin_.mapped_.end()));
  } else {
    pin_.folios_.pop_back();
  }
}

Attempt<void> Pinning::unpin_batch() {
  TwoStateHold hold;
  ATTEMPT_INTO(hold, inode_.pages_lock.add());
  for (uint64_t i = 0; i < kBatchPages && !empty(); ++i) {
    const FolioRef page = last();
    Folio& folio = *page;
    if (folio.locked || folio.is_granting()) {
      return restart_after(folio.changed, RestartReason::folio_locked);
    }
    if (folio.writeback) return restart_after(folio.changed, RestartReason::writeback);
    const Attempt<void> unpinned = unpin(folio);
    if (!unpinned.ok()) return unpinned;
    pop_last();
    note_progress();
  }
  return {};
}

// Whether the page will be dirty without its last pin for writing.
bool Pinning::settle(Folio& folio) {
  const uint64_t pos = file_pos(folio.index);
  const uint64_t size = inode_.attr.size;
  const size_t valid = size > pos ? std::min<uint64_t>(kPageBytes, size - pos) : 0;
  std::memset(folio.frame + valid, 0, kPageBytes - valid);
  const std::optional<uint64_t> device_sum = folio.pinned->device_sum;
  const bool changed =
      valid != 0 && (!device_sum || page_sum(folio.frame, kPageBytes) != *device_sum);
  cache_.set_storable_dirty(folio, changed);
  if (!changed) cache_.take_reservation(folio).release();
  return changed;
}

// A mapped page whose rights were late. Beyond the end it is nobody's.
void Pinning::settle_late(Folio& folio) {
  if (file_pos(folio.index) < inode_.attr.size) {
    touch_contents(context_, inode_);
    return make_ordinary(context_, inode_, folio);
  }
  cache_.set_storable_dirty(folio, false);
  cache_.take_reservation(folio).release();
  cache_.unpin(folio, true);
}

Attempt<void> Pinning::unpin(Folio& folio) {
  if (pin_.is_mapped() && folio.is_storable()) settle_late(folio);
  const Folio::Pinned& pinned = *folio.pinned;
  const bool last_for_writing = is_storable() && pinned.write_count == 1;
  const bool last = pinned.read_count + pinned.write_count == 1;
  const bool changed = last_for_writing && settle(folio);
  const bool gone = file_pos(folio.index) >= inode_.attr.size;
  if (last && folio.is_external() && folio.dirty && !gone) {
    Attempt<FolioRef> moved = cache_.unpin_and_move_in(folio, is_storable());
    if (!moved.ok()) return Unfinished(moved);
  } else {
    cache_.unpin(folio, is_storable());
    if (last && (folio.is_external() || gone)) cache_.remove(folio);
  }
  if (changed) {
    touch_contents(context_, inode_);
    context_.inodes.mark_pages_dirty(inode_);
  }
  return {};
}

// ---- Interface ----

namespace {

Attempt<void> check_pin(FileContext& context, Inode& inode, const PinRequest& request,
                        PinStash& stash) {
  CHECK(!request.range.empty());
  CHECK(request.frames == nullptr || request.frames_owner != nullptr);
  if (inode.attr.is_directory()) return Error::is_a_directory;
  if (!inode.attr.is_regular()) return Error::invalid_argument;
  if (request.range.end > file_block_end(inode.attr.size)) return Error::beyond_eof;
  const bool mapped = request.kind == PinKind::mapped;
  CHECK(!mapped || (request.frames != nullptr && request.protect));
  if (request.kind == PinKind::read || (mapped && !request.stores)) return {};
  if (!context.health.writable()) return Error::read_only_volume;
  if ((inode.attr.flags & (kInodeImmutable | kInodeAppendOnly)) != 0) return Error::not_permitted;
  return context.names.kill_privileges(inode.ino, request.kill_suid, stash.names);
}

// What a storable page has beyond the end of the file is zeroes, and is compared with what the
// device has: that must be zeroes too.
Attempt<void> clear_pinned_tail(FileContext& context, Inode& inode, const PinRequest& request,
                                TailStash& stash) {
  const bool wanted = request.kind == PinKind::write && inode.tail_unknown &&
                      request.range.contains(file_block_at(inode.disk_size));
  if (!wanted && !stash.hold.held()) return {};
  if (!stash.hold.held()) ATTEMPT_INTO(stash.hold, inode.pages_lock.block_alone());
  const Attempt<void> cleared = clear_tail(context, inode, stash);
  if (!cleared.must_restart()) stash = {};
  return cleared;
}

// Where frames are not ready yet.
FileBlock ready_end(const Pin& pin, const PinRequest& request, const PinStash& stash) {
  if (!request.prepare) return pin.range.end;
  return std::min(pin.range.first + stash.prepared_count, pin.range.end);
}

// No fault has begun then: each ends with the frames that are ready.
Attempt<void> prepare_next(const Pin& pin, const PinRequest& request, PinStash& stash) {
  const FileBlock first = ready_end(pin, request, stash);
  if (pin.pinned_end() < first || first == pin.range.end) return {};
  stash.prepared_count = stash.prepared_count + kPreparePages;
  const FileRange next{first, ready_end(pin, request, stash)};
  return restart_after_outside([prepare = request.prepare, next] { prepare(next); });
}

}  // namespace

Attempt<Ref<Pin>> begin_pin(FileContext& context, Inode& inode, const PinRequest& request,
                            PinStash& stash) {
  if (!stash.checked) {
    ATTEMPT_OK(check_pin(context, inode, request, stash));
    stash.checked = true;
  }
  if (!stash.pin) {
    ATTEMPT_OK(clear_pinned_tail(context, inode, request, stash.tail));
    TRY(stash.pin, context.pins.start(inode, request.range, request.kind, request.uid,
                                      context.inodes.now(), request.frames != nullptr));
    if (stash.pin->is_mapped()) Pinning(context, inode, *stash.pin).begin_mapped(request);
  }
  Pinning pinning(context, inode, *stash.pin);
  while (!stash.error && !pinning.done()) {
    ATTEMPT_OK(prepare_next(*stash.pin, request, stash));
    const FileBlock end = ready_end(*stash.pin, request, stash);
    const Attempt<void> batch = pinning.pin_batch(request, end, stash.fault);
    if (batch.must_restart()) return batch.restart();
    if (batch.failed()) stash.error = batch.error();
    note_progress();
    if (!stash.error && !pinning.done()) return restart_now();
  }
  if (!stash.error) return stash.pin;
  ATTEMPT_OK(end_pin(context, *stash.pin));
  return *stash.error;
}

Attempt<void> end_pin(FileContext& context, Pin& pin) {
  if (pin.inode() == nullptr) return {};
  const InodeRef inode(pin.inode());
  Pinning pinning(context, *inode, pin);
  pinning.set_ending();
  while (!pinning.empty()) {
    const Attempt<void> batch = pinning.unpin_batch();
    if (!batch.ok()) return batch;
    note_progress();
    if (!pinning.empty()) return restart_now();
  }
  // A size that has waited for a pinned page.
  if (inode->attr.is_regular() && inode->attr.size != inode->disk_size) {
    context.inodes.mark_attr_dirty(*inode);
  }
  context.pins.finish(pin);
  return {};
}

void PinFaultStash::end_grant() {
  if (granting) cache->end_grant(*granting, to_store);
  granting.reset();
  if (rights) rights->end_call(call);
  rights.reset();
}

Attempt<void> fault_pinned(FileContext& context, Pin& pin, FileBlock index, PinAccess access,
                           const std::function<void()>& grant, PinFaultStash& stash) {
  if (stash.granted) {
    stash.end_grant();
    return {};
  }
  CHECK(pin.is_mapped() && pin.range.contains(index));
  if (!stash.inode) {
    if (pin.inode() == nullptr) return Error::bad_address;
    stash.inode = InodeRef(pin.inode());
    stash.cache = &context.cache;
  }
  Pinning pinning(context, *stash.inode, pin);
  Attempt<FolioRef> page = access == PinAccess::load ? pinning.load(index, stash.fault)
                                                     : pinning.store(index, stash.fault);
  if (page.must_restart()) return page.restart();
  stash.fault.reset();
  if (page.failed()) return page.error();
  stash.granting = std::move(page).value();
  stash.to_store = access == PinAccess::store;
  stash.rights = stash.granting->pinned->rights;
  stash.call = stash.rights->begin_call(context.scheduler.clock().monotonic_ns());
  context.cache.begin_grant(*stash.granting, stash.to_store);
  stash.granted = true;
  return restart_after_outside(grant);
}

}  // namespace fusefs
