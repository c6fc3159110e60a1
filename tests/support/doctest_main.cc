// The main of every test program, in which locks are checked in every build.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "core/engine/lock_checker.h"

#include <doctest/doctest.h>

namespace {

[[maybe_unused]] const bool checking = fusefs::lock_checking = true;

}  // namespace
