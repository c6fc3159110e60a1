// DiscardQueue: blocks that have become free and that the device has not been told of.
//
// Ranges that touch are one. What is handed out again meanwhile stays in it: whoever takes a range
// looks at the bitmap, which knows. It forgets what comes beyond its bound; trimming finds that.
//
// Monitor held for every call.
#pragma once

#include <cstddef>
#include <map>

#include "core/base/units.h"

namespace fusefs {

// Ranges remembered: about 4 MiB of memory.
inline constexpr size_t kDiscardRangesMax = size_t{1} << 16;

class DiscardQueue {
 public:
  void add(BlockRange blocks);
  // Everything before `end` has been dealt with.
  void drop_before(BlockNo end);
  void clear() { ranges_.clear(); }

  bool empty() const { return ranges_.empty(); }
  // The lowest range. Requires !empty().
  BlockRange front() const { return {ranges_.begin()->first, ranges_.begin()->second}; }
  size_t size() const { return ranges_.size(); }

 private:
  std::map<BlockNo, BlockNo> ranges_;  // first -> end; they neither overlap nor touch
};

}  // namespace fusefs
