// A damaged image: whatever its bytes say, opening, checking and reading it ends in an answer.
//
// The input is a list of patches to a small formatted volume. A patch may ask for the block's
// checksum to be made right again: without that, nothing behind the verifiers would be reached.
//
//     byte 0       4        6      7
//        +---------+--------+------+----------+
//        | block   | offset | len  | bytes    |     offset's top bit: seal the block again
//        +---------+--------+------+----------+
#include <algorithm>
#include <cstring>
#include <memory>

#include "core/volume/check.h"
#include "core/volume/format_volume.h"
#include "core/volume/volume.h"
#include "tests/support/sim_world.h"

namespace fusefs {
namespace {

constexpr uint64_t kVolumeBytes = uint64_t{64} << 20;
constexpr uint64_t kSeed = 4711;

SimWorldOptions world_options() {
  SimWorldOptions options;
  options.device.size_bytes = kVolumeBytes;
  return options;
}

// A volume with a little of everything on it.
SimImage make_image() {
  SimWorld world(1, world_options());
  FormatOptions format;
  format.seed = kSeed;
  VolumeFormatter formatter(world.device(), format);
  (void)world.run([&] { return formatter.run(); });
  VolumeOptions volume_options;
  volume_options.cache_bytes = 1 << 20;
  auto volume = std::make_unique<Volume>(world.scheduler(), world.device(), world.clock(),
                                         volume_options, [](const std::string&) {});
  (void)world.run([&] { return volume->mount(); });
  for (int i = 0; i < 20; ++i) {
    NamespaceStash stash;
    CreateRequest request;
    request.mode = i % 5 == 0 ? 0040755u : i % 5 == 1 ? 0120777u : 0100644u;
    request.symlink_target = i % 5 == 1 ? "target" : "";
    (void)world.run([&] {
      return volume->names().create(kRootInode, "name-" + std::to_string(i), request, Caller{},
                                    stash);
    });
  }
  (void)world.run([&] { return volume->unmount(); });
  world.abandon();
  volume.reset();
  return world.device().snapshot();
}

uint64_t metadata_seed(const SimImage& image) {
  std::vector<std::byte> block(kBlockBytes);
  image.read(0, block);
  return view_as<Superblock>(ConstBytes(block)).checksum_seed;
}

void seal(std::vector<std::byte>& block, uint64_t seed) {
  const auto kind = static_cast<BlockKind>(view_as<BlockHeader>(ConstBytes(block)).kind.get());
  seal_block(block, kind == BlockKind::superblock ? kSuperblockChecksumSeed : seed);
}

void apply_patches(SimImage& image, uint64_t seed, const uint8_t* data, size_t size) {
  while (size >= 7) {
    uint32_t block = 0;
    uint16_t offset = 0;
    std::memcpy(&block, data, 4);
    std::memcpy(&offset, data + 4, 2);
    const size_t len = std::min<size_t>(data[6], size - 7);
    const bool sealed = (offset & 0x8000) != 0;
    const uint64_t blocks = kVolumeBytes / kBlockBytes;
    // Mostly the front of the volume, where the metadata lies.
    const uint64_t at = (block % 4 != 0 ? block % 2048 : block % (blocks - kNodeBlocks));
    std::vector<std::byte> bytes(kBlockBytes);
    image.read(at * kBlockBytes, bytes);
    const bool node =
        view_as<BlockHeader>(ConstBytes(bytes)).kind == static_cast<uint16_t>(BlockKind::node);
    if (node) {
      bytes.resize(kNodeBytes);
      image.read(at * kBlockBytes, bytes);
    }
    const size_t first = (offset & 0x7fff) % bytes.size();
    std::memcpy(bytes.data() + first, data + 7, std::min(len, bytes.size() - first));
    if (sealed) seal(bytes, seed);
    for (size_t done = 0; done < bytes.size(); done += kBlockBytes) {
      image.write(at * kBlockBytes + done, ConstBytes(bytes).subspan(done, kBlockBytes));
    }
    data += 7 + len;
    size -= 7 + len;
  }
}

void scan(const SimImage& image) {
  SimWorld world(1, world_options(), image);
  CheckScan scan(world.device());
  (void)world.run([&] { return scan.run(); });
}

void mount_and_read(const SimImage& image) {
  SimWorld world(1, world_options(), image);
  VolumeOptions options;
  options.read_only = true;
  options.cache_bytes = 1 << 20;
  auto volume = std::make_unique<Volume>(world.scheduler(), world.device(), world.clock(), options,
                                         [](const std::string&) {});
  if (world.run([&] { return volume->mount(); }).ok()) {
    NamespaceStash stash;
    const auto listed =
        world.run([&] { return volume->names().list(kRootInode, 0, 64, true, stash); });
    if (listed.ok()) {
      for (const auto& entry : listed.value()) {
        NamespaceStash get;
        AlignedBuffer buffer(4 * kBlockBytes);
        ReadStash read;
        (void)world.run([&]() -> Attempt<size_t> {
          ATTEMPT(const InodeRef inode, volume->inodes().get(entry.entry.ino, get.pins));
          return read_file(volume->files(), *inode, 0, 3 * kBlockBytes, buffer.bytes(), read);
        });
      }
    }
  }
  world.abandon();
  volume.reset();
}

}  // namespace
}  // namespace fusefs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fusefs::SimImage base = fusefs::make_image();
  static const uint64_t seed = fusefs::metadata_seed(base);
  fusefs::SimImage image = base;
  fusefs::apply_patches(image, seed, data, size);
  fusefs::scan(image);
  fusefs::mount_and_read(image);
  return 0;
}
