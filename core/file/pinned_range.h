// What happens to pinned pages when something happens to the file: they stay where they are, and
// get the bytes that the file has there now.
//
//     cut, punched           zeroed in the attempt that commits it
//     the file grows         bytes between the old end and the new data are zeroed before: what was
//                            stored beyond the end is not part of the file
//     cloned into            get the source's bytes in the attempt that commits it
//     block becomes shared,  a storable page owns the block for its next write; it is reserved
//     or a hole              before anything changes
//
// Mapped pages are changed in the same way. Where they become clean by it, the right to store into
// them is taken first. Those whose rights are late are storable (late_rights.h).
//
// Monitor held for every call. The callers hold the inode's two-state lock, alone, unless told
// otherwise.
#pragma once

#include <vector>

#include "core/file/file_context.h"
#include "core/file/late_rights.h"
#include "core/io/aligned_buffer.h"

namespace fusefs {

// Checksum of a page of which `valid` bytes count and the rest is taken as zeroes.
uint64_t page_sum(const std::byte* frame, size_t valid);

// Before mapped pages of `range` are made clean with other bytes than who maps them has stored:
// takes the right to store from him. Holds until the inode's lock, alone, is let go. Pages whose
// rights are late are storable afterwards: what is to be reserved for those comes after it.
//   Restarts  rights
class ProtectRange {
 public:
  Attempt<void> run(FileContext& context, Inode& inode, FileRange range);
  void reset();

 private:
  bool begun_ = false;
  RightsWait granting_;
  std::vector<FolioRef> asked_;
  TakenRights taken_;
};

// Before the blocks of `range` become holes: brings `next` to what storable pages there will need.
//   Restarts  space;  Errors  no_space: nothing has changed
Attempt<void> reserve_for_cut(FileContext& context, const Inode& inode, FileRange range,
                              Reservation& next);
// In the attempt that committed it, for `range` wholly cut: zeroes its pinned pages.
void zero_cut(FileContext& context, Inode& inode, FileRange range, Reservation& next);
// Something else than the page itself has changed its block, or is about to.
void forget_device_sum(Inode& inode, FileBlock index);

// Before a write of [pos, end) makes the file longer; pos == end: before its size becomes `end`.
// Zeroes what pinned pages have between the old end and `pos`, and behind `end` in its page, but
// for pages that another write has locked or is writing: it has seen to them. Adders may call it
// too.
void grow_over_pins(FileContext& context, Inode& inode, uint64_t pos, uint64_t end);

// What sharing blocks owes to the pins of both files.
class PinnedSharing {
 public:
  // Before `source` of `from` is shared with `target` of `to`. With `new_content` the target's
  // pinned pages will have the source's bytes: they are read. Requires the source settled.
  //   Restarts  space, node_load, data_io, rights
  //   Errors    no_space, io_failed, corrupt: nothing has changed
  Attempt<void> prepare(FileContext& context, Inode& from, FileRange source, Inode& to,
                        FileBlock target, bool new_content, NodePins& pins);
  // In the attempt that committed it for a part of the range.
  void shared(FileContext& context, Inode& from, FileRange source, Inode& to, FileBlock target);
  void reset();

 private:
  Attempt<void> read_content(FileContext& context, Inode& from, FileRange source, Inode& to,
                             FileBlock target, NodePins& pins);

  ProtectRange protect_;
  Reservation next_;
  std::vector<FileBlock> pages_;  // of the target, pinned, ascending
  AlignedBuffer content_;         // one block for each
  Ref<IoTicket> ticket_;
  IoGuard guard_;
  bool prepared_ = false;
};

}  // namespace fusefs
