// fusefs stats: the daemon's numbers as text, JSON or Prometheus exposition, all from one model.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "cli/mounted.h"
#include "cli/tool.h"
#include "core/stats/prometheus.h"
#include "core/stats/text.h"

namespace fusefs::cli {
namespace {

struct StatsArguments {
  std::string path;
  bool json = false;
  bool prometheus = false;
  double watch_seconds = 0;
};

int print_once(const StatsArguments& arguments, const Mounted& mounted, Output& out) {
  std::string message;
  const Result<std::string> text = read_stats(mounted, &message);
  if (!text.ok()) return out.fail(arguments.path + ": " + message);
  const Json document = Json::parse(text.value(), nullptr, false);
  if (document.is_discarded() || !document.contains("data")) {
    return out.fail(arguments.path +
                    ": the daemon's answer is not JSON; is it of another"
                    " version?");
  }
  if (arguments.prometheus) {
    std::printf("%s", render_prometheus(document["data"], stats_schema()).c_str());
  } else if (arguments.json) {
    const bool line = arguments.watch_seconds > 0;
    std::printf("%s\n", dump_json(document, line ? JsonLayout::line : JsonLayout::pretty).c_str());
  } else {
    std::printf("%s", render_text(document["data"]).c_str());
  }
  std::fflush(stdout);
  return kExitOk;
}

int run_stats(const StatsArguments& arguments) {
  Output out("stats", arguments.json);
  std::string message;
  const std::optional<Mounted> mounted = open_mounted(arguments.path, &message);
  if (!mounted) return out.fail(message);
  int exit_code = print_once(arguments, *mounted, out);
  while (arguments.watch_seconds > 0 && exit_code == kExitOk) {
    usleep(static_cast<useconds_t>(arguments.watch_seconds * 1e6));
    exit_code = print_once(arguments, *mounted, out);
  }
  return exit_code;
}

}  // namespace

void add_stats(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<StatsArguments>();
  CLI::App* command = app.add_subcommand("stats", "Show what a mounted volume has done");
  command->add_option("DIR", arguments->path, "The mount, or anything on it")->required();
  auto* json = command->add_flag("--json", arguments->json, "Print JSON (docs/STATS.md)");
  command->add_flag("--prometheus", arguments->prometheus, "Print Prometheus text exposition")
      ->excludes(json);
  command
      ->add_option("--watch", arguments->watch_seconds,
                   "Print again every so many seconds; with --json one line each")
      ->check(CLI::Range(0.1, 86400.0));
  command->callback([arguments, &exit_code] { exit_code = run_stats(*arguments); });
}

}  // namespace fusefs::cli
