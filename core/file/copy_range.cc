#include "core/file/copy_range.h"

#include <algorithm>

#include "core/file/truncate.h"

namespace fusefs {
namespace {

// Bytes that are copied at once where blocks cannot be shared.
constexpr uint64_t kCopyBytes = 1 << 20;
// Bytes that are shared at once where the target has pinned pages, which get a copy of them.
constexpr uint64_t kPinnedCloneBytes = 1 << 20;

// One call's files and positions, with what is done so far taken off.
struct Ends {
  Inode& from;
  uint64_t from_pos;
  Inode& to;
  uint64_t to_pos;
};

// The next segment: how long, and whether its blocks are shared.
struct Segment {
  uint64_t len = 0;
  bool sharing = false;
};

Segment next_segment(const Ends& ends, uint64_t left) {
  const uint64_t within = ends.from_pos % kBlockBytes;
  if (within != ends.to_pos % kBlockBytes) return {std::min(left, kCopyBytes), false};
  if (within != 0) return {std::min(left, kBlockBytes - within), false};
  const uint64_t whole = left - left % kBlockBytes;
  const bool ends_both =
      ends.from_pos + left == ends.from.attr.size && ends.to_pos + left >= ends.to.attr.size;
  if (ends_both) return {left, true};
  if (whole != 0) return {whole, true};
  return {left, false};
}

Attempt<void> check_copy(FileContext& context, const Ends& ends, uint64_t len) {
  if (!context.health.writable()) return Error::read_only_volume;
  if (ends.from.attr.is_directory() || ends.to.attr.is_directory()) return Error::is_a_directory;
  if (!ends.from.attr.is_regular() || !ends.to.attr.is_regular()) return Error::invalid_argument;
  if ((ends.to.attr.flags & (kInodeImmutable | kInodeAppendOnly)) != 0) {
    return Error::not_permitted;
  }
  if (ends.to_pos > kFileBytesMax || len > kFileBytesMax - ends.to_pos) {
    return Error::file_too_large;
  }
  if (ends.from.ino == ends.to.ino && ends.from_pos < ends.to_pos + len &&
      ends.to_pos < ends.from_pos + len) {
    return Error::overlapping_ranges;
  }
  return {};
}

// Copies one segment through the stash's buffer.
Attempt<void> copy_segment(FileContext& context, const Ends& ends, CopyStash& stash) {
  using Phase = CopyStash::Phase;
  if (stash.phase == Phase::start) {
    if (!stash.buffer) stash.buffer = AlignedBuffer(kCopyBytes + 2 * kBlockBytes);
    stash.read = std::make_unique<ReadStash>();
    stash.phase = Phase::filling;
  }
  if (stash.phase == Phase::filling) {
    ATTEMPT_INTO(stash.filled, read_file(context, ends.from, ends.from_pos, stash.segment_len,
                                         stash.buffer.bytes(), *stash.read));
    stash.read.reset();
    stash.write = std::make_unique<WriteStash>();
    stash.phase = Phase::storing;
  }
  WriteRequest request;
  request.pos = ends.to_pos;
  request.data =
      ConstBytes(stash.buffer.bytes()).subspan(ends.from_pos % kBlockBytes, stash.filled);
  ATTEMPT(const size_t written, write_buffered(context, ends.to, request, *stash.write));
  stash.write.reset();
  stash.done += written;
  // The source has become shorter: that was its end.
  if (stash.filled < stash.segment_len) stash.len = stash.done;
  return {};
}

// What of the planned segment can still be shared, now that nobody changes either file: the source
// may have become shorter or longer since, and the target too. Zero: plan again.
uint64_t agreed_len(const Ends& ends, CopyStash& stash) {
  const uint64_t source_size = ends.from.attr.size;
  const uint64_t rest = source_size > ends.from_pos ? source_size - ends.from_pos : 0;
  stash.len = std::min(stash.len, stash.done + rest);
  const Segment now = next_segment(ends, stash.len - stash.done);
  if (!now.sharing) return 0;
  const uint64_t len = std::min(now.len, stash.segment_len);
  const FileRange target{file_block_at(ends.to_pos), file_block_end(ends.to_pos + len)};
  return ends.to.mapping.any_pinned(target) ? std::min(len, kPinnedCloneBytes) : len;
}

// Bytes of the segment under way, which begins at `from_pos` of the source, that are shared.
uint64_t shared_bytes(const CopyStash& stash, uint64_t from_pos) {
  if (stash.phase != CopyStash::Phase::sharing) return 0;
  return std::min(block_bytes(stash.cursor - file_block_at(from_pos)), stash.segment_len);
}

// Gives the source back to others, and what is shared to the caller's count.
void leave_sharing(const Ends& ends, CopyStash& stash) {
  stash.done += shared_bytes(stash, ends.from_pos);
  stash.writeback.reset();
  stash.tail = {};
  stash.pinned.reset();
  stash.hold.release();
}

Attempt<void> share_segment(FileContext& context, const Ends& ends, CopyStash& stash) {
  using Phase = CopyStash::Phase;
  const auto source_range = [&] {
    return FileRange{file_block_at(ends.from_pos),
                     file_block_end(ends.from_pos + stash.segment_len)};
  };
  if (stash.phase == Phase::start) {
    stash.writeback = std::make_unique<WritebackStash>();
    stash.phase = Phase::flushing;
  }
  if (stash.phase == Phase::flushing) {
    // Most of what is dirty goes while others may still work on both files.
    ATTEMPT_OK(write_back(context, ends.from, source_range(), *stash.writeback));
    stash.writeback.reset();
    stash.phase = Phase::locking;
  }
  ATTEMPT_OK(hold_both(ends.from, ends.to, stash.hold));
  if (stash.phase == Phase::locking) {
    stash.segment_len = agreed_len(ends, stash);
    if (stash.segment_len == 0) return {};
    const uint64_t end = ends.to_pos + stash.segment_len;
    if (leaves_tail(ends.to, ends.to_pos, end, Growth::device)) {
      ATTEMPT_OK(clear_tail(context, ends.to, stash.tail));
    }
    // A pinned page of the target would have zeroes where its block has not.
    if (ends.from.tail_unknown && ends.to.mapping.pinned_count() != 0) {
      ATTEMPT_OK(clear_tail(context, ends.from, stash.tail));
    }
    ATTEMPT_OK(settle_folios(context, ends.from, source_range(), stash.writeback));
    stash.cursor = source_range().first;
    stash.phase = Phase::sharing;
  }
  const FileRange source = source_range();
  const FileBlock target = file_block_at(ends.to_pos);
  ATTEMPT_OK(await_folios(ends.to, file_range(target, source.count())));
  const Sharing sharing{source, target, ends.to_pos + stash.segment_len, true};
  ATTEMPT_OK(
      share_blocks(context, ends.from, ends.to, sharing, stash.cursor, stash.names, stash.pinned));
  ++context.stats.clone_count;
  context.stats.clone_bytes += stash.segment_len;
  return {};
}

Attempt<void> copy_segments(FileContext& context, Inode& from, uint64_t from_pos, Inode& to,
                            uint64_t to_pos, CopyStash& stash) {
  while (stash.done < stash.len) {
    const Ends ends{from, from_pos + stash.done, to, to_pos + stash.done};
    if (stash.segment_len == 0) {
      const Segment segment = next_segment(ends, stash.len - stash.done);
      stash.segment_len = segment.len;
      stash.sharing = segment.sharing;
      stash.phase = CopyStash::Phase::start;
    }
    // A finished segment is forgotten in the attempt that finished it: it must not run twice.
    const Attempt<void> attempt =
        stash.sharing ? share_segment(context, ends, stash) : copy_segment(context, ends, stash);
    if (attempt.must_restart()) return attempt;
    if (stash.sharing) leave_sharing(ends, stash);
    stash.segment_len = 0;
    if (attempt.failed()) return attempt;
    Operation::current()->note_progress();
  }
  return {};
}

}  // namespace

Attempt<uint64_t> copy_range(FileContext& context, Inode& from, uint64_t from_pos, Inode& to,
                             uint64_t to_pos, uint64_t len, CopyStash& stash) {
  if (!stash.begun) {
    const uint64_t size = from.attr.size;
    stash.len = from_pos < size ? std::min(len, size - from_pos) : 0;
    ATTEMPT_OK(check_copy(context, {from, from_pos, to, to_pos}, stash.len));
    ATTEMPT_OK(context.names.kill_privileges(to.ino, false, stash.names));
    stash.begun = true;
  }
  const Attempt<void> attempt = copy_segments(context, from, from_pos, to, to_pos, stash);
  if (attempt.must_restart()) return attempt.restart();
  // What was copied before an error stays and is reported; the next call meets the error.
  if (attempt.failed()) stash.error = attempt.error();
  if (attempt.failed() && stash.done == 0) return attempt.error();
  return stash.done;
}

uint64_t copied_bytes(const CopyStash& stash, uint64_t from_pos) {
  if (stash.segment_len == 0) return stash.done;
  if (stash.sharing) return stash.done + shared_bytes(stash, from_pos + stash.done);
  return stash.done + (stash.write ? stash.write->done : 0);
}

}  // namespace fusefs
