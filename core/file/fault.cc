#include "core/file/fault.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/file/placement.h"
#include "core/memory/shared_blocks.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};

// Where the old bytes of a page come from.
enum class Content : uint8_t { present, blank, shared_page, device };

// A page of a write fault, while it is being looked at.
struct Candidate {
  FileBlock index;
  FolioRef folio;  // null: there is none yet
  bool needs_block = false;
  Content content = Content::present;
  bool shared = false;
  BlockNo block;
};

}  // namespace

// One attempt at a fault. Everything that outlives it is in the stash.
class Fault {
 public:
  Fault(FileContext& context, Inode& inode, FaultStash& stash)
      : context_(context), inode_(inode), stash_(stash) {}

  Attempt<FolioRef> read(FileRange range);
  Attempt<std::vector<FaultPage>> write(FileRange range, WriteSpan span, bool may_grow);

  void begin(FaultKind kind);
  // Counts how the attempt ended, and lets go of what it must not keep.
  template <class T>
  Attempt<T> settle(Attempt<T> result);

 private:
  Attempt<void> end_reads();
  Attempt<void> take_hold(TwoStateHold& hold);
  Restart read_pages(TwoStateHold&& hold);
  Restart moved_pages();

  void read_along(const std::vector<FilePiece>& pieces, FileBlock from);
  Attempt<std::vector<Candidate>> find_candidates(FileRange range);
  Attempt<void> examine(std::vector<Candidate>& pages, WriteSpan span);
  Attempt<void> reserve(std::vector<Candidate>& pages);
  Attempt<bool> fetch_old_bytes(std::vector<Candidate>& pages);
  Attempt<void> add_blank(std::vector<Candidate>& pages);
  Attempt<FolioRef> add_folio(const Candidate& page, bool is_first);

  bool covered(const Candidate& page, WriteSpan span) const;
  void zero_beyond_size(const Folio& folio) const;
  void count_kept();

  FileContext& context_;
  Inode& inode_;
  FaultStash& stash_;
};

void FaultStash::reset() {
  reads_.end(false);
  kept_.clear();
  reservation.release();
  hold_.release();
  error.reset();
  released = begun_ = counted_ = false;
  rounds_ = 0;
}

void Fault::begin(FaultKind kind) {
  if (std::exchange(stash_.begun_, true)) return;
  stash_.begin_ns_ = context_.scheduler.clock().monotonic_ns();
  ++(kind == FaultKind::read ? context_.faults.read_count : context_.faults.write_count);
}

template <class T>
Attempt<T> Fault::settle(Attempt<T> result) {
  if (result.must_restart()) {
    const RestartReason reason = result.restart().reason;
    if (reason == RestartReason::forced) return result;
    // A hold is kept across nothing but the fault's own read: whoever provides memory or space may
    // need it.
    if (stash_.reads_.empty()) stash_.hold_.release();
    stash_.released = true;
    ++context_.faults.restart_count;
    ++context_.faults.restart_by_reason[static_cast<size_t>(reason)];
    return result;
  }
  if (!stash_.leaves_hold || !result.ok()) stash_.hold_.release();
  if (std::exchange(stash_.counted_, true)) return result;
  count_kept();
  const uint64_t latency_ns = context_.scheduler.clock().monotonic_ns() - stash_.begin_ns_;
  (stash_.released ? context_.faults.latency_restarted_ns : context_.faults.latency_ns)
      .record(latency_ns);
  return result;
}

// What was read is either still where it was, and used, or has gone.
void Fault::count_kept() {
  for (const FolioRef& folio : stash_.kept_) {
    const bool attached = folio->mapping != nullptr;
    ++(attached ? context_.faults.stash_reused_count : context_.faults.stash_discarded_count);
    if (folio->reclaimed) ++context_.faults.page_gone_count;
  }
}

// ---- Both kinds ----

// Gives back the pages that this fault has read, before anything else is waited for.
Attempt<void> Fault::end_reads() {
  if (!stash_.reads_.empty()) {
    const Attempt<void> read = stash_.reads_.wait();
    if (read.must_restart()) return read;
    if (read.failed()) stash_.error = read.error();
    for (const FolioRef& folio : stash_.reads_.folios()) {
      if (folio->mapping == &inode_.mapping) zero_beyond_size(*folio);
      if (read.ok()) stash_.kept_.push_back(folio);
    }
    stash_.reads_.end(read.ok());
  }
  if (stash_.error) return *stash_.error;
  return {};
}

