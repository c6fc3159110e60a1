// LockChecker: watches what operations hold, ask for and wait for, and reports what may deadlock
// some day, also when it went well this time.
//
//   order      Classes of locks are taken in one order. It is learned: who holds X and asks for Y
//              makes the edge X -> Y. A cycle of edges is reported with the chain of operations
//              that made it. The three ways to hold a two-state lock are one class here: they keep
//              each other out.
//   inodes     Of two two-state locks the one of the lower inode is asked for first.
//   recursion  An operation does not ask for what only it can give: the other state of a
//              two-state lock that it holds, a range or a folio that it has.
//   waits      What an operation still holds when it leaves in order to wait is allowed by
//              the table in lock_checker.cc, which is also in docs/ENGINE.md.
//
// On in builds without NDEBUG and in every test program; else a branch that is never taken.
//
// Knows no memory and no files: who has a lock says so. Operations are looked at by their address
// and forgotten with their end. Any thread, though all of it happens inside a monitor.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/engine/attempt.h"

namespace fusefs {

class Operation;

enum class LockClass : uint8_t {
  adder,           // two-state hold
  blocker,         // two-state hold
  alone,           // two-state hold
  busy_range,      // core/inode/busy_ranges.h
  folio_lock,      // while bytes are copied
  folio_read,      // locked by who reads it from the device
  writeback_mark,  // while it is written
};
inline constexpr int kLockClassCount = static_cast<int>(LockClass::writeback_mark) + 1;
std::string_view lock_class_name(LockClass lock_class);

#ifdef NDEBUG
inline bool lock_checking = false;
#else
inline bool lock_checking = true;
#endif

class LockChecker {
 public:
  // The one of the process.
  static LockChecker& instance();

  LockChecker();
  ~LockChecker();

  // `lock` is an address that is the lock's own while somebody has it: a folio's is its `changed`.
  // `order`: of two-state locks, the inode's number; 0: not compared.
  // All of these concern the operation that is being attempted; without one nothing is noted.

  // It may have to wait for the lock.
  void ask(LockClass lock_class, const void* lock, uint64_t order = 0);
  // It has the lock.
  void take(LockClass lock_class, const void* lock, uint64_t order = 0);
  // It has found the lock free, which it must not rely on, and taken it.
  void ask_and_take(LockClass lock_class, const void* lock);
  // It has to wait for the lock, which somebody has.
  void wait(LockClass lock_class, const void* lock);
  // The same by a Restart; nothing if it is not for a folio.
  void wait(RestartReason reason, const void* waitable);

  // Of a two-state lock that `operation` has / of a lock that only one can have.
  void release_two_state(LockClass lock_class, const void* lock, const Operation& operation);
  void release(LockClass lock_class, const void* lock);

  // The attempt has ended; what was scoped in it is released.
  void leave(const Operation& operation, const Restart& restart);
  void forget(const Operation& operation);

  // Gets every report, a few lines; by default they are printed and the program stops. An empty
  // one restores that.
  using Sink = std::function<void(const std::string& report)>;
  void set_sink(Sink sink);
  // Forgets the order learned so far.
  void forget_order();
  // The edges learned, as "busy range -> folio", one in a line, sorted.
  std::string order() const;
  // The reasons for which it may be waited while a lock of the class is held: names, with commas.
  static std::string allowed_waits(LockClass lock_class);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
