// Operation: one thing the core has been asked to do, attempted until it is done.
//
//     start --> ready --attempt()--> done --finish()--> destroyed
//                 ^         |
//                 |         +-- Restart{waitable} --> waiting --woken--+
//                 |         +-- Restart{outside}  --> outside --ran----+
//                 +----------------------------------------------------+
//
// The stash of an operation is its own data members. An operation is destroyed with the monitor
// held, after finish(), so that holds and references in its stash may be dropped there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "core/engine/attempt.h"
#include "core/engine/two_state_claim.h"

namespace fusefs {

class Scheduler;
class OutsideTicket;
class TwoStateHold;

class Operation {
 public:
  Operation() = default;
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  virtual ~Operation();

  // For messages and lock reports.
  virtual const char* name() const = 0;

  // One attempt. Monitor held. A value or an Error ends the operation.
  virtual Attempt<void> attempt() = 0;

  // Tells the outcome to whoever asked. Called once, without the monitor.
  virtual void finish(Result<void> outcome) { (void)outcome; }

  // Background operations loop for ever; they neither count as live nor have a restart bound.
  virtual bool is_background() const { return false; }

  uint32_t restart_count() const { return restart_count_; }

  // Resets the bound on restarts without progress: more is done than at the last restart.
  void note_progress() {
    restarts_without_progress_ = 0;
    forced_restarts_ = 0;
  }

  // Whether it has taken a two-state lock, of any inode, and not released it.
  bool holds_two_state_lock() const { return two_state_holds_ != nullptr; }

  // The operation being attempted on this thread, or null.
  static Operation* current();

 private:
  friend class Scheduler;
  friend class TwoStateHold;
  friend class TwoStateLock;
  friend class Waitable;
  friend bool forced_restart_due();
  friend Restart restart_after_outside(std::function<void()> work);
  friend class OutsideTicket;
  friend OutsideTicket hand_on_outside();

  enum class State : uint8_t { ready, attempting, waiting, outside, done };

  Scheduler* scheduler_ = nullptr;
  State state_ = State::ready;
  RestartReason last_restart_ = RestartReason::again;
  // Every started operation that is not done, in the order of start.
  Operation* live_previous_ = nullptr;
  Operation* live_next_ = nullptr;
  Waitable* waiting_on_ = nullptr;  // set already while attempting, by restart_after()
  Waitable* woken_by_ = nullptr;    // what woke it since, in the same attempt
  Operation* wait_previous_ = nullptr;
  Operation* wait_next_ = nullptr;
  uint64_t wait_start_ns_ = 0;
  uint32_t restart_count_ = 0;
  uint32_t restarts_without_progress_ = 0;
  uint32_t forced_restarts_ = 0;
  TwoStateClaim claim_{*this};
  TwoStateHold* two_state_holds_ = nullptr;
  std::function<void()> outside_work_;
  std::atomic<uint32_t> outside_parts_ = 0;  // that are not done: the work itself, tickets
  Result<void> outcome_;
};

// Lets the monitor go, runs `work` (a copy, a checksum, a system call), and attempts the operation
// again. `work` may touch only memory that the operation's stash keeps from changing.
Restart restart_after_outside(std::function<void()> work);

// A part of an operation's outside work that another thread does, since it may take for ever: the
// operation is attempted again when the work has returned and done() has been called on all tickets
// that it took.
class OutsideTicket {
 public:
  // Once. Monitor held.
  void done();
  // Instead, in the work itself, which does this part after all: without the monitor.
  void take_back();

 private:
  friend OutsideTicket hand_on_outside();
  explicit OutsideTicket(Operation& operation) : operation_(&operation) {}
  Operation* operation_;
};
// Requires that outside work is being run on this thread.
OutsideTicket hand_on_outside();

}  // namespace fusefs
