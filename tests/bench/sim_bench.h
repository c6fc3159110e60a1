// What the programs have in common that measure a volume on a simulated device, on a simulated
// clock: waiting, not computing. A seed gives the same numbers on every machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "core/file/write.h"
#include "core/volume/format_volume.h"
#include "core/volume/volume.h"
#include "tests/bench/options.h"
#include "tests/support/sim_world.h"

namespace fusefs {

template <class T>
T must(Result<T> result) {
  CHECK_MSG(result.ok(), result.ok() ? "" : std::string(error_name(result.error())).c_str());
  return std::move(result).value();
}
inline void must(const Result<void>& result) { CHECK(result.ok()); }

// A world whose device is as slow as it is said to be, and never slower, and a fresh volume on it.
class SimBench {
 public:
  // `slow_outside`: as in SimWorldOptions.
  SimBench(uint64_t seed, SimDeviceOptions device, const VolumeOptions& options,
           bool slow_outside = true)
      : world_(seed, world_options(std::move(device), slow_outside)) {
    FormatOptions format;
    format.seed = seed;
    VolumeFormatter formatter(world_.device(), format);
    must(world_.run([&] { return formatter.run(); }));
    volume_ = std::make_unique<Volume>(world_.scheduler(), world_.device(), world_.clock(), options,
                                       [](const std::string&) {});
    must(world_.run([this] { return volume_->mount(); }));
  }
  // Every InodeRef must have gone.
  ~SimBench() {
    abandon();
    volume_.reset();
  }

  SimWorld& world() { return world_; }
  Volume& volume() { return *volume_; }
  FileContext& files() { return volume_->files(); }
  // Ends every operation where it is.
  void abandon() { world_.abandon(); }

  InodeRef create(const std::string& name) {
    NamespaceStash stash;
    CreateRequest request;
    request.mode = 0100644;
    return must(world_.run(
        [&] { return volume_->names().create(kRootInode, name, request, Caller{}, stash); }));
  }
  // With `bytes` on the device, none in memory.
  InodeRef written_file(const std::string& name, uint64_t bytes) {
    InodeRef file = create(name);
    AlignedBuffer data(bytes);
    std::memset(data.data(), 'x', bytes);
    WriteStash stash;
    must(world_.run(
        [&] { return write_direct(files(), *file, {.pos = 0, .data = data.bytes()}, stash); }));
    return file;
  }

 private:
  static SimWorldOptions world_options(SimDeviceOptions device, bool slow_outside) {
    SimWorldOptions options;
    options.device = std::move(device);
    options.device.slow_probability = 0;
    options.restarts_max = 0;
    options.in_order = true;
    options.slow_outside = slow_outside;
    return options;
  }

  SimWorld world_;
  std::unique_ptr<Volume> volume_;
};

}  // namespace fusefs
