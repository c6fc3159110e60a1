// Notifier: tells the kernel to drop what it has cached of an inode.
//
// An invalidation may wait inside the kernel for requests that we must answer meanwhile (a page
// being read, a dirty mapped page being written), so it is sent from a thread that serves nothing.
// An operation asks, restarts when it has been done, and only then answers its own request.
//
//     operation --invalidate()--> queue (bounded) --> thread: write to the channel --> wake
//
// That a name is to be forgotten is said the same way, but nobody waits for it: it may have to wait
// for the very request that asks.
//
// Forgetting attributes waits for nothing, so the asking operation's own thread sends that, outside
// the monitor: two wake-ups less.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/base/units.h"
#include "core/engine/attempt.h"
#include "core/engine/monitor.h"
#include "core/engine/waitable.h"
#include "fusefs/channel.h"
#include "fusefs/fuse_counters.h"
#include "fusefs/kernel_pages.h"

namespace fusefs {

inline constexpr size_t kNotifyQueueMax = 256;

class Notifier {
 public:
  struct Job {
    InodeNo ino;
    int64_t pos = 0;        // negative: attributes only
    int64_t len = 0;        // 0: to the end
    std::string name = {};  // not empty: this name in the directory `ino`, and nothing else
    KernelPages::Drop drop{};
    bool done = false;
    Waitable finished;
  };
  // The asking operation's; dropped with the monitor held, as every stash.
  using Stash = std::shared_ptr<Job>;

  Notifier(Channel& channel, Monitor& monitor, FuseCounters& counters, KernelPages& pages)
      : channel_(channel), monitor_(monitor), counters_(counters), pages_(pages) {}
  ~Notifier() { stop(); }

  // `woken` makes somebody look at the ready queue. Without it nothing is ever sent and
  // invalidate() does nothing.
  void start(std::function<void()> woken);
  // In place of start(), where somebody else is the thread: a simulation.
  void start_unthreaded();
  // One of those queued; false if there is none. Without the monitor.
  bool send_next();
  // What is queued is still sent. Without the monitor.
  void stop();

  // Has the kernel drop its cached pages of [pos, pos + len) and its attributes of the inode.
  // Monitor held.
  //   Restarts  until that has happened
  Attempt<void> invalidate(InodeNo ino, uint64_t pos, uint64_t len, Stash& stash);
  // The same, soon: for a request that sets the size, during which Linux writes no page of the
  // file. Monitor held.
  //   Restarts  while too much is queued
  Attempt<void> invalidate_soon(InodeNo ino, uint64_t pos, uint64_t len);
  // Has the kernel drop a name of a directory, so that the inode is forgotten with its last user:
  // soon. Monitor held.
  //   Restarts  while too much is queued
  Attempt<void> forget_name(InodeNo directory, std::string name);
  // The attributes alone, for an operation whose request has not been answered yet: its caller
  // keeps the mount from going away meanwhile, which is all that this could wait for.
  //   Restarts  outside
  Attempt<void> invalidate_attr(InodeNo ino, Stash& stash);

 private:
  Attempt<void> queue_drop(InodeNo ino, uint64_t pos, uint64_t len, Stash& stash);
  void run();
  // False unless the kernel has done it, or has nothing to do it to.
  bool send(const Job& job);
  bool send_name(const Job& job);

  Channel& channel_;
  Monitor& monitor_;
  FuseCounters& counters_;
  KernelPages& pages_;
  std::function<void()> woken_;
  std::thread thread_;
  std::mutex mutex_;  // below the monitor
  std::condition_variable changed_;
  std::deque<Stash> queue_;
  bool running_ = false;
  Waitable room_;  // monitor held
};

}  // namespace fusefs
