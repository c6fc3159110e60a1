// Writeback: dirty folios to the device, in large runs, and the commit that shows them.
//
//   1. a run of dirty folios, ascending in the file: marked writeback (stable from here; mapped
//      pages as soon as who maps them cannot store into them any more, which is seen to outside
//      the monitor)
//   2. extents: in place where private; new blocks near the last extent otherwise, as few and
//      large as free space allows
//   3. device writes; wait
//   4. one transaction: map the new blocks, size on the device up to the end of the data written,
//      times; it shows the data only after the flush that the journal puts before it
//   5. folios are clean (or dirty again, if the device failed: the error is kept for fsync)
//
// The size on disk may grow only over bytes that are on disk; with the end of the block, the file
// would end in zeroes nobody wrote.
//
// An adder hold is kept from 1 to 5: a truncate, punch or clone waits for the run under way.
//
// Storable pages (pinned for writing: folio.h) change while they are written, so that a copy is
// written instead: bounced, only where it is asked for. Those that have not changed since the
// device got them are not written. One call writes each of them once, however fast they change.
//
//   1. a run of storable folios, marked writeback: nobody else writes their blocks
//   2. outside the monitor: compared with what the device has, by checksum; copies of what differs
//   3. as above from 2., with the copies; on success the page is dirty or not, as PinnedPolicy says
//
// Monitor held for every call.
#pragma once

#include "core/file/file_context.h"

namespace fusefs {

class Placement;

// Bytes that one run writes at most.
inline constexpr uint64_t kWritebackRunBytes = 4ull << 20;
// Pieces of the file that one run consists of at most, where dirty pages are scattered.
inline constexpr size_t kWritebackRunPieces = 128;
// The end of every file, in blocks.
inline constexpr FileBlock kFileBlocksMax{(kFileBytesMax >> kBlockShift) + 1};
inline constexpr FileRange kWholeFile{FileBlock(0), kFileBlocksMax};
// After so many failed runs and no good one between them, writers are told instead of throttled.
inline constexpr uint32_t kFailedRunsMax = 8;

struct WritebackStash {
  NodePins pins;
  TwoStateHold hold;           // adder, while a run is under way
  bool caller_blocks = false;  // the caller holds the inode's blocker state: take no hold
  bool bounce = false;         // storable pages too
  uint64_t bounced_size = 0;   // up to where storable pages have brought what they had
  WritebackStash();
  ~WritebackStash();
  struct State;
  std::unique_ptr<State> state;
  FileBlock cursor;  // everything dirty before it has been dealt with
};

// Writes what is dirty in `range` at the time of the call, and waits for writeback that others
// began there. Afterwards the data is on the device and the transaction that shows it is appended
// to the journal (inode.changed_seq), neither of them necessarily durable. One stash, one call.
//   Restarts  two_state, folio_locked, writeback, data_io, node_load, bitmap_load, journal_space
//   Errors    io_failed, device_gone, no_space (backing file): the folios stay dirty, the error is
//             kept in the inode; the rest of the range has been written all the same. Also where
//             others have failed to write what this call has waited for
Attempt<void> write_back(FileContext& context, Inode& inode, FileRange range,
                         WritebackStash& stash);

// The device or the commit has failed: what is in memory of `placement` (folios ascending, under
// writeback) is dirty again, with blocks reserved as far as there are any.
void dirty_again(FileContext& context, Placement& placement, const std::vector<FolioRef>& folios);

// The same for the inode's attributes alone: times, and the size as far as no dirty page is still
// to bring it. Storable pages have brought what they had up to `bounced_size`. Nothing to do for an
// inode that waits to be removed.
//   Restarts journal_space, node_load, dirty_nodes;  Errors io_failed, read_only_volume, corrupt
Attempt<void> save_attr(FileContext& context, Inode& inode, NodePins& pins,
                        uint64_t bounced_size = 0);

// A size that only storable pages have kept from being saved is to be saved now: they have been
// bounced.
void note_pending_size(FileContext& context, Inode& inode);

// Writes inodes completely, by operations of their own, several at a time.
class InodeWriters : public RefCounted {
 public:
  // `bounce`: storable pages too.
  explicit InodeWriters(FileContext& context, bool bounce = false)
      : context_(context), bounce_(bounce) {}

  // Starts one writer, or more for a file with much to write. Requires has_room().
  void start(const InodeRef& inode);
  bool has_room() const { return running_ < kWritersMax; }
  bool is_writing(InodeNo ino) const { return active_.contains(ino); }
  size_t running() const { return running_; }
  // The first error so far.
  std::optional<Error> error() const { return error_; }
  // Inodes with a writer that failed since the last call.
  std::vector<InodeNo> take_failed();
  // Woken whenever a writer has ended; `also` too.
  Waitable& ended() { return ended_; }
  void wake_also(Waitable& also) { also_ = &also; }

 private:
  class Writer;
  static constexpr size_t kWritersMax = 8;
  void note_ended(InodeNo ino, std::optional<Error> error);

  FileContext& context_;
  const bool bounce_;
  size_t running_ = 0;
  std::unordered_map<InodeNo, uint32_t> active_;
  std::vector<InodeNo> failed_;
  std::optional<Error> error_;
  Waitable ended_;
  Waitable* also_ = nullptr;  // outlives this
};

// The background flusher: writes everything that has been dirty for a second, and more when the
// page cache wants it. A background operation, started by the volume.
std::unique_ptr<Operation> make_flusher(FileContext& context);

}  // namespace fusefs
