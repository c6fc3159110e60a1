// What the programs have in common that measure a volume on a device or an image, without FUSE.
//
// Formats it: what is on it is lost.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "core/io/run_sync.h"
#include "core/volume/format_volume.h"
#include "core/volume/volume.h"

namespace fusefs {

inline void must(const Result<void>& result, const char* what) {
  if (result.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, std::string(error_text(result.error())).c_str());
  std::exit(1);
}

// What no device makes smaller.
inline void fill_noise(Bytes bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t at = 0; at + sizeof(uint64_t) <= bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + at, &word, sizeof(word));
  }
}

class ImageBench {
 public:
  ImageBench(const std::string& path, const VolumeOptions& options)
      : monitor_(clock_), scheduler_(clock_) {
    std::string message;
    auto opened = UringDevice::open(path, {}, &message);
    if (!opened.ok()) {
      std::fprintf(stderr, "%s\n", message.c_str());
      std::exit(1);
    }
    device_ = std::move(opened).value();
    FormatOptions format;
    format.discard = false;
    VolumeFormatter formatter(*device_, format);
    volume_ =
        std::make_unique<Volume>(scheduler_, *device_, clock_, options, [](const std::string&) {});
    auto runner = make_runner();
    must(runner->run("format", [&] { return formatter.run(); }), "format");
    must(runner->run("mount", [this] { return volume_->mount(); }), "mount");
  }
  // Every InodeRef must have gone.
  ~ImageBench() {
    auto runner = make_runner();
    must(runner->run("unmount", [this] { return volume_->unmount(); }), "unmount");
    runner.reset();
    const MonitorHold hold(monitor_);
    scheduler_.drop_background();
  }

  SystemClock& clock() { return clock_; }
  Monitor& monitor() { return monitor_; }
  Scheduler& scheduler() { return scheduler_; }
  UringDevice& device() { return *device_; }
  Volume& volume() { return *volume_; }
  FileContext& files() { return volume_->files(); }

  // Runs attempts on this thread. One at a time, and none while reactors run.
  std::unique_ptr<SyncRunner> make_runner() {
    auto runner = SyncRunner::create(monitor_, scheduler_, *device_);
    CHECK(runner.ok());
    return std::move(runner).value();
  }

  // A file with `bytes`, a multiple of 1 MiB, on the device and none in memory. Of noise, or all
  // alike.
  InodeRef written_file(SyncRunner& runner, const char* name, uint64_t bytes, bool noise = false) {
    NamespaceStash stash;
    CreateRequest request;
    request.mode = 0100644;
    auto created = runner.run(
        "create", [&] { return volume_->names().create(kRootInode, name, request, {}, stash); });
    CHECK(created.ok());
    InodeRef file = std::move(created).value();
    AlignedBuffer chunk(1 << 20);
    std::memset(chunk.data(), 'y', chunk.size());
    for (uint64_t pos = 0; pos < bytes; pos += chunk.size()) {
      if (noise) fill_noise(chunk.bytes(), pos);
      WriteStash write;
      const WriteRequest part{pos, chunk.bytes(), false, false};
      CHECK(runner.run("fill", [&] { return write_direct(files(), *file, part, write); }).ok());
    }
    FsyncStash sync;
    must(runner.run("sync", [&] { return sync_all(files(), sync); }), "sync");
    return file;
  }

 private:
  SystemClock clock_;
  Monitor monitor_;
  Scheduler scheduler_;
  std::unique_ptr<UringDevice> device_;
  std::unique_ptr<Volume> volume_;
};

}  // namespace fusefs
