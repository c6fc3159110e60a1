// WindowFaults: the faults of a mapped window, whoever of its holders they come from.
//
//     fault of a holder --> FaultChannel --> operation: fault_pinned(): read, copied on write,
//                                |           reserved; dirty if it is a store
//     holder goes on    <--------+---------- granted
//
//     writeback marks pages --> protect(): no holder can store into them --> written from the
//                                          frames, without a copy
//
// So a page is written only if it has been stored into, and a store that cannot be kept (no space)
// is refused before it happens: the holder's thread makes it SIGBUS (fusefs/client/faults.c).
//
// Each holder has a channel, since each has its own page tables; the pages are the same, and so is
// the pin. An order to a holder that has gone is done at once.
//
// A reactor thread never waits for a holder's address space: grants and protections are handed on
// to the channels (hand_on_outside()). Nor does any operation for long, but for the fault itself
// (core/file/late_rights.h).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/engine/scheduler.h"
#include "core/file/pin.h"
#include "core/stats/window_stats.h"
#include "fusefs/fault_channel.h"

namespace fusefs {

class WindowFaults : public std::enable_shared_from_this<WindowFaults> {
 public:
  WindowFaults(std::shared_ptr<FaultGate> gate, Scheduler& scheduler, FileContext& files,
               WindowStats& stats, FileRange range, uint32_t uid)
      : gate_(std::move(gate)),
        scheduler_(scheduler),
        files_(files),
        stats_(stats),
        range_(range),
        uid_(uid) {}
  WindowFaults(const WindowFaults&) = delete;
  WindowFaults& operator=(const WindowFaults&) = delete;

  // The pin of the window, of kind mapped. Before the first attach(). Monitor held.
  void set_pin(Ref<Pin> pin) { pin_ = std::move(pin); }

  // Serves a holder's userfaultfd for its memory at `address`, of the whole window; refusals go out
  // on `connection`. Without the monitor.
  //   Errors  of FaultChannel::start(); too_busy: the holder has one already; bad_address: it has
  //           gone meanwhile, or the window has
  Result<void> attach(uint64_t holder, OwnedFd faults, uint64_t address, OwnedFd connection);
  // The same with another channel, which `start` makes.
  using StartChannel =
      std::function<Result<std::shared_ptr<FaultChannel>>(FaultChannel::OnFault on_fault)>;
  Result<void> attach(uint64_t holder, const StartChannel& start_channel);
  // The holder has gone. Waits for nothing. Monitor held.
  void detach(uint64_t holder);
  // The window ends: all of them, and nobody can come any more. Monitor held.
  void end();

  // PinRequest::protect. In outside work.
  void protect(FileRange pages);

 private:
  class FaultOperation;

  void start(const std::shared_ptr<FaultChannel>& channel, const FaultChannel::Fault& fault);
  std::vector<std::shared_ptr<FaultChannel>> channels();

  const std::shared_ptr<FaultGate> gate_;
  Scheduler& scheduler_;
  FileContext& files_;
  WindowStats& stats_;
  const FileRange range_;
  const uint32_t uid_;
  Ref<Pin> pin_;  // monitor held; until the window ends

  std::mutex mutex_;                                            // below the monitor
  std::map<uint64_t, std::shared_ptr<FaultChannel>> channels_;  // null: being attached
  bool ended_ = false;
};

}  // namespace fusefs
