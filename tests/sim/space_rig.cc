#include "tests/sim/space_rig.h"

#include "core/volume/format_volume.h"

#include <doctest/doctest.h>

namespace fusefs {

SpaceRig::SpaceRig(uint64_t seed, double forced, uint64_t volume_bytes) {
  SimWorldOptions options;
  options.device.size_bytes = volume_bytes;
  options.forced_restart_probability = forced;
  world_ = std::make_unique<SimWorld>(seed, options);
  FormatOptions format;
  format.seed = seed;
  VolumeFormatter formatter(world_->device(), format);
  REQUIRE(world_->run([&] { return formatter.run(); }).ok());
  superblock_ = formatter.superblock();
  REQUIRE(open().ok());
}

Result<void> SpaceRig::open() {
  space_.reset();
  health_ = std::make_unique<Health>(false);
  space_ = std::make_unique<Space>(world_->scheduler(), world_->device(), *health_, superblock_);
  space_->set_durability(durability_);
  Ref<IoTicket> ticket;
  return world_->run([&] { return space_->load(ticket); });
}

Result<Reservation> SpaceRig::reserve(uint64_t blocks) {
  return world_->run([&] { return space_->reserve(BlockCount(blocks)); });
}

Result<BlockRange> SpaceRig::allocate(uint64_t want, std::optional<BlockNo> goal) {
  TRY(Reservation reservation, reserve(want));
  return allocate_from(reservation, want, goal);
}

Result<BlockRange> SpaceRig::allocate_from(Reservation& reservation, uint64_t want,
                                           std::optional<BlockNo> goal) {
  std::optional<BlockRange> blocks;
  return world_->run([&]() -> Attempt<BlockRange> {
    if (!blocks) ATTEMPT_INTO(blocks, space_->allocate(BlockCount(want), goal, reservation));
    return *blocks;
  });
}

Result<void> SpaceRig::commit(BlockRange blocks) {
  return world_->run([&]() -> Attempt<void> {
    ATTEMPT_OK(space_->prepare_change(blocks));
    space_->commit_allocate(blocks);
    return {};
  });
}

Result<void> SpaceRig::release(BlockRange blocks, uint64_t seq) {
  return world_->run([&]() -> Attempt<void> {
    ATTEMPT_OK(space_->prepare_change(blocks));
    space_->commit_release(blocks, JournalSeq(seq));
    return {};
  });
}

Result<bool> SpaceRig::is_allocated(BlockNo block) {
  return world_->run([&] { return space_->is_allocated(block); });
}

Result<SpaceRig::Checkpoint> SpaceRig::begin_checkpoint(uint64_t node_count,
                                                        std::vector<BlockNo> released) {
  std::vector<FrozenPage> pages;
  Checkpoint checkpoint;
  const Result<void> frozen = world_->run([&]() -> Attempt<void> {
    ATTEMPT_OK(space_->prepare_nodes(node_count));
    for (BlockNo node : released) {
      ATTEMPT_OK(space_->prepare_change(block_range(node, BlockCount(kNodeBlocks))));
    }
    for (uint64_t i = 0; i < node_count; ++i) checkpoint.nodes.push_back(space_->allocate_node());
    for (BlockNo node : released) space_->release_node(node);
    checkpoint.superblock = superblock_;
    checkpoint.superblock.checkpoint_no = superblock_.checkpoint_no + 1;
    pages = space_->freeze(CheckpointNo(checkpoint.superblock.checkpoint_no));
    space_->write_summary_slots(checkpoint.superblock.summary_slots);
    checkpoint.superblock.free_blocks = space_->free_blocks_frozen();
    return {};
  });
  if (!frozen.ok()) return frozen.error();
  Ref<IoTicket> ticket;
  const Result<void> written = world_->run([&]() -> Attempt<void> {
    if (!ticket) {
      ticket = make_ref<IoTicket>();
      for (FrozenPage& page : pages) {
        seal_block(page.image.bytes(), superblock_.checksum_seed);
        world_->device().submit(
            IoRequest::write(block_addr(page.at), page.image.data(), kBlockBytes), ticket);
      }
    }
    return ticket->wait();
  });
  if (!written.ok()) return written.error();
  return checkpoint;
}

void SpaceRig::end_checkpoint(const Checkpoint& checkpoint, bool durable) {
  world_->inside([&] {
    const CheckpointNo number(checkpoint.superblock.checkpoint_no);
    if (durable) {
      superblock_ = checkpoint.superblock;
      space_->checkpoint_durable(number);
    } else {
      space_->checkpoint_failed(number);
    }
  });
}

Result<std::vector<BlockNo>> SpaceRig::checkpoint(uint64_t node_count,
                                                  std::vector<BlockNo> released) {
  TRY(Checkpoint checkpoint, begin_checkpoint(node_count, std::move(released)));
  end_checkpoint(checkpoint, true);
  return std::move(checkpoint.nodes);
}

}  // namespace fusefs
