// Waitable: something an operation can wait for, by leaving and being attempted again.
//
// Examples: a node being read, a folio's writeback, a commit becoming durable. Waking moves the
// operations to the scheduler's ready queue; it grants them nothing, they look again.
// A waitable that goes away wakes whoever waits for it, also one whose attempt is just leaving.
//
// Monitor held for every call.
#pragma once

#include <cstddef>

namespace fusefs {

class Operation;

class Waitable {
 public:
  Waitable() = default;
  Waitable(const Waitable&) = delete;
  Waitable& operator=(const Waitable&) = delete;
  ~Waitable() { wake_all(); }

  void wake_all();
  // The same, but before everything that is ready already: newcomers find the woken served.
  void wake_all_first();
  // The same for one of those who wait.
  void wake_first(Operation& operation) { wake(operation, true); }
  bool has_waiter(const Operation& operation) const;
  bool has_waiters() const { return head_ != nullptr; }
  size_t waiter_count() const { return count_; }
  // When the longest-waiting operation began to wait, monotonic; requires has_waiters().
  unsigned long long oldest_wait_start_ns() const;

 private:
  friend class Operation;
  friend class Scheduler;
  void enqueue(Operation& operation);
  void remove(Operation& operation);
  void wake(Operation& operation, bool first);

  Operation* head_ = nullptr;  // first come, first woken
  Operation* tail_ = nullptr;
  size_t count_ = 0;
};

}  // namespace fusefs
