#include "core/tree/superblock_io.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace fusefs {
namespace {

// The slot is valid and of a program, or for a device, that we must not pass over: its volume has
// moved on from what the other slot says.
bool must_heed(Error error) {
  return error == Error::newer_version || error == Error::truncated_volume;
}

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

Result<FoundSuperblock> choose_superblock(const std::array<SuperblockSlot, 2>& slots,
                                          uint64_t device_bytes) {
  std::optional<FoundSuperblock> best;
  Error error = Error::not_a_volume;
  uint64_t heeded_generation = 0;
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    if (!slots[slot].ok()) {
      if (weight(slots[slot].error()) > weight(error)) error = slots[slot].error();
      continue;
    }
    const ConstBytes block = slots[slot].value();
    const Superblock& found = view_as<Superblock>(block);
    const Result<void> verified =
        verify_superblock(block, BlockNo(kSuperblockBlocks[slot]), device_bytes);
    if (!verified.ok()) {
      if (must_heed(verified.error())) {
        heeded_generation = std::max(heeded_generation, found.header.generation.get());
      }
      if (weight(verified.error()) > weight(error)) error = verified.error();
      continue;
    }
    if (!best || found.header.generation > best->superblock.header.generation) {
      best = FoundSuperblock{found, static_cast<int>(slot)};
    }
  }
  if (!best || heeded_generation > best->superblock.header.generation) return error;
  return *best;
}

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
  std::array<SuperblockSlot, 2> slots = {Error::not_a_volume, Error::not_a_volume};
  for (size_t slot = 0; slot < kSuperblockBlocks.size(); ++slot) {
    const Ref<IoTicket>& ticket = stash.tickets[slot];
    if (!ticket) continue;  // the device ends before it
    if (ticket->pending()) return restart_after(ticket->completion(), RestartReason::data_io);
    slots[slot] = ticket->result().ok() ? SuperblockSlot(stash.slots[slot].bytes())
                                        : SuperblockSlot(ticket->result().error());
  }
  const Result<FoundSuperblock> found = choose_superblock(slots, size);
  if (!found.ok()) return found.error();
  return found.value();
}

// Keeps the memory of the write for as long as the device may use it.
class SuperblockWriter::Write final : public IoTicket {
 public:
  Write() : image(kBlockBytes) {}
  AlignedBuffer image;
};

Attempt<void> SuperblockWriter::write(const Superblock& next) {
  const int other = 1 - slot_;
  if (!ticket_) {
    const BlockNo at(kSuperblockBlocks[static_cast<size_t>(other)]);
    const Ref<Write> write = make_ref<Write>();
    const Bytes image = write->image.bytes();
    std::memcpy(image.data(), &next, sizeof(next));
    set_block_header(image, BlockKind::superblock, at, current_.header.generation + 1);
    seal_block(image, kSuperblockChecksumSeed);
    writing_ = view_as<Superblock>(image);
    ticket_ = write;
    device_.submit(IoRequest::write(block_addr(at), image.data(), image.size(), true), ticket_);
  }
  if (ticket_->pending()) return restart_after(ticket_->completion(), RestartReason::data_io);
  const Result<void> written = ticket_->result();
  ticket_.reset();
  if (!written.ok()) return written.error();
  current_ = writing_;
  slot_ = other;
  return {};
}

}  // namespace fusefs
