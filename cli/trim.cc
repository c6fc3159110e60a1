// fusefs trim: discards what is free, as fstrim(8) does.
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/mounted.h"
#include "cli/tool.h"
#include "fusefs/mount_options.h"

namespace fusefs::cli {
namespace {

struct TrimArguments {
  std::string directory;
  std::string minimum;
  bool json = false;
};

int run_trim(const TrimArguments& arguments) {
  Output out("trim", arguments.json);
  std::string message;
  const std::optional<Mounted> mounted = open_mounted(arguments.directory, &message);
  if (!mounted) return out.fail(message);
  fstrim_range range{};
  range.len = ~0ull;
  if (!arguments.minimum.empty()) {
    const Result<uint64_t> minimum = parse_size(arguments.minimum);
    if (!minimum.ok())
      return out.fail("--minimum " + arguments.minimum + ": not a size", kExitUsage);
    range.minlen = minimum.value();
  }
  if (ioctl(mounted->fd.get(), FITRIM, &range) != 0) {
    const bool unsupported = errno == EOPNOTSUPP;
    return out.fail(arguments.directory + ": " +
                    (unsupported ? "its device cannot discard" : std::strerror(errno)));
  }
  if (!arguments.json) {
    std::printf("%s: %s trimmed\n", arguments.directory.c_str(), human_bytes(range.len).c_str());
  }
  Json data;
  data["trimmed_bytes"] = static_cast<uint64_t>(range.len);
  return out.done(std::move(data));
}

}  // namespace

void add_trim(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<TrimArguments>();
  CLI::App* command = app.add_subcommand("trim", "Discard the free space of a mounted volume");
  command->add_option("DIR", arguments->directory, "The mount, or a directory of it")->required();
  command->add_option("-m,--minimum", arguments->minimum, "Leave shorter free ranges alone");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_trim(*arguments); });
}

}  // namespace fusefs::cli
