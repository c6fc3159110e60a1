// fusefs bench: a small workload on any directory, for a first impression and for comparing two.
//
// It makes files in a directory of its own below DIR and removes them again, also when it is
// interrupted. tests/bench measures properly: several filesystems, medians, one device.
#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "cli/mounted.h"
#include "cli/tool.h"
#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "core/stats/histogram.h"
#include "fusefs/mount_options.h"

namespace fusefs::cli {
namespace {

constexpr uint64_t kFileBytes = 256ull << 20;
constexpr uint64_t kQuickFileBytes = 32ull << 20;
constexpr uint64_t kFileBytesMin = 1ull << 20;
constexpr size_t kLargeBytes = 1 << 20;
constexpr size_t kSmallBytes = 4096;
constexpr uint32_t kReadCount = 20'000;
constexpr uint32_t kSyncWriteCount = 1'000;
constexpr uint32_t kSmallFileCount = 10'000;
constexpr uint32_t kQuickPart = 10;  // of all counts

struct BenchArguments {
  std::string directory;
  std::string size;
  bool quick = false;
  bool json = false;
};

volatile std::sig_atomic_t interrupted = 0;

// What was measured: operations, bytes, time, and the latency of each.
struct Measured {
  const char* name = "";
  uint64_t count = 0;
  uint64_t bytes = 0;
  uint64_t duration_ns = 0;
  Histogram latency_ns;
};

class Bench {
 public:
  Bench(const std::string& directory, uint64_t file_bytes, uint32_t divisor)
      : work_(directory + "/.fusefs-bench." + std::to_string(getpid())),
        file_bytes_(file_bytes / kLargeBytes * kLargeBytes),
        divisor_(divisor),
        buffer_(kLargeBytes) {
    Random random(1);  // data that does not compress
    for (size_t at = 0; at < kLargeBytes; at += 8) {
      const uint64_t word = random.next();
      std::memcpy(buffer_.data() + at, &word, sizeof(word));
    }
  }
  ~Bench() {
    for (const std::string& name : made_) unlink(name.c_str());
    if (made_directory_) rmdir(work_.c_str());
  }

  // False: error() says why.
  bool run() {
    if (mkdir(work_.c_str(), 0700) != 0) return fail(work_);
    made_directory_ = true;
    return sequential() && random_reads() && sync_writes() && small_files() && clone();
  }

  const std::vector<Measured>& results() const { return results_; }
  const std::string& error() const { return error_; }
  bool direct() const { return direct_; }

 private:
  bool fail(const std::string& what) {
    error_ = what + ": " + (interrupted != 0 ? "interrupted" : std::strerror(errno));
    return false;
  }

  // Times `count` calls of `one`, which takes the index and returns success.
  template <class One>
  bool measure(const char* name, uint64_t count, size_t bytes_each, One&& one) {
    Measured measured;
    measured.name = name;
    const uint64_t started_ns = clock_.monotonic_ns();
    uint64_t before_ns = started_ns;
    for (uint64_t i = 0; i < count; ++i) {
      if (interrupted != 0 || !one(i)) return fail(name);
      const uint64_t now_ns = clock_.monotonic_ns();
      measured.latency_ns.record(now_ns - before_ns);
      before_ns = now_ns;
    }
    measured.count = count;
    measured.bytes = count * bytes_each;
    measured.duration_ns = before_ns - started_ns;
    results_.push_back(std::move(measured));
    return true;
  }

  std::string path(const std::string& name) const { return work_ + "/" + name; }

  // With O_DIRECT where the filesystem has it.
  OwnedFd open_data(int flags) {
    const std::string name = path("data");
    OwnedFd fd(open(name.c_str(), flags | O_CLOEXEC | O_DIRECT, 0600));
    if (!fd && errno == EINVAL) {
      direct_ = false;
      fd = OwnedFd(open(name.c_str(), flags | O_CLOEXEC, 0600));
    }
    return fd;
  }

  bool sequential() {
    made_.push_back(path("data"));
    const OwnedFd fd = open_data(O_RDWR | O_CREAT | O_EXCL);
    if (!fd) return fail(path("data"));
    const auto at = [](uint64_t i) { return static_cast<off_t>(i * kLargeBytes); };
    const uint64_t count = file_bytes_ / kLargeBytes;
    const bool written = measure("sequential_write", count, kLargeBytes, [&](uint64_t i) {
      const bool last = i + 1 == count;
      return pwrite(fd.get(), buffer_.data(), kLargeBytes, at(i)) == ssize_t{kLargeBytes} &&
             (!last || fdatasync(fd.get()) == 0);
    });
    return written && measure("sequential_read", count, kLargeBytes, [&](uint64_t i) {
             return pread(fd.get(), buffer_.data(), kLargeBytes, at(i)) == ssize_t{kLargeBytes};
           });
  }

  bool random_reads() {
    const OwnedFd fd = open_data(O_RDONLY);
    if (!fd) return fail(path("data"));
    Random random(2);
    return measure("random_read", kReadCount / divisor_, kSmallBytes, [&](uint64_t) {
      const uint64_t pos = random.below(file_bytes_ / kSmallBytes) * kSmallBytes;
      return pread(fd.get(), buffer_.data(), kSmallBytes, static_cast<off_t>(pos)) ==
             ssize_t{kSmallBytes};
    });
  }

