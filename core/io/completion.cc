#include "core/io/completion.h"

#include <utility>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr std::array<std::string_view, kDeferReasonCount> kReasonNames = {
    "policy", "transaction", "flush", "invalidation", "error"};

}  // namespace

std::string_view defer_reason_name(DeferReason reason) {
  return kReasonNames[static_cast<size_t>(reason)];
}

std::optional<DeferReason> FinishNeeds::reason() const {
  if (error) return DeferReason::error;
  if (transaction) return DeferReason::transaction;
  if (flush) return DeferReason::flush;
  if (invalidation) return DeferReason::invalidation;
  if (attempt) return DeferReason::policy;
  return std::nullopt;
}

// The rule. An operation ends where its completion is reaped if what is left can neither wait nor
// fail nor do I/O. That is a pure overwrite: the blocks are mapped, written and the file's own, the
// range lies inside the size, the device reported no error, no flush is owed, no page of ours or of
// the kernel's has to be dropped. Everything else is attempted again:
//
//     transaction    it may wait for journal space, a tree node, a checkpoint
//     flush          it is I/O, and it is shared with whoever comes next
//     invalidation   it may wait for pages that others hold; after a transaction, never before:
//                    a reader in between would keep zeroes of blocks not yet mapped
//     error          undoing takes space and tree; and whoever retries wants to do so at leisure
//
// Nobody waits for any of this but the caller: what others could wait for was released before, or,
// for a transaction, is released by an attempt that any thread makes and no caller has to.
void Completions::settle(IoCompletion& completion, const IoTicket& ticket,
                         const FinishNeeds& needs) {
  Operation& operation = *completion.operation_;
  std::optional<DeferReason> reason = needs.reason();
  if (!reason && policy_ == CompletionPolicy::deferred) reason = DeferReason::policy;
  if (!reason) {
    ++stats_.issuer_count;
    completion.state_ = IoCompletion::State::issuer;
    completion.finish();
    scheduler_.end_now(operation);
    return;
  }
  ++stats_.deferred_count[static_cast<size_t>(*reason)];
  completion.state_ = IoCompletion::State::deferred;
  if (policy_ == CompletionPolicy::deferred) scheduler_.defer(operation, ticket.completion());
}

void Completions::note_ended(const IoCompletion& completion) {
  const bool inline_end = completion.state_ == IoCompletion::State::issuer;
  (inline_end ? stats_.issuer_latency_ns : stats_.deferred_latency_ns)
      .record(scheduler_.clock().monotonic_ns() - completion.submitted_ns_);
}

void IoCompletion::arm(Completions& completions, const Ref<IoTicket>& ticket) {
  CHECK(ticket->pending() && !armed());
  disarm();
  completions_ = &completions;
  operation_ = Operation::current();
  CHECK(operation_ != nullptr);
  submitted_ns_ = completions.scheduler_.clock().monotonic_ns();
  ticket_ = ticket;
  ticket_->listen(this);
  state_ = State::in_flight;
}

void IoCompletion::disarm() {
  if (ticket_) ticket_->listen(nullptr);
  ticket_.reset();
  const State ended = std::exchange(state_, State::idle);
  if (ended == State::idle || ended == State::in_flight) return;
  state_ = ended;
  completions_->note_ended(*this);
  state_ = State::idle;
}

void IoCompletion::ticket_completed(const Result<void>& result) {
  const Ref<IoTicket> ticket = std::move(ticket_);
  const FinishNeeds needs = release(result);
  completions_->settle(*this, *ticket, needs);
}

}  // namespace fusefs
