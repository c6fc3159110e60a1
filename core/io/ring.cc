#include "core/io/ring.h"

#include <sched.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/base/check.h"
#include "core/base/clock.h"

namespace fusefs {
namespace {

// From the fastest to what every kernel has.
//   DEFER_TASKRUN  completions run when the thread asks for them, not when it is interrupted
//   COOP_TASKRUN   the same at any system call
//   TASKRUN_FLAG   lets a peek see that completions are due
//   SUBMIT_ALL     an entry in error does not hold up those behind it
constexpr std::array<unsigned, 5> kModes = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN |
        IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_SUBMIT_ALL,
    0,
};

constexpr unsigned kCompletionsPerEntry = 4;

// Rings count as locked memory, of which a container may have as little as 64 KiB for everything.
constexpr unsigned kEntriesMin = 8;
// The kernel returns the memory of a destroyed ring in the background, some milliseconds later.
constexpr auto kMemoryWait = std::chrono::milliseconds(10);
constexpr int kMemoryWaitsMax = 30;

// liburing's own timeout entries on kernels that cannot pass a timeout to io_uring_enter.
constexpr uint64_t kLiburingTimeout = UINT64_MAX;

Error explain(int value, std::string* message) {
  const bool is_forbidden = value == EPERM || value == EACCES;
  if (message != nullptr) {
    *message = std::string("io_uring cannot be used: ") + std::strerror(value);
    if (value == ENOSYS || is_forbidden) {
      *message +=
          "; the kernel lacks it, or forbids it here (sysctl kernel.io_uring_disabled, the "
          "seccomp profile of a container)";
    } else if (value == ENOMEM) {
      *message += "; raise the locked-memory limit (ulimit -l)";
    }
  }
  return value == ENOMEM ? Error::no_memory : Error::not_supported;
}

}  // namespace

Result<std::unique_ptr<Ring>> Ring::create(Mode mode, unsigned entries, std::string* message) {
  std::unique_ptr<Ring> ring(new Ring());
  int result = ring->set_up(mode, entries);
  for (int waits = 0; result == -ENOMEM && waits < kMemoryWaitsMax;) {
    if (entries > kEntriesMin) {
      entries /= 2;
    } else {
      std::this_thread::sleep_for(kMemoryWait);
      ++waits;
    }
    result = ring->set_up(mode, entries);
  }
  if (result != 0) return explain(-result, message);
  io_uring_register_ring_fd(&ring->ring_);  // saves a lookup per call; does without if refused
  return ring;
}

// 0 or a negative errno.
int Ring::set_up(Mode mode, unsigned entries) {
  int result = -EINVAL;
  for (size_t i = 0; i < kModes.size() && result == -EINVAL; ++i) {
    io_uring_params params = {};
    params.flags = kModes[i] | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
    if (mode == Mode::poll) params.flags |= IORING_SETUP_IOPOLL;
    params.cq_entries = entries * kCompletionsPerEntry;
    result = io_uring_queue_init_params(entries, &ring_, &params);
    outstanding_max_ = params.cq_entries;
  }
  is_set_up_ = result == 0;
  return result;
}

Ring::~Ring() {
  if (!is_set_up_) return;
  // The kernel takes a ring down in the background: without this the file, and a claim on its
  // device, would outlive us.
  if (has_file_) io_uring_unregister_files(&ring_);
  io_uring_queue_exit(&ring_);
}

bool Ring::register_file(int fd) {
  has_file_ = io_uring_register_files(&ring_, &fd, 1) == 0;
  return has_file_;
}

bool Ring::register_buffers(std::span<const iovec> regions) {
  return io_uring_register_buffers(&ring_, regions.data(), static_cast<unsigned>(regions.size())) ==
         0;
}

io_uring_sqe* Ring::sqe(RingEvent& event) {
  if (outstanding_ >= outstanding_max_) return nullptr;
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry == nullptr) return nullptr;
  std::memset(entry, 0, sizeof(*entry));
  io_uring_sqe_set_data(entry, &event);
  ++outstanding_;
  return entry;
}

void Ring::note_entered(int result) {
  switch (-result) {
    case ETIME:
    case EINTR:
      return;
    case EAGAIN:  // no memory for requests just now: the entries stay queued
    case EBUSY:
      if (!has_completions()) sched_yield();
      return;
    default:
      CHECK_MSG(result >= 0, std::strerror(-result));
  }
}

void Ring::submit() {
  if (has_unsubmitted()) note_entered(io_uring_submit(&ring_));
}

void Ring::submit_and_poll() { note_entered(io_uring_submit_and_get_events(&ring_)); }

void Ring::submit_and_wait(std::optional<uint64_t> timeout_ns) {
  if (has_completions()) {
    submit();
    return;
  }
  __kernel_timespec timeout = {};
  if (timeout_ns) {
    timeout.tv_sec = static_cast<int64_t>(*timeout_ns / kNsPerSecond);
    timeout.tv_nsec = static_cast<long long>(*timeout_ns % kNsPerSecond);
  }
  io_uring_cqe* first = nullptr;
  note_entered(io_uring_submit_and_wait_timeout(&ring_, &first, 1, timeout_ns ? &timeout : nullptr,
                                                nullptr));
}

size_t Ring::reap() {
  size_t count = 0;
  io_uring_cqe* entry = nullptr;
  unsigned head = 0;
  // The head moves before the event runs: the event may take the room for its next entry.
  io_uring_for_each_cqe(&ring_, head, entry) {
    const uint64_t user_data = entry->user_data;
    const int32_t res = entry->res;
    const uint32_t flags = entry->flags;
    io_uring_cq_advance(&ring_, 1);
    if (user_data == kLiburingTimeout) continue;
    if ((flags & IORING_CQE_F_MORE) == 0) --outstanding_;
    reinterpret_cast<RingEvent*>(user_data)->on_completion(res, flags);
    ++count;
  }
  return count;
}

}  // namespace fusefs
