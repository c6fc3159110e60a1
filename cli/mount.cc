// fusefs mount: parses, and hands over to the daemon.
#include "cli/tool.h"
#include "fusefs/daemon.h"

namespace fusefs::cli {
namespace {

struct MountArguments {
  std::string source;
  std::string directory;
  std::vector<std::string> options;
  bool foreground = false;
  bool debug = false;
  bool read_only = false;
  bool ignored = false;
  std::string ignored_text;
};

// UUID= and LABEL= are resolved by mount(8) through blkid; here a path is needed.
int run_mount(const MountArguments& arguments) {
  DaemonOptions daemon;
  daemon.source = arguments.source;
  daemon.mount_point = arguments.directory;
  daemon.foreground = arguments.foreground || arguments.debug;
  daemon.debug = arguments.debug;
  for (const std::string& list : arguments.options) {
    std::string message;
    if (!parse_mount_options(list, daemon.mount, &message).ok()) {
      return Output("mount", false).fail(message, fusefs::kExitUsage);
    }
  }
  if (arguments.read_only) daemon.mount.read_only = true;
  return run_daemon(daemon);
}

}  // namespace

void add_mount(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<MountArguments>();
  CLI::App* command = app.add_subcommand("mount", "Mount an image or a device on a directory");
  command->add_option("IMAGE", arguments->source, "Image file or block device")->required();
  command->add_option("DIR", arguments->directory, "Existing directory")->required();
  command->add_option("-o,--options", arguments->options,
                      "Mount options, separated by commas (see fusefs(5))");
  command->add_flag("-f,--foreground", arguments->foreground, "Stay in the foreground");
  command->add_flag("-d,--debug", arguments->debug, "Print every request; stays in the foreground");
  command->add_flag("-r,--read-only", arguments->read_only, "Same as -o ro");
  // What mount(8) passes to its helpers and has no meaning here.
  command->add_flag("-s,-v,-n", arguments->ignored, "Accepted from mount(8) and ignored")
      ->group("");
  command->add_option("-t,-N", arguments->ignored_text, "Accepted from mount(8) and ignored")
      ->group("");
  command->callback([arguments, &exit_code] { exit_code = run_mount(*arguments); });
}

}  // namespace fusefs::cli
