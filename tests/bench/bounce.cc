// bench_bounce DEVICE [--json] [--rounds N]: what an fsync of pinned pages costs beside one of
// ordinary dirty pages and one of mapped pages, by how many have been stored into, and by how large
// the pinned range is.
//
// Formats DEVICE, an image file or a block device: what is on it is lost. Without FUSE, on one
// thread. The ways take turns; each number is the median of the rounds.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/file/pin.h"
#include "core/stats/json.h"
#include "tests/bench/image_bench.h"

namespace fusefs {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr uint64_t kFileBytes = 64 * kMib;
constexpr uint64_t kPages[] = {1, 4, 16, 64, 256, 1024};
// Ranges of which one page is stored into.
constexpr uint64_t kRangeMib[] = {1, 4, 16, 64};

enum class Way { ordinary, pinned, mapped };
constexpr std::array<Way, 3> kWays = {Way::ordinary, Way::pinned, Way::mapped};
constexpr std::array<const char*, 3> kNames = {"ordinary", "pinned", "mapped"};

struct Arguments {
  std::string device;
  bool json = false;
  uint64_t rounds = 31;
};

// A file, perhaps with a range of it in memory of our own.
class Bench {
 public:
  explicit Bench(const std::string& device)
      : bench_(device, volume_options()), runner_(bench_.make_runner()) {
    file_ = bench_.written_file(*runner_, "file", kFileBytes);
  }
  ~Bench() {
    end_pin_of();
    {
      const MonitorHold hold(bench_.monitor());
      file_.reset();
    }
    runner_.reset();
  }

  // From here on `pages` pages from the beginning are held in this way.
  void hold(Way way, uint64_t pages) {
    end_pin_of();
    if (way == Way::ordinary) return;
    frames_ = std::make_shared<AlignedBuffer>(pages * kPageBytes);
    may_store_.assign(pages, false);
    PinRequest request;
    request.range = file_range(FileBlock(0), BlockCount(pages));
    request.kind = way == Way::pinned ? PinKind::write : PinKind::mapped;
    request.frames = frames_->data();
    request.frames_owner = frames_;
    request.protect = [this](FileRange range) {
      for (FileBlock at = range.first; at < range.end; ++at) may_store_[at.value()] = false;
    };
    auto stash = std::make_unique<PinStash>();
    auto pin =
        runner_->run("pin", [&] { return begin_pin(bench_.files(), *file_, request, *stash); });
    CHECK(pin.ok());
    pin_ = std::move(pin).value();
    const MonitorHold hold(bench_.monitor());
    stash.reset();
  }

  // Stores into the first `pages` pages, then the time that fsync takes.
  uint64_t sync_ns(Way way, uint64_t pages) {
    ++serial_;
    for (uint64_t page = 0; page < pages; ++page) store(way, page);
    auto stash = std::make_unique<FsyncStash>();
    OpenFile file;
    file.inode = file_;
    const uint64_t begin_ns = bench_.clock().monotonic_ns();
    must(runner_->run("fsync", [&] { return fsync(bench_.files(), file, true, *stash); }), "fsync");
    const uint64_t took_ns = bench_.clock().monotonic_ns() - begin_ns;
    const MonitorHold hold(bench_.monitor());
    stash.reset();
    file.inode.reset();
    return took_ns;
  }

 private:
  static VolumeOptions volume_options() {
    VolumeOptions options;
    options.cache_bytes = 64 * kMib;
    return options;
  }
  void store(Way way, uint64_t page) {
    if (way == Way::ordinary) {
      std::memcpy(bytes_.data(), &serial_, sizeof(serial_));
      WriteStash stash;
      const WriteRequest request{.pos = page * kPageBytes, .data = bytes_.bytes()};
      CHECK(
          runner_
              ->run("write", [&] { return write_buffered(bench_.files(), *file_, request, stash); })
              .ok());
      return;
    }
    if (way == Way::mapped && !may_store_[page]) {
      PinFaultStash stash;
      must(runner_->run("fault",
                        [&] {
                          return fault_pinned(
                              bench_.files(), *pin_, FileBlock(page), PinAccess::store,
                              [&] { may_store_[page] = true; }, stash);
                        }),
           "fault");
      const MonitorHold hold(bench_.monitor());
      stash.inode.reset();
    }
    std::memcpy(pin_->frame(FileBlock(page)), &serial_, sizeof(serial_));
  }
  void end_pin_of() {
    if (!pin_) return;
    must(runner_->run("unpin", [&] { return end_pin(bench_.files(), *pin_); }), "unpin");
    const MonitorHold hold(bench_.monitor());
    pin_.reset();
  }

