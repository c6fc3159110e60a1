// Attempt<T>: what a function of the core returns when it may have to wait.
//
// Nothing in the core waits in the middle. An attempt either has a value, has failed, or says what
// must happen first and lets go of everything; when that has happened the operation is attempted
// again from its first line (operation.h, docs/ENGINE.md).
//
//      Attempt<T>  =  value  |  Error  |  Restart{ what to wait for, why }
//
// Rules for a function that returns an Attempt:
//   (1) Before its last ATTEMPT it changes nothing that a second run would change twice. What must
//       survive a restart lives in the operation's stash and is verified before it is used.
//   (2) Holds are scoped objects: leaving the function drops them. The few that may be held across
//       a restart are moved into the stash (table in docs/ENGINE.md).
//   (3) An Error is final; it is never replaced by a Restart.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include "core/base/error.h"

namespace fusefs {

class Waitable;

// Why an operation let go. Counted per reason in the statistics.
enum class RestartReason : uint8_t {
  forced,         // the test switch
  again,          // something changed under the attempt: start over at once
  outside,        // work to do without the monitor: a copy, a checksum, a system call
  node_load,      // a tree node is being read
  bitmap_load,    // a bitmap page is being read
  data_io,        // data is being read or written
  folio_locked,   // somebody is copying into or filling the folio
  writeback,      // the folio is under writeback
  two_state,      // the inode's two-state lock is in the other state
  busy_range,     // blocks of the file are being written by somebody else
  inode_busy,     // the inode is being loaded or removed
  journal_space,  // the journal is full until a checkpoint ends
  durable,        // waiting for a commit or a flush
  dirty_nodes,    // too many dirty tree nodes until a checkpoint ends
  memory,         // the page cache is full of dirty pages
  space,          // free space is being made
  rights,         // who maps a page has been asked for his right to it, for a while
  kernel,         // the kernel is to drop what it has cached: it may wait for others' answers first
  idle,           // a background operation with nothing to do
};
inline constexpr int kRestartReasonCount = static_cast<int>(RestartReason::idle) + 1;
std::string_view restart_reason_name(RestartReason reason);

// `on` is null when the operation may be attempted again at once.
struct Restart {
  Waitable* on = nullptr;
  RestartReason reason = RestartReason::again;
};

inline Restart restart_now() { return Restart{nullptr, RestartReason::again}; }
// From here on a wake of `waitable`, or its end, is not missed, also while the attempt leaves: what
// it drops on its way out may be the very thing it asked to wait for. Of several calls in one
// attempt only the one whose Restart the attempt returns has an effect.
Restart restart_after(Waitable& waitable, RestartReason reason);

template <class T>
class [[nodiscard]] Attempt {
 public:
  Attempt(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Attempt(Error error) : state_(std::in_place_index<1>, error) {}
  Attempt(Restart restart) : state_(std::in_place_index<2>, restart) {}

  bool ok() const { return state_.index() == 0; }
  bool failed() const { return state_.index() == 1; }
  bool must_restart() const { return state_.index() == 2; }
  Error error() const { return std::get<1>(state_); }
  const Restart& restart() const { return std::get<2>(state_); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }

 private:
  std::variant<T, Error, Restart> state_;
};

template <>
class [[nodiscard]] Attempt<void> {
 public:
  Attempt() = default;
  Attempt(Error error) : state_(std::in_place_index<1>, error) {}
  Attempt(Restart restart) : state_(std::in_place_index<2>, restart) {}

  bool ok() const { return state_.index() == 0; }
  bool failed() const { return state_.index() == 1; }
  bool must_restart() const { return state_.index() == 2; }
  Error error() const { return std::get<1>(state_); }
  const Restart& restart() const { return std::get<2>(state_); }

 private:
  std::variant<std::monostate, Error, Restart> state_;
};

// Carries the Error or the Restart of one Attempt into an Attempt of another type.
class Unfinished {
 public:
  template <class T>
  explicit Unfinished(const Attempt<T>& attempt) {
    if (attempt.failed()) {
      error_ = attempt.error();
    } else {
      restart_ = attempt.restart();
    }
  }
  template <class T>
  operator Attempt<T>() const {
    if (error_) return Attempt<T>(*error_);
    return Attempt<T>(restart_);
  }

 private:
  std::optional<Error> error_;
  Restart restart_;
};

// True when the test switch wants the running operation to restart here for no reason.
bool forced_restart_due();

}  // namespace fusefs

// ATTEMPT(decl, expr): declares `decl` from the value, or leaves with the Error or the Restart.
#define ATTEMPT(decl, expr)                                             \
  auto FUSEFS_CONCAT(attempt_, __LINE__) = (expr);                      \
  if (!FUSEFS_CONCAT(attempt_, __LINE__).ok())                          \
    return ::fusefs::Unfinished(FUSEFS_CONCAT(attempt_, __LINE__));     \
  if (::fusefs::forced_restart_due())                                   \
    return ::fusefs::Restart{nullptr, ::fusefs::RestartReason::forced}; \
  decl = std::move(FUSEFS_CONCAT(attempt_, __LINE__)).value()

// ATTEMPT_OK(expr): the same for Attempt<void>.
#define ATTEMPT_OK(expr)                                                   \
  do {                                                                     \
    auto attempt_result = (expr);                                          \
    if (!attempt_result.ok()) return ::fusefs::Unfinished(attempt_result); \
    if (::fusefs::forced_restart_due())                                    \
      return ::fusefs::Restart{nullptr, ::fusefs::RestartReason::forced};  \
  } while (false)

// ATTEMPT_INTO(target, expr): assigns the value to `target`, a member of the stash, before a forced
// restart may happen: for what must not be dropped and done again, such as blocks handed out.
#define ATTEMPT_INTO(target, expr)                                         \
  do {                                                                     \
    auto attempt_result = (expr);                                          \
    if (!attempt_result.ok()) return ::fusefs::Unfinished(attempt_result); \
    (target) = std::move(attempt_result).value();                          \
    if (::fusefs::forced_restart_due())                                    \
      return ::fusefs::Restart{nullptr, ::fusefs::RestartReason::forced};  \
  } while (false)
