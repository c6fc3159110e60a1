// bench_bounce DEVICE [--json] [--rounds N] [--alike 1] [--range PAGES --stored PAGES]: what an
// fdatasync of pinned pages costs beside one of ordinary dirty pages and one of mapped pages, by
// how many have been stored into, and by how large the pinned range is.
//
// Formats DEVICE, an image file or a block device: what is on it is lost. Without FUSE, on one
// thread. The ways take turns; each number is the median of the rounds. The file is noise; with
// --alike each page is one byte repeated, but for its first word: what zram compresses to nothing.
// With --range and --stored only that case.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/file/pin.h"
#include "core/stats/json.h"
#include "tests/bench/image_bench.h"
#include "tests/bench/options.h"

namespace fusefs {
namespace {

constexpr uint64_t kFileBytes = uint64_t{64} << 20;
struct Case {
  uint64_t range_pages;
  uint64_t stored_pages;
};
constexpr Case kCases[] = {
    {1, 1},    {4, 4},    {16, 16},     {64, 64},  {256, 256}, {1024, 1024},  // all of it
    {16, 1},   {64, 1},   {256, 1},     {1024, 1}, {4096, 1},  {16384, 1},
    {256, 16}, {256, 64}, {16384, 256},
};

enum class Way { ordinary, pinned, mapped };
constexpr std::array<Way, 3> kWays = {Way::ordinary, Way::pinned, Way::mapped};
constexpr std::array<const char*, 3> kNames = {"ordinary", "pinned", "mapped"};

struct Arguments {
  std::string device;
  bool json = false;
  uint64_t rounds = 60;
  uint64_t alike = 0;
  uint64_t range_pages = 0;
  uint64_t stored_pages = 1;
};

// A file, perhaps with a range of it in memory of our own.
class Bench {
 public:
  explicit Bench(const Arguments& arguments)
      : bench_(arguments.device, volume_options()), runner_(bench_.make_runner()) {
    file_ = bench_.written_file(*runner_, "file", kFileBytes, arguments.alike == 0);
    if (arguments.alike == 0) fill_noise(bytes_.bytes(), 1);
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
    options.cache_bytes = kFileBytes;
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
  Case what;
  std::array<uint64_t, kWays.size()> ns = {};
};

std::vector<Case> cases_of(const Arguments& arguments) {
  if (arguments.range_pages != 0) return {{arguments.range_pages, arguments.stored_pages}};
  return {std::begin(kCases), std::end(kCases)};
}

std::vector<Row> measure(Bench& bench, const Arguments& arguments) {
  std::vector<Row> rows;
  for (const Case& what : cases_of(arguments)) {
    std::array<std::vector<uint64_t>, kWays.size()> all;
    // Turns of several rounds: changing the way costs more than a round.
    constexpr uint64_t kTurns = 6;
    for (uint64_t turn = 0; turn < kTurns; ++turn) {
      for (const Way way : kWays) {
        bench.hold(way, what.range_pages);
        (void)bench.sync_ns(way, what.stored_pages);
        for (uint64_t i = 0; i < arguments.rounds / kTurns + 1; ++i) {
          all[static_cast<size_t>(way)].push_back(bench.sync_ns(way, what.stored_pages));
        }
      }
    }
    Row& row = rows.emplace_back(Row{what, {}});
    for (size_t i = 0; i < kWays.size(); ++i) row.ns[i] = median(all[i]);
  }
  return rows;
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  const bool understood = parse_options(argc, argv, arguments.json,
                                        {{"--rounds", &arguments.rounds},
                                         {"--alike", &arguments.alike},
                                         {"--range", &arguments.range_pages},
                                         {"--stored", &arguments.stored_pages}},
                                        &arguments.device);
  const uint64_t pages_max = kFileBytes / kPageBytes;
  const bool fits = arguments.range_pages == 0 || (arguments.range_pages <= pages_max &&
                                                   arguments.stored_pages <= arguments.range_pages);
  if (understood && arguments.rounds != 0 && fits) return arguments;
  std::fprintf(stderr,
               "usage: bench_bounce DEVICE [--json] [--rounds N] [--alike 1] [--range PAGES "
               "[--stored PAGES]]\n");
  std::exit(2);
}

void print(const std::vector<Row>& rows) {
  std::printf("%8s %8s %12s %12s %12s %8s\n", "range", "stored", "ordinary us", "pinned us",
              "mapped us", "ratio");
  for (const Row& row : rows) {
    std::printf("%8llu %8llu %12.1f %12.1f %12.1f %8.2f\n",
                static_cast<unsigned long long>(row.what.range_pages),
                static_cast<unsigned long long>(row.what.stored_pages), us(row.ns[0]),
                us(row.ns[1]), us(row.ns[2]),
                static_cast<double>(row.ns[1]) / static_cast<double>(row.ns[0]));
  }
}

void print_json(const std::vector<Row>& rows, const Arguments& arguments) {
  Json json{{"alike", arguments.alike != 0}, {"rounds", arguments.rounds}};
  json["runs"] = Json::array();
  for (const Row& row : rows) {
    Json one{{"range_pages", row.what.range_pages}, {"stored_pages", row.what.stored_pages}};
    for (size_t i = 0; i < kWays.size(); ++i) one[std::string(kNames[i]) + "_ns"] = row.ns[i];
    json["runs"].push_back(std::move(one));
  }
  std::printf("%s\n", dump_json(json, JsonLayout::pretty).c_str());
}

}  // namespace
}  // namespace fusefs

int main(int argc, char** argv) {
  using namespace fusefs;
  const Arguments arguments = parse(argc, argv);
  Bench bench(arguments);
  const std::vector<Row> rows = measure(bench, arguments);
  if (arguments.json) {
    print_json(rows, arguments);
  } else {
    print(rows);
  }
  return 0;
}
