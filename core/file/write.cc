// Buffered writing, a piece of up to 256 pages at a time:
//
//     planning --(old bytes needed)--> reading --> ready --copy--> copied --> dirty, unlocked
//        |                                           ^
//        +-------------------------------------------+
//
// After planning, the piece's folios are locked and its blocks reserved, and it waits for nothing
// but its own read and copy: with the folios locked it takes no lock and no memory, so that who
// blocks the inode may wait for the folios.
#include "core/file/write.h"

#include <algorithm>
#include <cstring>

#include "core/file/placement.h"
#include "core/file/writeback.h"

namespace fusefs {
namespace {

constexpr uint64_t kPiecePages = 256;
// Copies up to this size are done at once: leaving and entering the monitor costs more.
constexpr uint64_t kInlineCopyBytes = 4 * kPageBytes;
constexpr BlockCount kOne{1};

// What a page needs before the caller's bytes go into it.
enum class Fill : uint8_t { none, zeroes, old_bytes };

struct Page {
  FolioRef folio;
  bool needs_block = false;  // over a hole or a shared extent, and not dirty yet
  Fill fill = Fill::none;
  BlockNo old_block;
};

struct Buffered final : WriteStash::Work {
  explicit Buffered(PageCache& a_cache) : cache(a_cache) {}
  ~Buffered() override { unlock(); }
  void unlock();

