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

struct SuperblockStash {
  std::array<AlignedBuffer, 2> slots;
  std::array<Ref<IoTicket>, 2> tickets;
};

// The newer of the slots that verify. One that is damaged or could not be read is passed over as
// long as the other is good: that is what two are for.
//   Restarts  on the reads
//   Errors    of the slot that says most about what is there: newer_version, truncated_volume,
//             corrupt, io_failed, not_a_volume
Attempt<FoundSuperblock> read_superblocks(BlockDevice& device, SuperblockStash& stash);

}  // namespace fusefs
