// Everything at once: files that are pinned and stored into all the time, while others write, sync,
// cut, punch, clone and dedupe them, pins begin and end, the device fails now and then, and the
// power is cut. Afterwards each page is one of the states it had at or after its last fsync.
#include <string>

#include "tests/sim/pin_rig.h"
#include "tests/sim/remap_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPages = 10;
constexpr uint64_t kFileBytes = kPages * kPageBytes;

// One file of the storm: always kPages pages, but while a truncate has not been undone.
struct StormFile {
  std::string name;
  InodeRef inode;
  PageHistory history{kPages};
  std::unique_ptr<Pinner> pinner;
};

class Storm {
 public:
  Storm(const TestSeed& seed, const SimVolumeOptions& options)
      : seed_(seed), options_(options), sim_(seed, options), random_(seed.seed * 77 + 5) {
    for (int i = 0; i < 2; ++i) {
      files_.push_back(std::make_unique<StormFile>());
      StormFile& file = *files_.back();
      file.name = "file" + std::to_string(i);
      file.inode = pinnable_file(sim_, file.name.c_str(), kPages,
                                 100 * (static_cast<uint64_t>(i) + 1), &file.history);
      pin(file);
    }
  }

  void run(int steps) {
    for (int i = 0; i < steps; ++i) step();
    for (auto& file : files_) {
      if (file->pinner) file->pinner->forget();
      sim_.world().inside([&] { file->inode.reset(); });
    }
    SimImage image = sim_.power_cut();
    require_consistent_after_replay(std::move(image));
  }

 private:
  StormFile& any_file() { return *files_[random_.below(files_.size())]; }

  void pin(StormFile& file) {
    const uint64_t first = random_.below(kPages - 1);
    const FileRange range{FileBlock(first), FileBlock(random_.between(first + 1, kPages))};
    file.pinner = std::make_unique<Pinner>(sim_, file.inode, range, file.history);
    file.pinner->set_serial(next_word());
    switch (random_.below(3)) {
      case 0:
        file.pinner->use_frames();
        break;
      case 1:
        file.pinner->use_faults();
        break;
      default:
        break;
    }
    REQUIRE(file.pinner->pin().ok());
    file.pinner->start();
  }

  uint64_t next_word() { return words_ += 1'000'000; }

  // The whole pages [first, end) will be this.
  Content new_pages(StormFile& file, uint64_t first, uint64_t end) {
    std::vector<PageState> states(end - first);
    for (uint64_t page = first; page < end; ++page) {
      states[page - first].fill(next_word());
      file.history.add(page, states[page - first]);
    }
    return pages_of(states);
  }
  void will_be_zero(StormFile& file, uint64_t first, uint64_t end) {
    for (uint64_t page = first; page < end; ++page) file.history.add(page, {});
  }
  void note(StormFile& file) {
    if (file.pinner) file.pinner->observe();
  }

  void step() {
    StormFile& file = any_file();
    const uint64_t first = random_.below(kPages - 1);
    const uint64_t end = random_.between(first + 1, kPages);
    switch (random_.below(12)) {
      case 0:
      case 1:
        REQUIRE(fusefs::fsync(sim_, file.inode, &file.history).ok());
        break;
      case 2: {
        constexpr How kHows[] = {How::buffered, How::direct, How::dsync, How::sync, How::mapped};
        const How how = kHows[random_.below(std::size(kHows))];
        write(sim_, *file.inode, first * kPageBytes, new_pages(file, first, end), how);
        break;
      }
      case 3: {
        const auto mode =
            random_.chance(0.5) ? FallocateMode::punch_hole : FallocateMode::zero_range;
        will_be_zero(file, first, end);
        REQUIRE(
            sim_.fallocate(*file.inode, mode, first * kPageBytes, (end - first) * kPageBytes, true)
                .ok());
        break;
      }
      case 4: {  // cut, and long again at once
        will_be_zero(file, first + 1, kPages);
        REQUIRE(sim_.truncate(*file.inode, (first + 1) * kPageBytes).ok());
        REQUIRE(sim_.truncate(*file.inode, kFileBytes).ok());
        REQUIRE(fusefs::fsync(sim_, file.inode).ok());  // so that the model needs no sizes
        break;
      }
      case 5:
        clone_from(file);
        break;
      case 6:
        clone_into(file, first, end);
        break;
      case 7:
        if (file.pinner) {
          REQUIRE(file.pinner->unpin().ok());
          file.pinner.reset();
        } else {
          pin(file);
        }
        break;
      case 8: {
        const Content content = sim_.read_all(*file.inode);
        file.history.require(content, file.history.durable());
        break;
      }
      case 9:
        fail_fsync(file);
        break;
      case 10: {
        const Deduped result = dedupe(sim_, *files_[0]->inode, 0, *files_[1]->inode, 0, kFileBytes);
        REQUIRE(result.same_bytes.ok());
        break;
      }
      default:
        sim_.world().run_for(random_.below(2 * kNsPerSecond / 1000));
        break;
    }
    for (auto& each : files_) note(*each);
  }

