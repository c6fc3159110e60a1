// Buffered writing, a piece of up to 256 pages at a time:
//
//     planning, by a write fault --> ready: locked --copy--> copied --> dirty, unlocked
//
// The fault (fault.h) waits for old bytes, memory and other users of the pages, and lets go of
// everything meanwhile. Once the piece's folios are locked it waits for nothing but its own copy,
// so that who blocks the inode may wait for the folios.
#include "core/file/write.h"

#include <algorithm>
#include <cstring>

#include "core/file/fault.h"
#include "core/file/pinned_range.h"
#include "core/file/placement.h"
#include "core/file/writeback.h"

namespace fusefs {
namespace {

constexpr uint64_t kPiecePages = 256;
// Copies up to this size are done at once: leaving and entering the monitor costs more.
constexpr uint64_t kInlineCopyBytes = 4 * kPageBytes;
constexpr BlockCount kOne{1};

struct Buffered final : WriteStash::Work {
  explicit Buffered(PageCache& a_cache) : cache(a_cache) {}
  ~Buffered() override { unlock(); }
  void unlock();

  PageCache& cache;
  enum class Phase : uint8_t { planning, ready, copied } phase = Phase::planning;
  // The piece under way.
  FaultStash fault;
  uint64_t pos = 0;
  uint64_t len = 0;
  std::vector<FaultPage> pages;  // locked
};

// Lets go of the piece, finished or not.
void Buffered::unlock() {
  for (FaultPage& page : pages) cache.unlock(*page.folio);
  pages.clear();
  fault.reset();
  phase = Phase::planning;
}

}  // namespace

Attempt<void> check_write(FileContext& context, Inode& inode, const WriteRequest& request,
                          WriteStash& stash) {
  if (stash.checked) return {};
  if (!context.health.writable()) return Error::read_only_volume;
  if (inode.attr.is_directory()) return Error::is_a_directory;
  if (!inode.attr.is_regular()) return Error::invalid_argument;
  if ((inode.attr.flags & kInodeImmutable) != 0) return Error::not_permitted;
  const bool appends = request.append || request.appends_only;
  if ((inode.attr.flags & kInodeAppendOnly) != 0 && !appends) return Error::not_permitted;
  const bool suid = request.kill_suid && (inode.attr.mode & 06000u) != 0;
  if (suid || inode.attr.xattr_count != 0) {
    ATTEMPT_OK(context.names.kill_privileges(inode.ino, request.kill_suid, stash.names));
  }
  stash.checked = true;
  return {};
}

Result<uint64_t> clip_write(uint64_t pos, uint64_t len) {
  if (pos >= kFileBytesMax) return Error::file_too_large;
  return std::min(len, kFileBytesMax - pos);
}

void touch_contents(FileContext& context, Inode& inode) {
  inode.attr.mtime = inode.attr.ctime = context.inodes.now();
  ++inode.attr.change_count;
  context.inodes.mark_attr_dirty(inode);
}

namespace {

using Phase = Buffered::Phase;

Buffered& piece_of(WriteStash& stash) { return static_cast<Buffered&>(*stash.work); }

}  // namespace

Attempt<void> throttle_dirtier(FileContext& context) {
  if (!context.cache.over_dirty_limit()) return {};
  if (!context.health.writable()) return Error::read_only_volume;
  if (context.failed_runs_in_row >= kFailedRunsMax) return Error::io_failed;
  context.cache.note_throttled();
  return restart_after(context.cache.dirty_shrunk(), RestartReason::memory);
}

namespace {

Attempt<void> plan_piece(FileContext& context, Inode& inode, const WriteRequest& request,
                         WriteStash& stash) {
  Buffered& piece = piece_of(stash);
  const uint64_t pos = request.append ? inode.attr.size : request.pos + stash.done;
  // Before the fault, never within: it may hold what the flusher needs.
  if (!piece.fault.begun()) {
    if (may_clear_tail(inode, stash.tail)) {
      const uint64_t end = pos + (request.data.size() - stash.done);
      ATTEMPT_OK(clear_tail_before(context, inode, pos, end, Growth::memory, stash.tail));
    }
    ATTEMPT_OK(throttle_dirtier(context));
  }
  TRY(const uint64_t left, clip_write(pos, request.data.size() - stash.done));
  const FileBlock first = file_block_at(pos);
  const FileRange range{first,
                        std::min(file_block_end(pos + left), first + BlockCount(kPiecePages))};
  piece.fault.space_use = request.kernel_writeback ? SpaceUse::writeback : SpaceUse::ordinary;
  Attempt<std::vector<FaultPage>> pages =
      fault_for_write(context, inode, range, {pos, pos + left}, piece.fault);
  if (pages.failed()) piece.fault.reset();
  if (!pages.ok()) return Unfinished(pages);

  // Nothing restarts from here on.
  if (stash.done == 0) stash.pos = pos;
  piece.pages = std::move(pages).value();
  piece.pos = pos;
  piece.len = std::min(pos + left, file_pos(piece.pages.back().folio->index + kOne)) - pos;
  grow_over_pins(context, inode, piece.pos, piece.pos + piece.len);
  for (FaultPage& page : piece.pages) context.cache.lock(*page.folio);
  piece.phase = Phase::ready;
  return {};
}

void copy_piece(const Buffered& piece, const std::byte* data) {
  for (const FaultPage& page : piece.pages) {
    const uint64_t page_pos = file_pos(page.folio->index);
    const uint64_t from = std::max(piece.pos, page_pos);
    const uint64_t to = std::min(piece.pos + piece.len, page_pos + kPageBytes);
    std::byte* frame = page.folio->frame;
    if (page.blank) {
      std::memset(frame, 0, from - page_pos);
      std::memset(frame + (to - page_pos), 0, page_pos + kPageBytes - to);
    }
    std::memcpy(frame + (from - page_pos), data + (from - piece.pos), to - from);
  }
}

// The bytes are in the pages: dirty, unlocked, and part of the file.
void finish_piece(FileContext& context, Inode& inode, WriteStash& stash) {
  Buffered& piece = piece_of(stash);
  for (FaultPage& page : piece.pages) {
    CHECK(page.folio->mapping != nullptr);  // locked folios are not removed
    context.cache.mark_uptodate(*page.folio);
    make_dirty(context, page, piece.fault);
  }
  inode.attr.size = std::max(inode.attr.size, piece.pos + piece.len);
  touch_contents(context, inode);
  stash.done += piece.len;
  context.stats.write_buffered_bytes += piece.len;
  if (stash.watch != nullptr) stash.watch->written(piece.pos, piece.len);
  piece.unlock();
  note_progress();
}

Attempt<void> write_pieces(FileContext& context, Inode& inode, const WriteRequest& request,
                           WriteStash& stash) {
  Buffered& piece = piece_of(stash);
  // What the stash holds is settled before anything is waited for.
  while (true) {
    if (piece.phase == Phase::ready) {
      const std::byte* data = request.data.data() + stash.done;
      piece.phase = Phase::copied;
      if (piece.len > kInlineCopyBytes) {
        return restart_after_outside([&piece, data] { copy_piece(piece, data); });
      }
      copy_piece(piece, data);
    }
    if (piece.phase == Phase::copied) finish_piece(context, inode, stash);
    if (stash.done == request.data.size()) return {};
    ATTEMPT_OK(plan_piece(context, inode, request, stash));
  }
}

}  // namespace

Attempt<size_t> write_buffered(FileContext& context, Inode& inode, const WriteRequest& request,
                               WriteStash& stash) {
  ATTEMPT_OK(check_write(context, inode, request, stash));
  if (!stash.work) stash.work = std::make_unique<Buffered>(context.cache);
  const Attempt<void> written = write_pieces(context, inode, request, stash);
  if (written.must_restart()) return written.restart();
  if (written.failed() && stash.done == 0) return written.error();
  ++context.stats.write_buffered_count;
  return stash.done;
}

}  // namespace fusefs
