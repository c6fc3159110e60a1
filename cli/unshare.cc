// fusefs unshare: a file, or a range of it, gets blocks of its own.
#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/ranges.h"
#include "cli/tool.h"

namespace fusefs::cli {
namespace {

struct UnshareArguments {
  std::string file;
  std::string range;
  bool keep_holes = false;
  bool json = false;
};

int run_unshare(const UnshareArguments& arguments) {
  Output out("unshare", arguments.json);
  std::string message;
  if (!open_source(arguments.file, &message)) return out.fail(message);
  fusefs_unshare_range range{};
  range.version = 1;
  if (arguments.keep_holes) range.flags |= FUSEFS_UNSHARE_KEEP_HOLES;
  if (!arguments.range.empty()) {
    const std::optional<RangeArgument> said = parse_range(arguments.range, false, &message);
    if (!said) return out.fail(message, kExitUsage);
    range.pos = said->from;
    range.len = said->len;
  }
  const OwnedFd file(open(arguments.file.c_str(), O_RDWR | O_CLOEXEC));
  if (!file || ioctl(file.get(), FUSEFS_IOC_UNSHARE_RANGE, &range) != 0) {
    return out.fail(arguments.file + ": " + std::strerror(errno));
  }
  Json data;
  data["file"] = json_text(arguments.file);
  data["copied_bytes"] = uint64_t{range.copied_bytes};
  return out.done(std::move(data));
}

}  // namespace

void add_unshare(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<UnshareArguments>();
  CLI::App* command = app.add_subcommand(
      "unshare", "Give a file of a mounted volume blocks that no other file shares");
  command->add_option("FILE", arguments->file, "File to be written without fail")->required();
  command->add_option("--range", arguments->range, "Only FROM:LEN");
  command->add_flag("--keep-holes", arguments->keep_holes, "Holes get no blocks");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_unshare(*arguments); });
}

}  // namespace fusefs::cli
