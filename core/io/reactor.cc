#include "core/io/reactor.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"
#include "core/engine/worker.h"
#include "core/io/device_ring.h"

namespace fusefs {
namespace {

// Requests taken at once when there are many. The thread answers them one after another, so a
// larger batch would keep work from threads that sleep.
constexpr size_t kReceiveBatch = 8;

// A lone caller has one request under way: asking for a second one is a system call for nothing.
// Every so often it is tried all the same, to notice that there are more callers now.
constexpr uint32_t kTryBatchEvery = 16;

// A poll of a descriptor in the thread's ring.
struct PollEvent final : RingEvent {
  void on_completion(int32_t res, uint32_t) override {
    // Other errors show again, and better, when the descriptor is read.
    refused = res == -EINVAL;
    fired = !refused;
    armed = false;
  }
  bool armed = false;
  bool fired = false;
  bool refused = false;
};

struct IgnoredEvent final : RingEvent {
  void on_completion(int32_t, uint32_t) override { pending = false; }
  bool pending = false;
};

}  // namespace

// ---- One reactor ----

class Reactor::Impl {
 public:
  Impl(ReactorGroup& group, Reactor& self, std::unique_ptr<DeviceRing> device_ring, OwnedFd wake_fd)
      : group_(group),
        self_(self),
        completes_(self.role_ == Role::completer),
        worker_(group.monitor(), group.scheduler(),
                completes_ ? Scheduler::Serves::deferred_too : Scheduler::Serves::ready),
        device_ring_(std::move(device_ring)),
        wake_fd_(std::move(wake_fd)) {}

  void run(RequestSource* source) {
    source_ = source != nullptr && source->poll_fd() >= 0 ? source : nullptr;
    for (;;) {
      receive();
      serve();
      if (group_.stopping() && live_count_ == 0 && is_drained()) break;
      rest();
    }
    disarm_source();
    source_ = nullptr;
    release_timer_outside();
  }

  void run_until(const bool& done) {
    for (;;) {
      serve();
      if (done) break;
      rest();
    }
    device_ring_->flush();
    release_timer_outside();
  }

  // Before the thread's ring goes. What becomes ready is left to other threads.
  void drain() {
    while (!device_ring_->idle()) {
      device_ring_->wait(std::nullopt);
      device_ring_->reap();
      MonitorHold hold(group_.monitor());
      device_ring_->complete();
    }
  }

  void wake() {
    if (woken_.exchange(true)) return;
    const uint64_t one = 1;
    // Fails only when the counter is full, and then the poll has fired.
    [[maybe_unused]] const ssize_t written = ::write(wake_fd_.get(), &one, sizeof(one));
  }

 private:
  void receive();
  void serve();
  void enter();
  void leave(bool more);
  void wake_completer();
  void rest();
  void arm(PollEvent& event, int fd, uint32_t mask);
  void arm_source();
  void disarm_source();
  std::optional<uint64_t> time_left_ns() const;
  bool is_drained() const {
    return device_ring_->idle() && !ready_left_ && !device_ring_->has_done();
  }

  // Monitor held.
  void release_timer() {
    if (group_.timer_keeper_ != &self_) return;
    group_.timer_keeper_ = nullptr;
    group_.timer_kept_ns_ = UINT64_MAX;
  }
  void release_timer_outside() {
    MonitorHold hold(group_.monitor());
    release_timer();
  }

  ReactorGroup& group_;
  Reactor& self_;
  const bool completes_;
  Worker worker_;
  std::unique_ptr<DeviceRing> device_ring_;
  OwnedFd wake_fd_;
  std::atomic<bool> woken_{false};
  PollEvent wake_event_;

  RequestSource* source_ = nullptr;
  PollEvent source_event_;
  bool polls_exclusively_ = true;
  std::vector<std::unique_ptr<Operation>> fresh_;
  bool expects_more_ = false;  // receive in batches
  uint32_t single_count_ = 0;  // requests received one at a time since a batch was tried

