// A storm on files that share blocks: many workers at once, with little memory.
//
// Each worker has a range of its own at the same place in every file, not aligned to pages, so that
// neighbours meet in the pages at their borders. Within its range each knows what must be there.
#include <algorithm>
#include <memory>
#include <vector>

#include "core/file/fault.h"
#include "core/memory/shared_blocks.h"
#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using Content = std::vector<std::byte>;
using How = SimVolume::How;

constexpr size_t kFiles = 3;
constexpr size_t kWorkers = 6;
constexpr uint64_t kRangeBytes = 9 * kPageBytes + 1234;
constexpr uint64_t kFileBytes = kWorkers * kRangeBytes;
constexpr int kStepsOfWorker = 40;

class Storm {
 public:
  Storm(const TestSeed& seed, FaultPolicy policy)
      : sim_(seed, options(policy)),
        random_(sim_.world().random().fork()),
        models_(kFiles, Content(kFileBytes)) {
    for (size_t i = 0; i < kFiles; ++i) {
      files_.push_back(sim_.create("file" + std::to_string(i)));
      REQUIRE(sim_.truncate(*files_.back(), kFileBytes).ok());
    }
  }

  void run() {
    for (size_t i = 0; i < kWorkers; ++i) {
      ++running_;
      next(i, kStepsOfWorker);
    }
    REQUIRE(sim_.world().run_until([this] { return running_ == 0; }));
    check();
    CHECK(sim_.files().faults.page_gone_count == 0);
    CHECK(sim_.files().faults.page_replaced_count > 0);
    CHECK(sim_.files().faults.read_count > 0);
    REQUIRE(sim_.sync().ok());
    check();
    for (const InodeRef& file : files_) CHECK(file->delayed_blocks == BlockCount(0));
  }

 private:
  static SimVolumeOptions options(FaultPolicy policy) {
    SimVolumeOptions options;
    options.fault_policy = policy;
    return options;
  }

  // One thing that a worker does, with everything it needs until it is done.
  struct Call {
    size_t worker = 0;
    int left = 0;
    size_t file = 0;
    size_t target = 0;
    uint64_t pos = 0;
    size_t len = 0;
    AlignedBuffer buffer{12 * kPageBytes};  // any range in whole pages
    ReadStash read;
    WriteStash write;
    ShapeStash shape;
    CopyStash copy;
    FaultStash fault;
  };

  void check() {
    for (size_t i = 0; i < kFiles; ++i) CHECK(sim_.read_all(*files_[i]) == models_[i]);
  }

  void next(size_t worker, int left) {
    if (left == 0) {
      --running_;
      return;
    }
    auto call = std::make_shared<Call>();
    call->worker = worker;
    call->left = left;
    call->file = random_.below(kFiles);
    call->target = (call->file + 1 + random_.below(kFiles - 1)) % kFiles;
    call->len = random_.chance(0.3) ? kRangeBytes : random_.between(1, 3 * kPageBytes);
    call->pos = worker * kRangeBytes + random_.below(kRangeBytes - call->len + 1);
    const uint64_t what = random_.below(100);
    if (what < 30) return read(call);
    if (what < 42) return write(call, How::buffered);
    if (what < 50) return write(call, How::direct);
    if (what < 60) return write(call, what < 53 ? How::dsync : what < 57 ? How::sync : How::mapped);
    if (what < 65) return punch(call);
    if (what < 75) return touch(call);
    clone(call);
  }

  template <class Fn, class Check>
  void spawn(std::shared_ptr<Call> call, Fn fn, Check on_done) {
    sim_.world().spawn([call, fn] { return fn(*call); },
                       [this, call, on_done](const auto& result) {
                         REQUIRE(result.ok());
                         on_done(*call, result);
                         next(call->worker, call->left - 1);
                       });
  }

  Content::iterator at(size_t file, uint64_t pos) {
    return models_[file].begin() + static_cast<ptrdiff_t>(pos);
  }

