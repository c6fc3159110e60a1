// fusefs clone: a file, or a range of it, shares its blocks with another.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/ranges.h"
#include "cli/tool.h"

namespace fusefs::cli {
namespace {

struct CloneArguments {
  std::string source;
  std::string target;
  std::string range;
  bool force = false;
  bool json = false;
};

std::string clone_error(int error) {
  switch (error) {
    case EINVAL:
      return "the range is not made of whole blocks, lies beyond the source's end, or overlaps";
    case ESTALE:
    case EXDEV:
      return "the two are not on the same mount; copy with: cp";
    default:
      return std::strerror(error);
  }
}

// In one request where the daemon can see our descriptors; else with a token. Returns the errno.
int clone_range(int source, int target, const RangeArgument& range) {
  const fusefs_clone_from from{source, range.from, range.len, range.to};
  if (ioctl(target, FUSEFS_IOC_CLONE_FROM, &from) == 0) return 0;
  // ENOTTY: a daemon of before this ioctl. EBADF: one that does not even see that we exist.
  if (errno != EOPNOTSUPP && errno != ENOTTY && errno != EBADF) return errno;
  fusefs_clone_range with_token{{}, range.from, range.len, range.to, 0};
  if (ioctl(source, FUSEFS_IOC_SOURCE_TOKEN, &with_token.source) != 0) return errno;
  return ioctl(target, FUSEFS_IOC_CLONE_RANGE, &with_token) == 0 ? 0 : errno;
}

int run_clone(const CloneArguments& arguments) {
  Output out("clone", arguments.json);
  std::string message;
  const std::optional<SourceFile> source = open_source(arguments.source, &message);
  if (!source) return out.fail(message);
  const struct stat& from = source->status;
  RangeArgument range;
  const bool whole = arguments.range.empty();
  if (!whole) {
    const std::optional<RangeArgument> said = parse_range(arguments.range, true, &message);
    if (!said) return out.fail(message, kExitUsage);
    range = *said;
  }
  struct stat existing {};
  const bool created = stat(arguments.target.c_str(), &existing) != 0 && errno == ENOENT;
  if (whole && !created && !arguments.force) {
    return out.fail(arguments.target + ": exists; give -f to replace its contents");
  }
  const OwnedFd target(open(arguments.target.c_str(),
                            O_WRONLY | O_CREAT | O_CLOEXEC | (created ? O_EXCL : 0),
                            from.st_mode & 07777));
  if (!target) return out.fail(arguments.target + ": " + std::strerror(errno));
  struct stat to {};
  int error = 0;
  if (fstat(target.get(), &to) != 0) error = errno;
  if (error == 0) message = one_mount_error(arguments.source, from, arguments.target, to);
  if (!message.empty()) {
    if (created) unlink(arguments.target.c_str());
    return out.fail(message + "; copy with: cp");
  }
  // A whole clone has exactly the source's contents.
  if (error == 0 && whole && to.st_size > from.st_size &&
      ftruncate(target.get(), from.st_size) != 0) {
    error = errno;
  }
  if (error == 0) error = clone_range(source->mounted.fd.get(), target.get(), range);
  // With -o writeback=kernel the kernel alone says how long a file is, and has heard nothing.
  const uint64_t len = range.len != 0 ? range.len : static_cast<uint64_t>(from.st_size);
  const auto end = static_cast<off_t>(range.to + len);
  if (error == 0 && fstat(target.get(), &to) == 0 && to.st_size < end &&
      ftruncate(target.get(), end) != 0) {
    error = errno;
  }
  if (error != 0) {
    if (created) unlink(arguments.target.c_str());
    return out.fail(arguments.source + " to " + arguments.target + ": " + clone_error(error));
  }
  Json data;
  data["source"] = json_text(arguments.source);
  data["target"] = json_text(arguments.target);
  data["clone_bytes"] = len;
  return out.done(std::move(data));
}

}  // namespace

void add_clone(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<CloneArguments>();
  CLI::App* command =
      app.add_subcommand("clone", "Clone a file of a mounted volume: its blocks are shared");
  command->add_option("SRC", arguments->source, "File to clone")->required();
  command->add_option("DST", arguments->target, "The clone, on the same mount")->required();
  command->add_option("--range", arguments->range, "Only FROM:LEN, to position TO: FROM:LEN[:TO]");
  command->add_flag("-f,--force", arguments->force, "Replace the contents of DST");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_clone(*arguments); });
}

}  // namespace fusefs::cli
