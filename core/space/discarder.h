// Discarder: tells the device which blocks have become free (-o discard).
//
//     released --durable--> free, in the queue --taken--> being discarded --ended--> free
//                                 |
//                                 +--handed out again: skipped
//
// A block becomes free first and is discarded later, if it is free still: nobody waits for a
// discard to get a block, except when there is no other. While its discard is under way a block is
// not available (Space::begin_discard), so a discard never meets a write.
//
// A discard is a hint. An error is in the statistics of the device and nowhere else; a device that
// turns out not to know discards is not asked again.
//
// Monitor held for every call.
#pragma once

#include <deque>
#include <memory>

#include "core/engine/scheduler.h"
#include "core/io/block_device.h"
#include "core/space/space.h"

namespace fusefs {

// Blocks freed within so long are discarded together.
inline constexpr uint64_t kDiscardIntervalNs = kNsPerSecond;
// Requests under way, and the blocks of one at most: 64 MiB, and a 64th of the volume.
inline constexpr size_t kDiscardsMax = 4;
inline constexpr uint64_t kDiscardBlocksMax = (64ull << 20) / kBlockBytes;

class Discarder {
 public:
  Discarder(BlockDevice& device, Space& space);

  // Discards everything that is in the queue, and waits for it. What is under way belongs to the
  // discarder and not to the caller: several may call, and each may stop calling.
  //   Restarts  data_io, bitmap_load
  Attempt<void> drain();

  Space& space() { return space_; }

 private:
  struct UnderWay {
    BlockRange blocks;
    Ref<IoTicket> ticket;
  };
  void take_ended();

  BlockDevice& device_;
  Space& space_;
  const BlockCount request_max_;
  std::deque<UnderWay> under_way_;
};

// Drains every kDiscardIntervalNs while there is something. A background operation.
std::unique_ptr<Operation> make_discard_operation(Scheduler& scheduler, Discarder& discarder);

}  // namespace fusefs
