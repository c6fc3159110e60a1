// bench_faults [--json] [--seconds N] [--seed N]: what faults that wait for a slow device cost
// everybody else, with -o fault=restart and with -o fault=hold.
//
// A volume on a simulated device whose reads of data take 50 ms, on a simulated clock: what is
// measured is waiting, not computing, and a seed gives the same numbers on every machine. 16
// programs write 100 bytes into pages that are not in memory (write faults), 8 read at random what
// a clone shares (read faults); one each stats, truncates and clones the same files, 10 ms apart.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/file/fault.h"
#include "core/stats/json.h"
#include "tests/bench/sim_bench.h"

namespace fusefs {
namespace {

constexpr uint64_t kVolumeBytes = uint64_t{1} << 30;
constexpr uint64_t kCacheBytes = uint64_t{64} << 20;
constexpr size_t kFiles = 4;
constexpr uint64_t kFileBytes = uint64_t{32} << 20;
constexpr size_t kWriters = 16;
constexpr size_t kReaders = 8;
constexpr uint64_t kReadNs = 50 * kNsPerMs;
constexpr uint64_t kPauseNs = 10 * kNsPerMs;
constexpr uint64_t kCloneBytes = uint64_t{1} << 20;

struct Arguments {
  bool json = false;
  uint64_t seconds = 60;
  uint64_t seed = 1;
};

struct Latencies {
  Histogram stat_ns;
  Histogram truncate_ns;
  Histogram clone_ns;
  Histogram write_ns;
  Histogram read_ns;
  FaultStats faults;
};

class Bench {
 public:
  Bench(const Arguments& arguments, FaultPolicy policy)
      : bench_(arguments.seed, device_options(), volume_options(policy)),
        random_(bench_.world().random().fork()),
        run_ns_(arguments.seconds * kNsPerSecond) {
    for (size_t i = 0; i < kFiles; ++i) {
      files_.push_back(bench_.written_file("file" + std::to_string(i), kFileBytes));
    }
    scratch_ = bench_.create("scratch");
    clone_ = bench_.create("clone");
    copy(*files_[0], 0, *clone_, 0, kFileBytes);
    FsyncStash sync;
    must(world().run([&] { return sync_all(bench_.files(), sync); }));
  }
  ~Bench() {
    bench_.abandon();
    for (InodeRef& file : files_) file.reset();
    scratch_.reset();
    clone_.reset();
  }

  Latencies run() {
    SimFault slow;
    slow.kind = IoKind::read;
    slow.addr_first = block_addr(bench_.volume().space().data_first());
    slow.delay_ns = kReadNs;
    world().device().add_fault(slow);
    end_ns_ = world().clock().monotonic_ns() + run_ns_;
    for (size_t i = 0; i < kWriters; ++i) write();
    for (size_t i = 0; i < kReaders; ++i) read();
    stat();
    truncate();
    clone();
    CHECK(world().run_until([this] { return running_ == 0; }));
    result_.faults = bench_.files().faults;
    return result_;
  }

 private:
  static SimDeviceOptions device_options() {
    SimDeviceOptions options;
    options.size_bytes = kVolumeBytes;
    return options;
  }
  static VolumeOptions volume_options(FaultPolicy policy) {
    VolumeOptions options;
    options.cache_bytes = kCacheBytes;
    options.fault_policy = policy;
    return options;
  }
  SimWorld& world() { return bench_.world(); }

  void copy(Inode& from, uint64_t from_pos, Inode& to, uint64_t to_pos, uint64_t len) {
    CopyStash stash;
    must(world().run(
        [&] { return copy_range(bench_.files(), from, from_pos, to, to_pos, len, stash); }));
  }

  InodeRef random_file() { return files_[random_.below(kFiles)]; }

  // One operation, its latency, a pause, and `again`, until the time is over.
  template <class Stash, class Fn>
  void spawn(Histogram& latency, uint64_t pause_ns, Fn fn, void (Bench::*again)()) {
    struct Call {
      Stash stash;
      uint64_t pause_until_ns = 0;
      uint64_t begin_ns = 0;
      Waitable pause;
    };
    auto call = std::make_shared<Call>();
    call->pause_until_ns = world().clock().monotonic_ns() + pause_ns;
    ++running_;
    world().spawn(
        [this, call, fn, &latency]() -> Attempt<void> {
          const uint64_t now_ns = world().clock().monotonic_ns();
          if (now_ns < call->pause_until_ns) {
            world().scheduler().wake_at(call->pause_until_ns, call->pause);
            return restart_after(call->pause, RestartReason::idle);
          }
          if (call->begin_ns == 0) call->begin_ns = now_ns;
          auto attempt = fn(call->stash);
          if (!attempt.ok()) return Unfinished(attempt);
          latency.record(world().clock().monotonic_ns() - call->begin_ns);
          return {};
        },
        [this, again](Result<void> result) {
          must(result);
          --running_;
          if (world().clock().monotonic_ns() < end_ns_) (this->*again)();
        });
  }

  void write() {
    const InodeRef file = random_file();
    const uint64_t pos = random_.below(kFileBytes / 2 / kPageBytes) * kPageBytes + 500;
    spawn<WriteStash>(
        result_.write_ns, 0,
        [this, file, pos](WriteStash& stash) {
          const WriteRequest request{pos, ConstBytes(bytes_, sizeof(bytes_)), false, false};
          return write_buffered(bench_.files(), *file, request, stash);
        },
        &Bench::write);
  }