  void read(const std::shared_ptr<Call>& call) {
    spawn(
        call,
        [this](Call& c) {
          return read_file(sim_.files(), *files_[c.file], c.pos, c.len, c.buffer.bytes(), c.read);
        },
        [this](Call& c, const Result<size_t>& got) {
          REQUIRE(got.value() == c.len);
          const std::byte* data = c.buffer.data() + c.pos % kPageBytes;
          REQUIRE(std::equal(data, data + c.len, at(c.file, c.pos)));
        });
  }

  void write(const std::shared_ptr<Call>& call, How how) {
    const auto byte = static_cast<std::byte>(1 + random_.below(200));
    std::fill_n(call->buffer.data(), call->len, byte);
    spawn(
        call,
        [this, how](Call& c) {
          WriteRequest request;
          request.pos = c.pos;
          request.data = c.buffer.bytes().first(c.len);
          return SimVolume::write_attempt(sim_.files(), *files_[c.file], request, how, c.write);
        },
        [this, byte](Call& c, const Result<size_t>& written) {
          REQUIRE(written.value() == c.len);
          std::fill_n(at(c.file, c.pos), c.len, byte);
        });
  }

  void punch(const std::shared_ptr<Call>& call) {
    spawn(
        call,
        [this](Call& c) {
          return fallocate_range(sim_.files(), *files_[c.file], FallocateMode::punch_hole, c.pos,
                                 c.len, true, c.shape);
        },
        [this](Call& c, const Result<void>&) {
          std::fill_n(at(c.file, c.pos), c.len, std::byte{0});
        });
  }

  void clone(const std::shared_ptr<Call>& call) {
    spawn(
        call,
        [this](Call& c) {
          return copy_range(sim_.files(), *files_[c.file], c.pos, *files_[c.target], c.pos, c.len,
                            c.copy);
        },
        [this](Call& c, const Result<uint64_t>& copied) {
          REQUIRE(copied.value() == c.len);
          std::copy_n(at(c.file, c.pos), c.len, at(c.target, c.pos));
        });
  }

  // A fault of either kind on a page that is the worker's alone.
  void touch(const std::shared_ptr<Call>& call) {
    const FileBlock index =
        file_block_end(call->worker * kRangeBytes) + BlockCount(random_.below(7));
    const auto kind = random_.chance(0.5) ? FaultKind::read : FaultKind::write;
    const auto byte = static_cast<std::byte>(1 + random_.below(200));
    spawn(
        call,
        [this, index, kind, byte](Call& c) -> Attempt<void> {
          Inode& inode = *files_[c.file];
          Attempt<FolioRef> page = fault(sim_.files(), inode, index, kind, c.fault);
          if (!page.ok()) return Unfinished(page);
          std::byte* const frame = page.value()->frame;
          REQUIRE(std::equal(frame, frame + kPageBytes, at(c.file, file_pos(index))));
          if (kind == FaultKind::read) return {};
          std::fill_n(frame + 10, 100, byte);
          make_dirty(sim_.files(),
                     {page.value(), c.fault.reservation.count() != BlockCount(0), false}, c.fault);
          touch_contents(sim_.files(), inode);
          c.fault.reset();
          return {};
        },
        [this, index, kind, byte](Call& c, const Result<void>&) {
          if (kind == FaultKind::write) std::fill_n(at(c.file, file_pos(index) + 10), 100, byte);
        });
  }

  SimVolume sim_;
  Random random_;
  std::vector<InodeRef> files_;
  std::vector<Content> models_;
  size_t running_ = 0;
};

TEST_CASE("a storm on files that share blocks leaves each worker's bytes as it knows them") {
  for_each_seed(8, [](const TestSeed& seed) { Storm(seed, FaultPolicy::restart).run(); });
}

TEST_CASE("faults that hold on while they wait block each other, but not for ever") {
  for_each_seed(4, [](const TestSeed& seed) { Storm(seed, FaultPolicy::hold).run(); });
}

}  // namespace
}  // namespace fusefs
