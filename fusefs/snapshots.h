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
  // Returns its number, never 0.
  uint64_t add(std::string text) {
    Snapshot& oldest = kept_[next_ % kSnapshotsKept];
    oldest = {next_, std::move(text)};
    return next_++;
  }
  const std::string* find(uint64_t number) const {
    const Snapshot& kept = kept_[number % kSnapshotsKept];
    return number != 0 && kept.number == number ? &kept.text : nullptr;
  }

 private:
  struct Snapshot {
    uint64_t number = 0;
    std::string text;
  };
  std::array<Snapshot, kSnapshotsKept> kept_;
  uint64_t next_ = 1;
};

}  // namespace fusefs
