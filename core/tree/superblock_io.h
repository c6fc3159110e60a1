// Reading the superblock slots of a device.
#pragma once

#include <array>

#include "core/format/superblock_format.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"

namespace fusefs {

struct FoundSuperblock {
  Superblock superblock;
  int slot = 0;  // index into kSuperblockBlocks
};

// One slot as it was read, or the error of reading it.
using SuperblockSlot = Result<ConstBytes>;

// The newer of the slots that verify. One that is damaged or could not be read is passed over as
// long as the other is good: that is what two are for. But one that is good, newer and not for us
// (newer_version, truncated_volume) is not: the older one's tree may be gone.
//   Errors    of the slot that says most about what is there: newer_version, truncated_volume,
//             corrupt, io_failed, not_a_volume
Result<FoundSuperblock> choose_superblock(const std::array<SuperblockSlot, 2>& slots,
                                          uint64_t device_bytes);

struct SuperblockStash {
  std::array<AlignedBuffer, 2> slots;
  std::array<Ref<IoTicket>, 2> tickets;
};

// Reads both slots, and chooses.
//   Restarts  on the reads
//   Errors    as choose_superblock()
Attempt<FoundSuperblock> read_superblocks(BlockDevice& device, SuperblockStash& stash);

// Writes superblocks, to each slot in turn, one at a time.
class SuperblockWriter {
 public:
  // `current` is what lies in `slot`.
  SuperblockWriter(BlockDevice& device, const Superblock& current, int slot)
      : device_(device), current_(current), slot_(slot) {}

  // Writes `next` with the generation after current(), durably, to the slot that does not hold
  // current(); then it is current(). The same `next` until it has returned a value or an Error.
  // A value must be heeded at once, without a restart: another call is another write.
  //   Restarts  on the write;  Errors  io_failed; current() is as before, the other slot unknown
  Attempt<void> write(const Superblock& next);

  // The last one that is known to be durable.
  const Superblock& current() const { return current_; }
  int slot() const { return slot_; }

 private:
  class Write;

  BlockDevice& device_;
  Superblock current_;
  int slot_;
  Ref<IoTicket> ticket_;  // under way, or null
  Superblock writing_{};
};

}  // namespace fusefs
