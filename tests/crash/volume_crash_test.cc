// A volume whose power is cut: after every device write of short histories, and at random in long
// ones. Afterwards the checkpoint is consistent by itself, mounting replays it, what was made
// durable is there, nothing is there that never was, and the check of the result is clean.
#include <map>
#include <memory>
#include <string>

#include "tests/crash/crash_history.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

void list_tree(SimVolume& sim, InodeNo directory, const std::string& path,
               std::map<std::string, InodeNo>& found) {
  uint64_t cookie = 0;
  while (true) {
    NamespaceStash stash;
    const auto listed = sim.world().run(
        [&] { return sim.volume().names().list(directory, cookie, 16, false, stash); });
    REQUIRE(listed.ok());
    if (listed.value().empty()) return;
    for (const auto& entry : listed.value()) {
      cookie = entry.entry.cookie;
      if (entry.entry.name == "." || entry.entry.name == "..") continue;
      const std::string child = path + "/" + entry.entry.name;
      found[child] = entry.entry.ino;
      if (entry.entry.type == 4) list_tree(sim, entry.entry.ino, child, found);
    }
  }
}

// Everything that must be true of what the power cut left.
void check_survivors(const SimImage& image, SimVolumeOptions options, const TestSeed& seed,
                     const CrashModel& model) {
  options.cut_after_writes.reset();
  require_consistent(image, options);
  SimVolume sim(seed, options, image);
  std::map<std::string, InodeNo> found;
  list_tree(sim, kRootInode, "", found);
  CHECK(model.names_allowed(found));
  for (const auto& entry : found) {
    const std::string& path = entry.first;
    const InodeNo ino = entry.second;
    NamespaceStash stash;
    auto inode = sim.world().run([&] { return sim.volume().inodes().get(ino, stash.pins); });
    REQUIRE(inode.ok());
    const std::optional<uint64_t> id = model.id_of(ino);
    if (!inode.value()->attr.is_regular() || !id) continue;
    const uint64_t size = inode.value()->attr.size;
    const std::string wrong =
        const_cast<CrashModel&>(model).file(*id).compare(size, sim.read_all(*inode.value()));
    CHECK_MESSAGE(wrong.empty(), path, ": ", wrong);
  }
  require_consistent(sim.unmount(), options);
}

SimImage formatted(const TestSeed& seed, const SimVolumeOptions& options) {
  SimVolume fresh(seed, options);
  return fresh.unmount();
}

// Runs `steps` steps on a copy of `image`; returns how many device writes it came to, and checks
// what is left if the power went.
uint64_t run_history(const SimImage& image, const SimVolumeOptions& options, const TestSeed& seed,
                     uint64_t steps) {
  CrashModel model;
  SimVolume sim(seed, options, image);
  CrashHistory history(sim, model, seed.seed);
  uint64_t done = 0;
  while (done < steps && history.step()) ++done;
  history.drop_references();
  CHECK(sim.files().faults.page_gone_count == 0);
  const uint64_t writes = sim.device().stats().change_count;
  check_survivors(sim.power_cut(), options, seed, model);
  return writes;
}

}  // namespace

TEST_CASE("a short history survives a power cut after each of its writes") {
  for_each_seed(60, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.logical_block_bytes = seed.seed % 2 == 0 ? 512 : 4096;
    options.discard = seed.seed % 3 == 0;
    const SimImage image = formatted(seed, options);
    uint64_t mounted = 0;
    {
      SimVolume probe(seed, options, image);
      mounted = probe.device().stats().change_count;
    }
    const uint64_t writes = run_history(image, options, seed, 25);
    for (uint64_t cut = mounted; cut < writes; ++cut) {
      CAPTURE(cut);
      options.cut_after_writes = cut;
      run_history(image, options, seed, 25);
    }
  });
}

TEST_CASE("a long history survives a power cut at any time") {
  for_each_seed(1500, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.logical_block_bytes = seed.seed % 3 == 0 ? 512 : 4096;
    options.discard = seed.seed % 2 == 0;
    Random random(seed.seed ^ 0xc4a5);
    run_history(formatted(seed, options), options, seed, random.between(50, 400));
  });
}

TEST_CASE("a volume survives power cuts one after the other, also while it recovers") {
  for_each_seed(100, [](const TestSeed& seed) {
    SimVolumeOptions options;
    Random random(seed.seed ^ 0x7e57);
    SimImage image = formatted(seed, options);
    for (int round = 0; round < 6; ++round) {
      CrashModel model;
      TestSeed round_seed = seed;
      round_seed.seed = random.next();
      SimWorldOptions world_options;
      world_options.device.size_bytes = options.size_bytes;
      world_options.device.cut_after_writes = random.below(60);
      SimWorld world(round_seed.seed, world_options, image);
      VolumeOptions volume_options;
      volume_options.cache_bytes = options.cache_bytes;
      auto volume = std::make_unique<Volume>(world.scheduler(), world.device(), world.clock(),
                                             volume_options, [](const std::string&) {});
      if (world.run([&] { return volume->mount(); }).ok()) {
        uint64_t number = 0;
        while (!world.dead()) {
          NamespaceStash stash;
          CreateRequest request;
          request.mode = 0100644;
          const std::string name = std::to_string(round) + "-" + std::to_string(number++);
          (void)world.run(
              [&] { return volume->names().create(kRootInode, name, request, Caller{}, stash); });
          world.run_for(300 * kNsPerMs);
        }
      }
      image = world.power_cut();
      volume.reset();
      require_consistent(image, options);
    }
    SimVolume last(seed, options, image);
    require_consistent(last.unmount(), options);
  });
}

}  // namespace fusefs
