#include "core/file/write_direct_part.h"

#include <cstring>

#include "core/file/tail.h"

namespace fusefs {

void count_part(FileContext& context, uint64_t len) {
  context.stats.write_direct_bytes += len;
  context.direct.write_bytes += len;
}

void count_write(FileContext& context, const DirectPart& direct) {
  ++context.stats.write_direct_count;
  ++context.direct.write_count;
  if (direct.unaligned) ++context.direct.unaligned_count;
}

// Lets go of everything, written or not.
void DirectPart::leave() {
  disarm();
  note_landed();
  placement.reset();
  writeback.reset();
  ticket.reset();
  guard.release();
  bounce = AlignedBuffer();
  first.leave();
  last.leave();
  if (source != nullptr) source->let_go();
  busy.release();
  hold.release();
  released = false;
  joined_end = 0;
  phase = Phase::locking;
}

// A write that maps or converts blocks, or moves the end of the file, goes on to its commit with
// what it holds: until then the range still reads as it was, and a page of it added now would stay
// that way. So does one whose last bytes are still on their way in a block of another.
FinishNeeds DirectPart::release(const Result<void>& result) {
  FinishNeeds needs;
  note_landed();
  if (source != nullptr) source->let_go();
  needs.error = !result.ok();
  if (result.ok()) {
    needs.transaction = has_joined() || placement.needs_commit(inode, size_end());
    device.landed(context, inode, !needs.transaction);
    if (!needs.transaction) {
      CHECK(!has_folios());  // dropped under the blocker state, which is still held
      released = true;
      end_edges();
      if (stash.watch != nullptr) stash.watch->written(pos, len);
    }
  } else {
    device.refused(context, result.error());
    note_failed_write(inode, pos, size_end());  // before anybody can grow the file
  }
  if (!needs.transaction) {
    busy.release();
    hold.release();
    guard.release();
  }
  if (stash.done + len < wanted) needs.transaction = true;
  needs.attempt = stash.end == nullptr;
  needs.flush = result.ok() && device.owes(context);
  needs.invalidation = stash.end != nullptr && stash.end->must_invalidate();
  return needs;
}

void DirectPart::finish() {
  stash.done += len;
  count_part(context, len);
  count_write(context, *this);
  stash.end->ended(stash.done);
}

// ---- Bytes ----

ConstBytes data_at(const WriteRequest& request, const DirectPart& direct, uint64_t at) {
  const uint64_t offset = direct.stash.done + (at - direct.pos);
  return direct.source != nullptr ? direct.source->bytes(offset) : request.data.subspan(offset);
}

void copy_data(const WriteRequest& request, const DirectPart& direct, uint64_t at, Bytes to) {
  while (!to.empty()) {
    const ConstBytes run = data_at(request, direct, at);
    const size_t part = std::min(run.size(), to.size());
    std::memcpy(to.data(), run.data(), part);
    to = to.subspan(part);
    at += part;
  }
}

bool can_take_middle(const WriteRequest& request, const DirectPart& direct, uint64_t align) {
  const FileRange middle = direct.middle();
  for (uint64_t at = file_pos(middle.first); at < file_pos(middle.end);) {
    const ConstBytes run = data_at(request, direct, at);
    const size_t part = std::min<uint64_t>(run.size(), file_pos(middle.end) - at);
    if (reinterpret_cast<uintptr_t>(run.data()) % align != 0) return false;
    if (part % kBlockBytes != 0) return false;
    at += part;
  }
  return true;
}

void fill_edge(const WriteRequest& request, DirectPart& direct, FileBlock at, Edge& edge) {
  const uint64_t block_pos = file_pos(at);
  std::byte* block = edge.bytes.data();
  // Beyond the end of the file are zeroes, whatever the device has.
  const uint64_t valid = direct.file_size > block_pos ? direct.file_size - block_pos : 0;
  if (valid < kBlockBytes) std::memset(block + valid, 0, kBlockBytes - valid);
  const uint64_t from = std::max(direct.pos, block_pos);
  const uint64_t to = std::min(direct.end(), block_pos + kBlockBytes);
  copy_data(request, direct, from, Bytes(block + (from - block_pos), to - from));
  direct.context.direct.edge_joined_count += edge.own->joined_count();
  if (edge.own->joined_count() != 0) {
    direct.joined_end = std::max(direct.joined_end, block_pos + edge.own->joined_end());
  }
  edge.own->close(block);
}

ConstBytes memory_of(const WriteRequest& request, const DirectPart& direct, FileBlock at) {
  if (direct.has_first_edge() && at == direct.own.first) return direct.first.bytes.bytes();
  if (direct.has_last_edge() && at == direct.last_block()) return direct.last.bytes.bytes();
  const FileRange middle = direct.middle();
  if (direct.bounce) {
    return direct.bounce.bytes().subspan(block_bytes(at - middle.first));
  }
  const ConstBytes run = data_at(request, direct, file_pos(at));
  return run.first(std::min<uint64_t>(run.size(), block_bytes(middle.end - at)));
}

}  // namespace fusefs
