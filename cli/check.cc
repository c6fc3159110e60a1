// fusefs check: scan, repair, scan again; exit codes of fsck(8).
//
//   1. scan of the checkpoint, repair of bitmaps (they must be right before anything is allocated)
//   2. with repairs allowed: mount (journal, orphans), unmount
//   3. scan, repairs in the mounted volume, scan
#include "core/volume/check.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "core/stats/json.h"

namespace fusefs::cli {
namespace {

constexpr int kFsckOk = 0;
constexpr int kFsckCorrected = 1;
constexpr int kFsckUncorrected = 4;
constexpr int kFsckOperational = 8;

struct CheckArguments {
  std::string path;
  bool no_changes = false;
  bool yes = false;
  bool preen = false;
  bool force = false;
  bool verbose = false;
  bool quiet = false;
  bool json = false;
  int progress_fd = -1;
};

struct Outcome {
  CheckReport report;
  bool replayed = false;
  bool repaired = false;    // something was changed
  bool unfinished = false;  // something could not be
};

class Checker {
 public:
  Checker(const CheckArguments& arguments, Image& image) : arguments_(arguments), image_(image) {}

  Result<void> run(Outcome& outcome) {
    TRY_OK(scan(outcome.report));
    if (arguments_.no_changes) return {};
    // A preening check at boot leaves a clean volume alone: that is what the journal is for.
    if (!outcome.report.clean || !outcome.report.ok()) TRY_OK(repair(outcome));
    return {};
  }

  const std::string& detail() const { return detail_; }

 private:
  Result<void> scan(CheckReport& report) {
    Progress progress("fusefs check", arguments_.quiet);
    scan_ = std::make_unique<CheckScan>(
        image_.device(), [&](const CheckProgress& at) { progress.show(at.done, at.total); });
    const Result<void> scanned = image_.runner().run("scan", [&] { return scan_->run(); });
    report = scan_->report();
    return scanned;
  }

  Result<void> repair(Outcome& outcome) {
    std::vector<Finding> fixed;
    const bool damaged = count_of(outcome.report, FindingKind::node_damaged) != 0;
    if (damaged) {  // what is missing from the tree must not be freed by mistake
      outcome.unfinished = true;
      return {};
    }
    if (has_space_findings(outcome.report)) {
      TRY_OK(image_.runner().run("repair", [&] { return scan_->repair_space(); }));
      collect(scan_->report(), fixed);
    }
    outcome.replayed = !outcome.report.clean;
    TRY_OK(with_volume([](Volume&) { return Result<void>(); }));
    TRY_OK(scan(outcome.report));
    if (has_tree_findings(outcome.report)) {
      TRY_OK(with_volume([&](Volume& volume) {
        CheckRepair repair(volume, outcome.report);
        return image_.runner().run("repair", [&] { return repair.run(); });
      }));
      collect(outcome.report, fixed);
      TRY_OK(scan(outcome.report));
    }
    outcome.repaired = !fixed.empty() || outcome.replayed;
    outcome.unfinished = !outcome.report.ok();
    outcome.report.findings.insert(outcome.report.findings.begin(), fixed.begin(), fixed.end());
    outcome.report.findings_count += fixed.size();
    return {};
  }

  // Mounts without a mount point, calls `use`, unmounts.
  template <class Use>
  Result<void> with_volume(Use&& use) {
    Volume volume(image_.scheduler(), image_.device(), image_.clock(), {},
                  [&](const std::string& message) { detail_ = message; });
    Result<void> result = image_.runner().run("mount", [&] { return volume.mount(); });
    if (result.ok()) result = use(volume);
    if (result.ok()) result = image_.runner().run("unmount", [&] { return volume.unmount(); });
    image_.drop_background();
    return result;
  }

  static size_t count_of(const CheckReport& report, FindingKind kind) {
    size_t count = 0;
    for (const Finding& finding : report.findings) count += finding.kind == kind;
    return count;
  }
  static bool has_space_findings(const CheckReport& report) {
    for (const Finding& finding : report.findings) {
      if (finding_repairable(finding.kind) && finding.kind < FindingKind::shared_wrong) return true;
    }
    return false;
  }
  static bool has_tree_findings(const CheckReport& report) {
    for (const Finding& finding : report.findings) {
      if (finding_repairable(finding.kind) && finding.kind >= FindingKind::shared_wrong)
        return true;
    }
    return false;
  }
  static void collect(const CheckReport& report, std::vector<Finding>& fixed) {
    for (const Finding& finding : report.findings) {
      if (finding.repaired) fixed.push_back(finding);
    }
  }