  bool sync_writes() {
    const OwnedFd fd(open(path("data").c_str(), O_WRONLY | O_CLOEXEC | O_DSYNC));
    if (!fd) return fail(path("data"));
    Random random(3);
    return measure("sync_write", kSyncWriteCount / divisor_, kSmallBytes, [&](uint64_t) {
      const uint64_t pos = random.below(file_bytes_ / kSmallBytes) * kSmallBytes;
      return pwrite(fd.get(), buffer_.data(), kSmallBytes, static_cast<off_t>(pos)) ==
             ssize_t{kSmallBytes};
    });
  }

  bool small_files() {
    const uint32_t count = kSmallFileCount / divisor_;
    const auto name = [&](uint64_t i) { return path("file" + std::to_string(i)); };
    for (uint32_t i = 0; i < count; ++i) made_.push_back(name(i));
    const bool there = measure("create", count, 0, [&](uint64_t i) {
      return bool(OwnedFd(open(name(i).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)));
    });
    struct stat st {};
    return there &&
           measure("stat", count, 0, [&](uint64_t i) { return stat(name(i).c_str(), &st) == 0; }) &&
           measure("unlink", count, 0, [&](uint64_t i) { return unlink(name(i).c_str()) == 0; });
  }

  // The whole file, by copy_file_range(2): what cp does.
  bool clone() {
    made_.push_back(path("clone"));
    const OwnedFd from(open(path("data").c_str(), O_RDONLY | O_CLOEXEC));
    const OwnedFd to(open(path("clone").c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!from || !to) return fail(path("clone"));
    return measure("copy_file_range", 1, file_bytes_, [&](uint64_t) {
      for (uint64_t left = file_bytes_; left != 0;) {
        const ssize_t copied =
            copy_file_range(from.get(), nullptr, to.get(), nullptr, static_cast<size_t>(left), 0);
        if (copied <= 0) return false;
        left -= static_cast<uint64_t>(copied);
      }
      return true;
    });
  }

  const std::string work_;
  const uint64_t file_bytes_;
  const uint32_t divisor_;
  AlignedBuffer buffer_;
  SystemClock clock_;
  std::vector<std::string> made_;
  bool made_directory_ = false;
  bool direct_ = true;
  std::vector<Measured> results_;
  std::string error_;
};

double per_second(uint64_t amount, uint64_t duration_ns) {
  return duration_ns == 0 ? 0
                          : static_cast<double>(amount) * 1e9 / static_cast<double>(duration_ns);
}

Json to_json(const BenchArguments& arguments, const Bench& bench) {
  Json data;
  data["directory"] = json_text(arguments.directory);
  data["direct_io"] = bench.direct();
  for (const Measured& measured : bench.results()) {
    Json& json = data[measured.name];
    json["count"] = measured.count;
    json["bytes"] = measured.bytes;
    json["duration_ns"] = measured.duration_ns;
    json["per_second"] = per_second(measured.count, measured.duration_ns);
    json["bytes_per_second"] = per_second(measured.bytes, measured.duration_ns);
    json["latency_ns"] = json_histogram(measured.latency_ns);
  }
  return data;
}

void print_table(const Bench& bench) {
  std::printf("%-18s %10s %12s %10s %10s\n", "", "count/s", "MiB/s", "p50 us", "p99 us");
  for (const Measured& measured : bench.results()) {
    std::printf("%-18s %10.0f %12.1f %10.1f %10.1f\n", measured.name,
                per_second(measured.count, measured.duration_ns),
                per_second(measured.bytes, measured.duration_ns) / (1 << 20),
                static_cast<double>(measured.latency_ns.quantile(0.5)) / 1e3,
                static_cast<double>(measured.latency_ns.quantile(0.99)) / 1e3);
  }
}

int run_bench(const BenchArguments& arguments) {
  Output out("bench", arguments.json);
  uint64_t file_bytes = arguments.quick ? kQuickFileBytes : kFileBytes;
  if (!arguments.size.empty()) {
    const Result<uint64_t> size = parse_size(arguments.size);
    if (!size.ok() || size.value() < kFileBytesMin) {
      return out.fail("--size " + arguments.size + ": not a size of at least 1M", kExitUsage);
    }
    file_bytes = size.value();
  }
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    std::signal(signal, [](int) { interrupted = 1; });
  }
  Bench bench(arguments.directory, file_bytes, arguments.quick ? kQuickPart : 1);
  if (!bench.run()) return out.fail(bench.error());
  if (!arguments.json) print_table(bench);
  return out.done(to_json(arguments, bench));
}

}  // namespace

void add_bench(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command =
      app.add_subcommand("bench", "Measure a directory, of whatever filesystem, in a minute");
  command->add_option("DIR", arguments->directory, "Where to make the test files")->required();
  command->add_option("--size", arguments->size, "Size of the large file (256M)");
  command->add_flag("--quick", arguments->quick, "A tenth of everything");
  command->add_flag("--json", arguments->json, "Print one JSON document");
  command->callback([arguments, &exit_code] { exit_code = run_bench(*arguments); });
}

}  // namespace fusefs::cli
