// bench_pins [--json] [--seconds N] [--seed N] [--io-us N]: what becomes of pinned pages' dirtiness
// (-o pinned=redirty|keep|unpin), and of mapped ones beside it, over how fast they are stored into.
//
// A volume on a simulated device, on a simulated clock: counts and waiting, not computing. A
// program stores into random pages of a range of 16 MiB that is pinned or mapped in its own memory,
// another one writes buffered to the rest of the same file, so that the flusher has work there, and
// the file is synced ten times a second.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/file/pin.h"
#include "core/stats/json.h"
#include "tests/bench/sim_bench.h"

namespace fusefs {
namespace {

constexpr uint64_t kFileBytes = uint64_t{32} << 20;
constexpr uint64_t kPinnedPages = 4096;  // the first half of the file
constexpr uint64_t kTickNs = kNsPerMs;
constexpr uint64_t kSyncNs = 100 * kNsPerMs;
constexpr uint64_t kStoresPerSecond[] = {100, 1000, 10'000, 100'000};

struct Arguments {
  bool json = false;
  uint64_t seconds = 10;
  uint64_t seed = 1;
  uint64_t io_us = 100;  // what an I/O takes, give or take a fifth
};

struct Way {
  const char* name;
  PinKind kind;
  PinnedPolicy policy;
};
constexpr Way kWays[] = {{"redirty", PinKind::write, PinnedPolicy::redirty},
                         {"keep", PinKind::write, PinnedPolicy::keep},
                         {"unpin", PinKind::write, PinnedPolicy::unpin},
                         {"mapped", PinKind::mapped, PinnedPolicy::redirty}};

struct Outcome {
  uint64_t store_count = 0;
  uint64_t fault_count = 0;
  uint64_t sync_count = 0;
  Histogram sync_ns;
  PinStats pins;
  uint64_t writeback_pages = 0;  // copies and ordinary ones
  uint64_t other_pages = 0;      // what the other program has written
};

class Bench {
 public:
  Bench(const Arguments& arguments, const Way& way)
      : bench_(arguments.seed, device_options(arguments), volume_options(way), false),
        random_(bench_.world().random().fork()),
        way_(way),
        run_ns_(arguments.seconds * kNsPerSecond),
        frames_(std::make_shared<AlignedBuffer>(kPinnedPages * kPageBytes)),
        may_store_(kPinnedPages),
        file_(bench_.written_file("file", kFileBytes)) {
    PinRequest request;
    request.range = file_range(FileBlock(0), BlockCount(kPinnedPages));
    request.kind = way.kind;
    request.frames = frames_->data();
    request.frames_owner = frames_;
    request.protect = [this](FileRange range) {
      for (FileBlock at = range.first; at < range.end; ++at) may_store_[at.value()] = false;
    };
    PinStash stash;
    pin_ = must(world().run([&] { return begin_pin(bench_.files(), *file_, request, stash); }));
  }
  ~Bench() {
    bench_.abandon();
    pin_.reset();
    file_.reset();
  }

  Outcome run(uint64_t stores_per_second) {
    stores_per_second_ = stores_per_second;
    begin_ns_ = world().clock().monotonic_ns();
    bench_.files().pins.counters() = {};
    bench_.files().stats = {};
    store();
    write();
    sync();
    CHECK(world().run_for(run_ns_));
    outcome_.pins = bench_.files().pins.stats();
    outcome_.writeback_pages = bench_.files().stats.writeback_bytes / kPageBytes;
    return outcome_;
  }

 private:
  static SimDeviceOptions device_options(const Arguments& arguments) {
    SimDeviceOptions options;
    options.size_bytes = uint64_t{256} << 20;
    options.has_volatile_cache = false;
    options.latency_ns_min = arguments.io_us * 800;
    options.latency_ns_max = arguments.io_us * 1200;
    return options;
  }
  static VolumeOptions volume_options(const Way& way) {
    VolumeOptions options;
    options.cache_bytes = uint64_t{16} << 20;
    options.pinned_policy = way.policy;
    return options;
  }
  SimWorld& world() { return bench_.world(); }
  uint64_t now_ns() { return world().clock().monotonic_ns(); }

  // Calls `fn` every `pause_ns` or later, as an operation of its own, which may restart.
  template <class Stash, class Fn>
  void repeat(uint64_t pause_ns, Fn fn) {
    struct Call {
      std::unique_ptr<Stash> stash = std::make_unique<Stash>();
      uint64_t due_ns = 0;
      Waitable due;
    };
    auto call = std::make_shared<Call>();
    call->due_ns = now_ns();
    world().spawn([this, call, fn, pause_ns]() -> Attempt<void> {
      while (true) {
        if (now_ns() < call->due_ns) {
          world().scheduler().wake_at(call->due_ns, call->due);
          return restart_after(call->due, RestartReason::idle);
        }
        const Attempt<void> done = fn(*call->stash);
        if (done.must_restart()) return done;
        CHECK(done.ok());
        call->stash = std::make_unique<Stash>();
        call->due_ns = std::max(call->due_ns + pause_ns, now_ns());
        Operation::current()->note_progress();
      }
    });
  }

