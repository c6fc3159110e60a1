// CHECK: a broken invariant stops the program. Whatever a disk, a kernel or a user can cause is
// an Error (error.h) and never a CHECK.
#pragma once

namespace fusefs {

// Prints the place, the condition and `detail`, then aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const char* detail);

}  // namespace fusefs

#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) [[unlikely]]                                \
      ::fusefs::check_failed(__FILE__, __LINE__, #condition, ""); \
  } while (false)

#define CHECK_MSG(condition, detail)                                    \
  do {                                                                  \
    if (!(condition)) [[unlikely]]                                      \
      ::fusefs::check_failed(__FILE__, __LINE__, #condition, (detail)); \
  } while (false)
