#include "core/io/uring_device.h"

#include <sys/file.h>

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "core/io/device_ring.h"

namespace fusefs {
namespace {

// The kernel registers no single buffer larger than this.
constexpr size_t kRegionBytesMax = size_t{1} << 30;

}  // namespace

UringDevice::UringDevice(ProbedDevice probed, const DeviceOptions& options)
    : probed_(std::move(probed)), options_(options) {
  if (geometry().can_discard) {
    discard_method_ = geometry().is_block_device ? Method::uring_command : Method::fallocate;
  }
  if (options.volatile_cache_seed) {
    volatile_cache_ = std::make_unique<VolatileCache>(
        probed_.fd.get(), geometry().logical_block_bytes, *options.volatile_cache_seed);
  }
}

// Explicitly: the kernel may keep a ring, and with it the descriptor, a little longer.
UringDevice::~UringDevice() { ::flock(probed_.fd.get(), LOCK_UN); }

Result<std::unique_ptr<UringDevice>> UringDevice::open(const std::string& path,
                                                       const DeviceOptions& options,
                                                       std::string* message) {
  DeviceOptions taken = options;
  if (taken.volatile_cache_seed) taken.direct = false;  // it writes from memory of any alignment
  TRY(ProbedDevice probed, probe_device(path, taken, message));
  TRY(const std::unique_ptr<Ring> tried, Ring::create(Ring::Mode::interrupt, 1, message));
  return std::unique_ptr<UringDevice>(new UringDevice(std::move(probed), taken));
}

void UringDevice::submit(IoRequest request, const Ref<IoTicket>& ticket) {
  DeviceRing* ring = DeviceRing::of_this_thread(*this);
  CHECK_MSG(ring != nullptr, "this thread has attached no ring to the device");
  ring->queue(std::move(request), ticket);
}

void UringDevice::register_buffers(std::span<const iovec> regions) {
  regions_.clear();
  for (const iovec& region : regions) {
    for (size_t at = 0; at < region.iov_len; at += kRegionBytesMax) {
      regions_.push_back({static_cast<char*>(region.iov_base) + at,
                          std::min(kRegionBytesMax, region.iov_len - at)});
    }
  }
}

Result<std::unique_ptr<DeviceRing>> UringDevice::attach() { return DeviceRing::create(*this); }

UringFacts UringDevice::facts() const {
  UringFacts facts;
  facts.direct_io = probed_.direct_io;
  facts.iopoll = options_.iopoll;
  facts.calls_directly = probed_.is_memory || volatile_cache_ != nullptr;
  facts.registered_file = registered_file_;
  facts.registered_buffers = registered_buffers_ && !refused_buffers_;
  facts.defer_taskrun = defer_taskrun_;
  for (const iovec& region : regions_) facts.registered_bytes += region.iov_len;
  return facts;
}

}  // namespace fusefs
