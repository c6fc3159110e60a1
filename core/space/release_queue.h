// ReleaseQueue: blocks that transactions have released and that may not be used again yet.
//
// A released block may be handed out again when its transaction is durable (else a crash would
// give the block back to its old owner, with foreign data in it), and when all device I/O on it
// that began before has ended (else a read under way would see the new owner's data, or a write
// under way would destroy it).
//
// I/O is counted in epochs: each release ends the present one, and waits until no guard of that or
// an earlier epoch is left. A guard does not say which blocks it is about; they live shortly.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>

#include "core/base/units.h"
#include "core/engine/operation.h"
#include "core/engine/waitable.h"

namespace fusefs {

class ReleaseQueue {
 public:
  // I/O begins and ends; `owner` is the operation that asked for the guard, or null.
  uint64_t enter(const Operation* owner) {
    ++guards_[epoch_];
    if (owner != nullptr) ++guards_of_[owner];
    return epoch_;
  }
  void leave(uint64_t epoch, const Operation* owner);

  // `seq` never goes back.
  void add(BlockRange blocks, JournalSeq seq);
  // The oldest range that may be used again when everything up to `durable` is durable.
  std::optional<BlockRange> take_ready(JournalSeq durable);

  BlockCount blocks() const { return blocks_; }
  bool empty() const { return releases_.empty(); }
  // True if only guards keep the oldest range. Requires !empty().
  bool waits_for_guards(JournalSeq durable) const { return releases_.front().seq <= durable; }
  // Whoever holds a guard must not wait for guards to end: that may be its own.
  bool holds_guard(const Operation* owner) const { return guards_of_.contains(owner); }
  // Woken when the guards of the oldest epoch have ended.
  Waitable& guards_ended() { return guards_ended_; }

 private:
  struct Release {
    BlockRange blocks;
    JournalSeq seq;
    uint64_t epoch;
  };

  std::deque<Release> releases_;  // by seq and epoch
  BlockCount blocks_;
  uint64_t epoch_ = 1;
  std::map<uint64_t, uint64_t> guards_;             // epoch -> how many live
  std::map<const Operation*, uint64_t> guards_of_;  // operation -> how many live
  Waitable guards_ended_;
};

}  // namespace fusefs
