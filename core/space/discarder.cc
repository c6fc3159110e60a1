#include "core/space/discarder.h"

#include <algorithm>

namespace fusefs {
namespace {

BlockCount request_max_of(const Space& space) {
  const uint64_t volume = (space.data_end() - space.data_first()).value();
  return BlockCount(std::clamp<uint64_t>(volume / 64, 1, kDiscardBlocksMax));
}

class DiscardOperation final : public Operation {
 public:
  DiscardOperation(Scheduler& scheduler, Discarder& discarder)
      : scheduler_(scheduler), discarder_(discarder) {}
  ~DiscardOperation() override { disarm(); }

  const char* name() const override { return "discarder"; }
  bool is_background() const override { return true; }

  Attempt<void> attempt() override {
    Space& space = discarder_.space();
    const uint64_t now_ns = scheduler_.clock().monotonic_ns();
    if (due_ns_ != 0 && now_ns >= due_ns_) {
      ATTEMPT_OK(discarder_.drain());
      disarm();
    }
    if (due_ns_ == 0 && space.discards_wanted()) {
      due_ns_ = now_ns + kDiscardIntervalNs;
      timer_ = scheduler_.wake_at(due_ns_, space.discards_changed());
    }
    return restart_after(space.discards_changed(), RestartReason::idle);
  }

 private:
  void disarm() {
    if (due_ns_ != 0) scheduler_.cancel_timer(timer_);
    due_ns_ = 0;
  }

  Scheduler& scheduler_;
  Discarder& discarder_;
  uint64_t due_ns_ = 0;  // 0: not armed
  Scheduler::TimerId timer_ = 0;
};

}  // namespace

Discarder::Discarder(BlockDevice& device, Space& space)
    : device_(device), space_(space), request_max_(request_max_of(space)) {}

void Discarder::take_ended() {
  bool refused = false;
  std::erase_if(under_way_, [&](const UnderWay& one) {
    if (one.ticket->pending()) return false;
    const Result<void> result = one.ticket->result();
    if (!result.ok() && result.error() == Error::not_supported) refused = true;
    space_.end_trim(one.blocks);
    return true;
  });
  if (refused) space_.keep_discards(false);
}

Attempt<void> Discarder::drain() {
  while (true) {
    take_ended();
    if (under_way_.size() < kDiscardsMax) {
      // Straight into under_way_: nothing may come between.
      const Attempt<std::optional<BlockRange>> found = space_.begin_discard(request_max_);
      if (!found.ok()) return Unfinished(found);
      if (const std::optional<BlockRange> blocks = found.value()) {
        under_way_.push_back({*blocks, make_ref<IoTicket>()});
        device_.submit(IoRequest::discard(block_addr(blocks->first), block_bytes(blocks->count())),
                       under_way_.back().ticket);
        Operation::current()->note_progress();
        continue;
      }
    }
    if (under_way_.empty()) return {};
    return restart_after(under_way_.front().ticket->completion(), RestartReason::data_io);
  }
}

std::unique_ptr<Operation> make_discard_operation(Scheduler& scheduler, Discarder& discarder) {
  return std::make_unique<DiscardOperation>(scheduler, discarder);
}

}  // namespace fusefs
