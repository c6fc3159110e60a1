// What a direct write is working on: the part of the request that there is space for, what it holds
// meanwhile, and where its bytes are. The steps are in write_direct.cc.
//
// Monitor held for every call, but for copy_data().
#pragma once

#include <algorithm>

#include "core/file/durable_write.h"
#include "core/file/placement.h"
#include "core/file/write.h"
#include "core/file/writeback.h"

namespace fusefs {

// One end of a write, where it lies within a block.
struct Edge {
  AlignedBuffer bytes;    // of the whole block
  Ref<EdgeBlock> own;     // that others may join
  Ref<EdgeBlock> joined;  // another's, that has our bytes
  void leave() {
    if (own) own->end(false);
    own.reset();
    joined.reset();
    bytes = AlignedBuffer();
  }
};

struct DirectPart final : WriteStash::Work, IoCompletion {
  DirectPart(FileContext& a_context, Inode& an_inode, const WriteRequest& request,
             WriteStash& a_stash)
      : context(a_context),
        inode(an_inode),
        wanted(request.len()),
        sync(request.sync),
        source(request.source),
        stash(a_stash) {}
  ~DirectPart() override { leave(); }
  void leave();
  FinishNeeds release(const Result<void>& result) override;
  void finish() override;

  // The operation's, which outlives its stash's work.
  FileContext& context;
  Inode& inode;
  const uint64_t wanted;
  const SyncLevel sync;
  WriteSource* const source;
  WriteStash& stash;

  TwoStateHold hold;
  BusyRangeHold busy;
  enum class Phase : uint8_t {
    fetching,  // nothing is held
    locking,
    clearing,
    planning,
    reading,
    filling,
    placing,
    writing,
    joining,
    committing
  } phase = Phase::locking;
  std::unique_ptr<WritebackStash> writeback;
  // What is written now, and the blocks of it that are not left to others.
  uint64_t pos = 0;
  uint64_t len = 0;
  FileRange own{};
  Edge first;
  Edge last;
  uint64_t file_size = 0;   // when it was planned
  uint64_t joined_end = 0;  // of what others have added to our edges
  AlignedBuffer bounce;     // of the whole blocks, if their memory does not do
  Placement placement;
  Ref<IoTicket> ticket;  // of reading edges
  DurableWrite device;
  IoGuard guard;
  bool cut_short = false;  // by an error after a part
  bool alone = false;      // joins nobody: that has failed, or cannot be
  bool unaligned = false;  // counted as such
  bool in_flight = false;  // counted
  bool released = false;   // an overwrite that the device is done with: nothing is held any more

  uint64_t end() const { return pos + len; }
  // What the file reaches at least when this is done.
  uint64_t size_end() const { return std::max(end(), joined_end); }
  FileRange range() const { return {file_block_at(pos), file_block_end(end())}; }
  uint64_t own_pos() const { return std::max(pos, file_pos(own.first)); }
  uint64_t own_end() const { return std::min(end(), file_pos(own.end)); }
  bool has_first_edge() const { return !own.empty() && own_pos() % kBlockBytes != 0; }
  bool has_last_edge() const {
    const bool is_first_too = own.count() == BlockCount(1) && has_first_edge();
    return !own.empty() && own_end() % kBlockBytes != 0 && !is_first_too;
  }
  FileBlock last_block() const { return own.end - BlockCount(1); }
  // The blocks that are written whole.
  FileRange middle() const {
    return {own.first + (has_first_edge() ? BlockCount(1) : BlockCount(0)),
            own.end - (has_last_edge() ? BlockCount(1) : BlockCount(0))};
  }
  bool has_joined() const { return first.joined || last.joined; }
  bool has_folios() const {
    const FolioRef folio = inode.mapping.at_or_after(range().first);
    return folio && folio->index < range().end;
  }
  void end_edges() {
    if (first.own) first.own->end(true);
    if (last.own) last.own->end(true);
  }
  void note_landed() {
    if (std::exchange(in_flight, false)) --context.direct.in_flight;
  }
};

// Counts `len` more bytes written.
void count_part(FileContext& context, uint64_t len);
// The last part counts the write.
void count_write(FileContext& context, const DirectPart& direct);

// Those of the request that belong to file position `at` and what follows.
ConstBytes data_at(const WriteRequest& request, const DirectPart& direct, uint64_t at);
void copy_data(const WriteRequest& request, const DirectPart& direct, uint64_t at, Bytes to);
// Whether the device can take the whole blocks from where they are.
bool can_take_middle(const WriteRequest& request, const DirectPart& direct, uint64_t align);
// The block as it will be on the device; nobody joins any more.
void fill_edge(const WriteRequest& request, DirectPart& direct, FileBlock at, Edge& edge);
// Memory of block `at` and of those behind it that lie in a row.
ConstBytes memory_of(const WriteRequest& request, const DirectPart& direct, FileBlock at);

}  // namespace fusefs
