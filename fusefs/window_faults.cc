#include "fusefs/window_faults.h"

#include <cerrno>
#include <utility>

#include "core/engine/operation.h"

namespace fusefs {
namespace {

using PageChange = FaultChannel::Change;

// An order that the running outside work waits for.
void hand_on(FaultChannel& channel, PageChange change, uint64_t first, uint64_t count) {
  OutsideTicket ticket = hand_on_outside();
  if (!channel.give({change, first, count, 0, [ticket]() mutable { ticket.done(); }})) {
    ticket.take_back();
  }
}

}  // namespace

// One fault, from its arrival until who has faulted can go on.
class WindowFaults::FaultOperation final : public Operation {
 public:
  FaultOperation(std::shared_ptr<WindowFaults> window, Ref<Pin> pin,
                 std::shared_ptr<FaultChannel> channel, const FaultChannel::Fault& fault)
      : window_(std::move(window)),
        pin_(std::move(pin)),
        channel_(std::move(channel)),
        fault_(fault),
        began_ns_(window_->scheduler_.clock().monotonic_ns()) {}
  // Monitor held.
  ~FaultOperation() override { channel_->note_served(); }

  const char* name() const override { return "window_fault"; }

  Attempt<void> attempt() override {
    const PinAccess access = fault_.store ? PinAccess::store : PinAccess::load;
    const FileBlock index = window_->range_.first + BlockCount(fault_.page);
    const Attempt<void> served = fault_pinned(
        window_->files_, *pin_, index, access, [this] { grant(); }, stash_);
    if (served.must_restart()) return served;
    // The window ends, and with it the right to it.
    if (served.failed() && served.error() == Error::bad_address) return {};
    if (served.failed()) refuse(served.error());
    count(served.failed());
    return {};
  }

 private:
  void grant() {
    const PageChange change = !fault_.store      ? PageChange::load
                              : fault_.was_there ? PageChange::upgrade
                                                 : PageChange::store;
    hand_on(*channel_, change, fault_.page, 1);
  }

  void refuse(Error error) {
    const int reason = error == Error::beyond_eof ? ENXIO : error_errno(error);
    (void)channel_->give({PageChange::refuse, fault_.page, 1, reason, nullptr});
  }

  void count(bool refused) {
    WindowStats& stats = window_->stats_;
    const uint64_t latency_ns = window_->scheduler_.clock().monotonic_ns() - began_ns_;
    if (refused) {
      ++stats.refused_fault_count;
    } else if (!fault_.store) {
      ++stats.load_fault_count;
      stats.load_fault_latency_ns.record(latency_ns);
    } else {
      ++(fault_.was_there ? stats.upgrade_fault_count : stats.store_fault_count);
      stats.store_fault_latency_ns.record(latency_ns);
    }
  }

  const std::shared_ptr<WindowFaults> window_;
  const Ref<Pin> pin_;
  const std::shared_ptr<FaultChannel> channel_;
  const FaultChannel::Fault fault_;
  const uint64_t began_ns_;
  PinFaultStash stash_;
};

Result<void> WindowFaults::attach(uint64_t holder, OwnedFd faults, uint64_t address,
                                  OwnedFd connection) {
  return attach(holder, [&](FaultChannel::OnFault on_fault) {
    return FaultChannel::start(gate_, uid_, std::move(faults), address, block_bytes(range_.count()),
                               std::move(connection), std::move(on_fault));
  });
}

Result<void> WindowFaults::attach(uint64_t holder, const StartChannel& start_channel) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return Error::bad_address;
    if (!channels_.emplace(holder, nullptr).second) return Error::too_busy;
  }
  // The channel's thread may outlive the window.
  auto started =
      start_channel([window = weak_from_this()](const std::shared_ptr<FaultChannel>& channel,
                                                const FaultChannel::Fault& fault) {
        if (const auto there = window.lock()) there->start(channel, fault);
      });
  Error error = Error::bad_address;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto place = channels_.find(holder);
    if (started.ok() && place != channels_.end()) {
      place->second = started.value();
      return {};
    }
    if (!started.ok()) error = started.error();
    if (place != channels_.end()) channels_.erase(place);
  }
  if (started.ok()) gate_->enter([&] { started.value()->end(); });
  return error;
}

void WindowFaults::detach(uint64_t holder) {
  std::shared_ptr<FaultChannel> channel;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = channels_.find(holder);
    if (found == channels_.end()) return;
    channel = std::move(found->second);
    channels_.erase(found);
  }
  if (channel) channel->end();
}

void WindowFaults::end() {
  pin_.reset();
  std::map<uint64_t, std::shared_ptr<FaultChannel>> ending;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    ending.swap(channels_);
  }
  for (const auto& [holder, channel] : ending) {
    if (channel) channel->end();
  }
}

void WindowFaults::protect(FileRange pages) {
  for (const std::shared_ptr<FaultChannel>& channel : channels()) {
    hand_on(*channel, PageChange::protect, (pages.first - range_.first).value(),
            pages.count().value());
  }
}

std::vector<std::shared_ptr<FaultChannel>> WindowFaults::channels() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<FaultChannel>> all;
  for (const auto& [holder, channel] : channels_) {
    if (channel) all.push_back(channel);
  }
  return all;
}

// Monitor held.
void WindowFaults::start(const std::shared_ptr<FaultChannel>& channel,
                         const FaultChannel::Fault& fault) {
  if (!pin_) return;  // the window has ended
  scheduler_.start(std::make_unique<FaultOperation>(shared_from_this(), pin_, channel, fault));
}

}  // namespace fusefs
