// DeviceRing: one thread's way to a UringDevice. Splits requests into commands, carries short ones
// on, tries another way where a device lacks one, and gathers what has completed.
//
//      queue()      flush()/wait()      reap()                   complete()
//      monitor      no monitor          no monitor               monitor
//
//      request ---> commands ---------> short, busy: again ---+
//                      ^                    | whole           |
//                      +--------------------|-----------------+
//                                           v
//                                     done list ---------------> ticket, statistics
//
// Invariants:
//   (1) A request is in flight from queue() until complete() has told its ticket.
//   (2) Commands that find no room in the ring wait in the backlog, first in, first out.
//   (3) With a device that is memory, transfers and flushes go to `direct_` instead of the ring and
//       are done by system calls in wait() and poll(), a bounded amount at a time, large ones with
//       the device's helpers (transfer_helpers.h). With a VolatileCache everything goes there, and
//       from there to it.
//
// Created, used and destroyed by one thread; nothing here is locked.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/ref.h"
#include "core/io/ring.h"
#include "core/io/uring_device.h"

namespace fusefs {

class DeviceRing {
 public:
  //   Errors  not_supported, no_memory
  static Result<std::unique_ptr<DeviceRing>> create(UringDevice& device);
  // Requires  idle()
  ~DeviceRing();
  DeviceRing(const DeviceRing&) = delete;
  DeviceRing& operator=(const DeviceRing&) = delete;

  // The calling thread's ring of `device`, or null.
  static DeviceRing* of_this_thread(const UringDevice& device);

  // Monitor held, no system call.
  void queue(IoRequest request, const Ref<IoTicket>& ticket);
  // Gives what has completed to the tickets. Monitor held.
  void complete();

  // Does what is done by system calls, a bounded amount. True if there is something for complete().
  bool run_direct();
  // Hands queued commands to the kernel and does not wait.
  void flush();
  // The same, and runs the completions that are due. No system call without I/O in the ring.
  void poll();
  // The same, and sleeps until something completes, at most `timeout_ns`. Returns at once when
  // there is something for complete(), or more to be done by system calls.
  void wait(std::optional<uint64_t> timeout_ns);
  // Delivers completions, also those of others on ring(). True if there is something for
  // complete().
  bool reap();

  bool idle() const { return in_flight_ == 0; }
  bool has_done() const { return !done_.empty(); }
  // The ring for the thread's other events: polls, wake-ups. Never a polled one.
  Ring& ring() { return *ring_; }

 private:
  struct Request;

  // One entry in the ring at a time, for the bytes [begin, begin + len) of its request.
  struct Command final : RingEvent {
    void on_completion(int32_t res, uint32_t flags) override;

    DeviceRing* owner = nullptr;
    Request* request = nullptr;
    uint64_t begin = 0;
    uint64_t len = 0;
    uint64_t done = 0;
    uint32_t retries = 0;
    uint64_t flush_stamp = 0;  // of a VolatileCache, when the flush was asked for
    UringDevice::Method method = UringDevice::Method::none;  // that was tried last
    std::vector<iovec> vectors;  // of the entry under way, if it needs more than one
  };

  struct Request {
    IoRequest io;
    Ref<IoTicket> ticket;
    uint64_t start_ns = 0;
    uint64_t end_ns = 0;
    uint32_t command_count = 0;
    uint32_t commands_pending = 0;
    bool used_fixed = false;
    bool was_helped = false;
    bool listed = false;  // in the device's WritesInFlight
    Result<void> result;
    std::vector<Command> commands;  // at least command_count; kept for the next request
  };

  static bool is_transfer(IoKind kind) { return kind == IoKind::read || kind == IoKind::write; }

  explicit DeviceRing(UringDevice& device);
  Result<void> set_up();
  void register_resources();

  Result<void> judge(const IoRequest& io) const;
  void split(Request& request);

  bool is_direct(const Command& command) const;
  void issue(Command& command);
  void issue_again(Command& command);
  int32_t call(Command& command);
  int64_t call_transfer(Command& command);
  int64_t call_volatile(Command& command);
  Ring& ring_for(const Command& command);
  bool prepare(Command& command);
  void prepare_transfer(Command& command, io_uring_sqe& entry);
  void prepare_zeroes(Command& command, io_uring_sqe& entry);
  void prepare_discard(Command& command, io_uring_sqe& entry);
  void prepare_fallocate(Command& command, io_uring_sqe& entry, int mode);
  void aim(io_uring_sqe& entry) const;
  std::optional<uint16_t> region_of(const iovec& memory) const;
  static iovec gather(Command& command);
  static iovec gather(const IoRequest& io, uint64_t begin, uint64_t len,
                      std::vector<iovec>& vectors);

  void carry_on(Command& command, int32_t res);
  bool try_another_way(Command& command, int error);
  void end(Command& command, Result<void> result);
  void refill();
  void spin(std::optional<uint64_t> timeout_ns);

  UringDevice& device_;
  DeviceRing* next_of_thread_ = nullptr;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<Ring> polled_ring_;  // reads and writes under iopoll
  bool file_registered_ = false;
  bool buffers_registered_ = false;
  uint32_t in_flight_ = 0;
  uint32_t in_ring_ = 0;  // commands
  std::deque<Command*> backlog_;
  std::deque<Command*> direct_;
  std::vector<std::unique_ptr<Request>> done_;
  std::vector<std::unique_ptr<Request>> free_;
};

}  // namespace fusefs
