// RealDevice: an open UringDevice with a thread's loop, to do one request after another.
#pragma once

#include <memory>
#include <string>

#include "core/base/clock.h"
#include "core/engine/monitor.h"
#include "core/engine/scheduler.h"
#include "core/io/run_sync.h"
#include "core/io/uring_device.h"

#include <doctest/doctest.h>

namespace fusefs {

class RealDevice {
 public:
  explicit RealDevice(const std::string& path, const DeviceOptions& options = {},
                      std::span<const iovec> regions = {})
      : monitor_(clock_), scheduler_(clock_) {
    std::string message;
    auto opened = UringDevice::open(path, options, &message);
    REQUIRE_MESSAGE(opened.ok(), message);
    device_ = std::move(opened).value();
    device_->register_buffers(regions);
    auto runner = SyncRunner::create(monitor_, scheduler_, *device_);
    REQUIRE(runner.ok());
    runner_ = std::move(runner).value();
  }

  UringDevice& operator*() { return *device_; }
  UringDevice* operator->() { return device_.get(); }
  SyncRunner& runner() { return *runner_; }

  Result<void> io(IoRequest request) {
    Ref<IoTicket> ticket;
    return runner_->run("test I/O", [&]() -> Attempt<void> {
      if (!ticket) {
        ticket = make_ref<IoTicket>();
        device_->submit(std::move(request), ticket);
      }
      return ticket->wait();
    });
  }

 private:
  SystemClock clock_;
  Monitor monitor_;
  Scheduler scheduler_;
  std::unique_ptr<UringDevice> device_;
  std::unique_ptr<SyncRunner> runner_;
};

}  // namespace fusefs
