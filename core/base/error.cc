#include "core/base/error.h"

#include <array>
#include <cerrno>

namespace fusefs {
namespace {

struct ErrorRow {
  Error error;
  int errno_value;
  std::string_view name;
  std::string_view text;
};

constexpr std::array<ErrorRow, kErrorCount> kErrors = {{
    {Error::not_found, ENOENT, "not_found", "no such file or directory"},
    {Error::exists, EEXIST, "exists", "already exists"},
    {Error::not_a_directory, ENOTDIR, "not_a_directory", "not a directory"},
    {Error::is_a_directory, EISDIR, "is_a_directory", "is a directory"},
    {Error::directory_not_empty, ENOTEMPTY, "directory_not_empty", "directory is not empty"},
    {Error::name_too_long, ENAMETOOLONG, "name_too_long", "name is too long"},
    {Error::symlink_loop, ELOOP, "symlink_loop", "too many symbolic links"},
    {Error::too_many_links, EMLINK, "too_many_links", "too many links to one file"},
    {Error::cross_device, EXDEV, "cross_device", "not on the same volume"},
    {Error::access_denied, EACCES, "access_denied", "permission denied"},
    {Error::not_permitted, EPERM, "not_permitted", "operation not permitted"},
    {Error::read_only_volume, EROFS, "read_only_volume", "volume is read-only"},
    {Error::invalid_argument, EINVAL, "invalid_argument", "invalid argument"},
    {Error::bad_address, EFAULT, "bad_address", "the memory of the transfer cannot be used"},
    {Error::bad_descriptor, EBADF, "bad_descriptor", "not open for this"},
    {Error::not_supported, EOPNOTSUPP, "not_supported", "not supported"},
    {Error::file_too_large, EFBIG, "file_too_large", "file is too large"},
    {Error::value_too_large, E2BIG, "value_too_large", "value is too large"},
    {Error::range_too_small, ERANGE, "range_too_small", "buffer is too small"},
    {Error::no_attribute, ENODATA, "no_attribute", "no such attribute"},
    {Error::overlapping_ranges, EINVAL, "overlapping_ranges", "ranges overlap"},
    {Error::beyond_eof, ENXIO, "beyond_eof", "beyond the end of the file"},
    {Error::no_space, ENOSPC, "no_space", "no space left on the volume"},
    {Error::no_memory, ENOMEM, "no_memory", "out of memory"},
    {Error::pin_limit, ENOMEM, "pin_limit", "more would be pinned than -o pin_limit allows"},
    {Error::pin_limit_per_user, ENOMEM, "pin_limit_per_user",
     "more would be pinned than -o pin_limit_per_user allows one user"},
    {Error::too_busy, EBUSY, "too_busy", "in use"},
    {Error::interrupted, EINTR, "interrupted", "interrupted"},
    {Error::timed_out, ETIMEDOUT, "timed_out", "timed out"},
    {Error::io_failed, EIO, "io_failed", "the device reported an I/O error"},
    {Error::device_gone, ENODEV, "device_gone", "the device is gone"},
    {Error::corrupt, EUCLEAN, "corrupt", "the structure on the device is damaged"},
    {Error::not_a_volume, EINVAL, "not_a_volume", "not a fusefs volume"},
    {Error::newer_version, EPROTONOSUPPORT, "newer_version", "made by a newer version of fusefs"},
    {Error::truncated_volume, EOVERFLOW, "truncated_volume",
     "the device is smaller than the volume on it"},
    {Error::shut_down, ESHUTDOWN, "shut_down", "the volume has been shut down"},
}};

constexpr bool rows_in_order() {
  for (int i = 0; i < kErrorCount; ++i) {
    if (static_cast<int>(kErrors[static_cast<size_t>(i)].error) != i) return false;
  }
  return true;
}
static_assert(rows_in_order(), "a row per enumerator, in its order");

const ErrorRow& row(Error error) { return kErrors[static_cast<size_t>(error)]; }

}  // namespace

std::string_view error_name(Error error) { return row(error).name; }
std::string_view error_text(Error error) { return row(error).text; }
int error_errno(Error error) { return row(error).errno_value; }

Error error_from_errno(int value) {
  // From a device these mean something else than from a file: no such device any more; a medium
  // error; a number that does not fit.
  if (value == ENXIO) return Error::device_gone;
  if (value == ENODATA || value == EOVERFLOW) return Error::io_failed;
  for (const ErrorRow& candidate : kErrors) {
    if (candidate.errno_value == value) return candidate.error;
  }
  return Error::io_failed;
}

}  // namespace fusefs
