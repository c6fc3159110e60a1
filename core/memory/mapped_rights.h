// MappedRights: the rights to the pages of one mapped pin, in so far as they are being given or
// taken.
//
// Giving and taking are calls to whoever maps the pages, without the monitor, and he may make them
// last as long as he likes. So each is known while it is under way, and nobody but its own fault
// waits for one for longer than kRightsWaitNs: then the rights are late.
//
//     call  |------------------------------------------->  whenever it likes
//     late            |--------------------------------->
//           kRightsWaitNs
//
// What is done with pages whose rights are late: core/file/late_rights.h.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "core/base/units.h"
#include "core/engine/waitable.h"

namespace fusefs {

// Longer than any program needs that is not stopped, and no fsync that anybody notices.
inline constexpr uint64_t kRightsWaitNs = 100'000'000;

inline constexpr uint64_t kNeverNs = UINT64_MAX;

// Takes the right to store from whoever maps pages of the range. Called without the monitor.
using ProtectPages = std::function<void(FileRange)>;

class MappedRights {
 public:
  MappedRights(ProtectPages a_protect, uint64_t a_wait_ns)
      : protect(std::move(a_protect)), wait_ns(a_wait_ns) {}
  MappedRights(const MappedRights&) = delete;
  MappedRights& operator=(const MappedRights&) = delete;

  const ProtectPages protect;
  const uint64_t wait_ns;  // kRightsWaitNs
  Waitable changed;        // woken when a call has ended

  using Call = uint64_t;
  Call begin_call(uint64_t now_ns) {
    calls_.emplace(++last_call_, now_ns);
    return last_call_;
  }
  void end_call(Call call) {
    calls_.erase(call);
    changed.wake_all();
  }
  // When they will be late, as things are.
  uint64_t late_at_ns() const {
    if (calls_.empty() || wait_ns == kNeverNs) return kNeverNs;
    return calls_.begin()->second + wait_ns;
  }
  // Whether a call has been under way for too long.
  bool is_late(uint64_t now_ns) const { return now_ns >= late_at_ns(); }

  // Of late_rights.cc: somebody makes storable pages ordinary again, and since when there are none
  // new.
  bool returning = false;
  uint64_t storable_since_ns = 0;

 private:
  Call last_call_ = 0;
  std::map<Call, uint64_t> calls_;  // under way, and since when
};

}  // namespace fusefs
