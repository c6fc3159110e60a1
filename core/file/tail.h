// The tail: the rest of a file's last block, beyond its size.
//
// A write that extends a file within its last block goes there in place, and the size follows with
// the commit. If that never comes, the device has bytes beyond the size:
//
//     device   |oooooooonnnn....|    power fails before size = 12 is committed
//     size             8             later the file grows to 4096: 8..4095 must read as zeroes
//
// Inode::tail_unknown says that this may be so: of an inode that was loaded with such a size, and
// after a write there that failed. Pages have zeroes all the same (folio.h), and so has whatever is
// written through them. Who grows the file past that, leaving a gap, clears the tail first:
//
//     in memory     if the size still ends in the tail's block
//     on the device always: a page of the tail that is only dirty would come later than the size
//
// What a truncate that has failed on its way leaves behind the size (Inode::cut_pending) is worse
// than a tail and treated as one: it goes before the file becomes longer.
//
// The flag goes when the size on the device has left the tail behind (InodeTable::saved()): what
// has brought it there has written the tail, or has cleared it. Writeback of a file with an unknown
// tail begins with that.
//
// Monitor held for every call.
#pragma once

#include <memory>
#include <optional>

#include "core/file/file_context.h"
#include "core/file/writeback.h"
#include "core/io/aligned_buffer.h"

namespace fusefs {

struct ShapeStash;

// Zeroing part of one block: in its folio, and on the device where it is mapped and written.
struct EdgeStash {
  AlignedBuffer block;
  Ref<IoTicket> ticket;
  Reservation reservation;
  std::optional<BlockRange> allocated;  // in place of a shared block; handed out, not committed
  IoGuard guard;
  Space* space = nullptr;  // where `allocated` goes back to
  enum class Phase : uint8_t { start, reading, writing, zeroing, done } phase = Phase::start;
  EdgeStash() = default;
  EdgeStash(const EdgeStash&) = delete;
  EdgeStash& operator=(const EdgeStash&) = delete;
  ~EdgeStash();
};

// Clearing a tail. Ready for the next once it is done.
struct TailStash {
  TwoStateHold hold;  // of clear_tail_before() only
  std::unique_ptr<WritebackStash> writeback;
  std::unique_ptr<EdgeStash> edge;
  std::unique_ptr<ShapeStash> cut;
  TailStash();
  TailStash(TailStash&& other) noexcept;
  TailStash& operator=(TailStash&& other) noexcept;
  ~TailStash();
};

// Zeroes bytes [pos, pos + len) of a file, all in one block. Requires the blocker state, alone.
//   Errors  no_space, io_failed, corrupt: its folio is as it was
Attempt<void> zero_within_block(FileContext& context, Inode& inode, uint64_t pos, uint32_t len,
                                EdgeStash& stash);

// Makes the tail zero if it is unknown, and ends a truncate that has failed. Requires the blocker
// state, alone.
//   Restarts  folio_locked, writeback, data_io, node_load, journal_space, space
//   Errors    no_space (a shared last block must be copied), io_failed; nothing has changed
Attempt<void> clear_tail(FileContext& context, Inode& inode, TailStash& stash);

// Where a write raises the size first.
enum class Growth : uint8_t { memory, device };
// Whether a write of [pos, end) leaves an unknown tail behind, or brings back what was cut off.
bool leaves_tail(const Inode& inode, uint64_t pos, uint64_t end, Growth growth);
// Almost never: what is asked before clear_tail_before().
inline bool may_clear_tail(const Inode& inode, const TailStash& stash) {
  return inode.tail_unknown || inode.cut_pending || stash.hold.held();
}
// For a write of [pos, end), before it takes anything: clears the tail if it would be left behind.
// Called again until it is done: the stash may have a hold.
//   Restarts, Errors  as clear_tail(), and two_state
Attempt<void> clear_tail_before(FileContext& context, Inode& inode, uint64_t pos, uint64_t end,
                                Growth growth, TailStash& stash);

// A write of [pos, end) has failed on its way to the device.
void note_failed_write(Inode& inode, uint64_t pos, uint64_t end);

}  // namespace fusefs
