#include <array>
#include <functional>

#include "core/format/journal_format.h"
#include "core/format/space_format.h"
#include "core/tree/superblock_io.h"
#include "tests/support/sim_world.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kDeviceBytes = 64ull << 20;

Superblock valid_superblock(uint64_t generation = 1) {
  Superblock sb{};
  sb.header.generation = generation;
  sb.signature = kSuperblockSignature;
  sb.format_version = kFormatVersion;
  sb.checksum_seed = uint64_t{5};
  sb.block_count = kDeviceBytes / kBlockBytes;
  sb.journal_first = kFirstUsableBlock;
  sb.journal_blocks = kJournalBytesMin / kBlockBytes;
  sb.summary_first = sb.journal_first + sb.journal_blocks;
  sb.summary_pages = uint64_t{1};
  sb.bitmap_first = sb.summary_first + 2;
  sb.group_count = uint64_t{1};
  sb.data_first = sb.bitmap_first + 2;
  sb.journal_tail_block = sb.journal_first;
  sb.journal_tail_batch = uint64_t{1};
  return sb;
}

AlignedBuffer sealed(const Superblock& sb, int slot) {
  AlignedBuffer image(kBlockBytes);
  std::memcpy(image.data(), &sb, sizeof(sb));
  set_block_header(image.bytes(), BlockKind::superblock,
                   BlockNo(kSuperblockBlocks[static_cast<size_t>(slot)]), sb.header.generation);
  seal_block(image.bytes(), kSuperblockChecksumSeed);
  return image;
}

Result<void> verify(const Superblock& sb, uint64_t device_bytes = kDeviceBytes) {
  return verify_superblock(sealed(sb, 0).bytes(), BlockNo(0), device_bytes);
}

Error error_after(const std::function<void(Superblock&)>& damage) {
  Superblock sb = valid_superblock();
  damage(sb);
  const Result<void> verified = verify(sb);
  REQUIRE_FALSE(verified.ok());
  return verified.error();
}

// A device with the given slots on it.
SimImage image_of(const std::array<std::optional<Superblock>, 2>& slots) {
  SimImage image;
  for (int slot = 0; slot < 2; ++slot) {
    const auto& sb = slots[static_cast<size_t>(slot)];
    if (!sb) continue;
    image.write(block_addr(BlockNo(kSuperblockBlocks[static_cast<size_t>(slot)])),
                sealed(*sb, slot).bytes());
  }
  return image;
}

SimWorldOptions world_options(uint64_t size_bytes = kDeviceBytes) {
  SimWorldOptions options;
  options.device.size_bytes = size_bytes;
  return options;
}

Result<FoundSuperblock> read(SimWorld& world) {
  SuperblockStash stash;
  return world.run([&] { return read_superblocks(world.device(), stash); });
}
Result<FoundSuperblock> read(SimImage image, uint64_t size_bytes = kDeviceBytes) {
  SimWorld world(1, world_options(size_bytes), std::move(image));
  return read(world);
}

}  // namespace

TEST_CASE("a superblock that makes sense is accepted") {
  CHECK(verify(valid_superblock()).ok());
  Superblock with_tree = valid_superblock();
  with_tree.tree_root = with_tree.data_first;
  with_tree.tree_root_generation = uint64_t{1};
  CHECK(verify(with_tree).ok());
}

TEST_CASE("what is no superblock, is damaged or from a later version is told apart") {
  CHECK(error_after([](Superblock& sb) { sb.signature = uint64_t{0}; }) == Error::not_a_volume);
  CHECK(error_after([](Superblock& sb) { sb.format_version = kFormatVersion + 1; }) ==
        Error::newer_version);
  CHECK(error_after([](Superblock& sb) { sb.incompatible_features = uint64_t{1} << 63; }) ==
        Error::newer_version);
  CHECK(error_after([](Superblock& sb) { sb.block_count = sb.block_count + 1; }) ==
        Error::truncated_volume);
  AlignedBuffer torn = sealed(valid_superblock(), 0);
  torn.data()[300] ^= std::byte{1};
  CHECK(verify_superblock(torn.bytes(), BlockNo(0), kDeviceBytes).error() == Error::corrupt);
  const AlignedBuffer misplaced = sealed(valid_superblock(), 1);
  CHECK(verify_superblock(misplaced.bytes(), BlockNo(0), kDeviceBytes).error() == Error::corrupt);
}

