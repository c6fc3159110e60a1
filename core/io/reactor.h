// Reactor: the loop of one thread. Receives requests, runs attempts, does device I/O, keeps time.
//
//      +--> wait: submit what is queued, sleep until a completion, a request, a timer, a wake-up
//      |      |
//      |      v
//      |    receive requests (source), reap completions           without the monitor
//      |      |
//      |      v
//      |    start operations, complete I/O, fire timers, attempt  inside the monitor
//      |      |
//      |      v
//      +--- submit, answer, outside work                          without the monitor
//
// All threads of a ReactorGroup serve one monitor and one device; what one of them readies it runs
// itself. A thread that goes to sleep covers the earliest timer, unless another sleeper does
// already, so that one thread wakes for a timer and none is missed.
//
// One reactor may be the group's completer: it receives nothing, and what completions defer to a
// thread of its own (completion.h) is attempted by it. Who reaps such a completion wakes it.
//
// Invariants:
//   (1) A thread with queued I/O, reaped completions or ready operations does not sleep.
//   (2) run() returns with no I/O of this thread in flight and nothing ready.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/engine/monitor.h"
#include "core/engine/operation.h"
#include "core/engine/scheduler.h"
#include "core/io/uring_device.h"

namespace fusefs {

// Where requests come from. One source may serve many threads, each calling receive() itself.
class RequestSource {
 public:
  virtual ~RequestSource() = default;

  // Readable when receive() has something; -1: never poll.
  virtual int poll_fd() const = 0;

  // Adds up to `count_max` operations to `fresh` without blocking. Fewer than that means that no
  // more is there at the moment. False when the source is closed for ever (unmounted).
  // Called without the monitor.
  virtual bool receive(std::vector<std::unique_ptr<Operation>>& fresh, size_t count_max) = 0;
};

struct ReactorStats {
  uint64_t wait_count = 0;     // times the thread went to the kernel to wait
  uint64_t receive_count = 0;  // calls of receive()
  uint64_t request_count = 0;  // operations received
  uint64_t timer_wake_count = 0;
};

class Reactor;

// What the reactors of one volume share.
class ReactorGroup {
 public:
  ReactorGroup(Monitor& monitor, Scheduler& scheduler, UringDevice& device)
      : monitor_(monitor), scheduler_(scheduler), device_(device) {}
  ReactorGroup(const ReactorGroup&) = delete;
  ReactorGroup& operator=(const ReactorGroup&) = delete;
  ~ReactorGroup();

  // All reactors finish what is under way and return. Any thread, also a signal handler's thread;
  // not a signal handler. Operations that nothing will ever wake must be failed by their owner, or
  // run() does not return.
  void stop();

  // A reactor looks at the ready queue: for who started or woke an operation on a thread that is
  // not a reactor. Any thread, monitor held or not.
  void kick();

  // Sum over the reactors. Monitor held.
  ReactorStats stats() const { return stats_; }
  bool stopping() const { return stopping_.load(std::memory_order_acquire); }

  Monitor& monitor() { return monitor_; }
  Scheduler& scheduler() { return scheduler_; }
  UringDevice& device() { return device_; }

 private:
  friend class Reactor;

  Monitor& monitor_;
  Scheduler& scheduler_;
  UringDevice& device_;
  std::atomic<bool> stopping_{false};
  // Who sleeps until the earliest timer, and until when. Monitor held.
  Reactor* timer_keeper_ = nullptr;
  uint64_t timer_kept_ns_ = UINT64_MAX;
  ReactorStats stats_;

  void join(Reactor& reactor);
  void leave(Reactor& reactor);
  void wake_all();
  void wake_completer();
  std::mutex members_mutex_;  // innermost lock: taken with and without the monitor
  std::vector<Reactor*> members_;
  Reactor* completer_ = nullptr;
};

class Reactor {
 public:
  enum class Role : uint8_t { serving, completer };  // at most one completer in a group

  // Makes the thread's ring. Created, run and destroyed by one thread.
  //   Errors  not_supported, no_memory
  static Result<std::unique_ptr<Reactor>> create(ReactorGroup& group, Role role = Role::serving);
  ~Reactor();

  // Serves until the source is closed, or the group stops, and all operations but background ones
  // have finished. Without a source: until the group stops.
  void run(RequestSource* source);

  // Serves until `*done`, which something that runs on this thread sets.
  void run_until(const bool& done);

  // Makes a wait of this reactor return. Any thread.
  void wake();

 private:
  friend class ReactorGroup;
  class Impl;
  explicit Reactor(Role role);
  const Role role_;
  ReactorGroup* group_ = nullptr;  // once it has joined
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
