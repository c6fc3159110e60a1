// Worker: the loop of one thread around the scheduler.
//
// run_ready() alternates between attempts inside the monitor and what they hand out (outside work,
// replies) without it, until nothing is ready. It never blocks; waiting for events is the caller's
// (core/io/reactor.h in production, the simulation in tests).
#pragma once

#include "core/engine/monitor.h"
#include "core/engine/scheduler.h"

namespace fusefs {

class Worker {
 public:
  static constexpr int kRoundsMax = 16;

  Worker(Monitor& monitor, Scheduler& scheduler,
         Scheduler::Serves serves = Scheduler::Serves::ready)
      : monitor_(monitor), scheduler_(scheduler), serves_(serves) {}

  // `inside` runs once at the first entry: complete I/O, start operations.
  template <class Inside>
  void run_ready(Inside&& inside) {
    bool more = false;
    Scheduler::Handout handout;
    {
      MonitorHold hold(monitor_);
      inside();
      more = run(handout);
    }
    while (more || !handout.empty()) {
      do_outside(handout);
      MonitorHold hold(monitor_);
      take_back(handout);
      more = run(handout);
    }
  }

  // The same for a thread that has other things to look after: at most kRoundsMax rounds, true if
  // operations are still ready then. `leaving(more)` runs inside before each leave; `left()` runs
  // without the monitor before what was handed out is done, which may take long: submit I/O.
  template <class Inside, class Leaving, class Left>
  bool run_rounds(Inside&& inside, Leaving&& leaving, Left&& left) {
    bool more = false;
    Scheduler::Handout handout;
    {
      MonitorHold hold(monitor_);
      inside();
      more = run(handout);
      leaving(more);
    }
    for (int round = 1; more || !handout.empty(); ++round) {
      left();
      do_outside(handout);
      const bool is_last = round >= kRoundsMax;
      MonitorHold hold(monitor_);
      take_back(handout);
      more = is_last ? has_work() : run(handout);
      leaving(more);
      if (is_last) break;
    }
    return more;
  }

 private:
  void do_outside(Scheduler::Handout& handout);
  void take_back(Scheduler::Handout& handout);
  bool run(Scheduler::Handout& handout) {
    return scheduler_.run(handout, kAttemptsPerRun, serves_);
  }
  bool has_work() const {
    return scheduler_.has_ready() ||
           (serves_ == Scheduler::Serves::deferred_too && scheduler_.has_deferred());
  }

  Monitor& monitor_;
  Scheduler& scheduler_;
  const Scheduler::Serves serves_;
};

}  // namespace fusefs