  PageCache& cache;
  enum class Phase : uint8_t { planning, reading, ready, copied } phase = Phase::planning;
  // The piece under way.
  uint64_t pos = 0;
  uint64_t len = 0;
  uint64_t old_size = 0;
  std::vector<Page> pages;  // locked
  Reservation reservation;
  Ref<IoTicket> ticket;
  IoGuard guard;
};

// Lets go of the piece, finished or not.
void Buffered::unlock() {
  for (Page& page : pages) cache.unlock(*page.folio);
  pages.clear();
  reservation.release();
  ticket.reset();
  guard.release();
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
  if ((inode.attr.flags & kInodeAppendOnly) != 0 && !request.append) return Error::not_permitted;
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

// Too much is dirty: wait, with nothing held. With a device that takes nothing any more, fail.
Attempt<void> throttle(FileContext& context) {
  if (!context.cache.over_dirty_limit()) return {};
  if (!context.health.writable()) return Error::read_only_volume;
  if (context.failed_runs_in_row >= kFailedRunsMax) return Error::io_failed;
  context.cache.note_throttled();
  return restart_after(context.cache.dirty_shrunk(), RestartReason::memory);
}

// The folios of `range`, new ones where there are none, as many as can be had without waiting; at
// least one.
Attempt<std::vector<Page>> take_pages(FileContext& context, Inode& inode, FileRange range) {
  std::vector<Page> pages;
  for (FileBlock at = range.first; at < range.end; ++at) {
    FolioRef folio = inode.mapping.find(at);
    if (folio && (folio->locked || folio->writeback)) {
      if (!pages.empty()) break;
      return restart_after(folio->changed,
                           folio->locked ? RestartReason::folio_locked : RestartReason::writeback);
    }
    if (!folio) {
      Attempt<FolioRef> added = context.cache.add(inode.mapping, at);
      if (!added.ok() && !pages.empty()) break;
      if (!added.ok()) return Unfinished(added);
      folio = std::move(added).value();
    }
    pages.push_back({std::move(folio), false, Fill::none, {}});
  }
  return pages;
}

// Whether the caller's bytes [pos, end) leave something of this page's old content.
bool covers_page(const Page& page, uint64_t pos, uint64_t end, uint64_t size) {
  const uint64_t page_pos = file_pos(page.folio->index);
  const uint64_t page_end = std::min(page_pos + kPageBytes, std::max(size, page_pos));
  return pos <= page_pos && end >= page_end;
}

// What each page needs: a block, old bytes.
Attempt<void> examine_pages(FileContext& context, Inode& inode, uint64_t pos, uint64_t end,
                            NodePins& pins, std::vector<Page>& pages) {
  const auto settled = [](const Page& page) { return page.folio->dirty && page.folio->uptodate; };
  if (std::all_of(pages.begin(), pages.end(), settled)) return {};
  const FileBlock first = pages.front().folio->index;
  std::vector<FilePiece> pieces;
  ATTEMPT_OK(
      find_pieces(context, inode, file_range(first, BlockCount(pages.size())), pins, pieces));
  for (const FilePiece& piece : pieces) {
    for (FileBlock at = piece.range.first; at < piece.range.end; ++at) {
      Page& page = pages[(at - first).value()];
      page.needs_block = !page.folio->dirty && piece.needs_new_blocks();
      if (page.folio->uptodate) continue;
      const bool whole = pos <= file_pos(at) && end >= file_pos(at) + kPageBytes;
      if (whole) continue;
      const bool old_bytes =
          piece.state == ExtentState::written && !covers_page(page, pos, end, inode.attr.size);
      page.fill = old_bytes ? Fill::old_bytes : Fill::zeroes;
      page.old_block = piece.start + (at - piece.range.first);
    }
  }
  return {};
}

// Reserves for as many of `pages` as there is space for, and drops the others.
Attempt<Reservation> reserve_blocks(FileContext& context, std::vector<Page>& pages) {
  while (true) {
    const auto wanted = std::count_if(pages.begin(), pages.end(),
                                      [](const Page& page) { return page.needs_block; });
    if (wanted == 0) return Reservation();
    Attempt<Reservation> reserved =
        context.space.reserve(BlockCount(static_cast<uint64_t>(wanted)));
    if (!reserved.failed() || reserved.error() != Error::no_space || pages.size() == 1) {
      return reserved;
    }
    pages.resize(pages.size() / 2);
  }
}

Attempt<void> plan_piece(FileContext& context, Inode& inode, const WriteRequest& request,
                         WriteStash& stash) {
  Buffered& piece = piece_of(stash);
  ATTEMPT_OK(throttle(context));
  ATTEMPT(const TwoStateHold hold, inode.pages_lock.add());
  const uint64_t pos = request.append ? inode.attr.size : request.pos + stash.done;
  TRY(const uint64_t left, clip_write(pos, request.data.size() - stash.done));
  const FileBlock first = file_block_at(pos);
  const FileRange range{first,
                        std::min(file_block_end(pos + left), first + BlockCount(kPiecePages))};
  ATTEMPT(std::vector<Page> pages, take_pages(context, inode, range));
  const auto end_of = [&] {
    return std::min(pos + left, file_pos(pages.back().folio->index + kOne));
  };
  ATTEMPT_OK(examine_pages(context, inode, pos, end_of(), stash.names.pins, pages));
  ATTEMPT(Reservation reservation, reserve_blocks(context, pages));

  // Nothing restarts from here on.
  if (stash.done == 0) stash.pos = pos;
  piece.pos = pos;
  piece.len = end_of() - pos;
  piece.old_size = inode.attr.size;
  piece.reservation = std::move(reservation);
  piece.pages = std::move(pages);
  piece.phase = Phase::ready;
  for (Page& page : piece.pages) {
    context.cache.lock(*page.folio);
    if (page.fill != Fill::old_bytes) continue;
    if (!piece.ticket) piece.ticket = make_ref<IoTicket>();
    piece.guard = context.space.guard_io();
    context.device.submit(
        IoRequest::read(block_addr(page.old_block), page.folio->frame, kPageBytes), piece.ticket);
    piece.phase = Phase::reading;
  }
  return {};
}

void copy_piece(const Buffered& piece, const std::byte* data) {
  for (const Page& page : piece.pages) {
    const uint64_t page_pos = file_pos(page.folio->index);
    std::byte* frame = page.folio->frame;
    if (page.fill == Fill::zeroes) std::memset(frame, 0, kPageBytes);
    if (page.fill == Fill::old_bytes && page_pos + kPageBytes > piece.old_size) {
      const size_t valid = piece.old_size > page_pos ? piece.old_size - page_pos : 0;
      std::memset(frame + valid, 0, kPageBytes - valid);
    }
    const uint64_t from = std::max(piece.pos, page_pos);
    const uint64_t to = std::min(piece.pos + piece.len, page_pos + kPageBytes);
    std::memcpy(frame + (from - page_pos), data + (from - piece.pos), to - from);
  }
}

// The bytes are in the pages: dirty, unlocked, and part of the file.
void finish_piece(FileContext& context, Inode& inode, WriteStash& stash) {
  Buffered& piece = piece_of(stash);
  for (Page& page : piece.pages) {
    CHECK(page.folio->mapping != nullptr);  // locked folios are not removed
    context.cache.mark_uptodate(*page.folio);
    if (page.needs_block) {
      context.cache.give_reservation(*page.folio, piece.reservation.split(kOne));
    }
    context.cache.mark_dirty(*page.folio);
  }
  inode.attr.size = std::max(inode.attr.size, piece.pos + piece.len);
  touch_contents(context, inode);
  stash.done += piece.len;
  context.stats.write_buffered_bytes += piece.len;
  piece.unlock();
  note_progress();
}

Attempt<void> wait_for_old_bytes(Buffered& piece) {
  const Attempt<void> read = piece.ticket->wait();
  if (read.ok()) piece.phase = Phase::ready;
  if (read.failed()) piece.unlock();
  return read;
}

Attempt<void> write_pieces(FileContext& context, Inode& inode, const WriteRequest& request,
                           WriteStash& stash) {
  Buffered& piece = piece_of(stash);
  // What the stash holds is settled before anything is waited for.
  while (true) {
    if (piece.phase == Phase::reading) ATTEMPT_OK(wait_for_old_bytes(piece));
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
