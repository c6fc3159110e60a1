// What clone, dedupe and unshare have in common: --range, and two files of one mount.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

#include "cli/mounted.h"

namespace fusefs::cli {

struct RangeArgument {
  uint64_t from = 0;
  uint64_t len = 0;
  uint64_t to = 0;
};
// The value of --range: FROM:LEN, and with `two_places` FROM:LEN:TO as well; TO is FROM when it is
// not said. On failure nothing, and `message` says why; a length of 0 is one, since the ioctls take
// it for everything.
std::optional<RangeArgument> parse_range(const std::string& text, bool two_places,
                                         std::string* message);

// A regular file of a mounted volume, open for reading.
struct SourceFile {
  Mounted mounted;
  struct stat status {};
};
// On failure nothing, and `message` says why.
std::optional<SourceFile> open_source(const std::string& path, std::string* message);

// Empty when both are on one mount; a sentence otherwise.
std::string one_mount_error(const std::string& source, const struct stat& from,
                            const std::string& target, const struct stat& to);

}  // namespace fusefs::cli