// Into `hold`, unless the stash has one.
Attempt<void> Fault::take_hold(TwoStateHold& hold) {
  if (!stash_.hold_.held()) ATTEMPT_INTO(hold, inode_.pages_lock.add());
  return {};
}

// Starts the read of what has been added, and lets go.
Restart Fault::read_pages(TwoStateHold&& hold) {
  ++stash_.rounds_;
  const bool keep = context_.fault_policy == FaultPolicy::hold || stash_.rounds_ > kFaultRoundsMax;
  if (!keep) {
    stash_.hold_.release();  // that the fault of another page has left
  } else if (!stash_.hold_.held()) {
    stash_.hold_ = std::move(hold);
  }
  stash_.reads_.submit(context_);
  return stash_.reads_.wait().restart();
}

void Fault::zero_beyond_size(const Folio& folio) const {
  const uint64_t page_pos = file_pos(folio.index);
  const uint64_t size = inode_.attr.size;
  if (page_pos + kPageBytes <= size) return;
  const size_t valid = size > page_pos ? size - page_pos : 0;
  std::memset(folio.frame + valid, 0, kPageBytes - valid);
}

// ---- Read ----

Attempt<FolioRef> Fault::read(FileRange range) {
  const FileBlock index = range.first;
  ATTEMPT_OK(end_reads());
  TwoStateHold hold;  // of this attempt
  ATTEMPT_OK(take_hold(hold));
  if (file_pos(index) >= inode_.attr.size) return Error::beyond_eof;
  FolioRef folio = inode_.mapping.find(index);
  if (folio && folio->locked) return restart_after(folio->changed, RestartReason::folio_locked);
  if (folio && folio->uptodate) {
    context_.cache.note_use(*folio);
    return folio;
  }
  // A page of what a writethrough writes past us would have the old bytes for ever.
  ATTEMPT_OK(inode_.busy_ranges.wait_free(file_range(index, kOne)));

  range.end = std::min(inode_.busy_ranges.free_end(range), file_block_end(inode_.attr.size));
  std::vector<FilePiece> pieces;
  ATTEMPT_OK(find_pieces(context_, inode_, range, stash_.pins_, pieces));
  const FilePiece& piece = pieces.front();
  bool of_shared_block = false;
  if (!folio && piece.state == ExtentState::written && piece.shared) {
    ATTEMPT(const Ownership owned,
            ownership(context_.store.tree(), block_range(piece.start, kOne), stash_.pins_));
    of_shared_block = owned.owners >= 2;
  }
  // Nothing restarts between the look at the owners and the page of the shared block.
  if (of_shared_block) {
    SharedBlocks& shared = context_.cache.shared();
    folio = shared.find(piece.start);
    if (folio && folio->locked) return restart_after(folio->changed, RestartReason::folio_locked);
    if (folio && folio->uptodate) return folio;
    if (!folio) {
      Attempt<FolioRef> added = shared.add(piece.start);
      if (!added.ok()) return added;
      folio = std::move(added).value();
    }
  } else if (!folio) {
    Attempt<FolioRef> added = context_.cache.add(inode_.mapping, index);
    if (!added.ok()) return added;
    folio = std::move(added).value();
  }
  if (piece.state != ExtentState::written) {
    std::memset(folio->frame, 0, kPageBytes);
    context_.cache.mark_uptodate(*folio);
    return folio;
  }
  stash_.reads_.add(context_, std::move(folio), piece.start);
  read_along(pieces, index + kOne);
  return read_pages(std::move(hold));
}

// Adds to the read what can be had with it without waiting.
void Fault::read_along(const std::vector<FilePiece>& pieces, FileBlock from) {
  for (const FilePiece& piece : pieces) {
    if (piece.state != ExtentState::written || piece.shared) continue;
    for (FileBlock at = std::max(piece.range.first, from); at < piece.range.end; ++at) {
      if (inode_.mapping.find(at)) continue;
      Attempt<FolioRef> added = context_.cache.add(inode_.mapping, at);
      if (!added.ok()) return;
      const BlockNo block = piece.start + (at - piece.range.first);
      stash_.reads_.add(context_, std::move(added).value(), block);
    }
  }
}

