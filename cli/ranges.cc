#include "cli/ranges.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "fusefs/mount_options.h"

namespace fusefs::cli {

namespace {

// What is between the colons; nothing if one of it is not a size.
std::vector<uint64_t> parse_sizes(const std::string& text) {
  std::vector<uint64_t> numbers;
  size_t at = 0;
  while (at <= text.size()) {
    const size_t colon = std::min(text.find(':', at), text.size());
    const Result<uint64_t> number = parse_size(text.substr(at, colon - at));
    if (!number.ok()) return {};
    numbers.push_back(number.value());
    at = colon + 1;
  }
  return numbers;
}

}  // namespace

std::optional<RangeArgument> parse_range(const std::string& text, bool two_places,
                                         std::string* message) {
  const std::vector<uint64_t> numbers = parse_sizes(text);
  if (numbers.size() < 2 || numbers.size() > (two_places ? 3u : 2u)) {
    *message = "--range " + text + ": say FROM:LEN" + (two_places ? " or FROM:LEN:TO" : "");
    return std::nullopt;
  }
  if (numbers[1] == 0) {
    *message = "--range " + text + ": the length is 0; for the whole file leave out --range";
    return std::nullopt;
  }
  return RangeArgument{numbers[0], numbers[1], numbers.size() == 3 ? numbers[2] : numbers[0]};
}

std::optional<SourceFile> open_source(const std::string& path, std::string* message) {
  std::optional<Mounted> mounted = open_mounted(path, message);
  if (!mounted) return std::nullopt;
  SourceFile source{std::move(*mounted), {}};
  if (fstat(source.mounted.fd.get(), &source.status) != 0) {
    *message = path + ": " + std::strerror(errno);
    return std::nullopt;
  }
  if (!S_ISREG(source.status.st_mode)) {
    *message = path + ": not a regular file";
    return std::nullopt;
  }
  return source;
}

std::string one_mount_error(const std::string& source, const struct stat& from,
                            const std::string& target, const struct stat& to) {
  if (from.st_dev == to.st_dev) return {};
  return source + " and " + target + ": not on the same mount, blocks cannot be shared";
}

}  // namespace fusefs::cli
