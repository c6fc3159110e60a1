// Scheduler: which operation is attempted next, who waits for what, and when timers fire.
//
// It knows no threads: whoever is inside the monitor calls run(), then does what run() hands out
// (outside work, finishing) without the monitor, and hands it back. Worker (worker.h) is that loop.
//
// What a completion leaves to a thread of its own (core/io/completion.h, policy `deferred`) waits
// in a second queue; run() looks at it only for the thread that says so.
//
// In tests the next operation is chosen by a seeded Random, and every ATTEMPT may be made to
// restart for no reason; in production the ready queue is first in, first out.
//
// Invariants:
//   (1) An operation is in exactly one of: ready queue, one waitable, being attempted, outside.
//       (While being attempted it may also be in the waitable it is about to wait for.)
//   (2) An operation that restarts without progress more than `restarts_max` times is a bug, and
//       the program stops with its name.
//
// Monitor held for every call.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/engine/attempt.h"
#include "core/engine/operation.h"
#include "core/engine/waitable.h"

namespace fusefs {

struct SchedulerOptions {
  // Chooses among ready operations; null: first in, first out.
  Random* choice = nullptr;
  // Forced restarts at ATTEMPT, with this probability, drawn from `forced`.
  Random* forced = nullptr;
  double forced_restart_probability = 0.0;
  // Restarts without progress before a CHECK; 0: unlimited. Background operations are exempt.
  uint32_t restarts_max = 0;
};

// After so many forced restarts an operation is left in peace until it notes progress: one with a
// hundred ATTEMPTs in a row would otherwise never get through.
inline constexpr uint32_t kForcedRestartsMax = 24;

// How many attempts run() makes before it lets others into the monitor.
inline constexpr int kAttemptsPerRun = 64;

struct SchedulerStats {
  uint64_t started_count = 0;
  uint64_t finished_count = 0;
  uint64_t attempt_count = 0;
  std::array<uint64_t, kRestartReasonCount> restart_count = {};
  uint32_t restarts_of_one_operation_max = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const Clock& clock, SchedulerOptions options = {});
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  void start(std::unique_ptr<Operation> operation);

  // What run() could not do inside the monitor.
  struct Handout {
    std::vector<std::unique_ptr<Operation>> finished;  // finish(), then retire()
    std::vector<Operation*> outside;                   // run_outside(), then outside_done()
    bool empty() const { return finished.empty() && outside.empty(); }
  };
  // Whether a thread also attempts, and first, what completions have deferred.
  enum class Serves : uint8_t { ready, deferred_too };
  // Attempts what is ready, at most `attempts_max` times. True if more is ready.
  bool run(Handout& handout, int attempts_max = kAttemptsPerRun, Serves serves = Serves::ready);

  // Ends, with a value and without another attempt, an operation that waits or is ready. The next
  // run() hands it out.
  void end_now(Operation& operation);
  // If `operation` waits for `waitable`, it is woken for the thread that serves deferred work;
  // without such a thread, for anyone.
  void defer(Operation& operation, const Waitable& waitable);
  // There is a thread, or none any more, that serves deferred work.
  void set_serves_deferred(bool served);

  // Without the monitor: tells the outcome.
  static void finish(Operation& operation);
  // Without the monitor: the work that the operation asked for.
  static void run_outside(Operation& operation);
  // It is attempted again, unless others are at the work as well (hand_on_outside()).
  void outside_done(Operation& operation);
  void retire(std::vector<std::unique_ptr<Operation>>& finished) { finished.clear(); }

  // Wakes `waitable` at `deadline_ns` (monotonic). Cancelled with the returned handle; the
  // waitable must outlive the timer.
  using TimerId = uint64_t;
  TimerId wake_at(uint64_t deadline_ns, Waitable& waitable);
  void cancel_timer(TimerId id);
  std::optional<uint64_t> next_deadline_ns() const;
  // Wakes what is due by the clock.
  void fire_timers();

  bool has_ready() const { return !ready_.empty() || !ended_.empty(); }
  bool has_deferred() const { return !deferred_.empty(); }
  // Operations started and not finished, background ones aside.
  uint64_t live_count() const { return live_count_; }
  // One line for each operation that is not done, background ones too: what it is and waits for.
  std::string describe_operations() const;
  const Clock& clock() const { return clock_; }
  const SchedulerStats& stats() const { return stats_; }

  // Destroys the background operations. Requires that none of them is outside (shutdown).
  void drop_background();

  // Destroys every operation where it stands, ready, waiting or outside, and forgets all timers,
  // as a power cut or kill -9 would. Nobody is told an outcome. Operations handed out as finished
  // are the caller's.
  //   Requires  no attempt is running; the outside work that was handed out is not being done and
  //             never will be; outside_done() is not called for it.
  //   The objects the stashes refer to are still alive; the device delivers nothing any more, or
  //   nothing into memory that belonged to a stash.
  void abandon();

 private:
  friend class Waitable;
  friend bool forced_restart_due();
  friend Restart restart_after(Waitable& waitable, RestartReason reason);

  void link(Operation& operation);
  void unlink(Operation& operation);
  void make_ready(Operation& operation, bool first = false);
  Operation* take_from(std::deque<Operation*>& queue);
  void settle(Operation& operation, const Attempt<void>& attempt, Handout& handout);
  void settle_done(Operation& operation, Result<void> outcome, Handout& handout);
  void end(Operation& operation, Result<void> outcome);
  void settle_restart(Operation& operation, const Restart& restart, Handout& handout);
  static void prepare_wait(Operation& operation, Waitable& waitable);
  void settle_wait(Operation& operation, Waitable& waitable);
  void check_progress(const Operation& operation) const;
  void destroy(Operation& operation);
  bool draw_forced_restart(Operation& operation);

  const Clock& clock_;
  const SchedulerOptions options_;
  std::deque<Operation*> ready_;
  std::deque<Operation*> deferred_;
  bool deferred_served_ = false;
  std::vector<std::unique_ptr<Operation>> ended_;  // by end_now()
  // Owned here from start() until handed out as finished.
  Operation* first_live_ = nullptr;
  Operation* last_live_ = nullptr;
  uint64_t live_count_ = 0;
  bool abandoning_ = false;
  struct Timer {
    TimerId id;
    Waitable* waitable;
  };
  std::multimap<uint64_t, Timer> timers_;
  TimerId next_timer_ = 1;
  SchedulerStats stats_;
};

}  // namespace fusefs
