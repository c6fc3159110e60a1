// Error: one code per decision a caller takes, and Result<T> for what either works or fails.
//
// errno is a column of the table in error.cc and is used in fusefs/ and cli/ only. Code that can
// also ask to be restarted returns Attempt<T> (core/engine/attempt.h) instead of Result<T>.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include "core/base/check.h"

namespace fusefs {

enum class Error : uint8_t {
  // Names and directories.
  not_found,
  exists,
  not_a_directory,
  is_a_directory,
  directory_not_empty,
  name_too_long,
  symlink_loop,
  too_many_links,
  cross_device,
  // Permission.
  access_denied,     // mode bits or ACL
  not_permitted,     // immutable, append-only, needs a capability
  read_only_volume,  // mounted read-only, or turned read-only after an error
  // Arguments.
  invalid_argument,
  bad_address,  // the buffer of direct I/O cannot be got
  bad_descriptor,
  not_supported,
  file_too_large,
  value_too_large,     // an xattr or a name list above its limit
  range_too_small,     // the caller's buffer is too small (getxattr, listxattr)
  no_attribute,        // xattr not there
  overlapping_ranges,  // clone of a range onto itself
  beyond_eof,          // no page or data at or after this position (SEEK_DATA, faults)
  // Resources.
  no_space,
  no_memory,
  pin_limit,           // more would be pinned than the mount allows
  pin_limit_per_user,  // than it allows one user
  too_busy,            // in use: mount point, image, device
  interrupted,
  timed_out,
  // Device and image.
  io_failed,  // the device reported an error
  device_gone,
  corrupt,           // a verifier refused what is on the device
  not_a_volume,      // no fusefs superblock
  newer_version,     // made by a later version with incompatible features
  truncated_volume,  // the device is smaller than the superblock says
  // Lifecycle.
  shut_down,
};

inline constexpr int kErrorCount = static_cast<int>(Error::shut_down) + 1;

// The word of the enumerator, for messages and JSON.
std::string_view error_name(Error error);
// A sentence for people, without the thing's name, lower case, no full stop.
std::string_view error_text(Error error);
// The errno a system call reports for it (positive).
int error_errno(Error error);
// The code for an errno the device or the kernel returned (positive).
Error error_from_errno(int value);

// Either a value or an Error.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, error) {}

  bool ok() const { return state_.index() == 0; }
  Error error() const { return std::get<1>(state_); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(error) {}

  bool ok() const { return !error_.has_value(); }
  Error error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

}  // namespace fusefs

#define FUSEFS_CONCAT2(a, b) a##b
#define FUSEFS_CONCAT(a, b) FUSEFS_CONCAT2(a, b)

// TRY(decl, expr): declares `decl` from a Result's value, or returns its Error.
#define TRY(decl, expr)                                                                  \
  auto FUSEFS_CONCAT(try_, __LINE__) = (expr);                                           \
  if (!FUSEFS_CONCAT(try_, __LINE__).ok()) return FUSEFS_CONCAT(try_, __LINE__).error(); \
  decl = std::move(FUSEFS_CONCAT(try_, __LINE__)).value()

// TRY_OK(expr): the same for Result<void>.
#define TRY_OK(expr)                                 \
  do {                                               \
    auto try_result = (expr);                        \
    if (!try_result.ok()) return try_result.error(); \
  } while (false)