TEST_CASE("a superblock whose areas overlap, overflow or lie outside is corrupt") {
  const std::vector<std::function<void(Superblock&)>> damages = {
      [](Superblock& sb) { sb.format_version = uint32_t{0}; },
      [](Superblock& sb) { sb.block_count = ~uint64_t{0}; },
      [](Superblock& sb) { sb.journal_first = uint64_t{16}; },
      [](Superblock& sb) { sb.journal_blocks = uint64_t{1}; },
      [](Superblock& sb) { sb.journal_blocks = kJournalBytesMax / kBlockBytes + 1; },
      [](Superblock& sb) { sb.journal_blocks = sb.journal_blocks + 1; },
      [](Superblock& sb) { sb.summary_first = ~uint64_t{0} - 3; },
      [](Superblock& sb) { sb.summary_pages = uint64_t{2}; },
      [](Superblock& sb) { sb.bitmap_first = sb.bitmap_first - 1; },
      [](Superblock& sb) { sb.group_count = uint64_t{2}; },
      [](Superblock& sb) { sb.group_count = uint64_t{1} << 63; },
      [](Superblock& sb) { sb.data_first = sb.data_first - 1; },
      [](Superblock& sb) { sb.data_first = sb.block_count.get(); },
      [](Superblock& sb) {
        sb.tree_root = uint64_t{3};
        sb.tree_root_generation = uint64_t{1};
      },
      [](Superblock& sb) {
        sb.tree_root = sb.block_count - 1;
        sb.tree_root_generation = uint64_t{1};
      },
      [](Superblock& sb) { sb.journal_tail_block = sb.journal_first - 1; },
      [](Superblock& sb) { sb.journal_tail_block = sb.journal_first + sb.journal_blocks; },
      [](Superblock& sb) { sb.journal_tail_batch = uint64_t{0}; },
      [](Superblock& sb) { sb.free_blocks = sb.block_count + 1; },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    CAPTURE(i);
    CHECK(error_after(damages[i]) == Error::corrupt);
  }
}

TEST_CASE("the newer of two good superblocks is the volume, and a damaged one is passed over") {
  const Superblock old_one = valid_superblock(7);
  const Superblock new_one = valid_superblock(8);
  CHECK(read(image_of({old_one, new_one})).value().slot == 1);
  CHECK(read(image_of({new_one, old_one})).value().slot == 0);
  CHECK(read(image_of({std::nullopt, old_one})).value().slot == 1);

  SimImage damaged = image_of({old_one, new_one});
  const std::byte noise[16] = {std::byte{1}};
  damaged.write(block_addr(BlockNo(kSuperblockBlocks[1])) + 64, noise);
  CHECK(read(damaged).value().slot == 0);

  SimWorld unreadable(1, world_options(), image_of({old_one, new_one}));
  SimFault fault;
  fault.addr_end = kBlockBytes;
  fault.error = Error::io_failed;
  unreadable.device().add_fault(fault);
  CHECK(read(unreadable).value().slot == 1);
}

TEST_CASE("without a good superblock the error says the most that is known") {
  Superblock newer = valid_superblock(3);
  newer.format_version = kFormatVersion + 1;
  Superblock damaged = valid_superblock(4);
  damaged.data_first = uint64_t{0};
  CHECK(read(SimImage()).error() == Error::not_a_volume);
  CHECK(read(image_of({damaged, std::nullopt})).error() == Error::corrupt);
  CHECK(read(image_of({damaged, newer})).error() == Error::newer_version);
  CHECK(read(image_of({valid_superblock(), valid_superblock()}), 32ull << 20).error() ==
        Error::truncated_volume);
  CHECK(read(SimImage(), 4 * kBlockBytes).error() == Error::not_a_volume);
}

TEST_CASE("a volume that a later version has changed is not mounted as it was before") {
  Superblock newer = valid_superblock(9);
  newer.incompatible_features = uint64_t{1} << 40;
  CHECK(read(image_of({valid_superblock(8), newer})).error() == Error::newer_version);
  // The other way round the later version's superblock has been overtaken.
  CHECK(read(image_of({valid_superblock(10), newer})).value().slot == 0);
}

TEST_CASE("superblocks are written to the two slots in turn, each newer than the last") {
  SimWorld world(1, world_options(), image_of({valid_superblock(3), std::nullopt}));
  SuperblockWriter writer(world.device(), valid_superblock(3), 0);
  for (uint64_t i = 1; i <= 4; ++i) {
    Superblock next = valid_superblock();
    next.mount_count = i;
    REQUIRE(world.run([&] { return writer.write(next); }).ok());
    const FoundSuperblock found = read(world).value();
    CHECK(found.slot == static_cast<int>(i % 2));
    CHECK(found.superblock.header.generation == 3 + i);
    CHECK(found.superblock.mount_count == i);
    CHECK(writer.slot() == found.slot);
  }
  SimFault fault;
  fault.kind = IoKind::write;
  fault.error = Error::io_failed;
  world.device().add_fault(fault);
  CHECK(world.run([&] { return writer.write(valid_superblock()); }).error() == Error::io_failed);
  CHECK(writer.current().mount_count == 4);
  CHECK(read(world).value().superblock.mount_count == 4);
  CHECK(world.device().stats().fua_count == 5);
}

}  // namespace fusefs
