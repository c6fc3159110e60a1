#include "core/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace fusefs {

void check_failed(const char* file, int line, const char* condition, const char* detail) {
  std::fprintf(stderr, "fusefs: %s:%d: broken invariant: %s %s\n", file, line, condition, detail);
  std::fflush(stderr);
  std::abort();
}

}  // namespace fusefs
