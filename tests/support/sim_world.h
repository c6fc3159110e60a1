// SimWorld: a clock, a scheduler and a device, driven from one seed.
//
// The world plays the reactor threads: it delivers completions, fires timers, lets the scheduler
// attempt what is ready, does outside work, tells outcomes, and when nothing can be done it
// advances the clock to the next event. What is done next is drawn from the seed, within what
// several real threads could do, so that a seed replays exactly and another seed is another order.
//
//     SimWorld world(seed, options);
//     Stash stash;
//     Result<int> answer = world.run([&]() -> Attempt<int> { return compute(stash); });
//     SimImage image = world.power_cut();           // whatever is still under way is gone
//     SimWorld rebooted(seed + 1, options, image);
//
// A world in which operations wait and nothing can ever happen again is a deadlock, and a world in
// which none has ended for `stuck_ns` is stuck: both stop the program with the list of who waits
// for what.
//
// After the power cut no attempt, outside work or outcome happens any more. The operations are
// destroyed; the objects of the core they used must outlive power_cut() or abandon().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/engine/monitor.h"
#include "core/engine/operation.h"
#include "core/engine/scheduler.h"
#include "tests/support/sim_device.h"

namespace fusefs {

struct SimWorldOptions {
  SimDeviceOptions device = {};  // its seed is drawn from the world's
  double forced_restart_probability = 0.0;
  uint32_t restarts_max = 100'000;
  // Ready operations are attempted first come, first served, as in production; else the seed draws.
  bool in_order = false;
  // Outside work takes time now and then, until the next thing happens; else never any.
  bool slow_outside = true;
  uint64_t stuck_ns = 3600 * kNsPerSecond;
};

// An operation from a function that returns Attempt<T>; what the function has captured is its
// stash. It is called again and again, until it returns a value or an error.
template <class T, class Fn>
class SimOperation final : public Operation {
 public:
  SimOperation(Fn fn, std::function<void(Result<T>)> on_done)
      : fn_(std::move(fn)), on_done_(std::move(on_done)) {}

  const char* name() const override { return "test"; }
  Attempt<void> attempt() override {
    Attempt<T> result = fn_();
    if (!result.ok()) return Unfinished(result);
    if constexpr (!std::is_void_v<T>) value_.emplace(std::move(result).value());
    return {};
  }
  void finish(Result<void> outcome) override {
    if (!on_done_) return;
    if constexpr (std::is_void_v<T>) {
      on_done_(outcome);
    } else {
      on_done_(outcome.ok() ? Result<T>(std::move(*value_)) : Result<T>(outcome.error()));
    }
  }

 private:
  using Stored = std::conditional_t<std::is_void_v<T>, char, T>;
  Fn fn_;
  std::function<void(Result<T>)> on_done_;
  std::optional<Stored> value_;
};

template <class A>
struct AttemptValue;
template <class T>
struct AttemptValue<Attempt<T>> {
  using type = T;
};
template <class Fn>
using AttemptValueOf = typename AttemptValue<std::invoke_result_t<Fn&>>::type;

class SimWorld {
 public:
  explicit SimWorld(uint64_t seed, const SimWorldOptions& options = {}, SimImage image = {});
  // Destroys what is still under way.
  ~SimWorld();
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;

  SimClock& clock() { return clock_; }
  Monitor& monitor() { return monitor_; }
  Scheduler& scheduler() { return scheduler_; }
  SimDevice& device() { return *device_; }
  // For the test's own choices.
  Random& random() { return random_; }
  bool dead() const { return device_->dead(); }

  // Calls `fn` with the monitor held and returns what it returns.
  template <class Fn>
  decltype(auto) inside(Fn&& fn) {
    MonitorHold hold(monitor_);
    return fn();
  }

  // Starts an operation and returns its outcome. Others go on meanwhile.
  //   Errors  device_gone after a power cut, and what `fn` returned; on a power cut everything
  //           under way has been abandoned
  template <class Fn>
  Result<AttemptValueOf<Fn>> run(Fn fn) {
    using T = AttemptValueOf<Fn>;
    std::optional<Result<T>> outcome;
    spawn(std::move(fn), [&outcome](Result<T> result) { outcome.emplace(std::move(result)); });
    if (run_until([&outcome] { return outcome.has_value(); })) return std::move(*outcome);
    return Error::device_gone;
  }

  // Starts an operation; `on_done` gets its outcome, without the monitor, unless the power is cut.
  // May be called from an attempt and from on_done.
  template <class Fn>
  void spawn(Fn fn, std::function<void(Result<AttemptValueOf<Fn>>)> on_done = {}) {
    start(
        std::make_unique<SimOperation<AttemptValueOf<Fn>, Fn>>(std::move(fn), std::move(on_done)));
  }
  void start(std::unique_ptr<Operation> operation);

  // Until no operation lives and nothing is in flight. Background operations may wait for timers.
  //   False after a power cut, here and below.
  bool run_until_idle();
  // For so much simulated time.
  bool run_for(uint64_t duration_ns);
  // Until `done` is true; it is asked between attempts, without the monitor.
  bool run_until(const std::function<bool()>& done);

  // Nobody serves what completions defer until this is taken back: as if the thread that should
  // were the one that waits for something else.
  void hold_deferred(bool held) { deferred_held_ = held; }

  // A thread that serves no operations: `turn` does what it has to do next, without the monitor,
  // and returns false if there is nothing. It comes now and then, and before all is at a
  // standstill.
  void set_other_thread(std::function<bool()> turn) { other_thread_ = std::move(turn); }

  // Cuts the power, abandons what is under way, and draws what the device holds.
  SimImage power_cut();
  // Destroys every operation, as if the process had been killed. The device lives on; what is in
  // flight there completes, without touching the memory it was submitted with.
  void abandon();

 private:
  enum class Outcome { done, dead, nothing_left };
  // Goes on until `done`, at most to `limit_ns`.
  Outcome drive(const std::function<bool()>& done, uint64_t limit_ns);
  // One turn of one thread. False when nothing can be done before the clock advances.
  bool step(uint64_t limit_ns);
  void do_some_outside();
  void tell_outcomes();
  bool run_other_thread() { return other_thread_ && other_thread_(); }
  // To the next event or timer, not beyond `limit_ns`. False if there is none.
  bool advance_clock(uint64_t limit_ns);
  std::optional<uint64_t> next_event_ns() const;
  bool idle() const;
  void check_not_stuck();
  [[noreturn]] void report_stuck(const char* what);

  const SimWorldOptions options_;
  SimClock clock_;
  Random random_;
  Random choice_;
  Random forced_;
  Random steps_;
  Monitor monitor_;
  std::unique_ptr<SimDevice> device_;
  Scheduler scheduler_;
  // Handed out by the scheduler and not yet done.
  Scheduler::Handout pending_;
  std::function<bool()> other_thread_;
  bool driving_ = false;
  bool deferred_held_ = false;
  uint64_t progress_count_ = 0;  // operations finished when progress was last seen
  uint64_t progress_ns_ = 0;
  uint64_t attempts_at_advance_ = 0;
};

}  // namespace fusefs
