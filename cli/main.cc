// The `fusefs` command, and the names that mkfs(8), fsck(8) and mount(8) look for.
//
//     fusefs SUBCOMMAND ...                    everything
//     fusefs IMAGE DIR [-o ...]                mount, as mount.fuse3 calls it
//     mkfs.fusefs, fsck.fusefs, mount.fusefs   links to this program
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

// Puts the subcommand that the program's name or the form of the call stands for in front.
std::vector<std::string> arguments(int argc, char** argv, const CLI::App& app) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const std::string name = argc > 0 ? program_name(argv[0]) : "fusefs";
  if (name == "mkfs.fusefs") {
    words.insert(words.begin(), "mkfs");
  } else if (name == "fsck.fusefs") {
    words.insert(words.begin(), "check");
  } else if (name == "mount.fusefs" || name == "mount.fuse.fusefs") {
    words.insert(words.begin(), "mount");
  } else if (words.size() >= 2 && words[0][0] != '-' && !is_subcommand(app, words[0])) {
    words.insert(words.begin(), "mount");
  }
  return words;
}

// A mistake in the call: one line, and the exit code that callers of this command expect.
int usage_error(const CLI::ParseError& error, const std::vector<std::string>& words) {
  const std::string command = words.empty() ? "" : words[0];
  std::fprintf(stderr, "fusefs %s: %s; see: fusefs %s --help\n", command.c_str(), error.what(),
               command.c_str());
  if (command == "check") return kFsckUsage;
  if (command == "mount") return 1;
  return kExitUsage;
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
  add_clone(app, exit_code);
  add_trim(app, exit_code);
  add_bench(app, exit_code);
  std::vector<std::string> words = arguments(argc, argv, app);
  try {
    std::vector<std::string> reversed(words.rbegin(), words.rend());  // as CLI11 wants them
    app.parse(reversed);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return usage_error(error, words);
  }
  return exit_code;
}

}  // namespace
}  // namespace fusefs::cli

int main(int argc, char** argv) { return fusefs::cli::run(argc, argv); }
