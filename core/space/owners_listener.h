// BlockOwnersListener: who keeps something for shared blocks and must let go of it in time.
#pragma once

#include "core/base/units.h"

namespace fusefs {

class BlockOwnersListener {
 public:
  virtual ~BlockOwnersListener() = default;
  // `blocks` have one owner left, or none: from now on they may be overwritten in place, or, later,
  // be somebody else's. Called in the attempt that commits it; changes nothing of Space.
  virtual void no_longer_shared(BlockRange blocks) = 0;
};

}  // namespace fusefs
