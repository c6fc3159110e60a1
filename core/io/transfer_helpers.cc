#include "core/io/transfer_helpers.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr unsigned kThreadsMax = 3;

// A piece that is under way takes less than this. Then it is shorter to look than to sleep.
constexpr auto kLookFor = std::chrono::microseconds(60);

// Signals are for the threads that expect them, but for those of a thread's own faults: blocked,
// they would end the process without a word of whoever handles them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t others;
    sigfillset(&others);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&others, fault);
    pthread_sigmask(SIG_SETMASK, &others, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

unsigned TransferHelpers::thread_max_here() {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof(mine), &mine) != 0) return 0;
  const int count = CPU_COUNT(&mine);
  return count < 2 ? 0 : std::min(static_cast<unsigned>(count - 1), kThreadsMax);
}

TransferHelpers::~TransferHelpers() {
  {
    const std::lock_guard lock(mutex_);
    CHECK(transfer_ == nullptr);
    ending_ = true;
  }
  piece_there_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

// Without threads, or with fewer, the caller has more to do.
void TransferHelpers::start_threads() {
  started_ = true;
  const SignalsBlocked blocked;
  try {
    threads_.reserve(thread_max_);
    while (threads_.size() < thread_max_) {
      threads_.emplace_back([this] { help(); });
      pthread_setname_np(threads_.back().native_handle(), "fusefs-copy");
    }
  } catch (const std::system_error&) {
  }
}

TransferHelpers::Outcome TransferHelpers::run(Transfer& transfer, uint64_t len) {
  if (thread_max_ == 0 || len < kBytesMin) return {transfer.move(0, len), false};
  std::unique_lock lock(mutex_);
  if (!started_) start_threads();
  if (transfer_ != nullptr || threads_.empty()) {
    lock.unlock();
    return {transfer.move(0, len), false};
  }
  transfer_ = &transfer;
  len_ = moved_end_ = len;
  next_ = 0;
  error_ = 0;
  helped_ = false;
  // Before the wake-ups the mutex is given up, or those who wake up would wait for it.
  lock.unlock();
  piece_there_.notify_all();
  lock.lock();
  while (has_piece()) move_piece(lock);
  wait_for_others(lock);
  transfer_ = nullptr;
  return {moved_end_ != 0 ? static_cast<int64_t>(moved_end_) : error_, helped_};
}

void TransferHelpers::help() {
  std::unique_lock lock(mutex_);
  for (;;) {
    piece_there_.wait(lock, [this] { return ending_ || has_piece(); });
    if (ending_) return;
    helped_ = true;
    move_piece(lock);
    if (under_way_.load() == 0 && !has_piece()) all_moved_.notify_one();
  }
}

void TransferHelpers::move_piece(std::unique_lock<std::mutex>& lock) {
  Transfer& transfer = *transfer_;
  const uint64_t begin = next_;
  const uint64_t len = std::min(kPieceBytes, len_ - begin);
  next_ += len;
  ++under_way_;
  lock.unlock();
  const int64_t result = transfer.move(begin, len);
  lock.lock();
  --under_way_;
  const uint64_t moved = result < 0 ? 0 : static_cast<uint64_t>(result);
  if (moved >= len) return;
  if (begin + moved < moved_end_) {
    moved_end_ = begin + moved;
    error_ = result < 0 ? result : 0;
  }
  next_ = len_;  // what is behind it does not count
}

void TransferHelpers::wait_for_others(std::unique_lock<std::mutex>& lock) {
  if (under_way_.load() != 0) {
    lock.unlock();
    const auto until = std::chrono::steady_clock::now() + kLookFor;
    while (under_way_.load() != 0 && std::chrono::steady_clock::now() < until) {
    }
    lock.lock();
  }
  all_moved_.wait(lock, [this] { return under_way_.load() == 0; });
}

}  // namespace fusefs
