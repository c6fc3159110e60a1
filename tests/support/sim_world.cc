#include "tests/support/sim_world.h"

#include <algorithm>
#include <string>

#include "core/base/check.h"

namespace fusefs {
namespace {

// A thread stays in the monitor for so many attempts at most.
constexpr uint64_t kAttemptsPerTurnMax = 16;
// So many attempts without time passing are a loop, of background operations too.
constexpr uint64_t kAttemptsAtOneTimeMax = 5'000'000;
// Threads are never in step: work that could be done now is put off as often as this.
constexpr double kPutOff = 0.5;
// With nothing else to do, time passes while work is being done outside.
constexpr double kSlowOutside = 0.1;

SimDeviceOptions seeded(SimDeviceOptions options, uint64_t seed) {
  options.seed = seed;
  return options;
}

// A failing test leaves by an exception.
class DrivingScope {
 public:
  explicit DrivingScope(bool& driving) : driving_(driving) { driving_ = true; }
  ~DrivingScope() { driving_ = false; }
  DrivingScope(const DrivingScope&) = delete;
  DrivingScope& operator=(const DrivingScope&) = delete;

 private:
  bool& driving_;
};

// Moves each element of `from` to the result with the given probability.
template <class T>
std::vector<T> take_some(std::vector<T>& from, double probability, Random& random) {
  std::vector<T> taken;
  std::vector<T> left;
  for (T& element : from) {
    (random.chance(probability) ? taken : left).push_back(std::move(element));
  }
  from = std::move(left);
  return taken;
}

}  // namespace

SimWorld::SimWorld(uint64_t seed, const SimWorldOptions& options, SimImage image)
    : options_(options),
      random_(seed),
      choice_(random_.fork()),
      forced_(random_.fork()),
      steps_(random_.fork()),
      monitor_(clock_),
      device_(std::make_unique<SimDevice>(clock_, seeded(options.device, random_.next()),
                                          std::move(image))),
      scheduler_(clock_, {.choice = options.in_order ? nullptr : &choice_,
                          .forced = &forced_,
                          .forced_restart_probability = options.forced_restart_probability,
                          .restarts_max = options.restarts_max}) {
  scheduler_.set_serves_deferred(true);
}

SimWorld::~SimWorld() { abandon(); }

void SimWorld::start(std::unique_ptr<Operation> operation) {
  if (Operation::current() != nullptr) {
    scheduler_.start(std::move(operation));
  } else {
    MonitorHold hold(monitor_);
    scheduler_.start(std::move(operation));
  }
}

// ---- Driving ----

bool SimWorld::run_until_idle() {
  const Outcome outcome = drive([this] { return idle(); }, UINT64_MAX);
  if (outcome == Outcome::nothing_left) report_stuck("deadlock: nothing can happen any more");
  return outcome == Outcome::done;
}

bool SimWorld::run_until(const std::function<bool()>& done) {
  const Outcome outcome = drive(done, UINT64_MAX);
  if (outcome == Outcome::nothing_left) report_stuck("deadlock: nothing can happen any more");
  return outcome == Outcome::done;
}

bool SimWorld::run_for(uint64_t duration_ns) {
  const uint64_t end_ns = clock_.monotonic_ns() + duration_ns;
  const Outcome outcome = drive([&] { return clock_.monotonic_ns() >= end_ns; }, end_ns);
  clock_.advance_to(end_ns);
  return outcome != Outcome::dead;
}

SimWorld::Outcome SimWorld::drive(const std::function<bool()>& done, uint64_t limit_ns) {
  CHECK_MSG(!driving_, "the world is driven from inside itself");
  Outcome outcome = Outcome::done;
  {
    DrivingScope scope(driving_);
    while (!dead() && !done()) {
      if (step(limit_ns) || dead() || done() || advance_clock(limit_ns)) continue;
      if (run_other_thread()) continue;
      outcome = Outcome::nothing_left;
      break;
    }
  }
  if (!dead() || outcome == Outcome::nothing_left) return outcome;
  abandon();
  return done() ? Outcome::done : Outcome::dead;
}

bool SimWorld::step(uint64_t limit_ns) {
  bool could = false;
  {
    MonitorHold hold(monitor_);
    device_->deliver_due();
    scheduler_.fire_timers();
    const bool has_deferred = scheduler_.has_deferred() && !deferred_held_;
    could = scheduler_.has_ready() || has_deferred || !pending_.empty();
    // The thread of deferred completions, if there is work for it, comes by now or later.
    const bool deferred_too = has_deferred && !steps_.chance(kPutOff);
    scheduler_.run(pending_, static_cast<int>(steps_.between(1, kAttemptsPerTurnMax)),
                   deferred_too ? Scheduler::Serves::deferred_too : Scheduler::Serves::ready);
  }
  if (dead()) return could;  // who would hear of it?
  if (other_thread_ && !steps_.chance(kPutOff)) run_other_thread();
  if (!pending_.empty() && !scheduler_.has_ready() && options_.slow_outside &&
      steps_.chance(kSlowOutside)) {
    advance_clock(limit_ns);
  } else {
    do_some_outside();
    tell_outcomes();
  }
  if (scheduler_.stats().attempt_count - attempts_at_advance_ > kAttemptsAtOneTimeMax) {
    report_stuck("endless attempts while no time passes");
  }
  return could;
}

void SimWorld::do_some_outside() {
  for (Operation* operation : take_some(pending_.outside, kPutOff, steps_)) {
    Scheduler::run_outside(*operation);
    MonitorHold hold(monitor_);
    scheduler_.outside_done(*operation);
  }
}

void SimWorld::tell_outcomes() {
  std::vector<std::unique_ptr<Operation>> finished = take_some(pending_.finished, kPutOff, steps_);
  for (auto& operation : finished) Scheduler::finish(*operation);
  MonitorHold hold(monitor_);
  scheduler_.retire(finished);
}

bool SimWorld::idle() const {
  return scheduler_.live_count() == 0 && !scheduler_.has_ready() && !scheduler_.has_deferred() &&
         pending_.empty() && device_->in_flight_count() == 0;
}

std::optional<uint64_t> SimWorld::next_event_ns() const {
  const std::optional<uint64_t> event = device_->next_event_ns();
  const std::optional<uint64_t> timer = scheduler_.next_deadline_ns();
  if (event && timer) return std::min(*event, *timer);
  return event ? event : timer;
}

bool SimWorld::advance_clock(uint64_t limit_ns) {
  const std::optional<uint64_t> next = next_event_ns();
  if (!next) return false;
  clock_.advance_to(std::min(*next, limit_ns));
  attempts_at_advance_ = scheduler_.stats().attempt_count;
  check_not_stuck();
  return true;
}

// Background operations with timers keep a world going in which everybody else waits for ever.
void SimWorld::check_not_stuck() {
  const SchedulerStats& stats = scheduler_.stats();
  const uint64_t count = stats.started_count + stats.finished_count;
  if (count != progress_count_ || scheduler_.live_count() == 0) {
    progress_count_ = count;
    progress_ns_ = clock_.monotonic_ns();
  }
  if (clock_.monotonic_ns() - progress_ns_ > options_.stuck_ns) {
    report_stuck("stuck: no operation has ended for a long time");
  }
}

void SimWorld::report_stuck(const char* what) {
  const std::string report = std::string(what) + "; under way:" + scheduler_.describe_operations();
  check_failed(__FILE__, __LINE__, "the world moves on:", report.c_str());
}

// ---- Ending ----

SimImage SimWorld::power_cut() {
  device_->cut_power();
  abandon();
  return device_->surviving_image(random_);
}

void SimWorld::abandon() {
  CHECK_MSG(!driving_, "the world is abandoned from inside itself");
  device_->forget_buffers();
  MonitorHold hold(monitor_);
  pending_.outside.clear();
  pending_.finished.clear();
  scheduler_.abandon();
}

}  // namespace fusefs
