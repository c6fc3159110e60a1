// UringDevice: the real BlockDevice, a file or block device behind io_uring.
//
// Each thread that submits has a ring of its own (DeviceRing, device_ring.h), attached for as long
// as the thread's loop runs. submit() only queues into the calling thread's ring; the system calls
// are made by the thread's loop (reactor.h), without the monitor, and the completion arrives on
// the ring that was submitted to.
//
//      submit()          flush() / wait()          reap()             complete()
//      monitor held      no monitor                no monitor         monitor held
//      split, queue ---> io_uring_enter ---------> continue, gather -> tickets, statistics
//
// What lies in memory (zram, tmpfs) is read and written by plain system calls instead: io_uring
// would hand each of these to a kernel thread, because they cannot be done without blocking, and
// waking that thread takes ten times as long as the copy (40 us against 3 us, measured). Large
// transfers are shared by several threads (transfer_helpers.h).
//
// Refused requests (out of range, unaligned: invalid_argument; a write to a read-only device:
// read_only_volume) complete the same way and never reach the kernel.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/io/block_device.h"
#include "core/io/device_probe.h"
#include "core/io/device_stats.h"
#include "core/io/transfer_helpers.h"
#include "core/io/volatile_cache.h"
#include "core/io/writes_in_flight.h"

namespace fusefs {

class DeviceRing;

// What the kernel accepted; set while rings are attached. For statistics.
struct UringFacts {
  bool direct_io = false;
  bool iopoll = false;
  bool calls_directly = false;  // memory below, or a cache for tests: by plain system calls
  bool registered_file = false;
  bool registered_buffers = false;  // false: refused, mostly by RLIMIT_MEMLOCK; works, slower
  bool defer_taskrun = false;       // completions run in the issuer's context only
  uint64_t registered_bytes = 0;
};

class UringDevice final : public BlockDevice {
 public:
  // Opens, locks and probes `path` (device_probe.h) and tries whether io_uring works here.
  //   Errors  those of probe_device(); not_supported (no io_uring).
  //   `message` then is one line for people.
  static Result<std::unique_ptr<UringDevice>> open(const std::string& path,
                                                   const DeviceOptions& options,
                                                   std::string* message);
  ~UringDevice() override;

  const DeviceGeometry& geometry() const override { return probed_.geometry; }

  // Requires a ring of the calling thread, see attach().
  void submit(IoRequest request, const Ref<IoTicket>& ticket) override;

  // Memory that requests often use: the page cache's arena, request buffers. A request with a
  // single buffer inside a region is cheaper. Call before threads attach; whether the kernel takes
  // it is in facts(). The memory must stay until the last ring is gone.
  void register_buffers(std::span<const iovec> regions);

  // Makes a ring for the calling thread; submit() uses it until it is destroyed, by this thread.
  //   Errors  not_supported, no_memory
  Result<std::unique_ptr<DeviceRing>> attach();

  // Monitor held.
  const DeviceStats& stats() const { return stats_; }
  // Any thread.
  UringFacts facts() const;

 private:
  friend class DeviceRing;
  UringDevice(ProbedDevice probed, const DeviceOptions& options);
  // The kernel's way to do something that not every device or filesystem can.
  enum class Method : uint8_t { uring_command, fallocate, write_zeroes, none };

  ProbedDevice probed_;
  const DeviceOptions options_;
  SystemClock clock_;
  std::vector<iovec> regions_;
  DeviceStats stats_;
  std::unique_ptr<VolatileCache> volatile_cache_;  // for tests; else null
  TransferHelpers helpers_{TransferHelpers::thread_max_here()};
  WritesInFlight changing_;  // kept by debug builds only
  // Found out by trying; only ever moves to the next method.
  std::atomic<Method> discard_method_{Method::none};
  std::atomic<Method> zero_method_{Method::fallocate};
  std::atomic<bool> registered_file_{false};
  std::atomic<bool> registered_buffers_{false};
  std::atomic<bool> refused_buffers_{false};  // for one ring at least
  std::atomic<bool> defer_taskrun_{false};
};

}  // namespace fusefs
