// One run of writeback: what writeback.cc and bounce.cc share. Nobody else includes it.
//
//     ordinary   walking -------------+--------------> allocating -> writing -> committing
//     mapped                          +--> protecting -----^
//                walking <-- storable <-----+  rights are late
//     bounced    walking --> copying --> planning ---------^
//
// Monitor held for every call.
#pragma once

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "core/file/bounce_memory.h"
#include "core/file/late_rights.h"
#include "core/file/placement.h"
#include "core/file/writeback.h"

namespace fusefs {

static_assert(BounceMemory::kBytes == kWritebackRunBytes);

// A page of a bounced run.
struct BouncedPage {
  std::optional<uint64_t> device_sum;  // of what the device had when the run began
  bool copy_first = false;             // it is likely to have changed
  uint64_t sum = 0;                    // of the copy
  const std::byte* copy = nullptr;     // null: the page has not changed
};

// One run, and how far the call has come.
struct WritebackStash::State final : WritebackWatch {
  State(FileContext& a_context, Inode& an_inode, const WritebackStash& a_stash)
      : context(a_context), inode(an_inode), stash(a_stash) {}
  ~State() { abandon(); }
  // Of what was there at the time of the call.
  void set_range(FileRange range);
  void became_ordinary(FileBlock index) override;
  void given_up(FileBlock index) override;
  void failed(FileBlock index, Error error) override;
  // Goes through pages that were missed. False: there are none.
  bool begin_missed();
  // The operation was destroyed half-way: nothing of the run may be lost.
  void abandon();

  FileContext& context;
  Inode& inode;
  const WritebackStash& stash;
  FileRange whole{};
  FileBlock first;  // of what is gone through: all of it, then what was missed
  FileBlock end;
  std::set<FileBlock> missed;
  std::optional<Error> error;
  bool bouncing = false;  // what is dirty has been written; now what is storable

  enum class Phase : uint8_t {
    walking,
    protecting,
    copying,
    planning,
    allocating,
    writing,
    committing
  } phase = Phase::walking;
  std::vector<FolioRef> folios;      // ascending, under writeback
  std::vector<BouncedPage> bounced;  // of a bounced run, one for each folio
  BounceMemory::Piece copies;        // room for one of each
  TakenRights taken;                 // of mapped pages of the run
  RightsWait granting;               // for the page that the next run would begin with
  Placement placement;
  BlockCount delayed;  // of the run, still in inode.delayed_blocks
  Ref<IoTicket> ticket;
  uint64_t memory_size = 0;  // of the file when the run was copied or submitted
  WriteStamp stamp = 0;
};

inline FileRange page_range(const Folio& folio) { return file_range(folio.index, BlockCount(1)); }

// How many bytes of page `index` lie inside a file of `size` bytes.
inline size_t valid_bytes(FileBlock index, uint64_t size) {
  const uint64_t pos = file_pos(index);
  return size > pos ? std::min<uint64_t>(kPageBytes, size - pos) : 0;
}

// Calls `visit(folio, piece)` for every folio; both ascend.
template <class Visit>
void for_each_page(const std::vector<FolioRef>& folios, const std::vector<FilePiece>& pieces,
                   Visit&& visit) {
  size_t i = 0;
  for (const FilePiece& piece : pieces) {
    for (; i < folios.size() && folios[i]->index < piece.range.end; ++i) {
      if (!visit(*folios[i], piece)) return;
    }
  }
}

Attempt<std::vector<FilePiece>> pieces_of_run(FileContext& context, Inode& inode,
                                              const std::vector<FolioRef>& folios, NodePins& pins);
void record_error(Inode& inode, WritebackStash::State& state, Error error);
// Moves the page's reservation to the placement, as far as it is needed.
void add_to_placement(FileContext& context, Folio& folio, const FilePiece& piece,
                      WritebackStash::State& state);

// bounce.cc:

// Begins a run of storable pages. False when there are none left before the end.
Attempt<bool> begin_bounces(FileContext& context, Inode& inode, WritebackStash& stash);
// Finds out what has changed, and copies it.
//   Restarts  outside
Attempt<void> copy_storable(WritebackStash::State& state);
// Lets go of what has not changed, and finds out what the rest needs. No folios are left: nothing
// has changed.
Attempt<void> plan_bounces(FileContext& context, Inode& inode, WritebackStash& stash);
// Takes the writeback mark off page `i` of the run.
void end_page(WritebackStash::State& state, size_t i, bool written);

}  // namespace fusefs