  // A snapshot: what it shows was the file at some moment of the call, and stays.
  void clone_from(StormFile& file) {
    const InodeRef copy = sim_.create("clone" + std::to_string(++clones_));
    const std::vector<size_t> since = file.history.now();
    REQUIRE(sim_.clone(*file.inode, 0, *copy, 0, kFileBytes).ok());
    const Content snapshot = sim_.read_all(*copy);
    file.history.require(snapshot, since);
    sim_.world().run_for(random_.below(kNsPerSecond / 100));
    REQUIRE(fusefs::fsync(sim_, file.inode, &file.history).ok());
    CHECK(sim_.read_all(*copy) == snapshot);
  }

  void clone_into(StormFile& file, uint64_t first, uint64_t end) {
    const InodeRef source = sim_.create("source" + std::to_string(++clones_));
    write(sim_, *source, 0, new_pages(file, first, end), How::direct);
    const Result<uint64_t> cloned =
        sim_.clone(*source, 0, *file.inode, first * kPageBytes, (end - first) * kPageBytes);
    REQUIRE(cloned.ok());
    REQUIRE(cloned.value() == (end - first) * kPageBytes);
  }

  void fail_fsync(StormFile& file) {
    if (!file.pinner) return;
    file.pinner->store_all();
    const SimDevice::FaultId id = sim_.device().add_fault(sim_.data_fault(IoKind::write));
    CHECK_FALSE(fusefs::fsync(sim_, file.inode).ok());
    sim_.device().remove_fault(id);
    sim_.world().run_for(kNsPerSecond / 100);  // what the flusher has at the device
    REQUIRE(fusefs::fsync(sim_, file.inode, &file.history).ok());
  }

  void require_consistent_after_replay(SimImage image) {
    SimVolume again(seed_, options_, std::move(image));
    for (auto& file : files_) {
      CAPTURE(file->name);
      const InodeRef inode = again.lookup(file->name);
      file->history.require(again.read_all(*inode), file->history.durable());
      REQUIRE(inode->attr.size == kFileBytes);
    }
    require_consistent(again.unmount(), options_);
  }

  const TestSeed seed_;
  const SimVolumeOptions options_;
  SimVolume sim_;
  Random random_;
  std::vector<std::unique_ptr<StormFile>> files_;
  uint64_t words_ = 1'000'000'000;
  uint64_t clones_ = 0;
};

TEST_CASE("a storm over pinned files, and a power cut: each page is one that it has been") {
  for (const PinnedPolicy policy :
       {PinnedPolicy::redirty, PinnedPolicy::keep, PinnedPolicy::unpin}) {
    CAPTURE(static_cast<int>(policy));
    SimVolumeOptions options;
    options.pinned_policy = policy;
    for_each_seed(6, [&](const TestSeed& seed) { Storm(seed, options).run(60); });
  }
}

}  // namespace
}  // namespace fusefs
