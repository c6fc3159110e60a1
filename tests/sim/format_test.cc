// A fresh volume, and what is left of a format that was interrupted.
#include <sys/stat.h>

#include "core/format/item_format.h"
#include "core/tree/superblock_io.h"
#include "core/volume/format_volume.h"
#include "tests/sim/store_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;

SimWorldOptions world_of(uint64_t bytes, std::optional<uint64_t> cut = {}) {
  SimWorldOptions options;
  options.device.size_bytes = bytes;
  options.device.cut_after_writes = cut;
  return options;
}

FormatOptions format_options(uint64_t seed) {
  FormatOptions options;
  options.seed = seed;
  options.label = "volume " + std::to_string(seed);
  options.created = {1'700'000'000, 5};
  options.root_uid = 1000;
  options.root_gid = 100;
  return options;
}

// Garbage where the areas of a volume are, as an older use of the device leaves it.
SimImage used_image() {
  SimImage image;
  std::vector<std::byte> garbage(kBlockBytes);
  for (size_t i = 0; i < garbage.size(); ++i) garbage[i] = static_cast<std::byte>(i * 31 + 7);
  for (uint64_t block = 0; block < 4096; ++block) image.write(block * kBlockBytes, garbage);
  return image;
}

Result<FoundSuperblock> read_back(const SimImage& image, uint64_t bytes) {
  SimWorld world(1, world_of(bytes), image);
  SuperblockStash stash;
  return world.run([&] { return read_superblocks(world.device(), stash); });
}

TEST_CASE("a fresh volume can be opened, is clean, and has a root directory") {
  for_each_seed(2, [](const TestSeed& seed) {
    SimWorldOptions options = world_of(kStoreVolumeBytes);
    options.forced_restart_probability = seed.forced_restart_probability;
    SimWorld world(seed.seed, options, used_image());
    FormatOptions format = format_options(seed.seed);
    format.discard = seed.seed % 2 == 0;
    VolumeFormatter formatter(world.device(), format);
    REQUIRE(world.run([&] { return formatter.run(); }).ok());

    StoreRig::Options rig_options;
    rig_options.seed = seed.seed;
    StoreRig rig(rig_options, world.device().durable_image());
    REQUIRE(rig.mount().ok());
    const Superblock& sb = rig.found().superblock;
    CHECK((sb.flags & kVolumeClean) != 0);
    CHECK_EQ(rig.found().slot, 0);
    CHECK(std::string(reinterpret_cast<const char*>(sb.label)) == format.label);
    CHECK_EQ(sb.created_sec.get(), 1'700'000'000);
    CHECK_EQ(sb.next_inode.get(), 2);

    const StoreContent content = rig.content();
    REQUIRE_EQ(content.size(), 1);
    CHECK(content.begin()->first == inode_key(kRootInode));
    REQUIRE_EQ(content.begin()->second.size(), sizeof(InodeValue));
    const InodeValue& root = view_as<InodeValue>(content.begin()->second);
    CHECK_EQ(root.mode.get(), S_IFDIR | 0755);
    CHECK_EQ(root.link_count.get(), 2);
    CHECK_EQ(root.parent.get(), kRootInode.value());
    CHECK_EQ(root.uid.get(), 1000);
    CHECK_EQ(root.gid.get(), 100);
    CHECK(root.btime.timestamp() == format.created);

    // The root node's blocks are taken, everything else is free, and the superblock knows.
    CHECK(rig.is_allocated(BlockNo(sb.tree_root)));
    CHECK(!rig.is_allocated(BlockNo(sb.tree_root + kNodeBlocks)));
    CHECK_EQ(rig.space().stats().free_blocks, sb.free_blocks.get());
  });
}

TEST_CASE("a format that is interrupted leaves the old volume, none, or the whole new one") {
  // Over an older volume of the same seed: its blocks would verify.
  SimWorld before(1, world_of(kStoreVolumeBytes));
  VolumeFormatter older(before.device(), format_options(1));
  REQUIRE(before.run([&] { return older.run(); }).ok());
  StoreRig used({}, before.device().durable_image());
  REQUIRE(used.mount().ok());
  const StoreContent new_content = used.content();
  REQUIRE(used.put(inode_key(InodeNo(77)), number_value(5)).ok());
  REQUIRE(used.checkpoint().ok());
  REQUIRE(used.put(inode_key(InodeNo(78)), number_value(6)).ok());
  const StoreContent old_content = used.content();
  REQUIRE(used.unmount().ok());

  int was_old = 0;
  int was_nothing = 0;
  int was_new = 0;
  for (uint64_t cut = 0;; ++cut) {
    SimWorld world(cut + 1, world_of(kStoreVolumeBytes, cut), used.world().device().snapshot());
    VolumeFormatter formatter(world.device(), format_options(1));
    if (world.run([&] { return formatter.run(); }).ok()) break;
    REQUIRE_LT(cut, 30);
    for (int draw = 0; draw < 8; ++draw) {
      const SimImage image = world.device().surviving_image(world.random());
      const Result<FoundSuperblock> found = read_back(image, kStoreVolumeBytes);
      if (!found.ok()) {
        ++was_nothing;
        CHECK(found.error() == Error::not_a_volume);
        continue;
      }
      StoreRig rig({}, image);
      REQUIRE(rig.mount().ok());
      const StoreContent content = rig.content();
      const bool is_old = content.contains(inode_key(InodeNo(77)));
      ++(is_old ? was_old : was_new);
      CHECK(content == (is_old ? old_content : new_content));
      CHECK(rig.is_allocated(BlockNo(rig.found().superblock.tree_root)));
    }
  }
  CHECK_GT(was_old, 0);
  CHECK_GT(was_nothing, 0);
  CHECK_GT(was_new, 0);
}

TEST_CASE("a format refuses sizes and devices that cannot hold a volume") {
  const auto outcome = [](uint64_t device_bytes, FormatOptions options, bool read_only) {
    SimWorldOptions world_options = world_of(device_bytes);
    world_options.device.read_only = read_only;
    SimWorld world(1, world_options);
    VolumeFormatter formatter(world.device(), options);
    return world.run([&] { return formatter.run(); });
  };
  FormatOptions options = format_options(1);
  CHECK(outcome(32 * kMiB, options, false).error() == Error::invalid_argument);
  CHECK(outcome(64 * kMiB, options, true).error() == Error::read_only_volume);
  options.size_bytes = 128 * kMiB;
  CHECK(outcome(64 * kMiB, options, false).error() == Error::invalid_argument);
  CHECK(outcome(200 * kMiB, options, false).ok());
  options.label = std::string(kLabelBytesMax + 1, 'x');
  CHECK(outcome(200 * kMiB, options, false).error() == Error::invalid_argument);
}

TEST_CASE("a write error ends the format with it, and there is no volume") {
  for (uint64_t skip = 0; skip < 6; ++skip) {
    SimWorld world(1, world_of(64 * kMiB));
    SimFault fault;
    fault.kind = IoKind::write;
    fault.skip = skip;
    fault.count = 1;
    fault.error = Error::io_failed;
    world.device().add_fault(fault);
    VolumeFormatter formatter(world.device(), format_options(1));
    const Result<void> outcome = world.run([&] { return formatter.run(); });
    if (outcome.ok()) {
      CHECK_GE(skip, 5);  // erase, node, summary, bitmap, two superblocks: none is left to fail
      continue;
    }
    CHECK(outcome.error() == Error::io_failed);
    const Result<FoundSuperblock> found = read_back(world.device().snapshot(), 64 * kMiB);
    CHECK(found.ok() == (skip == 5));  // one superblock is a volume, the second its spare
  }
}

}  // namespace
}  // namespace fusefs