  ImageBench bench_;
  std::unique_ptr<SyncRunner> runner_;
  InodeRef file_;
  Ref<Pin> pin_;
  std::shared_ptr<AlignedBuffer> frames_;
  std::vector<bool> may_store_;
  AlignedBuffer bytes_{kPageBytes};
  uint64_t serial_ = 0;
};

uint64_t median(std::vector<uint64_t> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double us(uint64_t ns) { return static_cast<double>(ns) / 1e3; }

struct Row {
  uint64_t range_pages = 0;
  uint64_t stored_pages = 0;
  std::array<uint64_t, kWays.size()> ns = {};
};

Row measure(Bench& bench, uint64_t range_pages, uint64_t stored_pages, uint64_t rounds) {
  Row row{range_pages, stored_pages, {}};
  std::array<std::vector<uint64_t>, kWays.size()> all;
  // Turns of several rounds: changing the way costs more than a round.
  constexpr uint64_t kTurns = 3;
  for (uint64_t turn = 0; turn < kTurns; ++turn) {
    for (const Way way : kWays) {
      bench.hold(way, range_pages);
      (void)bench.sync_ns(way, stored_pages);
      for (uint64_t i = 0; i < rounds / kTurns + 1; ++i) {
        all[static_cast<size_t>(way)].push_back(bench.sync_ns(way, stored_pages));
      }
    }
  }
  for (size_t i = 0; i < kWays.size(); ++i) row.ns[i] = median(all[i]);
  return row;
}

[[noreturn]] void usage() {
  std::fprintf(stderr, "usage: bench_bounce DEVICE [--json] [--rounds N]\n");
  std::exit(2);
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--json") {
      arguments.json = true;
    } else if (word == "--rounds" && i + 1 < argc) {
      arguments.rounds = std::strtoull(argv[++i], nullptr, 10);
    } else if (!word.starts_with("-") && arguments.device.empty()) {
      arguments.device = word;
    } else {
      usage();
    }
  }
  if (arguments.device.empty() || arguments.rounds == 0) usage();
  return arguments;
}

}  // namespace
}  // namespace fusefs

int main(int argc, char** argv) {
  using namespace fusefs;
  const Arguments arguments = parse(argc, argv);
  Bench bench(arguments.device);
  std::vector<Row> rows;
  for (const uint64_t pages : kPages) {
    rows.push_back(measure(bench, std::max<uint64_t>(pages, 256), pages, arguments.rounds));
  }
  for (const uint64_t mib : kRangeMib) {
    rows.push_back(measure(bench, mib * kMib / kPageBytes, 1, arguments.rounds));
  }
  Json json = Json::array();
  if (!arguments.json) {
    std::printf("%8s %8s %12s %12s %12s %8s\n", "range", "stored", "ordinary us", "pinned us",
                "mapped us", "ratio");
  }
  for (const Row& row : rows) {
    if (!arguments.json) {
      std::printf("%8llu %8llu %12.1f %12.1f %12.1f %8.2f\n",
                  static_cast<unsigned long long>(row.range_pages),
                  static_cast<unsigned long long>(row.stored_pages), us(row.ns[0]), us(row.ns[1]),
                  us(row.ns[2]), static_cast<double>(row.ns[1]) / static_cast<double>(row.ns[0]));
      continue;
    }
    Json one{{"range_pages", row.range_pages}, {"stored_pages", row.stored_pages}};
    for (size_t i = 0; i < kWays.size(); ++i) one[std::string(kNames[i]) + "_ns"] = row.ns[i];
    json.push_back(std::move(one));
  }
  if (arguments.json) std::printf("%s\n", dump_json(json, JsonLayout::pretty).c_str());
  return 0;
}
