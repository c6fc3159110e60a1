// The table of errors, and what is said about each.
#include <cerrno>
#include <memory>
#include <set>
#include <string>

#include "core/base/error.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("every error has a name of its own, a text and an errno") {
  std::set<std::string> names;
  for (int i = 0; i < kErrorCount; ++i) {
    const auto error = static_cast<Error>(i);
    CHECK(names.insert(std::string(error_name(error))).second);
    CHECK_FALSE(error_text(error).empty());
    CHECK(error_errno(error) > 0);
  }
}

TEST_CASE("an errno comes back as an error that reports the same errno") {
  for (int i = 0; i < kErrorCount; ++i) {
    const int value = error_errno(static_cast<Error>(i));
    if (value == ENXIO || value == ENODATA || value == EOVERFLOW) continue;
    CAPTURE(error_name(static_cast<Error>(i)));
    CHECK(error_errno(error_from_errno(value)) == value);
  }
}

TEST_CASE("an errno of a device says what happened to the device") {
  CHECK(error_from_errno(EIO) == Error::io_failed);
  CHECK(error_from_errno(ENOSPC) == Error::no_space);
  CHECK(error_from_errno(ENODEV) == Error::device_gone);
  CHECK(error_from_errno(ENXIO) == Error::device_gone);
  CHECK(error_from_errno(ENODATA) == Error::io_failed);  // a medium error, not a missing xattr
  CHECK(error_from_errno(EOVERFLOW) == Error::io_failed);
  CHECK(error_from_errno(EREMOTEIO) == Error::io_failed);  // not in the table
}

Result<int> half(int value) {
  if (value % 2 != 0) return Error::invalid_argument;
  return value / 2;
}
Result<int> quarter(int value) {
  TRY(const int once, half(value));
  TRY(const int twice, half(once));
  return twice;
}
Result<void> must_be_even(int value) {
  TRY_OK([&]() -> Result<void> {
    if (value % 2 != 0) return Error::exists;
    return {};
  }());
  return {};
}

TEST_CASE("TRY hands on the value or the first error") {
  CHECK(quarter(8).value() == 2);
  CHECK(quarter(6).error() == Error::invalid_argument);
  CHECK(must_be_even(2).ok());
  CHECK(must_be_even(3).error() == Error::exists);
}

TEST_CASE("a result carries what can only be moved") {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  REQUIRE(result.ok());
  const std::unique_ptr<int> taken = std::move(result).value();
  CHECK(*taken == 7);
}

}  // namespace
}  // namespace fusefs