  // Known from the last time inside the monitor.
  bool ready_left_ = false;
  uint64_t live_count_ = 0;
  std::optional<uint64_t> keep_until_ns_;
  bool deferred_left_ = false;  // for the completer
  ReactorStats news_;           // not yet in the group's
};

// Leaves source_event_.fired set when a full batch says that there is more.
void Reactor::Impl::receive() {
  if (source_ == nullptr || !source_event_.fired) return;
  if (group_.stopping()) {
    source_event_.fired = false;
    return;
  }
  const size_t count_max = expects_more_ ? kReceiveBatch : 1;
  if (!source_->receive(fresh_, count_max)) group_.stop();
  const size_t count = fresh_.size();
  ++news_.receive_count;
  news_.request_count += count;
  source_event_.fired = expects_more_ && count == count_max;
  if (expects_more_) {
    expects_more_ = count > 1;
    single_count_ = 0;
  } else if (++single_count_ >= kTryBatchEvery) {
    expects_more_ = true;
  }
}

void Reactor::Impl::serve() {
  ready_left_ = worker_.run_rounds([this] { enter(); }, [this](bool more) { leave(more); },
                                   [this] {
                                     wake_completer();
                                     device_ring_->flush();
                                   });
  wake_completer();
}

// The wake-up is a system call: not inside the monitor.
void Reactor::Impl::wake_completer() {
  if (std::exchange(deferred_left_, false)) group_.wake_completer();
}

void Reactor::Impl::enter() {
  Scheduler& scheduler = group_.scheduler();
  device_ring_->complete();
  for (auto& operation : fresh_) scheduler.start(std::move(operation));
  fresh_.clear();
  if (scheduler.next_deadline_ns()) scheduler.fire_timers();
  group_.stats_.wait_count += news_.wait_count;
  group_.stats_.receive_count += news_.receive_count;
  group_.stats_.request_count += news_.request_count;
  group_.stats_.timer_wake_count += news_.timer_wake_count;
  news_ = {};
}

// Whoever goes to sleep while the earliest timer has no keeper, or one that would oversleep it,
// keeps it. A timer that is set is set by a thread that is awake and comes by here.
void Reactor::Impl::leave(bool more) {
  release_timer();
  keep_until_ns_.reset();
  live_count_ = group_.scheduler().live_count();
  deferred_left_ = !completes_ && group_.scheduler().has_deferred();
  if (more) return;
  const std::optional<uint64_t> deadline_ns = group_.scheduler().next_deadline_ns();
  if (!deadline_ns || *deadline_ns >= group_.timer_kept_ns_) return;
  group_.timer_keeper_ = &self_;
  group_.timer_kept_ns_ = *deadline_ns;
  keep_until_ns_ = deadline_ns;
}

std::optional<uint64_t> Reactor::Impl::time_left_ns() const {
  if (!keep_until_ns_) return std::nullopt;
  const uint64_t now_ns = group_.scheduler().clock().monotonic_ns();
  return *keep_until_ns_ > now_ns ? *keep_until_ns_ - now_ns : 0;
}

void Reactor::Impl::rest() {
  const bool is_busy = device_ring_->run_direct() || ready_left_ || source_event_.fired;
  if (is_busy) {
    // Requests keep coming: do not let them keep completions from being seen.
    if (!device_ring_->idle()) device_ring_->poll();
  } else {
    arm(wake_event_, wake_fd_.get(), POLLIN);
    if (source_ != nullptr && !group_.stopping()) arm_source();
    const std::optional<uint64_t> left_ns = time_left_ns();
    ++news_.wait_count;
    device_ring_->wait(left_ns);
    if (left_ns && time_left_ns() == uint64_t{0}) ++news_.timer_wake_count;
  }
  device_ring_->reap();
  if (std::exchange(wake_event_.fired, false)) {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = ::read(wake_fd_.get(), &count, sizeof(count));
    woken_.store(false);  // from here on a wake() writes again
  }
}

// Exclusive: one request wakes one of the threads that poll the same descriptor.
void Reactor::Impl::arm_source() {
  if (source_event_.refused) polls_exclusively_ = false;
  const uint32_t exclusive = polls_exclusively_ ? static_cast<uint32_t>(EPOLLEXCLUSIVE) : 0;
  arm(source_event_, source_->poll_fd(), POLLIN | exclusive);
}

void Reactor::Impl::arm(PollEvent& event, int fd, uint32_t mask) {
  if (event.armed) return;
  Ring& ring = device_ring_->ring();
  io_uring_sqe* entry = ring.sqe(event);
  if (entry == nullptr) {
    ring.submit();
    entry = ring.sqe(event);
  }
  // No room as long as the completion queue may fill up: a completion comes first, then this.
  if (entry == nullptr) return;
  entry->opcode = IORING_OP_POLL_ADD;
  entry->fd = fd;
  entry->poll32_events = mask;
  event.armed = true;
}

void Reactor::Impl::disarm_source() {
  Ring& ring = device_ring_->ring();
  while (source_event_.armed) {
    IgnoredEvent removal;
    io_uring_sqe* entry = ring.sqe(removal);
    CHECK_MSG(entry != nullptr, "a drained ring has room");
    entry->opcode = IORING_OP_POLL_REMOVE;
    entry->fd = -1;
    entry->addr = reinterpret_cast<uintptr_t>(&source_event_);
    removal.pending = true;
    while (removal.pending) {
      ring.submit_and_wait(std::nullopt);
      ring.reap();
    }
  }
  source_event_.fired = false;
}

Reactor::Reactor(Role role) : role_(role) {}

Result<std::unique_ptr<Reactor>> Reactor::create(ReactorGroup& group, Role role) {
  TRY(std::unique_ptr<DeviceRing> device_ring, group.device().attach());
  OwnedFd wake_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_fd) return error_from_errno(errno);
  std::unique_ptr<Reactor> reactor(new Reactor(role));
  reactor->impl_ =
      std::make_unique<Impl>(group, *reactor, std::move(device_ring), std::move(wake_fd));
  reactor->group_ = &group;
  group.join(*reactor);
  return reactor;
}

