#include "core/tree/superblock_io.h"

#include <optional>

namespace fusefs {
namespace {

// How much an error tells: the more, the rather it is the one reported.
int weight(Error error) {
  switch (error) {
    case Error::newer_version:
      return 4;
    case Error::truncated_volume:
      return 3;
    case Error::corrupt:
      return 2;
    case Error::not_a_volume:
      return 0;
    default:
      return 1;
  }
}

}  // namespace

Attempt<FoundSuperblock> read_superblocks(BlockDevice& device, SuperblockStash& stash) {
  const uint64_t size = device.geometry().size_bytes;
  for (size_t slot = 0; slot < kSuperblockBlocks.size(); ++slot) {
    const uint64_t addr = block_addr(BlockNo(kSuperblockBlocks[slot]));
    if (stash.tickets[slot] || addr + kBlockBytes > size) continue;
    stash.slots[slot] = AlignedBuffer(kBlockBytes);
    stash.tickets[slot] = make_ref<IoTicket>();
    device.submit(IoRequest::read(addr, stash.slots[slot].data(), kBlockBytes),
                  stash.tickets[slot]);
  }
  std::optional<FoundSuperblock> best;
  Error error = Error::not_a_volume;
  for (size_t slot = 0; slot < kSuperblockBlocks.size(); ++slot) {
    if (!stash.tickets[slot]) continue;
    if (stash.tickets[slot]->pending()) {
      return restart_after(stash.tickets[slot]->completion(), RestartReason::data_io);
    }
    Result<void> verified = stash.tickets[slot]->result();
    if (verified.ok()) {
      verified =
          verify_superblock(stash.slots[slot].bytes(), BlockNo(kSuperblockBlocks[slot]), size);
    }
    if (!verified.ok()) {
      if (weight(verified.error()) > weight(error)) error = verified.error();
      continue;
    }
    const Superblock& found = view_as<Superblock>(ConstBytes(stash.slots[slot].bytes()));
    if (!best || found.header.generation > best->superblock.header.generation) {
      best = FoundSuperblock{found, static_cast<int>(slot)};
    }
  }
  if (!best) return error;
  return *best;
}

}  // namespace fusefs
