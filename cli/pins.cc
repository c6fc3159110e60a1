// fusefs pins: who holds which pages of a mounted volume, and since when.
//
// The daemon's answer, with the name of each holder's program added, which only we may look up: it
// is in our PID namespace that it is looked for.
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/mounted.h"
#include "cli/tool.h"
#include "core/stats/text.h"

namespace fusefs::cli {
namespace {

struct PinsArguments {
  std::string path;
  bool json = false;
};

// Empty when there is no such process, or its name is not to be had.
std::string command_of(int64_t pid) {
  if (pid <= 0) return "";
  std::ifstream in("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(in, name);
  return name;
}

bool is_as_expected(const Json& data) {
  if (!data.is_object() || !data.contains("pins") || !data["pins"].is_array()) return false;
  for (const Json& pin : data["pins"]) {
    if (!pin.is_object() || !pin.contains("holders") || !pin["holders"].is_array()) return false;
  }
  return true;
}

void add_commands(Json& data) {
  for (Json& pin : data["pins"]) {
    for (Json& holder : pin["holders"]) {
      const std::string command = command_of(holder.value("pid", int64_t{0}));
      holder["command"] = command.empty() ? Json(nullptr) : json_text(command);
    }
  }
}

std::string age_text(int64_t since_unix_ns) {
  using std::chrono::system_clock;
  const auto now =
      std::chrono::duration_cast<std::chrono::seconds>(system_clock::now().time_since_epoch())
          .count();
  const int64_t seconds = std::max<int64_t>(0, now - since_unix_ns / 1000000000);
  char text[32];
  if (seconds < 60) {
    std::snprintf(text, sizeof text, "%d s", static_cast<int>(seconds));
  } else if (seconds < 86400) {
    std::snprintf(text, sizeof text, "%d:%02d h", static_cast<int>(seconds / 3600),
                  static_cast<int>(seconds / 60 % 60));
  } else {
    std::snprintf(text, sizeof text, "%lld d", static_cast<long long>(seconds / 86400));
  }
  return text;
}

// "postgres[812] +1", "-" for nobody.
std::string holders_text(const Json& holders) {
  if (holders.empty()) return "-";
  const Json& first = holders[0];
  const int64_t pid = first.value("pid", int64_t{0});
  std::string text = first["command"].is_string() ? first["command"].get<std::string>() : "?";
  text += "[" + (pid > 0 ? std::to_string(pid) : std::string("?")) + "]";
  if (holders.size() > 1) text += " +" + std::to_string(holders.size() - 1);
  return text;
}

void print_pins(const Json& data) {
  Json head = data;
  head.erase("pins");
  std::fputs(render_text(head).c_str(), stdout);
  if (data["pins"].empty()) return;
  std::printf("\n%-7s %-2s %10s %14s %12s %8s %8s  %s\n", "kind", "rw", "inode", "pos", "bytes",
              "uid", "since", "held by");
  for (const Json& pin : data["pins"]) {
    std::printf("%-7s %-2s %10llu %14llu %12llu %8llu %8s  %s\n",
                pin.value("kind", std::string("?")).c_str(), pin.value("write", false) ? "rw" : "r",
                static_cast<unsigned long long>(pin.value("inode", uint64_t{0})),
                static_cast<unsigned long long>(pin.value("pos", uint64_t{0})),
                static_cast<unsigned long long>(pin.value("bytes", uint64_t{0})),
                static_cast<unsigned long long>(pin.value("uid", uint64_t{0})),
                age_text(pin.value("since_unix_ns", int64_t{0})).c_str(),
                holders_text(pin["holders"]).c_str());
  }
}

int run_pins(const PinsArguments& arguments) {
  Output out("pins", arguments.json);
  std::string message;
  const std::optional<Mounted> mounted = open_mounted(arguments.path, &message);
  if (!mounted) return out.fail(message);
  const Result<std::string> text = read_pins(*mounted, &message);
  if (!text.ok()) return out.fail(arguments.path + ": " + message);
  Json data = Json::parse(text.value(), nullptr, false);
  if (!is_as_expected(data)) {
    return out.fail(arguments.path + ": the daemon's answer is not understood");
  }
  add_commands(data);
  if (!arguments.json) print_pins(data);
  return out.done(std::move(data));
}

}  // namespace

void add_pins(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<PinsArguments>();
  CLI::App* command =
      app.add_subcommand("pins", "Show who holds pages of a mounted volume's files as memory");
  command->add_option("DIR", arguments->path, "The mount, or anything on it")->required();
  command->add_flag("--json", arguments->json, "Print one JSON document (docs/WINDOWS.md)");
  command->callback([arguments, &exit_code] { exit_code = run_pins(*arguments); });
}

}  // namespace fusefs::cli
