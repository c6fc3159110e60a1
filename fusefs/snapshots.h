// Snapshots: texts that are read in pieces by ioctl, such as the statistics.
//
// A directory has no state per opener (request.cc), so the reader names its snapshot by the number
// it was given with the first piece. The last few are kept; a reader whose snapshot has gone
// starts over.
//
// Monitor held for every call.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace fusefs {

inline constexpr size_t kSnapshotsKept = 8;

class Snapshots {
 public:
  static constexpr uint32_t kAnybody = UINT32_MAX;

  // Returns its number, never 0. Only `uid` finds it.
  uint64_t add(std::string text, uint32_t uid = kAnybody) {
    Snapshot& oldest = kept_[next_ % kSnapshotsKept];
    oldest = {next_, uid, std::move(text)};
    return next_++;
  }
  const std::string* find(uint64_t number, uint32_t uid = kAnybody) const {
    const Snapshot& kept = kept_[number % kSnapshotsKept];
    return number != 0 && kept.number == number && kept.uid == uid ? &kept.text : nullptr;
  }

 private:
  struct Snapshot {
    uint64_t number = 0;
    uint32_t uid = kAnybody;
    std::string text;
  };
  std::array<Snapshot, kSnapshotsKept> kept_;
  uint64_t next_ = 1;
};

}  // namespace fusefs
