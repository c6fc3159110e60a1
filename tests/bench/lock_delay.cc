// bench_lock_delay [--json] [--seconds N] [--seed N] [--programs N] [--io-us N]: what the delay D
// of the two-state lock (-o lock_delay_ms) costs and brings whom.
//
// A volume on a simulated device, on a simulated clock: what is measured is waiting, not computing,
// and a seed gives the same numbers on every machine. Ten programs work on one file, 4 KiB at
// random and without a pause: blockers write directly; adders either fault pages in and keep their
// hold while they are read (-o fault=hold, as bcachefs does it), or write with O_DSYNC, which is
// the adder that holds across its I/O by default.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/file/write_through.h"
#include "core/stats/json.h"
#include "tests/bench/sim_bench.h"

namespace fusefs {
namespace {

constexpr uint64_t kVolumeBytes = uint64_t{256} << 20;
constexpr uint64_t kCacheBytes = uint64_t{4} << 20;
constexpr uint64_t kFileBytes = uint64_t{64} << 20;

enum class Adders { faults, sync_writes };

struct Arguments {
  bool json = false;
  uint64_t seconds = 2;
  uint64_t seed = 1;
  uint64_t programs = 10;
  uint64_t io_us = 100;  // what an I/O takes, give or take a fifth: a flash device

  uint64_t io_ns_min() const { return io_us * 800; }
  uint64_t io_ns_max() const { return io_us * 1200; }
};

struct Delay {
  const char* name;
  uint64_t ns;
};
constexpr Delay kDelays[] = {{"0", 0},
                             {"1", 1 * kNsPerMs},
                             {"4", 4 * kNsPerMs},
                             {"16", 16 * kNsPerMs},
                             {"inf", kLockDelayInfinite}};
// Tenths of the programs that are adders.
constexpr uint64_t kAdderTenths[] = {1, 5, 9};

struct Side {
  uint64_t programs = 0;
  uint64_t done_count = 0;
  Histogram wait_ns;  // of every hold; 0 for those that did not wait
};

struct Outcome {
  Side adders;
  Side blockers;
  uint64_t flip_count = 0;
  uint64_t run_ns = 0;
};

class Bench {
 public:
  Bench(const Arguments& arguments, Adders adders, uint64_t delay_ns)
      : bench_(arguments.seed, device_options(arguments), volume_options(adders, delay_ns)),
        random_(bench_.world().random().fork()),
        adders_(adders),
        io_ns_max_(arguments.io_ns_max()),
        bytes_(kPageBytes),
        file_(bench_.written_file("file", kFileBytes)) {
    std::memset(bytes_.data(), 'x', kPageBytes);
  }
  ~Bench() {
    bench_.abandon();
    file_.reset();
  }

  Outcome run(uint64_t adders, uint64_t blockers, uint64_t run_ns) {
    TwoStateStats& stats = bench_.volume().inodes().pages_locks().stats;
    stats = {};
    std::vector<std::unique_ptr<Program>> programs;
    for (uint64_t i = 0; i < adders + blockers; ++i) {
      programs.push_back(std::make_unique<Program>());
      programs.back()->is_adder = i < adders;
      next(*programs.back());
    }
    const uint64_t begin_ns = bench_.world().clock().monotonic_ns();
    CHECK(bench_.world().run_for(run_ns));
    Outcome outcome;
    outcome.run_ns = run_ns;
    outcome.flip_count = stats.flip_count;
    outcome.adders = side(stats, TwoStateKind::adder);
    outcome.blockers = side(stats, TwoStateKind::blocker);
    outcome.adders.programs = adders;
    outcome.blockers.programs = blockers;
    for (const auto& program : programs) {
      Side& mine = program->is_adder ? outcome.adders : outcome.blockers;
      mine.done_count += program->done_count;
      // Who waits still has waited at least for so long.
      const uint64_t waited_ns =
          bench_.world().clock().monotonic_ns() - std::max(program->begin_ns, begin_ns);
      if (waited_ns > 2 * io_ns_max_) mine.wait_ns.record(waited_ns);
    }
    bench_.abandon();
    return outcome;
  }

 private:
  struct Program {
    bool is_adder = false;
    uint64_t begin_ns = 0;
    uint64_t done_count = 0;
  };
  struct Call {
    WriteStash write;
    ReadStash read;
    AlignedBuffer buffer{2 * kPageBytes};
  };

  static SimDeviceOptions device_options(const Arguments& arguments) {
    SimDeviceOptions options;
    options.size_bytes = kVolumeBytes;
    options.has_volatile_cache = false;
    options.latency_ns_min = arguments.io_ns_min();
    options.latency_ns_max = arguments.io_ns_max();
    return options;
  }
  static VolumeOptions volume_options(Adders adders, uint64_t delay_ns) {
    VolumeOptions options;
    options.cache_bytes = kCacheBytes;
    options.lock_delay_ns = delay_ns;
    if (adders == Adders::faults) options.fault_policy = FaultPolicy::hold;
    return options;
  }

