#include "core/file/mapped_io.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "core/file/placement.h"

namespace fusefs {
namespace {

constexpr BlockCount kOne{1};
// What is faulted in at once, until it turns out to be of no use, and what goes through memory of
// our own at once.
constexpr uint64_t kWindowPages = 256;
// What the device fills of pinned pages at once.
constexpr uint64_t kPinnedRunPages = 2048;

// The part of [pos, pos + len) that lies in page `index`.
struct PagePart {
  size_t offset = 0;
  size_t len = 0;
};
PagePart part_of(uint64_t pos, uint64_t len) {
  const size_t offset = pos % kPageBytes;
  return {offset, std::min<uint64_t>(len, kPageBytes - offset)};
}

}  // namespace

// The buffer of a write, as far as it is in memory.
struct MappedIoStash::Source final : WriteSource {
  Source(FileContext& a_context, const Inode& a_target, const MappedRange& a_buffer)
      : context(a_context), target(a_target), buffer(a_buffer) {}
  ~Source() { let_go(); }

  uint64_t len() const override { return buffer.len - base; }
  uint64_t hold(uint64_t at, uint64_t len) override;
  ConstBytes bytes(uint64_t at) const override;
  Attempt<void> lock() override;
  void let_go() override;
  bool may_change() const override;
  Attempt<bool> fetch(uint64_t at) override;

  uint64_t file_pos_of(uint64_t at) const { return buffer.pos + base + at; }

  FileContext& context;
  const Inode& target;
  const MappedRange buffer;
  uint64_t base = 0;  // of the buffer, written before this part began

  // In a row, from the page of `held_at` on.
  uint64_t held_at = 0;
  std::vector<FolioRef> held;
  std::vector<FolioRef> locked;  // of these

