// The fault: the one way to get a page into memory.
//
//     read    the file's own folio where it has one, else the page of the shared block
//             (core/memory/shared_blocks.h), else a new folio of the file
//     write   page_mkwrite: a folio of the file itself, the block it will need promised, not
//             under writeback, and with nobody else's name on it
//
//     attempt 1                        attempt 2                         attempt 3
//     hold; reserve; page is missing   read is done: page uptodate
//     start its read, keep it in       hold; look again: is it still
//     the stash, let go   ---------->  in its place? ---> yes: here it is
//                                          |
//                                          +--> no: start over -------->  ...
//
// A write to a shared block moves the page: the file gets a folio of its own, with the bytes of the
// shared page if that is in memory (no device read), else read into it. Whoever has the old page
// mapped for this file is told before the new one can be found (Translations), and the fault starts
// over and finds it. Neighbours, other owners and the shared page itself are untouched. The block
// itself is chosen at writeback, as for every dirty page.
//
// Facts that do not depend on each other:
//     released   the fault has let go at least once: what the caller knew may be out of date
//     restart    try again: the Attempt says so
//     page       the value
//     error      kept from the read until the next attempt reports it, also if the page has gone
//
// What is verified: a page that a fault reads is in its mapping from the start, marked as being
// read. Whoever changes what the page stands for (truncate, punch, clone, dedupe, direct write)
// removes it in the same moment, without waiting. So `still in its mapping` says at once that the
// index is inside the file, the extent is the same, and nobody wrote the block in place. Size and
// extent are looked up again all the same.
//
// Progress: the stash references what it has read, so that reclaim cannot take it. Only others'
// changes can; after kFaultRoundsMax reads in vain the hold is kept across the next one. Who needs
// several pages at once faults them in with one stash, and has it leave the hold.
//
// Monitor held for every call.
#pragma once

#include <optional>
#include <vector>

#include "core/file/page_reads.h"

namespace fusefs {

enum class FaultKind : uint8_t { read, write };

// Reads of one fault that were all in vain because others changed the range meanwhile, before it
// stops letting go of its hold.
inline constexpr uint32_t kFaultRoundsMax = 4;

struct FaultStash {
  // Set by the caller of a write fault, and stays: whether the blocks are for data that was
  // accepted already.
  SpaceUse space_use = SpaceUse::ordinary;
  // The same: whether a write fault that has ended leaves its hold here. Who takes it, in the same
  // attempt, has the pages for as long as it keeps it: nobody can take them away in between.
  bool leaves_hold = false;
  TwoStateHold take_hold() { return std::move(hold_); }

  bool released = false;
  std::optional<Error> error;
  // Of a write fault: the blocks that the pages it returned will need when they become dirty.
  Reservation reservation;

  FaultStash() = default;
  // Ready for the next fault.
  void reset();
  bool begun() const { return begun_; }

 private:
  friend class Fault;
  NodePins pins_;
  TwoStateHold hold_;  // with FaultPolicy::hold, when nothing else makes progress, or left there
  PageReads reads_;    // under way
  std::vector<FolioRef> kept_;  // read or copied so far
  uint32_t rounds_ = 0;         // reads started
  uint64_t begin_ns_ = 0;
  bool begun_ = false;
  bool counted_ = false;  // its end
};

// One page that a write fault returned: unlocked, not under writeback, in the file's mapping.
struct FaultPage {
  FolioRef folio;
  bool needs_block = false;  // when it becomes dirty, one of the stash's reservation
  bool blank = false;        // not uptodate: nothing of the old content is needed but zeroes
};

// The bytes that a writer is about to replace: pages that lie in them need no old content.
struct WriteSpan {
  uint64_t pos = 0;
  uint64_t end = 0;
};

// The page `index` of the file, uptodate. After kind write it may be changed and made dirty in the
// same attempt (make_dirty()); the caller's reference keeps it in memory, but not in the file.
//   Restarts  data_io, folio_locked, writeback, two_state, busy_range, node_load,
//             memory, space;
//             again: after a page has moved
//   Errors    beyond_eof; no_space: before anything changed; io_failed, device_gone, corrupt
Attempt<FolioRef> fault(FileContext& context, Inode& inode, FileBlock index, FaultKind kind,
                        FaultStash& stash);

// The page range.first, as fault() of kind read. Where it has to be read from the device, so are
// the pages of the range behind it that are of private blocks and that nobody else works on, as far
// as there is memory. Who faults them next finds them, if they have not been reclaimed meanwhile.
//   Restarts, Errors  as fault(); io_failed of any of them
Attempt<FolioRef> fault_for_read(FileContext& context, Inode& inode, FileRange range,
                                 FaultStash& stash);

// For a write: the pages of `range`, as many as can be had without waiting for space, memory or
// other users of them; at least the first. They may lie beyond the end of the file.
//   Restarts, Errors  as fault(), without beyond_eof
Attempt<std::vector<FaultPage>> fault_for_write(FileContext& context, Inode& inode, FileRange range,
                                                WriteSpan span, FaultStash& stash);

// Makes a page of the last write fault dirty, in the attempt that returned it or while it has been
// locked since. Requires it uptodate. The caller counts the change (touch_contents()).
void make_dirty(FileContext& context, const FaultPage& page, FaultStash& stash);

}  // namespace fusefs
