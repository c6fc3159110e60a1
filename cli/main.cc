// The `fusefs` command, and the names that mkfs(8), fsck(8) and mount(8) look for.
//
//     fusefs SUBCOMMAND ...                    everything
//     fusefs IMAGE DIR [-o ...]                mount, as mount.fuse3 calls it
//     mkfs.fusefs, fsck.fusefs, mount.fusefs   links to this program
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cli/tool.h"

namespace fusefs::cli {
namespace {

constexpr int kFsckUsage = 16;

std::string program_name(const char* argv0) {
  const char* slash = std::strrchr(argv0, '/');
  return slash != nullptr ? slash + 1 : argv0;
}

bool is_subcommand(const CLI::App& app, const std::string& word) {
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->check_name(word)) return true;
  }
  return false;
}

// An image and a directory without a subcommand, as mount.fuse3 calls: told from a mistyped
// subcommand by looking like a source, or by options in front that no other call begins with.
bool is_mount_call(const std::vector<std::string>& words) {
  if (words.size() < 2) return false;
  const std::string& first = words[0];
  if (first.starts_with("-o") || first == "-f" || first == "-d" || first == "-r") return true;
  if (first.empty() || first[0] == '-') return false;
  return first.find_first_of("/=") != std::string::npos || access(first.c_str(), F_OK) == 0;
}

// Puts the subcommand that the program's name or the form of the call stands for in front.
std::vector<std::string> arguments(int argc, char** argv, const CLI::App& app) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const std::string name = argc > 0 ? program_name(argv[0]) : "fusefs";
  if (name == "mkfs.fusefs") {
    words.insert(words.begin(), "mkfs");
  } else if (name == "fsck.fusefs") {
    words.insert(words.begin(), "check");
  } else if (name == "mount.fusefs") {
    words.insert(words.begin(), {"mount", "--mount-helper"});
  } else if (is_mount_call(words) && !is_subcommand(app, words[0])) {
    words.insert(words.begin(), "mount");
  }
  return words;
}

// A mistake in the call: one line, and the exit code that callers of this command expect.
int usage_error(const CLI::App& app, const CLI::ParseError& error,
                const std::vector<std::string>& words) {
  if (words.empty()) {
    std::fputs(app.help().c_str(), stderr);
    return kExitUsage;
  }
  const std::string& command = words[0];
  if (!is_subcommand(app, command)) {
    std::fprintf(stderr,
                 "fusefs: '%s' is no subcommand, and no image to mount; see: fusefs --help\n",
                 command.c_str());
    return kExitUsage;
  }
  const bool json = std::find(words.begin(), words.end(), "--json") != words.end();
  const int exit_code = command == "check" ? kFsckUsage : command == "mount" ? 1 : kExitUsage;
  return Output(command, json)
      .fail(std::string(error.what()) + "; see: fusefs " + command + " --help", exit_code);
}

int run(int argc, char** argv) {
  CLI::App app("A filesystem in user space: one image or device, mounted, cloned, checked.");
  app.name("fusefs");
  app.set_version_flag("-V,--version", "fusefs " FUSEFS_VERSION);
  app.require_subcommand(1);
  int exit_code = kExitOk;
  add_mkfs(app, exit_code);
  add_mount(app, exit_code);
  add_umount(app, exit_code);
  add_check(app, exit_code);
  add_info(app, exit_code);
  add_dump(app, exit_code);
  add_stats(app, exit_code);
  add_pins(app, exit_code);
  add_clone(app, exit_code);
  add_dedupe(app, exit_code);
  add_unshare(app, exit_code);
  add_trim(app, exit_code);
  add_bench(app, exit_code);
  std::vector<std::string> words = arguments(argc, argv, app);
  try {
    std::vector<std::string> reversed(words.rbegin(), words.rend());  // as CLI11 wants them
    app.parse(reversed);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return usage_error(app, error, words);
  }
  return exit_code;
}

}  // namespace
}  // namespace fusefs::cli

int main(int argc, char** argv) { return fusefs::cli::run(argc, argv); }