  const CheckArguments& arguments_;
  Image& image_;
  std::unique_ptr<CheckScan> scan_;
  std::string detail_;
};

int exit_code_of(const Outcome& outcome, bool no_changes) {
  if (outcome.unfinished || (no_changes && !outcome.report.ok())) return kFsckUncorrected;
  if (outcome.repaired && outcome.report.findings_count > 0) return kFsckCorrected;
  return kFsckOk;
}

Json to_json(const Outcome& outcome) {
  const CheckReport& report = outcome.report;
  Json data;
  data["uuid"] = uuid_text(report.superblock.uuid);
  data["clean"] = report.clean;
  data["journal_replayed"] = outcome.replayed;
  data["journal_transaction_count"] = report.counts.journal_transactions;
  data["node_count"] = report.counts.node_count;
  data["item_count"] = report.counts.item_count;
  data["inode_count"] = report.counts.inode_count;
  data["directory_count"] = report.counts.directory_count;
  data["entry_count"] = report.counts.entry_count;
  data["extent_count"] = report.counts.extent_count;
  data["orphan_count"] = report.counts.orphan_count;
  data["allocated_bytes"] = report.counts.allocated_blocks * kBlockBytes;
  data["shared_bytes"] = report.counts.shared_blocks * kBlockBytes;
  data["findings_count"] = report.findings_count;
  data["findings"] = Json::array();
  for (const Finding& finding : report.findings) {
    data["findings"].push_back({{"kind", std::string(finding_kind_name(finding.kind))},
                                {"text", json_text(finding.text)},
                                {"repaired", finding.repaired}});
  }
  return data;
}

void print_text(const CheckArguments& arguments, const Outcome& outcome) {
  const CheckReport& report = outcome.report;
  for (const Finding& finding : report.findings) {
    std::printf("%s%s\n", finding.text.c_str(), finding.repaired ? ": repaired" : "");
  }
  if (report.findings_count > report.findings.size()) {
    std::printf("... and %llu more\n",
                static_cast<unsigned long long>(report.findings_count - report.findings.size()));
  }
  if (arguments.quiet) return;
  if (!report.clean && arguments.no_changes) {
    std::printf(
        "%s: was not unmounted; %llu transactions are in its journal, replayed by the next"
        " mount\n",
        arguments.path.c_str(),
        static_cast<unsigned long long>(report.counts.journal_transactions));
  }
  std::printf(
      "%s: %s, %llu files in %llu directories, %s allocated, %s of it shared\n",
      arguments.path.c_str(),
      report.ok() ? "clean" : (outcome.unfinished || arguments.no_changes ? "DAMAGED" : "repaired"),
      static_cast<unsigned long long>(report.counts.inode_count - report.counts.directory_count),
      static_cast<unsigned long long>(report.counts.directory_count),
      human_bytes(report.counts.allocated_blocks * kBlockBytes).c_str(),
      human_bytes(report.counts.shared_blocks * kBlockBytes).c_str());
}

int run_check(const CheckArguments& arguments) {
  Output out("check", arguments.json);
  DeviceOptions options;
  options.read_only = arguments.no_changes;
  std::string message;
  const std::unique_ptr<Image> image = Image::open(arguments.path, options, &message);
  if (!image) return out.fail(message, kFsckOperational);
  Outcome outcome;
  Checker checker(arguments, *image);
  const Result<void> result = checker.run(outcome);
  if (!result.ok()) {
    return out.fail(open_error_text(arguments.path, result.error(), checker.detail()),
                    result.error() == Error::corrupt ? kFsckUncorrected : kFsckOperational);
  }
  const int exit_code = exit_code_of(outcome, arguments.no_changes);
  if (!arguments.json) print_text(arguments, outcome);
  return out.done(to_json(outcome), exit_code);
}

}  // namespace

void add_check(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<CheckArguments>();
  CLI::App* command =
      app.add_subcommand("check", "Check an image that is not mounted, and repair it");
  command->add_option("IMAGE", arguments->path, "Image file or block device")->required();
  auto* no = command->add_flag("-n,--no-changes", arguments->no_changes,
                               "Only look: change nothing, not even the journal");
  command->add_flag("-y,--yes", arguments->yes, "Repair whatever can be (the default)")
      ->excludes(no);
  command->add_flag("-p,-a,--preen", arguments->preen, "Repair without questions, as at boot")
      ->excludes(no);
  command->add_flag("-f,--force", arguments->force, "Accepted: a check always looks at everything");
  command->add_flag("-v,--verbose", arguments->verbose, "Accepted for fsck(8)")->group("");
  command->add_flag("-q,--quiet", arguments->quiet, "Print findings only");
  command->add_option("-C", arguments->progress_fd, "Accepted for fsck(8)")->group("");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_check(*arguments); });
}

}  // namespace fusefs::cli