Reactor::~Reactor() {
  if (group_ == nullptr) return;
  impl_->drain();
  group_->leave(*this);
}

void Reactor::run(RequestSource* source) {
  impl_->run(source);
  // The others wait for what this one finished, or for a timer that it kept.
  group_->wake_all();
}

void Reactor::run_until(const bool& done) {
  impl_->run_until(done);
  group_->kick();
}

void Reactor::wake() { impl_->wake(); }

// ---- The group ----

ReactorGroup::~ReactorGroup() { CHECK_MSG(members_.empty(), "a reactor outlives its group"); }

void ReactorGroup::join(Reactor& reactor) {
  if (reactor.role_ == Reactor::Role::completer) {
    const MonitorHold hold(monitor_);
    scheduler_.set_serves_deferred(true);
  }
  const std::lock_guard lock(members_mutex_);
  members_.push_back(&reactor);
  if (reactor.role_ == Reactor::Role::completer) completer_ = &reactor;
}

void ReactorGroup::leave(Reactor& reactor) {
  if (reactor.role_ == Reactor::Role::completer) {
    const MonitorHold hold(monitor_);
    scheduler_.set_serves_deferred(false);
  }
  const std::lock_guard lock(members_mutex_);
  std::erase(members_, &reactor);
  if (completer_ == &reactor) completer_ = nullptr;
}

void ReactorGroup::wake_completer() {
  const std::lock_guard lock(members_mutex_);
  if (completer_ != nullptr) completer_->wake();
}

void ReactorGroup::stop() {
  stopping_.store(true, std::memory_order_release);
  wake_all();
}

void ReactorGroup::kick() {
  const std::lock_guard lock(members_mutex_);
  if (!members_.empty()) members_.front()->wake();
}

void ReactorGroup::wake_all() {
  const std::lock_guard lock(members_mutex_);
  for (Reactor* reactor : members_) reactor->wake();
}

}  // namespace fusefs
