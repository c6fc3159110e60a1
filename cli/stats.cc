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
  Json data = Json::parse(text.value(), nullptr, false);
  if (!data.is_object()) {
    return out.fail(arguments.path +
                    ": the daemon's answer is no JSON object; is it of another version?");
  }
  if (arguments.prometheus) {
    const PrometheusLabels labels = {{"volume", uuid_text(mounted.info.uuid)}};
    std::fputs(render_prometheus(data, stats_schema(), labels).c_str(), stdout);
  } else if (arguments.json && arguments.watch_seconds > 0) {
    std::fputs(dump_json(out.envelope(kExitOk, std::move(data)), JsonLayout::line).c_str(), stdout);
  } else if (arguments.json) {
    out.done(std::move(data));
  } else {
    std::fputs(render_text(data).c_str(), stdout);
  }
  std::fflush(stdout);
  return std::ferror(stdout) == 0 ? kExitOk : kExitFailed;
}

int run_stats(const StatsArguments& arguments) {
  Output out("stats", arguments.json);
  std::string message;
  const std::optional<Mounted> mounted = open_mounted(arguments.path, &message);
  if (!mounted) return out.fail(message);
  if ((mounted->info.flags & FUSEFS_INFO_FAILED) != 0) {
    out.warn(arguments.path + ": has turned read-only after an error; unmount it and check it");
  }
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
