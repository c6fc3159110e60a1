// SyncRunner: attempts run to their end on one thread, for tools and for mounting.
//
// run() starts an operation and serves the device until it has finished, together with whatever
// background operations the scheduler has.
#pragma once

#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "core/io/reactor.h"

namespace fusefs {

// An operation that calls `fn`, which returns Attempt<T>, until it has a value or fails.
template <class T, class Fn>
class CallOperation final : public Operation {
 public:
  CallOperation(const char* name, Fn& fn, std::optional<Result<T>>& result, bool& done)
      : name_(name), fn_(fn), result_(result), done_(done) {}

  const char* name() const override { return name_; }

  Attempt<void> attempt() override {
    Attempt<T> attempted = fn_();
    if (!attempted.ok()) {
      if (attempted.failed()) result_.emplace(attempted.error());
      return Unfinished(attempted);
    }
    if constexpr (std::is_void_v<T>) {
      result_.emplace();
    } else {
      result_.emplace(std::move(attempted).value());
    }
    return {};
  }
  void finish(Result<void>) override { done_ = true; }

 private:
  const char* name_;
  Fn& fn_;
  std::optional<Result<T>>& result_;
  bool& done_;
};

class SyncRunner {
 public:
  //   Errors  not_supported, no_memory
  static Result<std::unique_ptr<SyncRunner>> create(Monitor& monitor, Scheduler& scheduler,
                                                    UringDevice& device) {
    auto runner = std::unique_ptr<SyncRunner>(new SyncRunner(monitor, scheduler, device));
    TRY(runner->reactor_, Reactor::create(runner->group_));
    return runner;
  }

  // Runs `fn`, which returns Attempt<T>, until it has a value or fails. The stash is what `fn`
  // refers to. Without the monitor.
  template <class Fn>
  auto run(const char* name, Fn&& fn) {
    using T = typename AttemptValue<std::invoke_result_t<Fn&>>::type;
    std::optional<Result<T>> result;
    bool done = false;
    {
      MonitorHold hold(group_.monitor());
      using Call = CallOperation<T, std::remove_reference_t<Fn>>;
      group_.scheduler().start(std::make_unique<Call>(name, fn, result, done));
    }
    reactor_->run_until(done);
    return std::move(*result);
  }

  // Attempts `operation`, which stays the caller's, to its end, and tells it the outcome.
  Result<void> run(Operation& operation) {
    Result<void> outcome = run(operation.name(), [&] { return operation.attempt(); });
    operation.finish(outcome);
    return outcome;
  }

 private:
  template <class A>
  struct AttemptValue;
  template <class T>
  struct AttemptValue<Attempt<T>> {
    using type = T;
  };

  SyncRunner(Monitor& monitor, Scheduler& scheduler, UringDevice& device)
      : group_(monitor, scheduler, device) {}

  ReactorGroup group_;
  std::unique_ptr<Reactor> reactor_;  // after the group: it leaves the group when destroyed
};

}  // namespace fusefs
