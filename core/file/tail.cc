#include "core/file/tail.h"

#include <cstring>

#include "core/file/pinned_range.h"
#include "core/file/remap.h"
#include "core/file/truncate.h"

namespace fusefs {

TailStash::TailStash() = default;
TailStash::TailStash(TailStash&& other) noexcept = default;
TailStash& TailStash::operator=(TailStash&& other) noexcept = default;
TailStash::~TailStash() = default;

EdgeStash::~EdgeStash() {
  if (allocated && space != nullptr) space->cancel(*allocated);
}

Attempt<void> zero_within_block(FileContext& context, Inode& inode, uint64_t pos, uint32_t len,
                                EdgeStash& stash) {
  using Phase = EdgeStash::Phase;
  const FileBlock index = file_block_at(pos);
  const size_t offset = pos % kBlockBytes;
  CHECK(offset + len <= kBlockBytes);
  if (stash.phase == Phase::done) return {};

  FolioRef folio = inode.mapping.find(index);
  if (folio && folio->reading) {  // with the old bytes: who reads it starts over
    context.cache.remove(*folio);
    folio.reset();
  }
  if (folio && folio->locked) return restart_after(folio->changed, RestartReason::folio_locked);
  if (folio && folio->writeback) return restart_after(folio->changed, RestartReason::writeback);
  // Once the device has its zeroes: until then this may fail, and the folio may have what is
  // nowhere else.
  if (stash.phase == Phase::zeroing) {
    if (folio) std::memset(folio->frame + offset, 0, len);
    stash.phase = Phase::done;
    return {};
  }
  NodePins pins;
  ATTEMPT(const Extent extent,
          extent_at(context.store.tree(), inode.ino, index, index + BlockCount(1), pins));
  if (extent.state != ExtentState::written) {
    stash.phase = Phase::zeroing;
    return zero_within_block(context, inode, pos, len, stash);
  }
  if (stash.phase == Phase::start) {
    stash.block = AlignedBuffer(kBlockBytes);
    stash.guard = context.space.guard_io();
    stash.ticket = make_ref<IoTicket>();
    context.device.submit(
        IoRequest::read(block_addr(extent.start), stash.block.data(), kBlockBytes), stash.ticket);
    stash.phase = Phase::reading;
  }
  forget_device_sum(inode, index);
  if (stash.phase == Phase::reading) {
    ATTEMPT_OK(stash.ticket->wait());
    ATTEMPT(const InPlace same,
            in_place(context.store.tree(), context.space, extent.blocks(), pins));
    BlockNo target = extent.start;
    if (!same.allowed) {
      if (stash.reservation.count() == BlockCount(0)) {
        ATTEMPT(Reservation reserved, context.space.reserve(BlockCount(1)));
        stash.reservation = std::move(reserved);
      }
      if (!stash.allocated) {
        stash.space = &context.space;
        ATTEMPT_INTO(stash.allocated,
                     context.space.allocate(BlockCount(1), extent.start, stash.reservation));
      }
      target = stash.allocated->first;
    }
    std::memset(stash.block.data() + offset, 0, len);
    stash.ticket = make_ref<IoTicket>();
    context.device.submit(IoRequest::write(block_addr(target), stash.block.data(), kBlockBytes),
                          stash.ticket);
    stash.phase = Phase::writing;
  }
  ATTEMPT_OK(stash.ticket->wait());
  if (stash.allocated) {
    const BlockRange blocks = *stash.allocated;
    Transaction txn(context.store, pins);
    txn.allocate(blocks);
    ATTEMPT(const ExtentChange change, map_range(txn, inode.ino, file_range(index, BlockCount(1)),
                                                 blocks.first, ExtentState::written));
    CHECK(change.block_difference == 0);
    txn.shows_data(context.write_cache.note_write());
    ATTEMPT_OK(txn.prepare());
    inode.changed_seq = inode.data_seq = txn.commit();
    ++context.stats.cow_break_count;
    context.stats.cow_break_bytes += kBlockBytes;
    stash.allocated.reset();
    // Who has a page of the shared block looks again.
    inode.mapping.unmap(file_range(index, BlockCount(1)));
  } else {
    inode.tail_stamp = inode.data_stamp = context.write_cache.note_write();
  }
  stash.phase = Phase::zeroing;
  return zero_within_block(context, inode, pos, len, stash);
}

Attempt<void> clear_tail(FileContext& context, Inode& inode, TailStash& stash) {
  if (inode.cut_pending) {
    if (!stash.cut) stash.cut = std::make_unique<ShapeStash>();
    ATTEMPT_OK(finish_cut(context, inode, *stash.cut));
  }
  stash.cut.reset();
  if (!inode.tail_unknown) return {};
  const uint64_t first = inode.disk_size;
  if (first % kBlockBytes != 0) {
    if (!stash.edge) {
      // What is between the size on the device and the one in memory is in a dirty page, or zero.
      const FileRange block = file_range(file_block_at(first), BlockCount(1));
      ATTEMPT_OK(settle_folios(context, inode, block, stash.writeback));
      if (!inode.tail_unknown) return {};
      stash.edge = std::make_unique<EdgeStash>();
    }
    ATTEMPT_OK(zero_within_block(context, inode, first,
                                 static_cast<uint32_t>(kBlockBytes - first % kBlockBytes),
                                 *stash.edge));
    stash.edge.reset();
  }
  inode.tail_unknown = false;
  return {};
}

bool leaves_tail(const Inode& inode, uint64_t pos, uint64_t end, Growth growth) {
  if (inode.cut_pending && end > inode.attr.size) return true;
  if (!inode.tail_unknown) return false;
  const FileBlock tail = file_block_at(inode.disk_size);
  if (growth == Growth::memory && file_block_at(inode.attr.size) != tail) return false;
  return file_block_at(pos) > tail;
}

Attempt<void> clear_tail_before(FileContext& context, Inode& inode, uint64_t pos, uint64_t end,
                                Growth growth, TailStash& stash) {
  Attempt<void> cleared;
  if (leaves_tail(inode, pos, end, growth)) {
    if (!stash.hold.held()) ATTEMPT_INTO(stash.hold, inode.pages_lock.block_alone());
    cleared = clear_tail(context, inode, stash);
    if (cleared.must_restart()) return cleared;
  }
  stash.edge.reset();
  stash.writeback.reset();
  stash.cut.reset();
  stash.hold.release();
  return cleared;
}

void note_failed_write(Inode& inode, uint64_t pos, uint64_t end) {
  const uint64_t size = inode.attr.size;
  if (size % kBlockBytes != 0 && end > size && file_block_at(pos) <= file_block_at(size)) {
    inode.tail_unknown = true;
  }
}

}  // namespace fusefs