  static Side side(const TwoStateStats& stats, TwoStateKind kind) {
    Side result;
    result.wait_ns = stats.wait_ns[static_cast<size_t>(kind)];
    const uint64_t holds = stats.hold_count[static_cast<size_t>(kind)];
    for (uint64_t i = result.wait_ns.count(); i < holds; ++i) result.wait_ns.record(0);
    return result;
  }

  void next(Program& program) {
    auto call = std::make_shared<Call>();
    const uint64_t pos = random_.below(kFileBytes / kPageBytes) * kPageBytes;
    program.begin_ns = bench_.world().clock().monotonic_ns();
    bench_.world().spawn(
        [this, call, pos, is_adder = program.is_adder]() -> Attempt<void> {
          const Attempt<size_t> attempt = do_once(*call, pos, is_adder);
          if (!attempt.ok()) return Unfinished(attempt);
          return {};
        },
        [this, &program](Result<void> result) {
          must(result);
          ++program.done_count;
          next(program);
        });
  }

  Attempt<size_t> do_once(Call& call, uint64_t pos, bool is_adder) {
    FileContext& files = bench_.files();
    if (is_adder && adders_ == Adders::faults) {
      return read_file(files, *file_, pos, kPageBytes, call.buffer.bytes(), call.read);
    }
    WriteRequest request{.pos = pos, .data = bytes_.bytes()};
    if (!is_adder) return write_direct(files, *file_, request, call.write);
    request.sync = SyncLevel::data;
    return write_through(files, *file_, request, call.write);
  }

  SimBench bench_;
  Random random_;
  const Adders adders_;
  const uint64_t io_ns_max_;
  AlignedBuffer bytes_;
  InodeRef file_;
};

uint64_t per_second(uint64_t count, uint64_t run_ns) { return count * kNsPerSecond / run_ns; }

Json to_json(const Side& side, uint64_t run_ns) {
  Json json;
  json["programs"] = side.programs;
  json["operations_per_second"] = per_second(side.done_count, run_ns);
  json["wait_ns"] = json_histogram(side.wait_ns);
  return json;
}

double ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

void print_row(const char* delay, const Outcome& outcome) {
  const auto rate = [&](const Side& side) {
    return static_cast<unsigned long long>(per_second(side.done_count, outcome.run_ns));
  };
  std::printf("%4s  %4llu:%-4llu %10llu %10.3f %10.3f %10llu %10.3f %10.3f %8llu\n", delay,
              static_cast<unsigned long long>(outcome.adders.programs),
              static_cast<unsigned long long>(outcome.blockers.programs), rate(outcome.adders),
              ms(outcome.adders.wait_ns.quantile(0.99)), ms(outcome.adders.wait_ns.max()),
              rate(outcome.blockers), ms(outcome.blockers.wait_ns.quantile(0.99)),
              ms(outcome.blockers.wait_ns.max()),
              static_cast<unsigned long long>(per_second(outcome.flip_count, outcome.run_ns)));
}

[[noreturn]] void usage() {
  std::fprintf(stderr,
               "usage: bench_lock_delay [--json] [--seconds N] [--seed N] [--programs N] "
               "[--io-us N]\n");
  std::exit(2);
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  const bool understood = parse_options(argc, argv, arguments.json,
                                        {{"--seconds", &arguments.seconds},
                                         {"--seed", &arguments.seed},
                                         {"--programs", &arguments.programs},
                                         {"--io-us", &arguments.io_us}});
  if (!understood) usage();
  if (arguments.seconds == 0 || arguments.programs < 10 || arguments.io_us == 0) usage();
  return arguments;
}

}  // namespace
}  // namespace fusefs

int main(int argc, char** argv) {
  using namespace fusefs;
  const Arguments arguments = parse(argc, argv);
  Json runs = Json::array();
  for (const Adders adders : {Adders::faults, Adders::sync_writes}) {
    const char* kind = adders == Adders::faults ? "faults" : "sync_writes";
    if (!arguments.json) {
      std::printf("%s\n%4s  %9s %10s %10s %10s %10s %10s %10s %8s\n", kind, "D ms", "add:block",
                  "adders/s", "p99 ms", "max ms", "blockers/s", "p99 ms", "max ms", "flips/s");
    }
    for (const uint64_t tenths : kAdderTenths) {
      for (const Delay& delay : kDelays) {
        const uint64_t adder_count = arguments.programs * tenths / 10;
        const Outcome outcome = Bench(arguments, adders, delay.ns)
                                    .run(adder_count, arguments.programs - adder_count,
                                         arguments.seconds * kNsPerSecond);
        if (!arguments.json) print_row(delay.name, outcome);
        Json run;
        run["adder_kind"] = kind;
        run["delay_ms"] = delay.name;
        run["adders"] = to_json(outcome.adders, outcome.run_ns);
        run["blockers"] = to_json(outcome.blockers, outcome.run_ns);
        run["flips_per_second"] = per_second(outcome.flip_count, outcome.run_ns);
        runs.push_back(std::move(run));
      }
    }
  }
  if (arguments.json) {
    Json json;
    json["seconds"] = arguments.seconds;
    json["seed"] = arguments.seed;
    json["io_us"] = arguments.io_us;
    json["runs"] = std::move(runs);
    std::printf("%s\n", dump_json(json, JsonLayout::pretty).c_str());
  }
  return 0;
}