// ---- Write ----

Attempt<std::vector<FaultPage>> Fault::write(FileRange range, WriteSpan span, bool may_grow) {
  ATTEMPT_OK(end_reads());
  TwoStateHold hold;  // of this attempt
  ATTEMPT_OK(take_hold(hold));
  if (!may_grow && file_pos(range.first) >= inode_.attr.size) return Error::beyond_eof;
  ATTEMPT(std::vector<Candidate> pages, find_candidates(range));
  ATTEMPT_OK(examine(pages, span));
  ATTEMPT_OK(reserve(pages));
  // From here to the end only waits leave, and what they have added is in the stash or goes with
  // it.
  Attempt<bool> moved = fetch_old_bytes(pages);
  if (!moved.ok()) return Unfinished(moved);
  if (!stash_.reads_.empty()) return read_pages(std::move(hold));
  if (moved.value()) return restart_now();
  const Attempt<void> added = add_blank(pages);
  if (!added.ok()) return Unfinished(added);
  if (stash_.leaves_hold && !stash_.hold_.held()) stash_.hold_ = std::move(hold);

  std::vector<FaultPage> result;
  result.reserve(pages.size());
  for (Candidate& page : pages) {
    const bool blank = page.content == Content::blank;
    result.push_back({std::move(page.folio), page.needs_block, blank});
  }
  return result;
}

// The pages up to the first that somebody else works on; that one is waited for if it is the first.
Attempt<std::vector<Candidate>> Fault::find_candidates(FileRange range) {
  std::vector<Candidate> pages;
  const FileBlock free_end = inode_.busy_ranges.free_end(range);
  if (free_end == range.first) {
    ATTEMPT_OK(inode_.busy_ranges.wait_free(file_range(range.first, kOne)));
  }
  pages.reserve((free_end - range.first).value());
  for (FileBlock at = range.first; at < free_end; ++at) {
    FolioRef folio = inode_.mapping.find(at);
    if (folio && (folio->locked || folio->writeback)) {
      if (!pages.empty()) break;
      return restart_after(folio->changed,
                           folio->locked ? RestartReason::folio_locked : RestartReason::writeback);
    }
    pages.push_back({at, std::move(folio), false, Content::present, false, {}});
  }
  return pages;
}

// Whether [span.pos, span.end) leaves nothing of this page's old content.
bool Fault::covered(const Candidate& page, WriteSpan span) const {
  const uint64_t page_pos = file_pos(page.index);
  const uint64_t size = inode_.attr.size;
  const uint64_t page_end = std::min(page_pos + kPageBytes, std::max(size, page_pos));
  return span.pos <= page_pos && span.end >= page_end;
}

// What each page needs: a block, old bytes.
Attempt<void> Fault::examine(std::vector<Candidate>& pages, WriteSpan span) {
  const auto complete = [](const Candidate& page) {
    return page.folio && page.folio->dirty && page.folio->uptodate;
  };
  if (std::all_of(pages.begin(), pages.end(), complete)) return {};
  const FileBlock first = pages.front().index;
  std::vector<FilePiece> pieces;
  ATTEMPT_OK(find_pieces(context_, inode_, file_range(first, BlockCount(pages.size())),
                         stash_.pins_, pieces));
  for (const FilePiece& piece : pieces) {
    for (FileBlock at = piece.range.first; at < piece.range.end; ++at) {
      Candidate& page = pages[(at - first).value()];
      const bool dirty = page.folio && page.folio->dirty;
      page.needs_block = !dirty && piece.needs_new_blocks();
      if (page.folio && page.folio->uptodate) continue;
      page.shared = piece.shared;
      page.block = piece.start + (at - piece.range.first);
      const bool old_bytes = piece.state == ExtentState::written && !covered(page, span);
      page.content = old_bytes ? Content::device : Content::blank;
    }
  }
  return {};
}

// Brings the stash's reservation to what `pages` need, and drops those there is no space for.
Attempt<void> Fault::reserve(std::vector<Candidate>& pages) {
  Reservation& have = stash_.reservation;
  while (true) {
    const BlockCount wanted(static_cast<uint64_t>(std::count_if(
        pages.begin(), pages.end(), [](const Candidate& page) { return page.needs_block; })));
    if (wanted <= have.count()) {
      if (wanted < have.count()) have.split(have.count() - wanted).release();
      return {};
    }
    Attempt<Reservation> more = context_.space.reserve(wanted - have.count(), stash_.space_use);
    if (more.ok()) {
      have.merge(std::move(more).value());
      return {};
    }
    if (more.must_restart() || more.error() != Error::no_space || pages.size() == 1) {
      return Unfinished(more);
    }
    pages.resize(pages.size() / 2);
  }
}

