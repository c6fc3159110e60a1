// fusefs pins: who holds which pages of a mounted volume, and since when.
//
// The daemon's answer, and the name of each holder's program, looked up here.
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/mounted.h"
#include "cli/tool.h"

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
  for (const char* list : {"pins", "windows"}) {
    if (!data.is_object() || !data.contains(list) || !data[list].is_array()) return false;
    for (const Json& entry : data[list]) {
      if (!entry.is_object()) return false;
    }
  }
  return true;
}

void add_commands(Json& data) {
  for (Json& window : data["windows"]) {
    const std::string command = command_of(window.value("pid", int64_t{0}));
    window["command"] = command.empty() ? Json(nullptr) : json_text(command);
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

// "postgres[812]"; "-" for what the daemon pins itself.
std::string holder_text(const Json& entry) {
  if (!entry.contains("window")) return "-";
  const int64_t pid = entry.value("pid", int64_t{0});
  if (pid <= 0) return "?";
  const Json& command = entry["command"];
  return (command.is_string() ? command.get<std::string>() : "?") + "[" + std::to_string(pid) + "]";
}

// How a window's memory has come to its holder.
const char* road_text(const Json& entry) {
  if (entry.value("by_file", false)) return "file";
  if (entry.value("connections", 0) != 0) return "socket";
  return "-";
}

void print_entry(const Json& entry) {
  const std::string kind = entry.value("kind", std::string("?"));
  const bool writable = entry.value("writable", kind == "write");
  const auto number = [&](const char* key) {
    return static_cast<unsigned long long>(entry.value(key, uint64_t{0}));
  };
  std::printf("%-7s %-2s %10llu %14llu %12llu %6llu %8s  %-6s %s\n", kind.c_str(),
              writable ? "rw" : "r", number("ino"), number("pos"), number("len"), number("uid"),
              age_text(entry.value("since_unix_ns", int64_t{0})).c_str(), road_text(entry),
              holder_text(entry).c_str());
}

// Windows, then what is pinned without one.
void print_pins(const Json& data) {
  std::vector<Json> entries(data["windows"].begin(), data["windows"].end());
  for (const Json& pin : data["pins"]) {
    if (!pin.value("in_window", false)) entries.push_back(pin);
  }
  if (entries.empty()) return;
  std::printf("%-7s %-2s %10s %14s %12s %6s %8s  %-6s %s\n", "kind", "rw", "inode", "pos", "bytes",
              "uid", "since", "road", "held by");
  for (const Json& entry : entries) print_entry(entry);
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
