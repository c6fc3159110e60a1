// What every subcommand uses: outcomes, an image opened for a tool, size arguments, progress.
//
// stdout has the result, as text or as one JSON document (--json); everything else goes to stderr.
// With --json there is one document on stdout whatever happens: what stderr says is in it too.
// A subcommand returns its exit code. Messages are one line: the thing, what is wrong, what to do.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/io/run_sync.h"
#include "core/io/uring_device.h"
#include "core/stats/json.h"
#include "core/volume/stats_collector.h"
#include "core/volume/volume.h"

namespace fusefs::cli {

// Exit codes of everything but fsck and mount, which have conventions of their own.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

// What one run of a subcommand says to its caller.
class Output {
 public:
  // `command` is the subcommand's name, and that of its JSON schema behind "fusefs.".
  Output(std::string command, bool json) : command_(std::move(command)), json_(json) {}

  bool json() const { return json_; }
  // "fusefs COMMAND: warning: TEXT" on stderr.
  void warn(std::string_view text);
  // "fusefs COMMAND: TEXT" on stderr. The end of the run: returns `exit_code`.
  int fail(std::string_view text, int exit_code = kExitFailed);
  // The result, for --json only. The end of the run: returns `exit_code`.
  int done(Json data, int exit_code = kExitOk);
  // For a document that is printed in pieces: everything but its data.
  Json envelope(int exit_code, Json data) const;
  // The line of fail() without its end: the document is already on its way.
  void complain(std::string_view text);

 private:
  void say(MessageSeverity severity, std::string_view text);

  const std::string command_;
  const bool json_;
  std::vector<Message> messages_;
};

// A sentence for a volume that cannot be opened: what it is, and what to do about it.
std::string open_error_text(const std::string& path, Error error, const std::string& detail);

// A device with what it takes to run attempts on it, on this thread.
class Image {
 public:
  // On failure null, and `message` is one line for people.
  static std::unique_ptr<Image> open(const std::string& path, const DeviceOptions& options,
                                     std::string* message);
  ~Image();

  UringDevice& device() { return *device_; }
  SyncRunner& runner() { return *runner_; }
  Scheduler& scheduler() { return scheduler_; }
  const SystemClock& clock() const { return clock_; }
  // After a volume is done with: its background operations go before it does.
  void drop_background();

 private:
  Image();
  SystemClock clock_;
  Monitor monitor_;
  Scheduler scheduler_;
  std::unique_ptr<UringDevice> device_;
  std::unique_ptr<SyncRunner> runner_;
};

// One line on a terminal, rewritten: "check: 42 % ...". Silent where stderr is not one.
class Progress {
 public:
  Progress(std::string what, bool quiet);
  ~Progress();
  void show(uint64_t done, uint64_t total);

 private:
  const std::string what_;
  const bool active_;
  uint64_t started_ns_;
  uint64_t shown_ns_;
  bool printed_ = false;
};

// False when `text` is no UUID.
bool parse_uuid(const std::string& text, unsigned char* uuid);
// "1.5 GiB"
std::string human_bytes(uint64_t bytes);

// Each adds its subcommand; `exit_code` is set when it has run.
void add_mkfs(CLI::App& app, int& exit_code);
void add_mount(CLI::App& app, int& exit_code);
void add_umount(CLI::App& app, int& exit_code);
void add_check(CLI::App& app, int& exit_code);
void add_info(CLI::App& app, int& exit_code);
void add_dump(CLI::App& app, int& exit_code);
void add_stats(CLI::App& app, int& exit_code);
void add_pins(CLI::App& app, int& exit_code);
void add_clone(CLI::App& app, int& exit_code);
void add_dedupe(CLI::App& app, int& exit_code);
void add_unshare(CLI::App& app, int& exit_code);
void add_trim(CLI::App& app, int& exit_code);
void add_bench(CLI::App& app, int& exit_code);

}  // namespace fusefs::cli
