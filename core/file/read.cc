#include "core/file/read.h"

#include <algorithm>
#include <cstring>

#include "core/file/placement.h"

namespace fusefs {
namespace {

// Copies up to this size are done at once: leaving and entering the monitor costs more.
constexpr size_t kInlineCopyBytes = 4 * kBlockBytes;

struct DeviceRead {
  BlockNo start;
  size_t at = 0;  // in the buffer
  size_t len = 0;
};

struct Plan {
  std::vector<ReadStash::Fill> fills;
  std::vector<DeviceRead> reads;
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
    return {nullptr, static_cast<uint32_t>(first % kBlockBytes), first - base, last - first};
  }
};

// Blocks without a folio: zeroes, or device reads.
Attempt<void> plan_blocks(FileContext& context, const Inode& inode, FileRange range,
                          const Window& window, ReadStash& stash, Plan& plan) {
  FileBlock at = range.first;
  while (at < range.end) {
    ATTEMPT(const Extent extent,
            extent_at(context.store.tree(), inode.ino, at, range.end, stash.pins));
    if (extent.state == ExtentState::written) {
      plan.reads.push_back({extent.start, file_pos(at) - window.base,
                            static_cast<size_t>(block_bytes(extent.range.count()))});
    } else {
      plan.fills.push_back(window.fill(extent.range));
    }
    at = extent.range.end;
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

}  // namespace

Attempt<size_t> read_file(FileContext& context, Inode& inode, uint64_t pos, size_t len,
                          Bytes buffer, ReadStash& stash) {
  if (!stash.planned) {
    if (inode.attr.is_directory()) return Error::is_a_directory;
    if (!inode.attr.is_regular()) return Error::invalid_argument;
    if (pos >= inode.attr.size || len == 0) return size_t{0};
    const uint64_t end = pos + std::min<uint64_t>(len, inode.attr.size - pos);
    const Window window{file_pos(file_block_at(pos)), pos, end};
    CHECK(buffer.size() >= file_pos(file_block_end(end)) - window.base);
    Plan plan;
    ATTEMPT_OK(make_plan(context, inode, window, stash, plan));

    if (!plan.reads.empty()) {
      stash.guard = context.space.guard_io();
      stash.ticket = make_ref<IoTicket>();
      IoGather reads(context.device, IoKind::read, stash.ticket);
      for (const DeviceRead& read : plan.reads) {
        reads.add(read.start, buffer.data() + read.at, read.len);
      }
    }
    stash.fills = std::move(plan.fills);
    stash.len = end - pos;
    stash.planned = true;
    ++context.stats.read_count;
    context.stats.read_bytes += stash.len;
    context.stats.read_cached_bytes += plan.cached_bytes;
  }
  if (!stash.filled) {
    stash.filled = true;
    if (fill_bytes(stash.fills) > kInlineCopyBytes) {
      return restart_after_outside([&stash, buffer] { do_fills(stash.fills, buffer); });
    }
    do_fills(stash.fills, buffer);
  }
  stash.fills.clear();
  if (stash.ticket) {
    ATTEMPT_OK(stash.ticket->wait());
    stash.guard.release();
  }
  return stash.len;
}

}  // namespace fusefs
