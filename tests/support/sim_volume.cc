#include "tests/support/sim_volume.h"

#include <string>

#include "core/volume/check.h"
#include "core/volume/format_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// A device that held something else before.
SimImage canary_image(uint64_t size_bytes) {
  static std::map<uint64_t, SimImage> images;
  auto [it, fresh] = images.try_emplace(size_bytes);
  if (fresh) {
    const std::vector<std::byte> page(kBlockBytes, kCanary);
    for (uint64_t addr = 0; addr < size_bytes; addr += kBlockBytes) it->second.write(addr, page);
  }
  return it->second;
}

SimWorldOptions world_options(const TestSeed& seed, const SimVolumeOptions& options) {
  SimWorldOptions world;
  world.device.size_bytes = options.size_bytes;
  world.device.logical_block_bytes = options.logical_block_bytes;
  world.device.cut_after_writes = options.cut_after_writes;
  world.device.has_volatile_cache = options.has_volatile_cache;
  world.device.has_fua = options.has_fua.value_or(seed.seed % 2 == 0);
  world.slow_outside = options.slow_outside;
  world.forced_restart_probability = seed.forced_restart_probability;
  return world;
}

}  // namespace

SimVolume::SimVolume(const TestSeed& seed, const SimVolumeOptions& options)
    : seed_(seed), options_(options) {
  world_ =
      std::make_unique<SimWorld>(seed.seed, world_options(seed, options),
                                 options.canary ? canary_image(options.size_bytes) : SimImage());
  FormatOptions format;
  format.seed = seed.seed;
  format.discard = false;
  VolumeFormatter formatter(world_->device(), format);
  REQUIRE(world_->run([&] { return formatter.run(); }).ok());
  mount();
}

SimVolume::SimVolume(const TestSeed& seed, const SimVolumeOptions& options, SimImage image)
    : seed_(seed), options_(options) {
  world_ = std::make_unique<SimWorld>(seed.seed, world_options(seed, options), std::move(image));
  mount();
}

SimVolume::~SimVolume() {
  if (world_ && volume_) world_->abandon();
  volume_.reset();
}

void SimVolume::mount() {
  VolumeOptions options;
  options.cache_bytes = options_.cache_bytes;
  options.lazytime = options_.lazytime;
  options.discard = options_.discard;
  options.fault_policy = options_.fault_policy;
  const bool deferred = seed_.seed % 3 == 0;
  options.completion = options_.completion.value_or(deferred ? CompletionPolicy::deferred
                                                             : CompletionPolicy::issuer);
  options.self_io = options_.self_io;
  constexpr uint64_t kLockDelaysNs[] = {0, kLockDelayNs, kNsPerMs / 10};
  options.lock_delay_ns =
      options_.lock_delay_ns.value_or(kLockDelaysNs[(seed_.seed + seed_.seed / 3) % 3]);
  options.pinned_policy = options_.pinned_policy;
  volume_ = std::make_unique<Volume>(world_->scheduler(), world_->device(), world_->clock(),
                                     options, [](const std::string&) {});
  const Result<void> mounted = world_->run([this] { return volume_->mount(); });
  REQUIRE_MESSAGE(mounted.ok(), volume_->error_detail());
  // Pinned ranges are small here, and stored into while a bounce looks at them outside.
  if (seed_.seed % 2 == 0) files().pins.bounce_inline_pages = 2;
}

InodeRef SimVolume::create(std::string_view name) {
  NamespaceStash stash;
  CreateRequest request;
  request.mode = 0100644;
  auto created = world_->run(
      [&] { return volume_->names().create(kRootInode, name, request, Caller{}, stash); });
  REQUIRE(created.ok());
  return std::move(created).value();
}

InodeRef SimVolume::lookup(std::string_view name) {
  NamespaceStash stash;
  auto found = world_->run([&] { return volume_->names().lookup(kRootInode, name, stash); });
  REQUIRE(found.ok());
  return std::move(found).value();
}

