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
  Worker(Monitor& monitor, Scheduler& scheduler) : monitor_(monitor), scheduler_(scheduler) {}

  // `inside` runs once at the first entry: complete I/O, start operations.
  template <class Inside>
  void run_ready(Inside&& inside) {
    bool more = false;
    Scheduler::Handout handout;
    {
      MonitorHold hold(monitor_);
      inside();
      more = scheduler_.run(handout);
    }
    while (more || !handout.empty()) {
      do_outside(handout);
      MonitorHold hold(monitor_);
      take_back(handout);
      more = scheduler_.run(handout);
    }
  }

 private:
  void do_outside(Scheduler::Handout& handout);
  void take_back(Scheduler::Handout& handout);

  Monitor& monitor_;
  Scheduler& scheduler_;
};

}  // namespace fusefs
