#include "tests/sim/store_rig.h"

#include <cstring>

#include "core/volume/format_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

SimWorldOptions world_options(const StoreRig::Options& options) {
  SimWorldOptions world;
  world.device.size_bytes = kStoreVolumeBytes;
  world.device.logical_block_bytes = options.logical_block_bytes;
  world.device.cut_after_writes = options.cut_after_writes;
  world.forced_restart_probability = options.forced;
  return world;
}

}  // namespace

SimImage formatted_image(uint64_t seed) {
  SimWorldOptions options;
  options.device.size_bytes = kStoreVolumeBytes;
  SimWorld world(seed, options);
  FormatOptions format;
  format.seed = seed;
  VolumeFormatter formatter(world.device(), format);
  REQUIRE(world.run([&] { return formatter.run(); }).ok());
  return world.device().durable_image();
}

StoreRig::StoreRig(const Options& options, SimImage image)
    : world_(options.seed, world_options(options), std::move(image)),
      options_(options),
      write_cache_(world_.device()),
      health_(options.read_only) {}

StoreRig::~StoreRig() { world_.abandon(); }

Result<void> StoreRig::mount() {
  SuperblockStash stash;
  TRY(found_, world_.run([&] { return read_superblocks(world_.device(), stash); }));
  Store::Options options;
  options.cached_nodes_max = options_.cached_nodes_max;
  world_.inside([&] {
    store_ = std::make_unique<Store>(world_.scheduler(), world_.device(), write_cache_, health_,
                                     found_.superblock, found_.slot, options);
    space_ =
        std::make_unique<Space>(world_.scheduler(), world_.device(), health_, found_.superblock);
    if (options_.node_reserve == 0) {
      store_->set_space(*space_);
    } else {
      tight_ = std::make_unique<TightSpace>(*space_, options_.node_reserve);
      store_->set_space(*tight_);
    }
  });
  Ref<IoTicket> summaries;
  TRY_OK(world_.run([&] { return space_->load(summaries); }));
  TRY_OK(world_.run([&] {
    return store_->replay([&](InodeNo ino) { max_inode_ = std::max(max_inode_, ino.value()); });
  }));
  world_.inside([&] { space_->set_journal(store_->journal()); });
  if (options_.read_only) return {};
  return world_.run([&] { return store_->start(world_.clock().wall()); });
}

Result<void> StoreRig::unmount() {
  CheckpointNo wanted;
  return world_.run([&] { return store_->shut_down(wanted); });
}

FoundSuperblock StoreRig::read_superblock() {
  SuperblockStash stash;
  Result<FoundSuperblock> found =
      world_.run([&] { return read_superblocks(world_.device(), stash); });
  REQUIRE(found.ok());
  return found.value();
}

Result<JournalSeq> StoreRig::put(const Key& key, const StoreValue& value) {
  return transact([&](Transaction& txn) -> Attempt<void> {
    txn.put(key, value);
    return {};
  });
}

Result<JournalSeq> StoreRig::erase(const Key& key) {
  return transact([&](Transaction& txn) -> Attempt<void> {
    txn.erase(key);
    return {};
  });
}

Result<void> StoreRig::wait_durable(JournalSeq seq) {
  return world_.run([&] { return store_->journal().wait_durable(seq); });
}

Result<void> StoreRig::checkpoint() {
  CheckpointNo wanted;
  return world_.run([&] { return store_->checkpoint(wanted); });
}

StoreContent StoreRig::content() {
  StoreContent content;
  Key at{};
  for (;;) {
    NodePins pins;
    Result<bool> more = world_.run([&]() -> Attempt<bool> {
      ATTEMPT(const std::optional<ItemView> item, store_->tree().at_or_after(at, pins));
      if (!item) return false;
      content[item->key] = StoreValue(item->value.begin(), item->value.end());
      at = item->key;
      ++at.offset;
      return true;
    });
    REQUIRE(more.ok());
    if (!more.value()) return content;
  }
}

bool StoreRig::is_allocated(BlockNo block) {
  Result<bool> allocated = world_.run([&] { return space_->is_allocated(block); });
  REQUIRE(allocated.ok());
  return allocated.value();
}

StoreValue store_value(Random& random, size_t len_max) {
  StoreValue value(random.below(len_max + 1));
  for (std::byte& byte : value) byte = static_cast<std::byte>(random.next());
  return value;
}

StoreValue number_value(uint64_t number) {
  StoreValue value(sizeof(number));
  std::memcpy(value.data(), &number, sizeof(number));
  return value;
}

uint64_t value_number(const StoreValue& value) {
  uint64_t number = 0;
  REQUIRE(value.size() == sizeof(number));
  std::memcpy(&number, value.data(), sizeof(number));
  return number;
}

}  // namespace fusefs
