// Ring: one io_uring of one thread.
//
// It sets up the fastest mode that the kernel takes, hands out submission entries as long as every
// completion is sure to find room, and delivers completions to the RingEvent that each entry names.
// It knows neither devices nor requests.
//
// Invariants:
//   (1) No more entries are under way than the completion queue holds: no completion is ever lost
//       or delayed by an overflow.
//   (2) Between sqe() and submit() nothing is in the kernel: sqe() may be called where system
//       calls may not.
//
// Created, used and destroyed by one thread.
#pragma once

#include <liburing.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "core/base/error.h"

namespace fusefs {

// Gets the completions of the entries that name it.
class RingEvent {
 public:
  // `res` as in the completion entry: a count, or a negative errno.
  virtual void on_completion(int32_t res, uint32_t flags) = 0;

 protected:
  ~RingEvent() = default;
};

class Ring {
 public:
  enum class Mode : uint8_t { interrupt, poll };

  // With `entries`, or fewer where locked memory is short.
  //   Errors  not_supported (no io_uring, or it is forbidden), no_memory
  //           `message` then is one line for people; it may be null.
  static Result<std::unique_ptr<Ring>> create(Mode mode, unsigned entries, std::string* message);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // True if the kernel took it.
  bool register_file(int fd);
  bool register_buffers(std::span<const iovec> regions);

  // A cleared entry that reports to `event`; null when none is free before submit() or reap().
  io_uring_sqe* sqe(RingEvent& event);

  // Hands the entries to the kernel and does not wait.
  void submit();
  // The same, and runs the completions that are due.
  void submit_and_poll();
  // The same, and sleeps until there is a completion, or for `timeout_ns`.
  void submit_and_wait(std::optional<uint64_t> timeout_ns);

  bool has_completions() { return io_uring_cq_ready(&ring_) != 0; }
  // Delivers what has completed. Returns how many.
  size_t reap();

  // Entries taken and not finally completed.
  uint32_t outstanding() const { return outstanding_; }
  bool has_unsubmitted() { return io_uring_sq_ready(&ring_) != 0; }
  bool defers_taskrun() const { return (ring_.flags & IORING_SETUP_DEFER_TASKRUN) != 0; }

 private:
  Ring() = default;
  int set_up(Mode mode, unsigned entries);
  // Judges what io_uring_enter returned.
  void note_entered(int result);

  io_uring ring_ = {};
  bool is_set_up_ = false;
  bool has_file_ = false;
  uint32_t outstanding_ = 0;
  uint32_t outstanding_max_ = 0;
};

}  // namespace fusefs
