// TwoStateClaim: an operation's place among those who wait for a two-state lock.
//
// Part of every operation, which has one at most. It begins when the lock is first refused and
// ends when the lock is got, when the operation ends, and when it waits for anything else: what
// waits elsewhere keeps nobody out. It outlasts being woken in vain and restarts that wait for
// nothing, so that the time waited is that since the first refusal.
//
// Monitor held for every call.
#pragma once

#include <cstdint>

#include "core/engine/attempt.h"

namespace fusefs {

class Operation;
class TwoStateLock;

// Who wants, has or had a two-state lock. A loner is a blocker that is alone.
enum class TwoStateKind : uint8_t { adder, blocker, loner };
inline constexpr int kTwoStateKindCount = 3;

class TwoStateClaim {
 public:
  explicit TwoStateClaim(Operation& operation) : operation_(operation) {}
  TwoStateClaim(const TwoStateClaim&) = delete;
  TwoStateClaim& operator=(const TwoStateClaim&) = delete;
  ~TwoStateClaim() { drop(); }

  void drop() {
    if (lock_ != nullptr) drop_pending();
  }
  // The operation's attempt has ended like this.
  void settle(const Attempt<void>& attempt) {
    if (lock_ != nullptr && !outlasts(attempt)) drop_pending();
  }

 private:
  friend class TwoStateLock;
  void drop_pending();
  bool outlasts(const Attempt<void>& attempt) const;

  Operation& operation_;
  TwoStateLock* lock_ = nullptr;
  TwoStateClaim* previous_ = nullptr;  // of the same lock and kind, oldest first
  TwoStateClaim* next_ = nullptr;
  uint64_t since_ns_ = 0;
  TwoStateKind kind_ = TwoStateKind::adder;
  bool called_ = false;  // its turn has come; it has not been attempted since
};

}  // namespace fusefs
