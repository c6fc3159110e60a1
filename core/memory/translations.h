// Translations: who maps pages of one file somewhere else, by address, and must let go of them
// before they change places. Registered with the file's Mapping; windows are to be the user.
#pragma once

#include "core/base/units.h"

namespace fusefs {

class Translations {
 public:
  virtual ~Translations() = default;
  // The pages of `range` stand no longer for what they stood for: the next access through a
  // translation has to fault. Called before another page can be found in their place.
  virtual void unmap(FileRange range) = 0;
};

}  // namespace fusefs
