#include "core/space/release_queue.h"

#include "core/base/check.h"

namespace fusefs {

void ReleaseQueue::leave(uint64_t epoch, const Operation* owner) {
  if (owner != nullptr) {
    const auto found = guards_of_.find(owner);
    CHECK(found != guards_of_.end());
    if (--found->second == 0) guards_of_.erase(found);
  }
  const auto found = guards_.find(epoch);
  CHECK(found != guards_.end());
  const bool oldest = found == guards_.begin();
  if (--found->second != 0) return;
  guards_.erase(found);
  if (oldest) guards_ended_.wake_all();
}

void ReleaseQueue::add(BlockRange blocks, JournalSeq seq) {
  CHECK(releases_.empty() || releases_.back().seq <= seq);
  // Guards that come from here on are of a later epoch.
  const uint64_t epoch = guards_.empty() ? 0 : guards_.rbegin()->first;
  if (epoch == epoch_) ++epoch_;
  releases_.push_back({blocks, seq, epoch});
  blocks_ += blocks.count();
}

std::optional<BlockRange> ReleaseQueue::take_ready(JournalSeq durable) {
  if (releases_.empty()) return std::nullopt;
  const Release& oldest = releases_.front();
  if (oldest.seq > durable) return std::nullopt;
  if (!guards_.empty() && guards_.begin()->first <= oldest.epoch) return std::nullopt;
  const BlockRange blocks = oldest.blocks;
  blocks_ -= blocks.count();
  releases_.pop_front();
  return blocks;
}

}  // namespace fusefs
