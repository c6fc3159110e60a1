#include "core/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace fusefs {
namespace {

thread_local Operation* t_current = nullptr;

constexpr std::array<std::string_view, kRestartReasonCount> kReasonNames = {
    "forced",       "again",     "outside",   "node_load",  "bitmap_load",   "data_io",
    "folio_locked", "writeback", "two_state", "inode_busy", "journal_space", "durable",
    "dirty_nodes",  "memory",    "space",     "idle",
};

}  // namespace

std::string_view restart_reason_name(RestartReason reason) {
  return kReasonNames[static_cast<size_t>(reason)];
}

// ---- Waitable ----

void Waitable::enqueue(Operation& operation) {
  operation.waiting_on_ = this;
  operation.wait_previous_ = tail_;
  operation.wait_next_ = nullptr;
  (tail_ != nullptr ? tail_->wait_next_ : head_) = &operation;
  tail_ = &operation;
  ++count_;
}

void Waitable::remove(Operation& operation) {
  Operation*& from_before =
      operation.wait_previous_ != nullptr ? operation.wait_previous_->wait_next_ : head_;
  Operation*& from_behind =
      operation.wait_next_ != nullptr ? operation.wait_next_->wait_previous_ : tail_;
  from_before = operation.wait_next_;
  from_behind = operation.wait_previous_;
  operation.waiting_on_ = nullptr;
  operation.wait_previous_ = operation.wait_next_ = nullptr;
  --count_;
}

void Waitable::wake_all() {
  while (head_ != nullptr) {
    Operation& operation = *head_;
    remove(operation);
    operation.scheduler_->make_ready(operation);
  }
}

unsigned long long Waitable::oldest_wait_start_ns() const { return head_->wait_start_ns_; }

// ---- Operation ----

Operation::~Operation() {
  if (waiting_on_ != nullptr) waiting_on_->remove(*this);
}

Operation* Operation::current() { return t_current; }

Restart restart_after_outside(std::function<void()> work) {
  CHECK(t_current != nullptr);
  t_current->outside_work_ = std::move(work);
  return Restart{nullptr, RestartReason::outside};
}

bool forced_restart_due() {
  return t_current != nullptr && t_current->scheduler_->draw_forced_restart(*t_current);
}

// ---- Scheduler ----

Scheduler::Scheduler(const Clock& clock, SchedulerOptions options)
    : clock_(clock), options_(options) {}

Scheduler::~Scheduler() {
  drop_background();
  CHECK_MSG(live_count_ == 0, "operations are still under way");
}

void Scheduler::start(std::unique_ptr<Operation> operation) {
  operation->scheduler_ = this;
  ++stats_.started_count;
  Operation* raw = operation.get();
  if (raw->is_background()) {
    background_.emplace(raw, std::move(operation));
  } else {
    ++live_count_;
    operation.release();  // owned by the queues until it is handed out as finished
  }
  make_ready(*raw);
}

void Scheduler::make_ready(Operation& operation) { ready_.push_back(&operation); }

Operation* Scheduler::take_ready() {
  size_t index = 0;
  if (options_.choice != nullptr) index = options_.choice->below(ready_.size());
  std::swap(ready_[index], ready_.front());
  Operation* operation = ready_.front();
  ready_.pop_front();
  return operation;
}

bool Scheduler::draw_forced_restart(Operation& operation) {
  if (options_.forced_restart_probability <= 0.0) return false;
  if (operation.forced_restarts_ >= kForcedRestartsMax) return false;
  if (!options_.forced->chance(options_.forced_restart_probability)) return false;
  ++operation.forced_restarts_;
  return true;
}

bool Scheduler::run(Handout& handout) {
  for (int i = 0; i < kAttemptsPerRun && !ready_.empty(); ++i) {
    Operation* operation = take_ready();
    ++stats_.attempt_count;
    Operation* outer = std::exchange(t_current, operation);
    const Attempt<void> attempt = operation->attempt();
    t_current = outer;
    settle(*operation, attempt, handout);
  }
  return !ready_.empty();
}

void Scheduler::settle(Operation& operation, const Attempt<void>& attempt, Handout& handout) {
  if (!attempt.must_restart()) {
    operation.outcome_ = attempt.ok() ? Result<void>() : Result<void>(attempt.error());
    ++stats_.finished_count;
    stats_.restarts_of_one_operation_max =
        std::max(stats_.restarts_of_one_operation_max, operation.restart_count_);
    auto owned = background_.find(&operation);
    if (owned != background_.end()) {
      handout.finished.push_back(std::move(owned->second));
      background_.erase(owned);
    } else {
      --live_count_;
      handout.finished.emplace_back(&operation);
    }
    return;
  }
  const Restart& restart = attempt.restart();
  ++operation.restart_count_;
  ++operation.restarts_without_progress_;
  ++stats_.restart_count[static_cast<size_t>(restart.reason)];
  if (options_.restarts_max != 0 && !operation.is_background()) {
    CHECK_MSG(operation.restarts_without_progress_ <= options_.restarts_max, operation.name());
  }
  if (restart.reason == RestartReason::outside) {
    handout.outside.push_back(&operation);
  } else if (restart.on != nullptr) {
    operation.wait_start_ns_ = clock_.monotonic_ns();
    restart.on->enqueue(operation);
  } else {
    make_ready(operation);
  }
}

void Scheduler::finish(Operation& operation) { operation.finish(operation.outcome_); }

void Scheduler::run_outside(Operation& operation) {
  if (operation.outside_work_) operation.outside_work_();
}

void Scheduler::outside_done(Operation& operation) {
  operation.outside_work_ = nullptr;
  make_ready(operation);
}

Scheduler::TimerId Scheduler::wake_at(uint64_t deadline_ns, Waitable& waitable) {
  const TimerId id = next_timer_++;
  timers_.emplace(deadline_ns, Timer{id, &waitable});
  return id;
}

void Scheduler::cancel_timer(TimerId id) {
  for (auto it = timers_.begin(); it != timers_.end(); ++it) {
    if (it->second.id == id) {
      timers_.erase(it);
      return;
    }
  }
}

std::optional<uint64_t> Scheduler::next_deadline_ns() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->first;
}

void Scheduler::fire_timers() {
  const uint64_t now_ns = clock_.monotonic_ns();
  while (!timers_.empty() && timers_.begin()->first <= now_ns) {
    Waitable* waitable = timers_.begin()->second.waitable;
    timers_.erase(timers_.begin());
    waitable->wake_all();
  }
}

void Scheduler::drop_background() {
  for (auto& [raw, owned] : background_) {
    std::erase(ready_, raw);
  }
  background_.clear();
}

}  // namespace fusefs