  // Faulted in since the write last held its locks; their references keep them from reclaim.
  std::map<FileBlock, FolioRef> fetched;
  FaultStash fault;
  bool fetching = false;
  FileBlock cursor;
  // Of the rule that ends the tries.
  std::optional<uint64_t> stuck_at;  // bytes that were finished at the last refusal
  uint64_t window_pages = kWindowPages;
  bool gave_up = false;
};

uint64_t MappedIoStash::Source::hold(uint64_t at, uint64_t len) {
  let_go();
  held_at = at;
  uint64_t have = 0;
  while (have < len) {
    const uint64_t pos = file_pos_of(at + have);
    if (pos >= buffer.inode->attr.size) break;
    const FileBlock index = file_block_at(pos);
    FolioRef page = buffer.inode->mapping.find(index);
    if (!page) {
      // The page of a shared block never changes: whoever writes the file gets another.
      const auto found = fetched.find(index);
      if (found != fetched.end() && found->second->of_shared_block) page = found->second;
    }
    if (!page || !page->uptodate) break;
    held.push_back(std::move(page));
    have += part_of(pos, len - have).len;
  }
  return have;
}

ConstBytes MappedIoStash::Source::bytes(uint64_t at) const {
  const uint64_t pos = file_pos_of(at);
  const FileBlock first = file_block_at(file_pos_of(held_at));
  const FolioRef& page = held.at((file_block_at(pos) - first).value());
  return ConstBytes(page->bytes()).subspan(pos % kPageBytes);
}

// A page that has left its file meanwhile is as it was when it did; nobody writes it any more. One
// that is pinned for writing is never kept from changing.
Attempt<void> MappedIoStash::Source::lock() {
  if (!locked.empty()) return {};
  const auto is_fixed = [](const Folio& page) {
    return page.of_shared_block || page.mapping == nullptr || page.is_storable();
  };
  for (const FolioRef& page : held) {
    if (is_fixed(*page)) continue;
    if (page->locked) return restart_after(page->changed, RestartReason::folio_locked);
    if (page->writeback) return restart_after(page->changed, RestartReason::writeback);
  }
  fetched.clear();
  for (const FolioRef& page : held) {
    if (is_fixed(*page)) continue;
    context.cache.lock(*page);
    locked.push_back(page);
  }
  return {};
}

void MappedIoStash::Source::let_go() {
  for (const FolioRef& page : locked) context.cache.unlock(*page);
  locked.clear();
  held.clear();
}

bool MappedIoStash::Source::may_change() const {
  return std::any_of(held.begin(), held.end(),
                     [](const FolioRef& page) { return page->is_storable() || page->is_mapped(); });
}

// What the write needs at `at` is not in memory, or has just been dropped by the write itself.
Attempt<bool> MappedIoStash::Source::fetch(uint64_t at) {
  if (!fetching) {
    if (buffer.inode == &target) ++context.direct.self_refused_count;
    const bool moved_on = !stuck_at || base + at > *stuck_at;
    if (!moved_on && window_pages == 1) {
      gave_up = true;
      fetched.clear();
      if (context.self_io == SelfIoPolicy::error) return Error::bad_address;
      return false;
    }
    window_pages = moved_on ? kWindowPages : 1;
    stuck_at = base + at;
    fetched.clear();
    fault.reset();
    cursor = file_block_at(file_pos_of(at));
    fetching = true;
    ++context.direct.self_retry_count;
  }
  const uint64_t end = std::min(buffer.pos + buffer.len, buffer.inode->attr.size);
  const FileBlock first = file_block_at(file_pos_of(at));
  const FileBlock last = std::min(file_block_end(end), first + BlockCount(window_pages));
  // Also beyond the end, should the file have been cut meanwhile: a read under way is ended first.
  while (cursor < last || cursor == first || fault.begun()) {
    Attempt<FolioRef> page = fusefs::fault(context, *buffer.inode, cursor, FaultKind::read, fault);
    if (page.must_restart()) return Unfinished(page);
    if (page.failed()) {
      fault.reset();
      if (cursor > first) break;  // what comes before it can be written
      fetching = false;
      return page.error() == Error::beyond_eof ? Error::bad_address : page.error();
    }
    fetched[cursor] = std::move(page).value();
    fault.reset();
    cursor += kOne;
    note_progress();
  }
  fetching = false;
  return true;
}

MappedIoStash::MappedIoStash() = default;
MappedIoStash::~MappedIoStash() = default;

namespace {

using Phase = MappedIoStash::Phase;

// Fills the stash's buffer with up to a window of `inode` from `pos` on.
Attempt<void> fill(FileContext& context, Inode& inode, uint64_t pos, uint64_t len,
                   MappedIoStash& stash) {
  const uint64_t skip = pos % kBlockBytes;
  const uint64_t want = std::min(len, block_bytes(BlockCount(kWindowPages)) - skip);
  if (!stash.buffer) stash.buffer = AlignedBuffer(block_bytes(BlockCount(kWindowPages)));
  if (!stash.read) stash.read = std::make_unique<ReadStash>();
  const Attempt<size_t> got =
      read_file(context, inode, pos, want, stash.buffer.bytes(), *stash.read);
  if (!got.ok()) return Unfinished(got);
  stash.filled = got.value();
  stash.stored = 0;
  stash.read.reset();
  return {};
}

// ---- Writing ----

// One part of the rest through pages, and on to the device.
Attempt<void> write_through_pages(FileContext& context, Inode& inode, uint64_t pos,
                                  const MappedRange& buffer, MappedIoStash& stash) {
  const uint64_t from = buffer.pos + stash.done;
  if (stash.phase == Phase::filling) {
    const Attempt<void> filled = fill(context, *buffer.inode, from, buffer.len - stash.done, stash);
    if (!filled.ok()) return filled;
    if (stash.filled == 0) return Error::bad_address;
    stash.write = WriteStash();
    stash.write.watch = stash.watch;
    stash.phase = Phase::storing;
  }
  if (stash.phase == Phase::storing) {
    WriteRequest request;
    request.pos = pos + stash.done;
    request.data = ConstBytes(stash.buffer.bytes()).subspan(from % kBlockBytes, stash.filled);
    const Attempt<size_t> written = write_buffered(context, inode, request, stash.write);
    if (!written.ok()) return Unfinished(written);
    stash.stored = written.value();
    context.direct.self_buffered_bytes += written.value();
    stash.writeback = std::make_unique<WritebackStash>();
    stash.writeback->bounce = true;
    stash.phase = Phase::flushing;
  }
  const uint64_t first = pos + stash.done;
  const FileRange range{file_block_at(first), file_block_end(first + stash.stored)};
  if (stash.phase == Phase::flushing) {
    const Attempt<void> flushed = write_back(context, inode, range, *stash.writeback);
    if (!flushed.ok()) return flushed;
    stash.writeback.reset();
    stash.phase = Phase::dropping;
  }
  // Best effort, as for any direct write's neighbours: who has them in use keeps them.
  context.cache.drop_clean(inode.mapping, range);
  stash.done += stash.stored;
  stash.phase = Phase::filling;
  note_progress();
  return {};
}

}  // namespace

Attempt<size_t> write_mapped(FileContext& context, Inode& inode, uint64_t pos,
                             const MappedRange& buffer, MappedIoStash& stash) {
  if (stash.phase == Phase::direct && !stash.source &&
      inode.mapping.any_pinned({file_block_at(pos), file_block_end(pos + buffer.len)})) {
    stash.phase = Phase::filling;  // pages that stay: there is no way past them
  }
  if (stash.phase == Phase::direct) {
    if (!stash.source) {
      stash.source = std::make_unique<MappedIoStash::Source>(context, inode, buffer);
    }
    WriteRequest request;
    request.pos = pos;
    request.source = stash.source.get();
    stash.write.watch = stash.watch;
    const Attempt<size_t> written = write_direct(context, inode, request, stash.write);
    if (!written.ok()) return written;
    stash.done = written.value();
    if (stash.done == buffer.len || !stash.source->gave_up) return stash.done;
    if (context.self_io == SelfIoPolicy::error) return stash.done;
    stash.phase = Phase::filling;
  }
  while (stash.done < buffer.len) {
    const Attempt<void> part = write_through_pages(context, inode, pos, buffer, stash);
    if (part.must_restart()) return part.restart();
    if (part.failed() && stash.done == 0) return part.error();
    if (part.failed() || stash.stored < stash.filled) break;
  }
  return stash.done;
}

// ---- Reading ----

namespace {

// Stores what the buffer has to pages of the target, as a program would.
Attempt<void> store(FileContext& context, const MappedRange& buffer, size_t skip,
                    MappedIoStash& stash) {
  while (stash.stored < stash.filled) {
    const uint64_t pos = buffer.pos + stash.done;
    const PagePart part = part_of(pos, stash.filled - stash.stored);
    Attempt<FolioRef> page =
        fault(context, *buffer.inode, file_block_at(pos), FaultKind::write, stash.fault);
    if (!page.ok()) {
      if (page.failed()) stash.fault.reset();
      if (page.failed() && page.error() == Error::beyond_eof) return Error::bad_address;
      return Unfinished(page);
    }
    // Nothing restarts from here on. Bytes beyond the end of the file stay zero.
    const FolioRef folio = std::move(page).value();
    const uint64_t page_pos = file_pos(folio->index);
    const uint64_t valid = buffer.inode->attr.size - page_pos;
    const size_t len = valid > part.offset ? std::min<size_t>(part.len, valid - part.offset) : 0;
    if (len == 0) {
      stash.fault.reset();
      return Error::bad_address;
    }
    std::memcpy(folio->frame + part.offset, stash.buffer.data() + skip + stash.stored, len);
    make_dirty(context, {folio, stash.fault.reservation.count() != BlockCount(0), false},
               stash.fault);
    touch_contents(context, *buffer.inode);
    stash.fault.reset();
    stash.stored += len;
    stash.done += len;
    note_progress();
  }
  return {};
}

// Pages of the buffer from `at` on that are pinned for writing, in a row in memory, whole, and to
// be filled with whole blocks of `inode` from `pos` on.
std::vector<FolioRef> storable_run(const Inode& inode, uint64_t pos, const Inode& buffer,
                                   uint64_t at, uint64_t len) {
  std::vector<FolioRef> run;
  const bool same = &inode == &buffer && pos < at + len && at < pos + len;
  if (same || pos % kBlockBytes != 0 || at % kPageBytes != 0) return run;
  const auto left_of = [](const Inode& file, uint64_t from) {
    return file.attr.size > from ? file.attr.size - from : 0;
  };
  const uint64_t bytes = std::min({len, left_of(inode, pos), left_of(buffer, at)});
  const uint64_t pages = std::min(bytes / kPageBytes, kPinnedRunPages);
  for (FileBlock index = file_block_at(at); run.size() < pages; index += kOne) {
    FolioRef page = buffer.mapping.find(index);
    // A mapped one may cease to be storable before the device has filled it.
    if (!page || !page->is_storable() || page->is_mapped()) break;
    if (!run.empty() && run.back()->frame + kPageBytes != page->frame) break;
    run.push_back(std::move(page));
  }
  return run;
}

// A part straight into pages that are pinned for writing: what arrives there is stored as if by
// who has them. Nothing read: they are none.
Attempt<size_t> read_into_pins(FileContext& context, Inode& inode, uint64_t pos,
                               const MappedRange& buffer, MappedIoStash& stash) {
  if (stash.pinned.empty()) {
    stash.pinned =
        storable_run(inode, pos, *buffer.inode, buffer.pos + stash.done, buffer.len - stash.done);
    if (stash.pinned.empty()) return size_t{0};
    stash.read = std::make_unique<ReadStash>();
    stash.read->direct = true;
  }
  const Bytes frames(stash.pinned.front()->frame, stash.pinned.size() * kPageBytes);
  const Attempt<size_t> got = read_file(context, inode, pos, frames.size(), frames, *stash.read);
  if (got.must_restart()) return got;
  if (got.ok()) touch_contents(context, *buffer.inode);
  context.direct.pinned_read_bytes += got.ok() ? got.value() : 0;
  stash.read.reset();
  stash.pinned.clear();
  return got;
}

}  // namespace

Attempt<size_t> read_mapped(FileContext& context, Inode& inode, uint64_t pos,
                            const MappedRange& buffer, MappedIoStash& stash) {
  while (stash.done < buffer.len) {
    const uint64_t from = pos + stash.done - stash.stored;
    if (stash.phase == Phase::direct && !stash.filling) {
      const Attempt<size_t> read = read_into_pins(context, inode, from, buffer, stash);
      if (read.must_restart()) return read;
      if (read.failed() && stash.done == 0) return read.error();
      if (read.failed()) break;
      stash.done += read.value();
      note_progress();
      stash.filling = read.value() == 0;
      continue;
    }
    if (stash.phase == Phase::direct) {
      const Attempt<void> filled = fill(context, inode, from, buffer.len - stash.done, stash);
      if (filled.must_restart()) return filled.restart();
      if (filled.failed() && stash.done == 0) return filled.error();
      if (filled.failed() || stash.filled == 0) break;
      stash.phase = Phase::storing;
    }
    const Attempt<void> stored = store(context, buffer, from % kBlockBytes, stash);
    if (stored.must_restart()) return stored.restart();
    if (stored.failed() && stash.done == 0) return stored.error();
    if (stored.failed()) break;
    stash.stored = 0;
    stash.phase = Phase::direct;
    stash.filling = false;
  }
  return stash.done;
}

}  // namespace fusefs
