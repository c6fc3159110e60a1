// FaultChannel: the userfaultfd of one program with a mapped window.
//
//     program                          thread of the channel                operations
//     touches a page, waits            reads the fault ----------------->  window_faults.h
//                                      <---- order: the page can be reached
//     goes on <----------------------- changes the program's page table --> the order is done
//     stores into a page               <---- order: protect -------------   writeback
//
// What a page holds, and when it may be stored into, is unknown here. Every order takes a system
// call on the address space of the program, which can be made to wait: for a lock of that address
// space whose holder waits for an answer of ours, or for nothing at all if the program means ill.
// So each channel has a thread of its own that serves nothing else, and operations restart until
// their order is done.
//
// A program that goes is not noticed here: its connection to the daemon ends (window_socket.h).
//
// Invariants:
//   (1) Orders are carried out one after the other, as they were given.
//   (2) Once the channel has ended every order is done, and none is given to the kernel any more
//       but the one under way.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/base/error.h"
#include "core/engine/monitor.h"
#include "core/io/device_probe.h"

namespace fusefs {

// Faults of one program that are being served; what comes then waits in the kernel.
inline constexpr size_t kFaultsInFlightMax = 64;

// Each has a thread, which a program can keep busy or in the kernel.
inline constexpr size_t kFaultChannelsMax = 1024;
inline constexpr size_t kFaultChannelsMaxPerUser = 256;

// What the threads of channels may touch while the mount serves. A thread that is kept in the
// kernel is not waited for when the mount ends.
class FaultGate {
 public:
  // `kick` makes a reactor look at the ready queue.
  FaultGate(Monitor& monitor, std::function<void()> kick)
      : monitor_(monitor), kick_(std::move(kick)) {}

  // Runs `fn` with the monitor held, unless the gate is closed.
  template <class Fn>
  void enter(Fn&& fn) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    {
      const MonitorHold hold(monitor_);
      fn();
    }
    kick_();
  }
  // Without the monitor. Nobody is inside when it returns, nor will be.
  void close();

  // Counts a channel of this user, until its thread has ended. False: there are enough.
  bool add_channel(uint32_t uid);
  void drop_channel(uint32_t uid);

 private:
  Monitor& monitor_;
  const std::function<void()> kick_;
  std::mutex mutex_;  // above the monitor
  bool closed_ = false;

  std::mutex count_mutex_;  // innermost
  size_t channels_ = 0;
  std::map<uint32_t, size_t> channels_of_user_;
};

// Requests of userfaultfd(2) mean something else to other files. Touches nothing of what it is.
bool is_userfaultfd(int fd);

class FaultChannel {
 public:
  // Pages count from the beginning of the window.
  struct Fault {
    uint64_t page = 0;
    bool store = false;
    bool was_there = false;  // and protected
  };

  enum class Change : uint8_t {
    load,     // can be read; a store faults. Where it can be reached already nothing changes
    store,    // can be stored into
    upgrade,  // the same for pages that can be read
    protect,  // a store faults
    refuse,   // the program is told that it cannot be; it sees to it that this is SIGBUS
  };
  struct Order {
    Change change = Change::load;
    uint64_t first = 0;
    uint64_t count = 0;
    int errno_value = 0;         // refuse
    std::function<void()> done;  // called with the monitor held; may be empty
  };

  // Monitor held.
  using OnFault = std::function<void(const std::shared_ptr<FaultChannel>&, const Fault&)>;

  // `faults` is what the program sent, its memory begins at `address` and has `bytes`; refusals go
  // out on `connection`.
  //   Errors  invalid_argument: not a userfaultfd, not an address; no_memory, also: too many
  static Result<std::shared_ptr<FaultChannel>> start(std::shared_ptr<FaultGate> gate, uint32_t uid,
                                                     OwnedFd faults, uint64_t address,
                                                     uint64_t bytes, OwnedFd connection,
                                                     OnFault on_fault);

  virtual ~FaultChannel() = default;
  FaultChannel(const FaultChannel&) = delete;
  FaultChannel& operator=(const FaultChannel&) = delete;

  // False when the channel has ended: nothing is done, and nobody told. Monitor held or not.
  virtual bool give(Order order) = 0;
  // A fault that on_fault() was told of has been served. Monitor held or not.
  virtual void note_served() = 0;
  // The program has gone, or the window ends. Monitor held.
  virtual void end() = 0;

 protected:
  FaultChannel() = default;
};

}  // namespace fusefs
