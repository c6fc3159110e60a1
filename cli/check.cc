// fusefs check: scan, repair, scan again; exit codes of fsck(8).
//
//   0. -p leaves a volume alone that was unmounted and met no error, and only replays the journal
//      of one that met none: the journal is there so that booting needs no scan. -f scans anyway.
//   1. scan of the checkpoint, repair of bitmaps (they must be right before anything is allocated)
//   2. with repairs allowed: mount (journal, orphans), unmount
//   3. scan, repairs in the mounted volume, scan; again as long as that mends something
//
// With a damaged tree node nothing is repaired: what was below it is missing, and would be taken
// for free space.
#include "core/volume/check.h"

#include <algorithm>
#include <cinttypes>
#include <nlohmann/json.hpp>

#include "cli/tool.h"
#include "core/stats/json.h"
#include "core/tree/superblock_io.h"

namespace fusefs::cli {
namespace {

constexpr int kFsckOk = 0;
constexpr int kFsckCorrected = 1;
constexpr int kFsckUncorrected = 4;
constexpr int kFsckOperational = 8;
// Nodes and groups between two lines of progress.
constexpr uint64_t kFsckProgressEvery = 256;

struct CheckArguments {
  std::string path;
  bool no_changes = false;
  bool yes = false;
  bool preen = false;
  bool force = false;
  bool ignored = false;  // what fsck(8) and its callers pass and has no meaning here
  bool quiet = false;
  bool json = false;
  int progress_fd = -1;
};

struct Outcome {
  CheckReport report;          // of the last scan
  std::vector<Finding> fixed;  // by repairs before it
  bool scanned = false;
  bool was_clean = true;
  bool had_errors = false;
  uint64_t journal_transactions = 0;  // when the check began
  bool replayed = false;
};

class Checker {
 public:
  Checker(const CheckArguments& arguments, Image& image) : arguments_(arguments), image_(image) {}

  Result<void> run(Outcome& outcome) {
    TRY(const FoundSuperblock found, image_.runner().run("superblock", [this] {
      return read_superblocks(image_.device(), superblocks_);
    }));
    outcome.report.superblock = found.superblock;
    outcome.was_clean = (found.superblock.flags & kVolumeClean) != 0;
    outcome.had_errors = (found.superblock.flags & kVolumeHasErrors) != 0;
    if (arguments_.preen && !arguments_.force && !outcome.had_errors) {
      return outcome.was_clean ? Result<void>() : replay(outcome);
    }
    TRY_OK(scan(outcome));
    outcome.journal_transactions = outcome.report.counts.journal_transactions;
    if (arguments_.no_changes) return {};
    if (!outcome.report.clean || !outcome.report.ok()) TRY_OK(repair(outcome));
    if (outcome.had_errors && outcome.report.ok()) {
      return image_.runner().run("mark", [this] { return scan_->clear_error_mark(); });
    }
    return {};
  }

  const std::string& detail() const { return detail_; }

 private:
  Result<void> scan(Outcome& outcome) {
    Progress progress("fusefs check", arguments_.quiet);
    scan_ = std::make_unique<CheckScan>(image_.device(), [&](const CheckProgress& at) {
      progress.show(at.done, at.total);
      report_to_fsck(at);
    });
    const Result<void> scanned = image_.runner().run("scan", [&] { return scan_->run(); });
    outcome.report = scan_->report();
    outcome.scanned = true;
    return scanned;
  }

  // What fsck(8) reads from the descriptor that it gives with -C.
  void report_to_fsck(const CheckProgress& at) {
    if (arguments_.progress_fd < 0 || at.done % kFsckProgressEvery != 0) return;
    dprintf(arguments_.progress_fd, "1 %llu %llu %s\n", static_cast<unsigned long long>(at.done),
            static_cast<unsigned long long>(at.total), arguments_.path.c_str());
  }

  Result<void> replay(Outcome& outcome) {
    outcome.replayed = true;
    return with_volume([](Volume&) { return Result<void>(); });
  }

