// WritesInFlight: what a device is changing at the moment, to catch the bug that the contract of
// BlockDevice forbids: two requests in flight that change one block. Which of them wins is up to
// the device, and after a power cut neither need have.
//
// Every simulated device checks it, and the real one in builds without NDEBUG.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>

#include "core/base/check.h"
#include "core/io/block_device.h"

namespace fusefs {

class WritesInFlight {
 public:
  // Requires len != 0.
  void begin(uint64_t addr, uint64_t len) {
    const auto behind = ranges_.lower_bound(addr);
    CHECK_MSG(behind == ranges_.end() || addr + len <= behind->first,
              "two writes in flight to one block");
    CHECK_MSG(behind == ranges_.begin() || std::prev(behind)->second <= addr,
              "two writes in flight to one block");
    ranges_.emplace(addr, addr + len);
  }
  void end(uint64_t addr) { CHECK(ranges_.erase(addr) == 1); }

 private:
  std::map<uint64_t, uint64_t> ranges_;  // address -> end
};

}  // namespace fusefs
