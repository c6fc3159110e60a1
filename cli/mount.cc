// fusefs mount: parses, and hands over to the daemon.
#include <blkid/blkid.h>

#include <cstdlib>

#include "cli/tool.h"
#include "fusefs/daemon.h"

namespace fusefs::cli {
namespace {

struct MountArguments {
  std::string source;
  std::string directory;
  std::vector<std::string> options;
  bool helper = false;      // called by mount(8)
  bool foreground = false;  // for mount(8): only pretend
  bool debug = false;
  bool read_only = false;
  bool ignored = false;
  std::string ignored_text;
};

// UUID=..., LABEL=... and the like: the device, as far as udev or libblkid know it. Anything else
// is a path.
std::string resolve(const std::string& source) {
  const size_t equals = source.find('=');
  if (equals == std::string::npos || source.find('/') < equals) return source;
  char* device = blkid_evaluate_tag(source.c_str(), nullptr, nullptr);
  const std::string path = device != nullptr ? device : "";
  std::free(device);
  return path;
}

int run_mount(const MountArguments& arguments) {
  Output out("mount", false);
  DaemonOptions daemon;
  daemon.source = resolve(arguments.source);
  if (daemon.source.empty()) {
    return out.fail(
        arguments.source + ": no device is known to have it; name the device or the image file",
        fusefs::kExitUsage);
  }
  daemon.mount_point = arguments.directory;
  daemon.foreground = arguments.foreground || arguments.debug;
  daemon.debug = arguments.debug;
  for (const std::string& list : arguments.options) {
    std::string message;
    if (!parse_mount_options(list, daemon.mount, &message).ok()) {
      return out.fail(message, fusefs::kExitUsage);
    }
  }
  if (arguments.read_only) daemon.mount.read_only = true;
  if (arguments.helper && arguments.foreground) return fusefs::kExitOk;
  return run_daemon(daemon);
}

}  // namespace

void add_mount(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<MountArguments>();
  CLI::App* command = app.add_subcommand("mount", "Mount an image or a device on a directory");
  command->add_option("IMAGE", arguments->source, "Image file or block device")->required();
  command->add_option("DIR", arguments->directory, "Existing directory")->required();
  // One list after each -o: a greedy option would take IMAGE and DIR, too.
  command
      ->add_option("-o,--options", arguments->options,
                   "Mount options, separated by commas (see fusefs(5))")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_flag("-f,--foreground", arguments->foreground, "Stay in the foreground");
  command->add_flag("-d,--debug", arguments->debug, "Print every request; stays in the foreground");
  command->add_flag("-r,--read-only", arguments->read_only, "Same as -o ro");
  // mount(8) calls its helpers: mount.TYPE SPEC DIR [-sfnv] [-N namespace] [-o options] [-t type]
  command->add_flag("--mount-helper", arguments->helper)->group("");
  command->add_flag("-s,-v,-n,-w", arguments->ignored)->group("");
  command->add_option("-t,-N", arguments->ignored_text)->group("");
  command->callback([arguments, &exit_code] { exit_code = run_mount(*arguments); });
}

}  // namespace fusefs::cli
