// Completion: what happens when the device is done with an operation's I/O, and on which thread.
//
//     submit, arm()            the thread whose ring reaps the completion; monitor held
//        |
//        +--- device --------> release()   what others may wait for; always, at once
//                                 |
//                                 +-- needs nothing more --> finish(): the operation ends here,
//                                 |                          the same thread answers
//                                 +-- needs more ----------> an ordinary attempt, later
//
// Why two parts: Linux had completions given back to the issuer as a whole, for a while. A task
// that had direct writes in flight and then truncated the file waited for a count that only its own
// unprocessed completions would have taken down. So nothing that others wait for is in finish().
//
// To use it: derive from IoCompletion, keep it in the operation's stash, call arm() in the attempt
// that submits, and write the attempt so that it goes on from ticket->wait() as if nothing had been
// done by release() but what release() notes. finish() is called only in place of that.
//
// Which operations end where, and the rule: Completions::settle() and docs/COMPLETION.md.
//
// Monitor held for every call.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/engine/operation.h"
#include "core/engine/scheduler.h"
#include "core/io/block_device.h"
#include "core/stats/histogram.h"

namespace fusefs {

enum class CompletionPolicy : uint8_t {
  issuer,    // ends with the thread that reaps, where the rule allows it
  deferred,  // all are attempted again by a thread of their own: to measure what that costs
};

// Why an operation did not end with its completion.
enum class DeferReason : uint8_t { policy, transaction, flush, invalidation, error };
inline constexpr int kDeferReasonCount = static_cast<int>(DeferReason::error) + 1;
std::string_view defer_reason_name(DeferReason reason);

// What is left to be done when the device is.
struct FinishNeeds {
  bool error = false;         // somebody must be told, or something undone
  bool transaction = false;   // the write is not a pure overwrite, or is not all of it
  bool flush = false;         // durability that the write itself has not brought
  bool invalidation = false;  // pages, ours or the kernel's, with the old bytes
  bool attempt = false;       // the operation's owner has no other way to end it

  std::optional<DeferReason> reason() const;
};

struct CompletionStats {
  uint64_t issuer_count = 0;
  std::array<uint64_t, kDeferReasonCount> deferred_count = {};
  // From the submission to the end of the operation, with its answer given.
  Histogram issuer_latency_ns;
  Histogram deferred_latency_ns;
};

class IoCompletion;

// The volume's policy and counters.
class Completions {
 public:
  Completions(Scheduler& scheduler, CompletionPolicy policy)
      : scheduler_(scheduler), policy_(policy) {}

  const CompletionStats& stats() const { return stats_; }
  CompletionPolicy policy() const { return policy_; }

 private:
  friend class IoCompletion;
  void settle(IoCompletion& completion, const IoTicket& ticket, const FinishNeeds& needs);
  void note_ended(const IoCompletion& completion);

  Scheduler& scheduler_;
  const CompletionPolicy policy_;
  CompletionStats stats_;
};

class IoCompletion : private TicketListener {
 public:
  IoCompletion() = default;
  IoCompletion(const IoCompletion&) = delete;
  IoCompletion& operator=(const IoCompletion&) = delete;

  // The operation being attempted waits for `ticket`, which is pending, and ends with it. Once per
  // ticket.
  void arm(Completions& completions, const Ref<IoTicket>& ticket);
  // Forgets the ticket: nothing will be called any more.
  void disarm();
  bool armed() const { return ticket_.get() != nullptr; }

 protected:
  // The derived class disarms before its own members go.
  ~IoCompletion() { disarm(); }

  // Lets go of whatever others may wait for, with or without success: busy ranges, two-state holds,
  // writeback marks, counts in flight. What a transaction still needs, because it changes what the
  // hold protects, may stay: that transaction is made by an attempt, never by a task that waits.
  // No operation is current. Returns what is left to do.
  virtual FinishNeeds release(const Result<void>& result) = 0;
  // Nothing is left: leaves the value where the operation's finish() finds it. No I/O, no wait.
  virtual void finish() = 0;

 private:
  friend class Completions;
  void ticket_completed(const Result<void>& result) final;

  Completions* completions_ = nullptr;
  Operation* operation_ = nullptr;
  Ref<IoTicket> ticket_;  // null unless armed
  uint64_t submitted_ns_ = 0;
  enum class State : uint8_t { idle, in_flight, issuer, deferred } state_ = State::idle;
};

}  // namespace fusefs
