// DeviceBench: a simulated device on its own, without a world: submit, let time pass, look.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <set>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "tests/support/sim_device.h"

namespace fusefs {

// A device, its clock, and buffers that live as long.
struct DeviceBench {
  explicit DeviceBench(SimDeviceOptions options = {}, SimImage image = {})
      : device(clock, options, std::move(image)) {}

  AlignedBuffer& filled(uint64_t len, int value) {
    AlignedBuffer buffer(std::max<uint64_t>(len, kBlockBytes));
    std::fill_n(buffer.data(), len, static_cast<std::byte>(value));
    buffers.push_back(std::move(buffer));
    return buffers.back();
  }
  Ref<IoTicket> submit(IoRequest request) {
    Ref<IoTicket> ticket = make_ref<IoTicket>();
    device.submit(std::move(request), ticket);
    return ticket;
  }
  Ref<IoTicket> submit_write(uint64_t addr, uint64_t len, int value, bool fua = false) {
    return submit(IoRequest::write(addr, filled(len, value).data(), len, fua));
  }
  void settle() {
    while (auto next = device.next_event_ns()) {
      clock.advance_to(*next);
      device.deliver_due();
    }
  }
  Result<void> finish(const Ref<IoTicket>& ticket) {
    settle();
    CHECK(!ticket->pending());
    return ticket->result();
  }
  void write(uint64_t addr, uint64_t len, int value, bool fua = false) {
    CHECK(finish(submit_write(addr, len, value, fua)).ok());
  }
  void flush() { CHECK(finish(submit(IoRequest::flush())).ok()); }
  // The first byte of each block of `block_bytes`.
  std::vector<int> read(uint64_t addr, uint64_t len, uint64_t block_bytes = kBlockBytes) {
    AlignedBuffer& buffer = filled(len, 0xAA);
    CHECK(finish(submit(IoRequest::read(addr, buffer.data(), len))).ok());
    std::vector<int> firsts;
    for (uint64_t at = 0; at < len; at += block_bytes) {
      firsts.push_back(static_cast<int>(buffer.data()[at]));
    }
    return firsts;
  }

  SimClock clock;
  std::deque<AlignedBuffer> buffers;
  SimDevice device;
};

inline int first_byte(const SimImage& image, uint64_t addr) {
  std::byte value{};
  image.read(addr, Bytes(&value, 1));
  return static_cast<int>(value);
}

// What 200 power cuts at this moment leave in the block at `addr`.
inline std::set<int> possible_after_cut(DeviceBench& bench, uint64_t addr) {
  bench.device.cut_power();
  Random random(11);
  std::set<int> values;
  for (int i = 0; i < 200; ++i) {
    values.insert(first_byte(bench.device.surviving_image(random), addr));
  }
  return values;
}

}  // namespace fusefs
