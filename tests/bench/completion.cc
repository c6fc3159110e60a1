// bench_completion DEVICE [--json] [--seconds N] [--threads N]: 4 KiB direct overwrites at depths 1
// to 32, with completion=issuer and completion=deferred, without FUSE between.
//
// Formats DEVICE, an image file or a block device: what is on it is lost. Reactor threads as in the
// daemon; the requests come from a counter that stands for so many callers: an answer adds one to
// it, a request takes one. The two policies take turns, several times, and each has its best run.
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "core/stats/json.h"
#include "tests/bench/image_bench.h"
#include "tests/bench/options.h"

namespace fusefs {
namespace {

constexpr uint64_t kFileBytes = uint64_t{64} << 20;
constexpr std::array<uint32_t, 6> kDepths = {1, 2, 4, 8, 16, 32};
constexpr int kRounds = 3;

struct Arguments {
  std::string device;
  bool json = false;
  uint64_t seconds = 1;
  uint64_t threads = 2;
};

class Load;

// One write of one caller.
class Write final : public Operation, private WriteEnd {
 public:
  Write(Load& load, uint64_t pos) : load_(load), pos_(pos) { stash_.end = this; }
  const char* name() const override { return "write"; }
  Attempt<void> attempt() override;
  void finish(Result<void> outcome) override;

 private:
  bool must_invalidate() override { return false; }
  void ended(size_t) override {}

  Load& load_;
  const uint64_t pos_;
  WriteStash stash_;
};

// So many callers of one file.
class Load final : public RequestSource {
 public:
  Load(Volume& volume, Inode& inode, uint32_t depth)
      : volume_(volume), inode_(inode), fd_(::eventfd(depth, EFD_SEMAPHORE | EFD_NONBLOCK)) {
    std::memset(data_.data(), 'x', data_.size());
  }

  int poll_fd() const override { return fd_.get(); }
  bool receive(std::vector<std::unique_ptr<Operation>>& fresh, size_t count_max) override {
    for (size_t i = 0; i < count_max; ++i) {
      uint64_t one = 0;
      if (::read(fd_.get(), &one, sizeof(one)) < 0) return true;
      // Spread over the file, and never two of a block at a time.
      const uint64_t turn = next_.fetch_add(1, std::memory_order_relaxed);
      fresh.push_back(
          std::make_unique<Write>(*this, turn * 7919 % (kFileBytes / kBlockBytes) * kBlockBytes));
    }
    return true;
  }
  void answer() {
    done_.fetch_add(1, std::memory_order_relaxed);
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(fd_.get(), &one, sizeof(one));
  }
  uint64_t done() const { return done_.load(std::memory_order_relaxed); }

  FileContext& files() { return volume_.files(); }
  Inode& inode() { return inode_; }
  ConstBytes data() const { return data_.bytes(); }

 private:
  Volume& volume_;
  Inode& inode_;
  OwnedFd fd_;
  AlignedBuffer data_{kBlockBytes};
  std::atomic<uint64_t> next_{0};
  std::atomic<uint64_t> done_{0};
};

Attempt<void> Write::attempt() {
  const WriteRequest request{pos_, load_.data(), false, false};
  const Attempt<size_t> written = write_direct(load_.files(), load_.inode(), request, stash_);
  if (!written.ok()) return Unfinished(written);
  return {};
}

void Write::finish(Result<void> outcome) {
  must(outcome, "write");
  load_.answer();
}

// A volume on the device with one file, mounted with one policy.
class Bench {
 public:
  Bench(const Arguments& arguments, CompletionPolicy policy)
      : arguments_(arguments), policy_(policy), bench_(arguments.device, volume_options(policy)) {
    inode_ = bench_.written_file(*bench_.make_runner(), "file", kFileBytes);
  }
  ~Bench() {
    const MonitorHold hold(bench_.monitor());
    inode_.reset();
  }

  // Writes per second.
  double run(uint32_t depth) {
    Load load(bench_.volume(), *inode_, depth);
    ReactorGroup group(bench_.monitor(), bench_.scheduler(), bench_.device());
    std::vector<std::thread> threads;
    const auto serve = [&](Reactor::Role role) {
      auto reactor = Reactor::create(group, role);
      CHECK(reactor.ok());
      reactor.value()->run(role == Reactor::Role::serving ? &load : nullptr);
    };
    if (policy_ == CompletionPolicy::deferred) {
      threads.emplace_back(serve, Reactor::Role::completer);
    }
    for (uint64_t i = 0; i < arguments_.threads; ++i) {
      threads.emplace_back(serve, Reactor::Role::serving);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const uint64_t begin_ns = bench_.clock().monotonic_ns();
    const uint64_t before = load.done();
    std::this_thread::sleep_for(std::chrono::seconds(arguments_.seconds));
    const uint64_t count = load.done() - before;
    const uint64_t took_ns = bench_.clock().monotonic_ns() - begin_ns;
    group.stop();
    for (std::thread& thread : threads) thread.join();
    return static_cast<double>(count) * 1e9 / static_cast<double>(took_ns);
  }

 private:
  static VolumeOptions volume_options(CompletionPolicy policy) {
    VolumeOptions options;
    options.completion = policy;
    return options;
  }

  const Arguments& arguments_;
  const CompletionPolicy policy_;
  ImageBench bench_;
  InodeRef inode_;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  const bool understood = parse_options(
      argc, argv, arguments.json,
      {{"--seconds", &arguments.seconds}, {"--threads", &arguments.threads}}, &arguments.device);
  if (understood && arguments.seconds != 0 && arguments.threads != 0) return arguments;
  std::fprintf(stderr, "usage: bench_completion DEVICE [--json] [--seconds N] [--threads N]\n");
  std::exit(2);
}

}  // namespace
}  // namespace fusefs

int main(int argc, char** argv) {
  using namespace fusefs;
  const Arguments arguments = parse(argc, argv);
  std::array<std::array<double, kDepths.size()>, 2> best = {};
  for (int round = 0; round < kRounds; ++round) {
    for (const CompletionPolicy policy : {CompletionPolicy::issuer, CompletionPolicy::deferred}) {
      Bench bench(arguments, policy);
      auto& row = best[static_cast<size_t>(policy)];
      for (size_t i = 0; i < kDepths.size(); ++i) row[i] = std::max(row[i], bench.run(kDepths[i]));
    }
  }
  Json json = Json::array();
  if (!arguments.json) std::printf("%6s %12s %12s %8s\n", "depth", "issuer", "deferred", "ratio");
  for (size_t i = 0; i < kDepths.size(); ++i) {
    if (arguments.json) {
      json.push_back({{"depth", kDepths[i]},
                      {"issuer_per_second", best[0][i]},
                      {"deferred_per_second", best[1][i]}});
    } else {
      std::printf("%6u %12.0f %12.0f %8.2f\n", kDepths[i], best[0][i], best[1][i],
                  best[0][i] / best[1][i]);
    }
  }
  if (arguments.json) std::printf("%s\n", dump_json(json, JsonLayout::pretty).c_str());
  return 0;
}