  void read() {
    struct Stash {
      ReadStash read;
      AlignedBuffer buffer{2 * kPageBytes};
    };
    const uint64_t pos = random_.below(kFileBytes / kPageBytes) * kPageBytes;
    spawn<Stash>(
        result_.read_ns, 0,
        [this, pos](Stash& stash) {
          return read_file(bench_.files(), *clone_, pos, kPageBytes, stash.buffer.bytes(),
                           stash.read);
        },
        &Bench::read);
  }

  void stat() {
    const InodeNo ino = random_file()->ino;
    spawn<NodePins>(
        result_.stat_ns, kPauseNs,
        [this, ino](NodePins& pins) -> Attempt<void> {
          ATTEMPT(const InodeRef inode, bench_.volume().inodes().get(ino, pins));
          CHECK(inode->attr.size != 0);
          return {};
        },
        &Bench::stat);
  }

  // A page less at the end, where nobody writes.
  void truncate() {
    const InodeRef file = random_file();
    spawn<ShapeStash>(
        result_.truncate_ns, kPauseNs,
        [this, file](ShapeStash& stash) {
          return set_size(bench_.files(), *file,
                          std::max(file->attr.size - kPageBytes, kFileBytes / 2), false, stash);
        },
        &Bench::truncate);
  }

  void clone() {
    const InodeRef file = random_file();
    const uint64_t pos = random_.below(kFileBytes / 2 / kCloneBytes) * kCloneBytes;
    spawn<CopyStash>(
        result_.clone_ns, kPauseNs,
        [this, file, pos](CopyStash& stash) {
          return copy_range(bench_.files(), *file, pos, *scratch_, pos, kCloneBytes, stash);
        },
        &Bench::clone);
  }

  SimBench bench_;
  Random random_;
  const uint64_t run_ns_;
  std::vector<InodeRef> files_;
  InodeRef scratch_;
  InodeRef clone_;
  uint64_t end_ns_ = 0;
  size_t running_ = 0;
  const std::byte bytes_[100] = {};
  Latencies result_;
};

Json to_json(const Latencies& result) {
  Json json;
  json["stat_latency_ns"] = json_histogram(result.stat_ns);
  json["truncate_latency_ns"] = json_histogram(result.truncate_ns);
  json["clone_latency_ns"] = json_histogram(result.clone_ns);
  json["write_latency_ns"] = json_histogram(result.write_ns);
  json["read_latency_ns"] = json_histogram(result.read_ns);
  const FaultStats& faults = result.faults;
  json["fault_restart_count"] = faults.restart_count;
  json["stash_reused_count"] = faults.stash_reused_count;
  json["stash_discarded_count"] = faults.stash_discarded_count;
  json["page_gone_count"] = faults.page_gone_count;
  return json;
}

double ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

void print_row(const char* name, const Histogram& restart, const Histogram& hold) {
  const uint64_t a = restart.quantile(0.99);
  const uint64_t b = hold.quantile(0.99);
  char ratio[32] = "-";
  if (a != 0) std::snprintf(ratio, sizeof(ratio), "%.1f", static_cast<double>(b) / double(a));
  std::printf("%-10s %9llu %12.3f %9llu %12.3f %8s\n", name,
              static_cast<unsigned long long>(restart.count()), ms(a),
              static_cast<unsigned long long>(hold.count()), ms(b), ratio);
}

void print_table(const Latencies& restart, const Latencies& hold) {
  std::printf("%-10s %9s %12s %9s %12s %8s\n", "", "restart", "p99 ms", "hold", "p99 ms", "ratio");
  print_row("stat", restart.stat_ns, hold.stat_ns);
  print_row("truncate", restart.truncate_ns, hold.truncate_ns);
  print_row("clone", restart.clone_ns, hold.clone_ns);
  print_row("write", restart.write_ns, hold.write_ns);
  print_row("read", restart.read_ns, hold.read_ns);
  for (const auto* run : {&restart, &hold}) {
    const FaultStats& faults = run->faults;
    std::printf("%s: %llu restarts, pages read and used %llu, discarded %llu, gone %llu\n",
                run == &restart ? "restart" : "hold",
                static_cast<unsigned long long>(faults.restart_count),
                static_cast<unsigned long long>(faults.stash_reused_count),
                static_cast<unsigned long long>(faults.stash_discarded_count),
                static_cast<unsigned long long>(faults.page_gone_count));
  }
}

[[noreturn]] void usage() {
  std::fprintf(stderr, "usage: bench_faults [--json] [--seconds N] [--seed N]\n");
  std::exit(2);
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  const bool understood = parse_options(
      argc, argv, arguments.json, {{"--seconds", &arguments.seconds}, {"--seed", &arguments.seed}});
  if (!understood) usage();
  if (arguments.seconds == 0) usage();
  return arguments;
}

}  // namespace
}  // namespace fusefs

int main(int argc, char** argv) {
  using namespace fusefs;
  const Arguments arguments = parse(argc, argv);
  const Latencies restart = Bench(arguments, FaultPolicy::restart).run();
  const Latencies hold = Bench(arguments, FaultPolicy::hold).run();
  if (arguments.json) {
    Json json;
    json["restart"] = to_json(restart);
    json["hold"] = to_json(hold);
    std::printf("%s\n", dump_json(json, JsonLayout::pretty).c_str());
  } else {
    print_table(restart, hold);
  }
  return 0;
}