// A folio of the file's own. Over a shared block it takes the place of the shared page.
Attempt<FolioRef> Fault::add_folio(const Candidate& page, bool is_first) {
  if (page.shared) inode_.mapping.unmap(file_range(page.index, kOne));
  Attempt<FolioRef> added = context_.cache.add(inode_.mapping, page.index);
  if (!added.ok() && is_first) {  // who waits for memory must not keep any
    context_.faults.stash_discarded_count += stash_.kept_.size();
    stash_.kept_.clear();
  }
  return added;
}

// Gets the old bytes that are needed, by reads that are started or by copies; true if a page has
// moved by a copy. The run ends before the first page that cannot be had without waiting.
Attempt<bool> Fault::fetch_old_bytes(std::vector<Candidate>& pages) {
  bool moved = false;
  for (size_t i = 0; i < pages.size(); ++i) {
    Candidate& page = pages[i];
    if (page.content != Content::device) continue;
    FolioRef source;
    if (page.shared) source = context_.cache.shared().find(page.block);
    if (source && source->locked) {
      if (i == 0) return restart_after(source->changed, RestartReason::folio_locked);
      pages.resize(i);
      break;
    }
    if (!page.folio) {
      Attempt<FolioRef> added = add_folio(page, i == 0);
      if (!added.ok() && i == 0) return Unfinished(added);
      if (!added.ok()) {
        pages.resize(i);
        break;
      }
      page.folio = std::move(added).value();
      if (page.shared) ++context_.faults.page_replaced_count;
    }
    if (source && source->uptodate) {
      std::memcpy(page.folio->frame, source->frame, kPageBytes);
      zero_beyond_size(*page.folio);
      context_.cache.mark_uptodate(*page.folio);
      stash_.kept_.push_back(page.folio);
      moved = true;
    } else {
      stash_.reads_.add(context_, page.folio, page.block);
    }
  }
  return moved;
}

// The folios of pages that need no old bytes.
Attempt<void> Fault::add_blank(std::vector<Candidate>& pages) {
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i].folio) continue;
    Attempt<FolioRef> added = add_folio(pages[i], i == 0);
    if (!added.ok() && i == 0) return Unfinished(added);
    if (!added.ok()) {
      pages.resize(i);
      return {};
    }
    pages[i].folio = std::move(added).value();
    if (pages[i].shared) ++context_.faults.page_replaced_count;
  }
  return {};
}

// ---- Interface ----

Attempt<FolioRef> fault(FileContext& context, Inode& inode, FileBlock index, FaultKind kind,
                        FaultStash& stash) {
  Fault one(context, inode, stash);
  one.begin(kind);
  if (kind == FaultKind::read) return one.settle(one.read(file_range(index, kOne)));
  Attempt<std::vector<FaultPage>> pages = one.settle(one.write(file_range(index, kOne), {}, false));
  if (!pages.ok()) return Unfinished(pages);
  const FaultPage& page = pages.value().front();
  if (page.blank) {
    std::memset(page.folio->frame, 0, kPageBytes);
    context.cache.mark_uptodate(*page.folio);
  }
  return page.folio;
}

Attempt<FolioRef> fault_for_read(FileContext& context, Inode& inode, FileRange range,
                                 FaultStash& stash) {
  Fault one(context, inode, stash);
  one.begin(FaultKind::read);
  return one.settle(one.read(range));
}

Attempt<std::vector<FaultPage>> fault_for_write(FileContext& context, Inode& inode, FileRange range,
                                                WriteSpan span, FaultStash& stash) {
  Fault run(context, inode, stash);
  run.begin(FaultKind::write);
  return run.settle(run.write(range, span, true));
}

void make_dirty(FileContext& context, const FaultPage& page, FaultStash& stash) {
  if (page.needs_block) context.cache.give_reservation(*page.folio, stash.reservation.split(kOne));
  context.cache.mark_dirty(*page.folio);
}

}  // namespace fusefs