Attempt<size_t> SimVolume::write_attempt(FileContext& files, Inode& inode, WriteRequest request,
                                         How how, WriteStash& stash) {
  request.kernel_writeback = how == How::mapped;
  if (how == How::dsync || how == How::direct_dsync) request.sync = SyncLevel::data;
  if (how == How::sync || how == How::direct_sync) request.sync = SyncLevel::all;
  const bool direct = how == How::direct || how == How::direct_dsync || how == How::direct_sync;
  if (direct) return write_direct(files, inode, request, stash);
  if (how == How::buffered) return write_buffered(files, inode, request, stash);
  return write_through(files, inode, request, stash);
}

Result<size_t> SimVolume::write(Inode& inode, uint64_t pos, ConstBytes data, How how, bool append) {
  std::optional<Result<size_t>> outcome;
  world_->start(std::make_unique<WriteCall>(
      files(), inode, WriteRequest{pos, data, append, false}, how,
      [&outcome](Result<size_t> written) { outcome.emplace(written); }));
  if (!world_->run_until([&outcome] { return outcome.has_value(); })) return Error::device_gone;
  return *outcome;
}

Result<std::vector<std::byte>> SimVolume::read(Inode& inode, uint64_t pos, size_t len) {
  const uint64_t base = pos - pos % kBlockBytes;
  AlignedBuffer buffer(file_pos(file_block_end(pos + len)) - base + kBlockBytes);
  ReadStash stash;
  auto got =
      world_->run([&] { return read_file(files(), inode, pos, len, buffer.bytes(), stash); });
  if (!got.ok()) return got.error();
  const std::byte* first = buffer.data() + pos % kBlockBytes;
  return std::vector<std::byte>(first, first + got.value());
}

std::vector<std::byte> SimVolume::read_all(Inode& inode) {
  auto got = read(inode, 0, inode.attr.size);
  REQUIRE(got.ok());
  return std::move(got).value();
}

Result<uint64_t> SimVolume::clone(Inode& from, uint64_t from_pos, Inode& to, uint64_t to_pos,
                                  uint64_t len) {
  CopyStash stash;
  return world_->run([&] { return copy_range(files(), from, from_pos, to, to_pos, len, stash); });
}

Result<void> SimVolume::truncate(Inode& inode, uint64_t size) {
  ShapeStash stash;
  return world_->run([&] { return set_size(files(), inode, size, false, stash); });
}

Result<void> SimVolume::fallocate(Inode& inode, FallocateMode mode, uint64_t pos, uint64_t len,
                                  bool keep_size) {
  ShapeStash stash;
  return world_->run(
      [&] { return fallocate_range(files(), inode, mode, pos, len, keep_size, stash); });
}

Result<void> SimVolume::fsync(OpenFile& file, bool data_only) {
  FsyncStash stash;
  return world_->run([&] { return fusefs::fsync(files(), file, data_only, stash); });
}

Result<void> SimVolume::sync() {
  FsyncStash stash;
  return world_->run([&] { return sync_all(files(), stash); });
}

SimFault SimVolume::data_fault(IoKind kind) {
  SimFault fault;
  fault.kind = kind;
  fault.addr_first = block_addr(volume_->space().data_first());
  fault.error = Error::io_failed;
  return fault;
}

Reservation SimVolume::take_space(uint64_t spare) {
  while (true) {
    Result<Reservation> taken = world_->run([&]() -> Attempt<Reservation> {
      Space& space = volume_->space();
      return space.reserve(BlockCount(space.stats().available_blocks - spare));
    });
    if (taken.ok()) return std::move(taken).value();
    REQUIRE(taken.error() == Error::no_space);  // others have been faster
  }
}

SimImage SimVolume::unmount() {
  REQUIRE(world_->run([this] { return volume_->unmount(); }).ok());
  world_->abandon();
  volume_.reset();
  return world_->device().snapshot();
}

SimImage SimVolume::power_cut() {
  SimImage image = world_->power_cut();
  volume_.reset();
  return image;
}

void require_consistent(const SimImage& image, const SimVolumeOptions& options) {
  SimWorldOptions world_options;
  world_options.device.size_bytes = options.size_bytes;
  world_options.device.logical_block_bytes = options.logical_block_bytes;
  SimWorld world(1, world_options, image);
  CheckScan scan(world.device());
  REQUIRE(world.run([&] { return scan.run(); }).ok());
  for (const Finding& finding : scan.report().findings) FAIL_CHECK(finding.text);
  REQUIRE(scan.report().ok());
}

}  // namespace fusefs
