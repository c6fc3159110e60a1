#include "core/file/read.h"

#include <algorithm>
#include <cstring>

#include "core/file/placement.h"
#include "core/memory/shared_blocks.h"

namespace fusefs {
namespace {

// Copies up to this size are done at once: leaving and entering the monitor costs more.
constexpr size_t kInlineCopyBytes = 4 * kBlockBytes;

struct DeviceRead {
  BlockNo start;
  size_t at = 0;  // in the buffer
  size_t len = 0;
};

// Pages of a shared extent.
struct SharedRun {
  FileRange range{};
  BlockNo start;
};

struct Plan {
  std::vector<ReadStash::Fill> fills;
  std::vector<DeviceRead> reads;
  std::vector<SharedRun> shared;
  uint64_t cached_bytes = 0;
};

// The bytes of `range` that are wanted, as a place in the buffer.
struct Window {
  uint64_t base;  // file position of buffer[0]
  uint64_t pos;
  uint64_t end;

  ReadStash::Fill fill(FileRange range) const {
    const uint64_t first = std::max(pos, file_pos(range.first));
    const uint64_t last = std::min(end, file_pos(range.end));
    return {nullptr, static_cast<uint32_t>(first % kBlockBytes), first - base, last - first, {}};
  }
};

// Blocks without a folio: zeroes, shared pages, or device reads.
Attempt<void> plan_blocks(FileContext& context, const Inode& inode, FileRange range,
                          const Window& window, ReadStash& stash, Plan& plan) {
  Tree& tree = context.store.tree();
  FileBlock at = range.first;
  while (at < range.end) {
    ATTEMPT(const Extent extent, extent_at(tree, inode.ino, at, range.end, stash.pins));
    if (extent.state != ExtentState::written) {
      plan.fills.push_back(window.fill(extent.range));
      at = extent.range.end;
      continue;
    }
    // Most volumes have no clones: their reads need not ask.
    Ownership owned{extent.range.count()};
    if (context.store.shared_blocks() != 0) {
      ATTEMPT(owned, ownership(tree, extent.blocks(), stash.pins));
    }
    const FileRange piece = file_range(at, owned.count);
    if (owned.owners > 1) {
      plan.shared.push_back({piece, extent.start});
    } else {
      plan.reads.push_back({extent.start, file_pos(at) - window.base,
                            static_cast<size_t>(block_bytes(owned.count))});
    }
    at = piece.end;
  }
  return {};
}

Attempt<void> make_plan(FileContext& context, Inode& inode, const Window& window, ReadStash& stash,
                        Plan& plan) {
  const FileBlock end = file_block_end(window.end);
  FileBlock at = file_block_at(window.pos);
  while (at < end) {
    FolioRef folio = inode.mapping.at_or_after(at);
    const FileBlock found = folio && folio->index < end ? folio->index : end;
    if (at < found) {
      ATTEMPT_OK(plan_blocks(context, inode, {at, found}, window, stash, plan));
      at = found;
      continue;
    }
    if (folio->locked) return restart_after(folio->changed, RestartReason::folio_locked);
    const FileRange page = file_range(at, BlockCount(1));
    if (folio->uptodate) {
      plan.fills.push_back(window.fill(page));
      plan.fills.back().folio = std::move(folio);
      plan.cached_bytes += plan.fills.back().len;
    } else {
      ATTEMPT_OK(plan_blocks(context, inode, page, window, stash, plan));
    }
    at = page.end;
  }
  return {};
}

// The pages of shared blocks: those that are missing are read, as far as there is memory for them;
// the others go from the device into the buffer. Nothing restarts.
void take_shared_pages(FileContext& context, const Window& window, ReadStash& stash, Plan& plan) {
  SharedBlocks& shared = context.cache.shared();
  for (const SharedRun& run : plan.shared) {
    for (FileBlock at = run.range.first; at < run.range.end; ++at) {
      const FileRange page = file_range(at, BlockCount(1));
      const BlockNo block = run.start + (at - run.range.first);
      ReadStash::Fill fill = window.fill(page);
      fill.block = block;
      fill.folio = shared.find(block);
      if (fill.folio && fill.folio->uptodate) plan.cached_bytes += fill.len;
      if (!fill.folio) {
        Attempt<FolioRef> added = shared.add(block);
        if (!added.ok()) {
          plan.reads.push_back({block, file_pos(at) - window.base, kBlockBytes});
          continue;
        }
        fill.folio = std::move(added).value();
      }
      if (!fill.folio->uptodate && !fill.folio->locked) {
        stash.page_reads.add(context, fill.folio, block);
      }
      plan.fills.push_back(std::move(fill));
    }
  }
  if (!stash.page_reads.empty()) stash.page_reads.submit(context);
}

void submit_reads(FileContext& context, const std::vector<DeviceRead>& reads, Bytes buffer,
                  ReadStash& stash) {
  if (reads.empty()) return;
  if (!stash.ticket) stash.ticket = make_ref<IoTicket>();
  IoGather gather(context.device, IoKind::read, stash.ticket);
  for (const DeviceRead& read : reads) gather.add(read.start, buffer.data() + read.at, read.len);
}

// The attempt leaves for a shared page.
Restart let_go(FileContext& context, ReadStash& stash, Restart restart) {
  stash.released = true;
  ++context.faults.restart_count;
  ++context.faults.restart_by_reason[static_cast<size_t>(restart.reason)];
  return restart;
}

// Gives back the pages that this read has filled, then waits for those that others fill.
Attempt<void> await_shared_pages(FileContext& context, Bytes buffer, ReadStash& stash) {
  if (!stash.page_reads.empty()) {
    const Attempt<void> read = stash.page_reads.wait();
    if (read.must_restart()) return let_go(context, stash, read.restart());
    if (read.failed()) stash.error = read.error();
    for (const FolioRef& page : stash.page_reads.folios()) {
      if (read.ok()) ++context.faults.stash_reused_count;
      if (page->reclaimed) ++context.faults.page_gone_count;
    }
    stash.page_reads.end(read.ok());
  }
  if (stash.error) return {};
  for (size_t i = 0; i < stash.fills.size();) {
    ReadStash::Fill& fill = stash.fills[i];
    if (!fill.folio || fill.folio->uptodate) {
      ++i;
    } else if (fill.folio->locked) {
      return let_go(context, stash,
                    restart_after(fill.folio->changed, RestartReason::folio_locked));
    } else {
      // Who was to fill it has failed, or is gone: the guard still keeps the block for us.
      const size_t page_at = fill.at - fill.folio_offset;
      submit_reads(context, {{fill.block, page_at, kBlockBytes}}, buffer, stash);
      stash.fills.erase(stash.fills.begin() + static_cast<ptrdiff_t>(i));
    }
  }
  return {};
}

void count_fault(FileContext& context, const ReadStash& stash) {
  if (!stash.faulted) return;
  const uint64_t latency_ns = context.scheduler.clock().monotonic_ns() - stash.begin_ns;
  (stash.released ? context.faults.latency_restarted_ns : context.faults.latency_ns)
      .record(latency_ns);
}

void do_fills(const std::vector<ReadStash::Fill>& fills, Bytes buffer) {
  for (const ReadStash::Fill& fill : fills) {
    if (fill.folio) {
      std::memcpy(buffer.data() + fill.at, fill.folio->frame + fill.folio_offset, fill.len);
    } else {
      std::memset(buffer.data() + fill.at, 0, fill.len);
    }
  }
}

size_t fill_bytes(const std::vector<ReadStash::Fill>& fills) {
  size_t bytes = 0;
  for (const ReadStash::Fill& fill : fills) bytes += fill.len;
  return bytes;
}

// Finds out where everything comes from and starts the device reads.
Attempt<void> plan_read(FileContext& context, Inode& inode, uint64_t pos, size_t len, Bytes buffer,
                        ReadStash& stash) {
  TwoStateHold hold;
  if (context.fault_policy == FaultPolicy::hold) ATTEMPT_INTO(hold, inode.pages_lock.add());
  const uint64_t end = pos + std::min<uint64_t>(len, inode.attr.size - pos);
  const Window window{file_pos(file_block_at(pos)), pos, end};
  CHECK(buffer.size() >= file_pos(file_block_end(end)) - window.base);
  Plan plan;
  ATTEMPT_OK(make_plan(context, inode, window, stash, plan));

  // Nothing restarts from here on.
  stash.hold = std::move(hold);
  for (const ReadStash::Fill& fill : plan.fills) {
    if (fill.folio) context.cache.note_use(*fill.folio);
  }
  if (!plan.shared.empty()) {
    stash.faulted = true;
    stash.begin_ns = context.scheduler.clock().monotonic_ns();
    ++context.faults.read_count;
    take_shared_pages(context, window, stash, plan);
  }
  if (!plan.reads.empty() || !plan.shared.empty()) stash.guard = context.space.guard_io();
  submit_reads(context, plan.reads, buffer, stash);
  stash.fills = std::move(plan.fills);
  stash.len = end - pos;
  stash.planned = true;
  ++context.stats.read_count;
  context.stats.read_bytes += stash.len;
  context.stats.read_cached_bytes += plan.cached_bytes;
  if (stash.direct) {
    ++context.direct.read_count;
    context.direct.read_bytes += stash.len;
  }
  return {};
}

}  // namespace

Attempt<size_t> read_file(FileContext& context, Inode& inode, uint64_t pos, size_t len,
                          Bytes buffer, ReadStash& stash) {
  if (!stash.planned) {
    if (inode.attr.is_directory()) return Error::is_a_directory;
    if (!inode.attr.is_regular()) return Error::invalid_argument;
    if (pos >= inode.attr.size || len == 0) return size_t{0};
    ATTEMPT_OK(plan_read(context, inode, pos, len, buffer, stash));
  }
  if (!stash.filled) {
    if (stash.faulted) ATTEMPT_OK(await_shared_pages(context, buffer, stash));
    stash.filled = true;
    count_fault(context, stash);
    if (stash.error) stash.fills.clear();
    if (fill_bytes(stash.fills) > kInlineCopyBytes) {
      return restart_after_outside([&stash, buffer] { do_fills(stash.fills, buffer); });
    }
    do_fills(stash.fills, buffer);
  }
  stash.fills.clear();
  if (stash.ticket) ATTEMPT_OK(stash.ticket->wait());
  stash.guard.release();
  stash.hold.release();
  if (stash.error) return *stash.error;
  return stash.len;
}

}  // namespace fusefs
