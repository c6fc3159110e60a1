#include "core/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "core/engine/lock_checker.h"
#include "core/engine/two_state_lock.h"

namespace fusefs {
namespace {

thread_local Operation* t_current = nullptr;
thread_local Operation* t_outside = nullptr;

// Scoped, because a failing test leaves an attempt by an exception.
class CurrentScope {
 public:
  explicit CurrentScope(Operation& operation) { t_current = &operation; }
  ~CurrentScope() { t_current = nullptr; }
  CurrentScope(const CurrentScope&) = delete;
  CurrentScope& operator=(const CurrentScope&) = delete;
};

Attempt<void> attempt_once(Operation& operation) {
  CurrentScope scope(operation);
  return operation.attempt();
}

constexpr std::array<std::string_view, kRestartReasonCount> kReasonNames = {
    "forced",     "again",         "outside",   "node_load",   "bitmap_load",
    "data_io",    "folio_locked",  "writeback", "two_state",   "busy_range",
    "inode_busy", "journal_space", "durable",   "dirty_nodes", "memory",
    "space",      "rights",        "kernel",    "idle",
};

}  // namespace

std::string_view restart_reason_name(RestartReason reason) {
  return kReasonNames[static_cast<size_t>(reason)];
}

// ---- Waitable ----

void Waitable::enqueue(Operation& operation) {
  operation.waiting_on_ = this;
  operation.woken_by_ = nullptr;
  operation.wait_start_ns_ = operation.scheduler_->clock().monotonic_ns();
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

void Waitable::wake(Operation& operation, bool first) {
  remove(operation);
  if (operation.state_ == Operation::State::attempting) {
    operation.woken_by_ = this;  // settle_wait() looks
  } else {
    operation.scheduler_->make_ready(operation, first);
  }
}

void Waitable::wake_all() {
  while (head_ != nullptr) wake(*head_, false);
}

void Waitable::wake_all_first() {
  while (tail_ != nullptr) wake(*tail_, true);  // last first: each goes before the one behind it
}

bool Waitable::has_waiter(const Operation& operation) const {
  return operation.waiting_on_ == this;
}

unsigned long long Waitable::oldest_wait_start_ns() const { return head_->wait_start_ns_; }

// ---- Operation ----

Operation::~Operation() {
  if (waiting_on_ != nullptr) waiting_on_->remove(*this);
  while (two_state_holds_ != nullptr) two_state_holds_->unlink();  // it outlives who took it
  if (lock_checking) LockChecker::instance().forget(*this);
}

Operation* Operation::current() { return t_current; }

Restart restart_after(Waitable& waitable, RestartReason reason) {
  if (lock_checking) LockChecker::instance().wait(reason, &waitable);
  if (t_current != nullptr) Scheduler::prepare_wait(*t_current, waitable);
  return Restart{&waitable, reason};
}

Restart restart_after_outside(std::function<void()> work) {
  CHECK(t_current != nullptr);
  t_current->outside_work_ = std::move(work);
  return Restart{nullptr, RestartReason::outside};
}

OutsideTicket hand_on_outside() {
  CHECK(t_outside != nullptr);
  t_outside->outside_parts_.fetch_add(1);
  return OutsideTicket(*t_outside);
}

void OutsideTicket::take_back() { operation_->outside_parts_.fetch_sub(1); }

void OutsideTicket::done() { operation_->scheduler_->outside_done(*operation_); }

bool forced_restart_due() {
  return t_current != nullptr && t_current->scheduler_->draw_forced_restart(*t_current);
}

// ---- Scheduler ----

Scheduler::Scheduler(const Clock& clock, SchedulerOptions options)
    : clock_(clock), options_(options) {
  CHECK(options_.forced_restart_probability <= 0.0 || options_.forced != nullptr);
}

Scheduler::~Scheduler() {
  drop_background();
  CHECK_MSG(live_count_ == 0, describe_operations().c_str());
}

void Scheduler::link(Operation& operation) {
  operation.live_previous_ = last_live_;
  (last_live_ != nullptr ? last_live_->live_next_ : first_live_) = &operation;
  last_live_ = &operation;
  if (!operation.is_background()) ++live_count_;
}

void Scheduler::unlink(Operation& operation) {
  Operation* previous = std::exchange(operation.live_previous_, nullptr);
  Operation* next = std::exchange(operation.live_next_, nullptr);
  (previous != nullptr ? previous->live_next_ : first_live_) = next;
  (next != nullptr ? next->live_previous_ : last_live_) = previous;
  if (!operation.is_background()) --live_count_;
}

void Scheduler::start(std::unique_ptr<Operation> operation) {
  CHECK(operation->scheduler_ == nullptr);
  operation->scheduler_ = this;
  ++stats_.started_count;
  Operation& started = *operation.release();
  link(started);
  make_ready(started);
}

void Scheduler::make_ready(Operation& operation, bool first) {
  operation.state_ = Operation::State::ready;
  if (abandoning_) return;
  if (first) {
    ready_.push_front(&operation);
  } else {
    ready_.push_back(&operation);
  }
}

Operation* Scheduler::take_from(std::deque<Operation*>& queue) {
  if (options_.choice != nullptr) {
    std::swap(queue[options_.choice->below(queue.size())], queue.front());
  }
  Operation* operation = queue.front();
  queue.pop_front();
  return operation;
}

bool Scheduler::draw_forced_restart(Operation& operation) {
  if (options_.forced_restart_probability <= 0.0) return false;
  if (operation.forced_restarts_ >= kForcedRestartsMax) return false;
  if (!options_.forced->chance(options_.forced_restart_probability)) return false;
  ++operation.forced_restarts_;
  return true;
}

bool Scheduler::run(Handout& handout, int attempts_max, Serves serves) {
  CHECK_MSG(t_current == nullptr, "run() from inside an attempt");
  for (auto& operation : ended_) handout.finished.push_back(std::move(operation));
  ended_.clear();
  const bool both = serves == Serves::deferred_too;
  for (int i = 0; i < attempts_max; ++i) {
    std::deque<Operation*>& queue = both && !deferred_.empty() ? deferred_ : ready_;
    if (queue.empty()) break;
    Operation* operation = take_from(queue);
    ++stats_.attempt_count;
    operation->state_ = Operation::State::attempting;
    settle(*operation, attempt_once(*operation), handout);
  }
  return !ready_.empty() || (both && !deferred_.empty());
}

void Scheduler::end_now(Operation& operation) {
  CHECK(operation.state_ == Operation::State::waiting ||
        operation.state_ == Operation::State::ready);
  if (operation.waiting_on_ != nullptr) operation.waiting_on_->remove(operation);
  if (operation.state_ == Operation::State::ready) {
    std::erase(ready_, &operation);
    std::erase(deferred_, &operation);
  }
  end(operation, {});
  ended_.emplace_back(&operation);
}

void Scheduler::defer(Operation& operation, const Waitable& waitable) {
  if (!deferred_served_ || operation.waiting_on_ != &waitable) return;
  operation.waiting_on_->remove(operation);
  operation.state_ = Operation::State::ready;
  if (!abandoning_) deferred_.push_back(&operation);
}

void Scheduler::set_serves_deferred(bool served) {
  deferred_served_ = served;
  if (served) return;
  for (Operation* operation : deferred_) ready_.push_back(operation);
  deferred_.clear();
}

void Scheduler::settle(Operation& operation, const Attempt<void>& attempt, Handout& handout) {
  // A restart that the attempt asked for and then did not return is forgotten.
  const bool restarts = attempt.must_restart();
  Waitable* on = restarts ? attempt.restart().on : nullptr;
  if (operation.waiting_on_ != nullptr && operation.waiting_on_ != on) {
    operation.waiting_on_->remove(operation);
  }
  operation.claim_.settle(attempt);
  if (restarts && lock_checking) LockChecker::instance().leave(operation, attempt.restart());
  if (!restarts || attempt.restart().reason != RestartReason::outside) {
    operation.outside_work_ = nullptr;
  }
  if (restarts) {
    settle_restart(operation, attempt.restart(), handout);
  } else {
    settle_done(operation, attempt.ok() ? Result<void>() : attempt.error(), handout);
  }
  operation.woken_by_ = nullptr;
}

void Scheduler::settle_done(Operation& operation, Result<void> outcome, Handout& handout) {
  end(operation, outcome);
  handout.finished.emplace_back(&operation);
}

void Scheduler::end(Operation& operation, Result<void> outcome) {
  operation.claim_.drop();
  operation.outcome_ = outcome;
  operation.state_ = Operation::State::done;
  ++stats_.finished_count;
  stats_.restarts_of_one_operation_max =
      std::max(stats_.restarts_of_one_operation_max, operation.restart_count_);
  unlink(operation);
}

void Scheduler::settle_restart(Operation& operation, const Restart& restart, Handout& handout) {
  ++operation.restart_count_;
  ++operation.restarts_without_progress_;
  operation.last_restart_ = restart.reason;
  ++stats_.restart_count[static_cast<size_t>(restart.reason)];
  if (restart.reason == RestartReason::idle) operation.note_progress();  // its work is done
  check_progress(operation);

  if (restart.reason == RestartReason::outside) {
    operation.state_ = Operation::State::outside;
    operation.outside_parts_.store(1, std::memory_order_relaxed);
    handout.outside.push_back(&operation);
  } else if (restart.on != nullptr) {
    settle_wait(operation, *restart.on);
  } else {
    make_ready(operation);
  }
}

void Scheduler::prepare_wait(Operation& operation, Waitable& waitable) {
  if (operation.waiting_on_ != nullptr) operation.waiting_on_->remove(operation);
  waitable.enqueue(operation);
}

void Scheduler::settle_wait(Operation& operation, Waitable& waitable) {
  if (operation.woken_by_ == &waitable) {  // woken already, perhaps gone: do not touch it
    make_ready(operation);
    return;
  }
  if (operation.waiting_on_ == nullptr) waitable.enqueue(operation);
  operation.state_ = Operation::State::waiting;
}

void Scheduler::check_progress(const Operation& operation) const {
  if (options_.restarts_max == 0 || operation.is_background()) return;
  if (operation.restarts_without_progress_ <= options_.restarts_max) return;
  const std::string who = std::string(operation.name()) + ": too many restarts, the last for " +
                          std::string(restart_reason_name(operation.last_restart_));
  CHECK_MSG(operation.restarts_without_progress_ <= options_.restarts_max, who.c_str());
}

std::string Scheduler::describe_operations() const {
  std::string text;
  for (const Operation* at = first_live_; at != nullptr; at = at->live_next_) {
    text += "\n  ";
    text += at->name();
    switch (at->state_) {
      case Operation::State::ready:
        text += ": ready, after ";
        break;
      case Operation::State::attempting:
        text += ": being attempted, after ";
        break;
      case Operation::State::outside:
        text += ": at work outside, after ";
        break;
      case Operation::State::waiting:
      case Operation::State::done:
        text += ": waits for ";
        text += restart_reason_name(at->last_restart_);
        text += ", after ";
        break;
    }
    text += std::to_string(at->restart_count_) + " restarts";
    if (at->is_background()) text += " (background)";
  }
  return text;
}

void Scheduler::finish(Operation& operation) { operation.finish(operation.outcome_); }

void Scheduler::run_outside(Operation& operation) {
  t_outside = &operation;
  if (operation.outside_work_) operation.outside_work_();
  t_outside = nullptr;
}

void Scheduler::outside_done(Operation& operation) {
  CHECK(operation.state_ == Operation::State::outside);
  if (operation.outside_parts_.fetch_sub(1) > 1) return;
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

// An operation may wait for a waitable of its own, and what its stash lets go may wake others that
// are about to be destroyed: it leaves every queue before its members go.
void Scheduler::destroy(Operation& operation) {
  if (operation.waiting_on_ != nullptr) operation.waiting_on_->remove(operation);
  operation.claim_.drop();
  std::erase(ready_, &operation);
  std::erase(deferred_, &operation);
  unlink(operation);
  delete &operation;
}

void Scheduler::drop_background() {
  for (Operation* at = first_live_; at != nullptr;) {
    Operation& operation = *at;
    at = at->live_next_;
    if (!operation.is_background()) continue;
    CHECK_MSG(operation.state_ != Operation::State::outside, operation.name());
    destroy(operation);
  }
}

void Scheduler::abandon() {
  CHECK_MSG(t_current == nullptr, "abandon() from inside an attempt");
  abandoning_ = true;
  ready_.clear();
  deferred_.clear();
  ended_.clear();
  timers_.clear();
  while (first_live_ != nullptr) destroy(*first_live_);  // what destructors start goes as well
  abandoning_ = false;
}

}  // namespace fusefs