  Result<void> repair(Outcome& outcome) {
    if (has_finding(outcome.report, FindingKind::node_damaged)) return {};
    if (has_space_findings(outcome.report)) {
      TRY_OK(image_.runner().run("repair", [&] { return scan_->repair_space(); }));
      collect(scan_->report(), outcome.fixed);
    }
    if (!outcome.report.clean) TRY_OK(replay(outcome));
    TRY_OK(scan(outcome));
    // Only so many findings are listed, and a repair may bring others to light.
    uint64_t before = outcome.report.findings_count + 1;
    while (has_tree_findings(outcome.report) && outcome.report.findings_count < before) {
      before = outcome.report.findings_count;
      TRY_OK(with_volume([&](Volume& volume) {
        CheckRepair repair(volume, outcome.report);
        return image_.runner().run("repair", [&] { return repair.run(); });
      }));
      collect(outcome.report, outcome.fixed);
      TRY_OK(scan(outcome));
    }
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

  static bool has_finding(const CheckReport& report, FindingKind kind) {
    return std::any_of(report.findings.begin(), report.findings.end(),
                       [&](const Finding& finding) { return finding.kind == kind; });
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
  SuperblockStash superblocks_;
  std::unique_ptr<CheckScan> scan_;
  std::string detail_;
};

int exit_code_of(const Outcome& outcome) {
  if (!outcome.report.ok()) return kFsckUncorrected;
  return outcome.fixed.empty() ? kFsckOk : kFsckCorrected;
}

Json to_json(const Outcome& outcome) {
  const CheckReport& report = outcome.report;
  Json data;
  data["uuid"] = uuid_text(report.superblock.uuid);
  data["was_clean"] = outcome.was_clean;
  data["had_errors"] = outcome.had_errors;
  data["journal_replayed"] = outcome.replayed;
  data["scanned"] = outcome.scanned;
  if (outcome.scanned) {
    data["journal_transaction_count"] = outcome.journal_transactions;
    data["node_count"] = report.counts.node_count;
    data["item_count"] = report.counts.item_count;
    data["inode_count"] = report.counts.inode_count;
    data["directory_count"] = report.counts.directory_count;
    data["entry_count"] = report.counts.entry_count;
    data["extent_count"] = report.counts.extent_count;
    data["orphan_count"] = report.counts.orphan_count;
    data["allocated_bytes"] = report.counts.allocated_blocks * kBlockBytes;
    data["shared_bytes"] = report.counts.shared_blocks * kBlockBytes;
  }
  data["repaired_count"] = outcome.fixed.size();
  data["findings_count"] = outcome.fixed.size() + report.findings_count;
  data["findings"] = Json::array();
  for (const std::vector<Finding>* list : {&outcome.fixed, &report.findings}) {
    for (const Finding& finding : *list) {
      data["findings"].push_back({{"kind", std::string(finding_kind_name(finding.kind))},
                                  {"text", json_text(finding.text)},
                                  {"repaired", finding.repaired}});
    }
  }
  return data;
}

void print_findings(const Outcome& outcome) {
  for (const Finding& finding : outcome.fixed) std::printf("%s: repaired\n", finding.text.c_str());
  const CheckReport& report = outcome.report;
  for (const Finding& finding : report.findings) std::printf("%s\n", finding.text.c_str());
  if (report.findings_count > report.findings.size()) {
    std::printf("... and %" PRIu64 " more\n", report.findings_count - report.findings.size());
  }
}

void print_text(const CheckArguments& arguments, const Outcome& outcome) {
  print_findings(outcome);
  if (arguments.quiet) return;
  const char* path = arguments.path.c_str();
  if (!outcome.was_clean) {
    std::printf("%s: was not unmounted; its journal %s\n", path,
                outcome.replayed ? "has been replayed" : "is replayed by the next mount");
  }
  if (!outcome.scanned) {
    std::printf("%s: clean, not scanned (-f does)\n", path);
    return;
  }
  const CheckReport& report = outcome.report;
  const char* verdict = !report.ok() ? "DAMAGED" : outcome.fixed.empty() ? "clean" : "repaired";
  std::printf("%s: %s, %" PRIu64 " files in %" PRIu64
              " directories, %s allocated, %s of it shared\n",
              path, verdict, report.counts.inode_count - report.counts.directory_count,
              report.counts.directory_count,
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
  const int exit_code = exit_code_of(outcome);
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
  command
      ->add_flag("-p,-a,--preen", arguments->preen,
                 "As at boot: trust a volume that was unmounted, replay a journal")
      ->excludes(no);
  command->add_flag("-f,--force", arguments->force, "With -p: scan a clean volume, too");
  command->add_flag("-v,--verbose,-T,-M,-l", arguments->ignored)->group("");
  command->add_flag("-q,--quiet", arguments->quiet, "Print findings only");
  command->add_option("-C", arguments->progress_fd, "Descriptor for progress, as fsck(8) gives it")
      ->group("");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_check(*arguments); });
}

}  // namespace fusefs::cli
