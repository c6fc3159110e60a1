// BlockDevice: the seam to whatever holds the volume.
//
// submit() never blocks and never completes inline: completion arrives later, inside the monitor,
// on the ticket. UringDevice (uring_device.h) is the real one; tests use SimDevice.
//
// What the device promises:
//   - A completed write without `fua` may be lost by a power cut until a flush that was submitted
//     after the write completed has completed.
//   - A write with `fua` is durable when it completes. So is everything before a completed flush.
//     Where the geometry says no has_fua, it costs a flush of its own, and an error may be of that:
//     then what had been completed before may be lost, although a later flush succeeds.
//   - A power cut leaves each logical block of a write in flight either old or new.
//   - Requests in flight at the same time are not ordered. Two writes in flight to one block are
//     the caller's bug.
//
// Monitor held for submit(); drivers keep their system calls outside it.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/ref.h"
#include "core/engine/attempt.h"
#include "core/engine/waitable.h"

namespace fusefs {

struct DeviceGeometry {
  std::string name;  // path, for messages
  uint64_t size_bytes = 0;
  uint32_t logical_block_bytes = 4096;  // 512 or 4096: alignment of addresses, lengths, buffers
  uint32_t io_bytes_max = 1 << 20;      // larger requests are split by the driver
  bool has_volatile_cache = true;       // completed writes need a flush
  bool has_fua = false;                 // a write can be durable by itself, at less than a flush
  bool can_discard = false;
  bool is_block_device = false;
  bool read_only = false;
};

enum class IoKind : uint8_t { read, write, flush, discard, write_zeroes };
inline constexpr int kIoKindCount = static_cast<int>(IoKind::write_zeroes) + 1;

inline bool changes_content(IoKind kind) {
  return kind == IoKind::write || kind == IoKind::discard || kind == IoKind::write_zeroes;
}

// Told when a ticket has completed, before those who wait for it are woken (completion.h).
class TicketListener {
 public:
  virtual void ticket_completed(const Result<void>& result) = 0;

 protected:
  ~TicketListener() = default;
};

// Completion of one or more requests. Kept alive by whoever waits and by the device.
class IoTicket : public RefCounted {
 public:
  bool pending() const { return pending_ != 0; }
  // The first error of its requests.
  Result<void> result() const { return result_; }

  // Restarts  on the completion of all requests
  // Errors    the first error of any of them
  Attempt<void> wait() {
    if (pending()) return restart_after(completion_, RestartReason::data_io);
    return result_.ok() ? Attempt<void>() : Attempt<void>(result_.error());
  }
  Waitable& completion() { return completion_; }
  const Waitable& completion() const { return completion_; }
  // One at most; null: none any more.
  void listen(TicketListener* listener) { listener_ = listener; }

  // For devices.
  void begin_one() { ++pending_; }
  void complete_one(Result<void> result) {
    CHECK(pending_ > 0);
    if (!result.ok() && result_.ok()) result_ = result;
    if (--pending_ != 0) return;
    TicketListener* listener = std::exchange(listener_, nullptr);
    if (listener != nullptr) listener->ticket_completed(result_);
    completion_.wake_all();
  }

 private:
  uint32_t pending_ = 0;
  Result<void> result_;
  TicketListener* listener_ = nullptr;
  Waitable completion_;
};

// One request. `addr` and `len` are multiples of the logical block size; the buffers' lengths add
// up to `len` for read and write, and their memory stays valid and (for writes) unchanged until
// the ticket says so.
struct IoRequest {
  IoKind kind = IoKind::read;
  bool fua = false;
  uint64_t addr = 0;
  uint64_t len = 0;
  std::vector<iovec> buffers;
  // Of a write: somebody may store into the memory meanwhile. The device gets what it finds.
  bool may_change = false;

  static IoRequest read(uint64_t addr, void* data, uint64_t len) {
    return {IoKind::read, false, addr, len, {iovec{data, len}}};
  }
  static IoRequest write(uint64_t addr, const void* data, uint64_t len, bool fua = false) {
    return {IoKind::write, fua, addr, len, {iovec{const_cast<void*>(data), len}}};
  }
  static IoRequest flush() { return {IoKind::flush, false, 0, 0, {}}; }
  static IoRequest discard(uint64_t addr, uint64_t len) {
    return {IoKind::discard, false, addr, len, {}};
  }
};

// Requests that change the content, whatever becomes of them.
struct ChangeCounts {
  uint64_t submitted = 0;  // ever
  uint64_t in_flight = 0;  // of these
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  virtual const DeviceGeometry& geometry() const = 0;

  // Everybody's. A request is no longer in flight when its ticket hears of it. Monitor held.
  const ChangeCounts& changes() const { return changes_; }

  // Starts `request`; `ticket` gets its completion.
  //   Errors (on the ticket)  io_failed, device_gone, no_space (sparse backing file),
  //                           read_only_volume, not_supported (discard)
  virtual void submit(IoRequest request, const Ref<IoTicket>& ticket) = 0;

 protected:
  // For devices: of each request, when it is submitted, and before its ticket is told.
  void count_submitted(IoKind kind) {
    if (!changes_content(kind)) return;
    ++changes_.submitted;
    ++changes_.in_flight;
  }
  void count_completed(IoKind kind) {
    if (changes_content(kind)) --changes_.in_flight;
  }

 private:
  ChangeCounts changes_;
};

}  // namespace fusefs
