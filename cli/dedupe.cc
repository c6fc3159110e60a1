// fusefs dedupe: files, or ranges of them, with the same contents come to share their blocks.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/ranges.h"
#include "cli/tool.h"

namespace fusefs::cli {
namespace {

struct DedupeArguments {
  std::string source;
  std::string target;
  std::string range;
  bool json = false;
};

std::string dedupe_error(int error) {
  switch (error) {
    case EINVAL:
      return "the range does not begin with a block, lies beyond an end, or overlaps";
    case EPERM:
      return "the second file is neither writable nor yours";
    case ESTALE:
      return "the two are not on the same mount";
    default:
      return std::strerror(error);
  }
}

// Its owner may dedupe a file that he cannot write.
OwnedFd open_target(const std::string& path) {
  OwnedFd target(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!target) target = OwnedFd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  return target;
}

int run_dedupe(const DedupeArguments& arguments) {
  Output out("dedupe", arguments.json);
  std::string message;
  const std::optional<SourceFile> source = open_source(arguments.source, &message);
  if (!source) return out.fail(message);
  fusefs_dedupe_range range{};
  range.version = 1;
  const bool whole = arguments.range.empty();
  if (!whole) {
    const std::optional<RangeArgument> said = parse_range(arguments.range, true, &message);
    if (!said) return out.fail(message, kExitUsage);
    range.source_pos = said->from;
    range.len = said->len;
    range.target_pos = said->to;
  }
  const OwnedFd target = open_target(arguments.target);
  if (!target) return out.fail(arguments.target + ": " + std::strerror(errno));
  struct stat to {};
  if (fstat(target.get(), &to) != 0) {
    return out.fail(arguments.target + ": " + std::strerror(errno));
  }
  message = one_mount_error(arguments.source, source->status, arguments.target, to);
  if (!message.empty()) return out.fail(message);
  const std::string both = arguments.source + " and " + arguments.target;
  const bool other_size = whole && to.st_size != source->status.st_size;
  if (!other_size) {
    int error = 0;
    if (ioctl(source->mounted.fd.get(), FUSEFS_IOC_SOURCE_TOKEN, &range.source) != 0) error = errno;
    if (error == 0 && ioctl(target.get(), FUSEFS_IOC_DEDUPE_RANGE, &range) != 0) error = errno;
    if (error != 0) return out.fail(both + ": " + dedupe_error(error));
  }
  const bool same = !other_size && (range.flags & FUSEFS_DEDUPE_DIFFERS) == 0;
  Json data;
  data["source"] = json_text(arguments.source);
  data["target"] = json_text(arguments.target);
  data["same"] = same;
  data["same_bytes"] = uint64_t{range.same_bytes};
  data["shared_bytes"] = uint64_t{range.shared_bytes};
  if (!same) {
    out.complain(both + (other_size ? ": differ in size" : ": the contents differ"));
    return out.done(std::move(data), kExitFailed);
  }
  return out.done(std::move(data));
}

}  // namespace

void add_dedupe(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<DedupeArguments>();
  CLI::App* command = app.add_subcommand(
      "dedupe", "Let files of a mounted volume with the same contents share their blocks");
  command->add_option("A", arguments->source, "File whose blocks are kept")->required();
  command->add_option("B", arguments->target, "File that gets them, on the same mount")->required();
  command->add_option("--range", arguments->range,
                      "Only FROM:LEN of A, with position TO of B: FROM:LEN[:TO]");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_dedupe(*arguments); });
}

}  // namespace fusefs::cli
