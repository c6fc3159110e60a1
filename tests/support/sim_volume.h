// SimVolume: a formatted and mounted volume on a simulated device, and files on it.
//
// The device is filled with a canary before it is formatted, so that a read of what was never
// written shows.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/file/write_through.h"
#include "core/volume/volume.h"
#include "tests/support/sim_world.h"
#include "tests/support/test_options.h"

namespace fusefs {

inline constexpr std::byte kCanary{0xC5};

struct SimVolumeOptions {
  uint64_t size_bytes = uint64_t{64} << 20;
  uint64_t cache_bytes = kCachePagesMin * kPageBytes;
  uint32_t logical_block_bytes = 4096;
  bool lazytime = false;
  bool discard = false;
  FaultPolicy fault_policy = FaultPolicy::restart;
  std::optional<CompletionPolicy> completion = {};  // by default the seed draws
  SelfIoPolicy self_io = SelfIoPolicy::buffered;
  std::optional<uint64_t> lock_delay_ns = {};  // unset: of some, by the seed
  PinnedPolicy pinned_policy = PinnedPolicy::redirty;
  bool canary = true;  // false: zeroes before the format; for volumes too large to fill
  std::optional<uint64_t> cut_after_writes = {};  // SimDeviceOptions
  bool has_volatile_cache = true;
  bool slow_outside = true;  // SimWorldOptions; false: no timer's time comes while others are busy
  std::optional<bool> has_fua = {};  // unset: in every other seed
};

class SimVolume {
 public:
  explicit SimVolume(const TestSeed& seed, const SimVolumeOptions& options = {});
  // Mounts what an earlier one left.
  SimVolume(const TestSeed& seed, const SimVolumeOptions& options, SimImage image);
  ~SimVolume();

  SimWorld& world() { return *world_; }
  Volume& volume() { return *volume_; }
  FileContext& files() { return volume_->files(); }
  SimDevice& device() { return world_->device(); }

  // Names in the root directory.
  InodeRef create(std::string_view name);
  InodeRef lookup(std::string_view name);

  // mapped: as the kernel writes back pages of mappings; dsync, sync: as files opened so.
  // From dsync on: durable when it returns.
  enum class How { buffered, direct, mapped, dsync, sync, direct_dsync, direct_sync };
  Result<size_t> write(Inode& inode, uint64_t pos, ConstBytes data, How how, bool append = false);
  // One attempt at it.
  static Attempt<size_t> write_attempt(FileContext& files, Inode& inode, WriteRequest request,
                                       How how, WriteStash& stash);
  // Up to `len` bytes at `pos`.
  Result<std::vector<std::byte>> read(Inode& inode, uint64_t pos, size_t len);
  std::vector<std::byte> read_all(Inode& inode);
  // Makes `to` a clone of `len` bytes of `from`.
  Result<uint64_t> clone(Inode& from, uint64_t from_pos, Inode& to, uint64_t to_pos, uint64_t len);
  Result<void> truncate(Inode& inode, uint64_t size);
  Result<void> fallocate(Inode& inode, FallocateMode mode, uint64_t pos, uint64_t len,
                         bool keep_size);
  Result<void> fsync(OpenFile& file, bool data_only = false);
  Result<void> sync();

  // An error of all I/O of one kind to the data of files, and whatever else the allocator has
  // placed: neither to the journal nor to the superblocks. For device().add_fault().
  SimFault data_fault(IoKind kind);
  // Every free block but `spare`.
  Reservation take_space(uint64_t spare = 0);

  // Each is the end of this volume: every InodeRef must have gone.
  SimImage unmount();
  SimImage power_cut();

  // An operation of its own, whose answer is handed to `on_done`.
  template <class OnDone>
  void spawn_write(Inode& inode, uint64_t pos, ConstBytes data, How how, OnDone on_done);

 private:
  class WriteCall;
  void mount();

  const TestSeed seed_;
  const SimVolumeOptions options_;
  std::unique_ptr<SimWorld> world_;
  std::unique_ptr<Volume> volume_;
};

// One write with its stash, which may end at its completion. The data is the caller's
// until it is done.
class SimVolume::WriteCall final : public Operation, private WriteEnd {
 public:
  using OnDone = std::function<void(Result<size_t>)>;
  WriteCall(FileContext& files, Inode& inode, const WriteRequest& request, How how, OnDone on_done)
      : files_(files), inode_(&inode), request_(request), how_(how), on_done_(std::move(on_done)) {
    request_.kernel_writeback = how == How::mapped;
    stash_.end = this;
  }

  const char* name() const override { return "test write"; }
  Attempt<void> attempt() override {
    Attempt<size_t> written = write_attempt(files_, *inode_, request_, how_, stash_);
    if (!written.ok()) return Unfinished(written);
    written_ = written.value();
    return {};
  }
  void finish(Result<void> outcome) override {
    if (on_done_) on_done_(outcome.ok() ? Result<size_t>(written_) : outcome.error());
  }

 private:
  bool must_invalidate() override { return false; }
  void ended(size_t written) override { written_ = written; }

  FileContext& files_;
  const InodeRef inode_;
  WriteRequest request_;
  const How how_;
  const OnDone on_done_;
  WriteStash stash_;
  size_t written_ = 0;
};

// A check of what such a volume has left finds nothing.
void require_consistent(const SimImage& image, const SimVolumeOptions& options);

template <class OnDone>
void SimVolume::spawn_write(Inode& inode, uint64_t pos, ConstBytes data, How how, OnDone on_done) {
  world_->start(std::make_unique<WriteCall>(files(), inode, WriteRequest{pos, data, false, false},
                                            how, std::move(on_done)));
}

}  // namespace fusefs