  struct StoreStash {
    std::unique_ptr<PinFaultStash> fault;
    uint64_t page = 0;
  };
  // What is due since the beginning.
  void store() {
    repeat<StoreStash>(kTickNs, [this](StoreStash& stash) -> Attempt<void> {
      const uint64_t due = (now_ns() - begin_ns_) * stores_per_second_ / kNsPerSecond;
      while (outcome_.store_count < due) {
        if (!stash.fault) stash.page = random_.below(kPinnedPages);
        if (stash.fault || (way_.kind == PinKind::mapped && !may_store_[stash.page])) {
          if (!stash.fault) {
            stash.fault = std::make_unique<PinFaultStash>();
            ++outcome_.fault_count;
          }
          const Attempt<void> faulted = fault_pinned(
              bench_.files(), *pin_, FileBlock(stash.page), PinAccess::store,
              [this, page = stash.page] { may_store_[page] = true; }, *stash.fault);
          if (faulted.must_restart()) return faulted;
          CHECK(faulted.ok());
          stash.fault.reset();
        }
        ++outcome_.store_count;
        std::memcpy(pin_->frame(FileBlock(stash.page)) + 8 * random_.below(512),
                    &outcome_.store_count, sizeof(uint64_t));
      }
      return {};
    });
  }

  struct PlaceStash {
    WriteStash write;
    uint64_t pos = 0;
  };
  void write() {
    repeat<PlaceStash>(kTickNs, [this](PlaceStash& stash) -> Attempt<void> {
      const uint64_t pages = kFileBytes / kPageBytes - kPinnedPages;
      if (stash.pos == 0) stash.pos = (kPinnedPages + random_.below(pages)) * kPageBytes;
      const WriteRequest request{.pos = stash.pos, .data = bytes_.bytes()};
      const Attempt<size_t> written = write_buffered(bench_.files(), *file_, request, stash.write);
      if (!written.ok()) return Unfinished(written);
      ++outcome_.other_pages;
      return {};
    });
  }

  struct SyncStash {
    FsyncStash sync;
    OpenFile file;
    uint64_t begin_ns = 0;
  };
  void sync() {
    repeat<SyncStash>(kSyncNs, [this](SyncStash& stash) -> Attempt<void> {
      if (stash.begin_ns == 0) {
        stash.begin_ns = now_ns();
        stash.file.inode = file_;
      }
      const Attempt<void> synced = fsync(bench_.files(), stash.file, false, stash.sync);
      if (!synced.ok()) return synced;
      outcome_.sync_ns.record(now_ns() - stash.begin_ns);
      ++outcome_.sync_count;
      return {};
    });
  }

  SimBench bench_;
  Random random_;
  const Way way_;
  const uint64_t run_ns_;
  std::shared_ptr<AlignedBuffer> frames_;
  std::vector<bool> may_store_;  // of a mapped range
  const AlignedBuffer bytes_{kPageBytes};
  InodeRef file_;
  Ref<Pin> pin_;
  uint64_t stores_per_second_ = 0;
  uint64_t begin_ns_ = 0;
  Outcome outcome_;
};

unsigned long long ull(uint64_t value) { return value; }
double ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

// Pages that were written because of the pin.
uint64_t pinned_pages_written(const Way& way, const Outcome& outcome) {
  const uint64_t bounced = outcome.pins.bounced_bytes / kPageBytes;
  return way.kind == PinKind::mapped ? outcome.pins.protected_pages : bounced;
}

void print_row(const Way& way, uint64_t rate, const Outcome& outcome, uint64_t seconds) {
  std::printf("%8llu %-8s %9llu %9llu %9llu %9llu %8llu %8llu %8.3f %8.3f\n", ull(rate), way.name,
              ull(outcome.store_count / seconds), ull(pinned_pages_written(way, outcome) / seconds),
              ull(outcome.pins.compared_count / seconds), ull(outcome.fault_count / seconds),
              ull(outcome.pins.redirtied_count / seconds), ull(outcome.pins.skipped_count),
              ms(outcome.sync_ns.quantile(0.5)), ms(outcome.sync_ns.quantile(0.99)));
}

Json to_json(const Way& way, uint64_t rate, const Outcome& outcome) {
  Json json;
  json["way"] = way.name;
  json["stores_per_second"] = rate;
  json["store_count"] = outcome.store_count;
  json["fault_count"] = outcome.fault_count;
  json["pages_written"] = pinned_pages_written(way, outcome);
  json["compared_count"] = outcome.pins.compared_count;
  json["redirtied_count"] = outcome.pins.redirtied_count;
  json["skipped_count"] = outcome.pins.skipped_count;
  json["sync_count"] = outcome.sync_count;
  json["sync_ns"] = json_histogram(outcome.sync_ns);
  return json;
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  const bool understood = parse_options(argc, argv, arguments.json,
                                        {{"--seconds", &arguments.seconds},
                                         {"--seed", &arguments.seed},
                                         {"--io-us", &arguments.io_us}});
  if (understood && arguments.seconds != 0 && arguments.io_us != 0) return arguments;
  std::fprintf(stderr, "usage: bench_pins [--json] [--seconds N] [--seed N] [--io-us N]\n");
  std::exit(2);
}

}  // namespace
}  // namespace fusefs

int main(int argc, char** argv) {
  using namespace fusefs;
  const Arguments arguments = parse(argc, argv);
  Json runs = Json::array();
  if (!arguments.json) {
    std::printf("%8s %-8s %9s %9s %9s %9s %8s %8s %8s %8s\n", "stores/s", "", "stored/s",
                "written/s", "compar./s", "faults/s", "redirt/s", "skipped", "p50 ms", "p99 ms");
  }
  for (const uint64_t rate : kStoresPerSecond) {
    for (const Way& way : kWays) {
      const Outcome outcome = Bench(arguments, way).run(rate);
      if (!arguments.json) print_row(way, rate, outcome, arguments.seconds);
      runs.push_back(to_json(way, rate, outcome));
    }
  }
  if (arguments.json) {
    Json json;
    json["seconds"] = arguments.seconds;
    json["seed"] = arguments.seed;
    json["io_us"] = arguments.io_us;
    json["pinned_pages"] = kPinnedPages;
    json["runs"] = std::move(runs);
    std::printf("%s\n", dump_json(json, JsonLayout::pretty).c_str());
  }
  return 0;
}
