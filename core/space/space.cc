#include "core/space/space.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/space/space_impl.h"

namespace fusefs {
namespace {

uint64_t node_reserve_of(const Superblock& superblock) {
  const uint64_t blocks = superblock.block_count - superblock.data_first;
  return std::clamp(blocks / 64 / kNodeBlocks, kNodeReserveMin, kNodeReserveMax);
}

class JournalDurability final : public Durability {
 public:
  explicit JournalDurability(Journal& journal) : journal_(journal) {}
  JournalSeq durable_seq() const override { return journal_.durable_seq(); }
  void kick() override { journal_.kick(); }
  Waitable& durable_changed() override { return journal_.durable_changed(); }

 private:
  Journal& journal_;
};

std::string describe(BlockRange blocks) {
  return "blocks " + std::to_string(blocks.first.value()) + " to " +
         std::to_string(blocks.end.value());
}

}  // namespace

// ---- Reservation, IoGuard ----

Reservation::Reservation(Reservation&& other) noexcept
    : space_(std::exchange(other.space_, nullptr)),
      count_(std::exchange(other.count_, BlockCount(0))) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  std::swap(space_, other.space_);
  std::swap(count_, other.count_);
  return *this;
}

Reservation Reservation::split(BlockCount count) {
  CHECK(count <= count_);
  if (count == BlockCount(0)) return {};
  count_ -= count;
  return Reservation(*space_, count);
}

void Reservation::merge(Reservation&& other) {
  if (other.space_ == nullptr) return;
  CHECK(space_ == nullptr || space_ == other.space_);
  space_ = std::exchange(other.space_, nullptr);
  count_ += std::exchange(other.count_, BlockCount(0));
}

void Reservation::release() {
  if (Space* space = std::exchange(space_, nullptr)) space->impl_->reserved -= count_.value();
  count_ = BlockCount(0);
}

IoGuard::IoGuard(IoGuard&& other) noexcept
    : space_(std::exchange(other.space_, nullptr)), epoch_(other.epoch_), owner_(other.owner_) {}

IoGuard& IoGuard::operator=(IoGuard&& other) noexcept {
  std::swap(space_, other.space_);
  std::swap(epoch_, other.epoch_);
  std::swap(owner_, other.owner_);
  return *this;
}

void IoGuard::release() {
  if (Space* space = std::exchange(space_, nullptr)) space->impl_->releases.leave(epoch_, owner_);
}

// ---- Impl ----

Space::Impl::Impl(Scheduler& scheduler, BlockDevice& device, Health& health_of_volume,
                  const Superblock& superblock)
    : health(health_of_volume),
      groups(scheduler, device, health_of_volume, superblock),
      node_reserve(node_reserve_of(superblock)),
      placer(groups, node_reserve) {}

int64_t Space::Impl::reservable() const {
  // Nodes that the checkpoint under way replaces come back when it ends, as they went when it
  // began.
  const uint64_t nodes = (nodes_released.size() + nodes_frozen.size()) * kNodeBlocks;
  const uint64_t metadata = 2 * node_reserve * kNodeBlocks;
  return static_cast<int64_t>(groups.free_blocks() + nodes) -
         static_cast<int64_t>(reserved + metadata);
}

void Space::Impl::settle_releases() {
  if (durability == nullptr) return;
  const JournalSeq durable = durability->durable_seq();
  while (const std::optional<BlockRange> blocks = releases.take_ready(durable)) {
    groups.give(*blocks);
    if (keep_discards) discards.add(*blocks);
  }
}

Attempt<void> Space::Impl::wait_for_space() {
  if (health.failed()) return health.error();
  if (!releases.empty() && durability != nullptr) {
    if (!releases.waits_for_guards(durability->durable_seq())) {
      durability->kick();
      return restart_after(durability->durable_changed(), RestartReason::space);
    }
    if (!releases.holds_guard(Operation::current())) {
      return restart_after(releases.guards_ended(), RestartReason::space);
    }
  }
  if (trimming != 0) return restart_after(trim_ended, RestartReason::space);
  if (groups.checkpoint_under_way()) {
    return restart_after(checkpoint_ended, RestartReason::space);
  }
  return Error::no_space;
}

Attempt<void> Space::Impl::want_blocks(uint64_t count, SpaceUse use) {
  settle_releases();
  const auto wanted = static_cast<int64_t>(count);
  if (wanted == 0 || reservable(use) >= wanted) return {};
  if (reservable(use) + static_cast<int64_t>(soon()) < wanted) return Error::no_space;
  return wait_for_space();
}

bool Space::Impl::clear_allocated(BlockRange blocks) {
  uint64_t allocated = 0;
  groups.for_each_piece(blocks, [&](GroupNo group, BitRange bits) {
    allocated += groups.loaded(group).committed.used_count(bits);
  });
  if (allocated != blocks.count().value()) {
    health.fail(Error::corrupt, describe(blocks) + " are released and were not allocated");
    return false;
  }
  groups.commit_clear(blocks);
  return true;
}

// ---- Space ----

Space::Space(Scheduler& scheduler, BlockDevice& device, Health& health,
             const Superblock& superblock)
    : impl_(std::make_unique<Impl>(scheduler, device, health, superblock)) {}

Space::~Space() { CHECK_MSG(impl_->reserved == 0, "a reservation outlives the allocator"); }

Attempt<void> Space::load(Ref<IoTicket>& ticket) { return impl_->groups.load_summaries(ticket); }

void Space::set_journal(Journal& journal) {
  impl_->journal = std::make_unique<JournalDurability>(journal);
  impl_->durability = impl_->journal.get();
}

void Space::set_durability(Durability& durability) { impl_->durability = &durability; }

void Space::set_owners_listener(BlockOwnersListener& listener) {
  impl_->owners_listener = &listener;
}

Attempt<Reservation> Space::reserve(BlockCount count, SpaceUse use) {
  const Attempt<void> enough = impl_->want_blocks(count.value(), use);
  if (!enough.ok()) return Unfinished(enough);
  impl_->reserved += count.value();
  return Reservation(*this, count);
}

BlockCount Space::keep_writeback_reserve(BlockCount count) {
  const uint64_t share = (data_end() - data_first()).value() / kWritebackReserveShare;
  impl_->writeback_reserve = std::min(count.value(), share);
  return BlockCount(impl_->writeback_reserve);
}

Attempt<void> Space::check_room() {
  const Attempt<void> enough = impl_->want_blocks(1, SpaceUse::ordinary);
  if (!enough.ok()) return enough;
  // Free blocks that are all in pieces are no room for nodes. Data leaves three times the reserve
  // whole, so it takes a tree that grew by the whole reserve to get here.
  const uint64_t coming = impl_->nodes_released.size() + impl_->nodes_frozen.size();
  if (impl_->groups.free_chunks() + coming >= 2 * impl_->node_reserve) return {};
  return impl_->wait_for_space();
}

Attempt<BlockRange> Space::allocate(BlockCount want, std::optional<BlockNo> goal,
                                    Reservation& reservation) {
  CHECK(want > BlockCount(0) && reservation.count_ > BlockCount(0));
  CHECK(reservation.space_ == this);
  impl_->settle_releases();
  want = std::min(want, reservation.count_);
  Attempt<BlockRange> found = impl_->placer.find_data(want, goal);
  if (found.failed() && found.error() == Error::no_space) {
    return Unfinished(impl_->wait_for_space());
  }
  if (!found.ok()) return found;
  const BlockRange blocks = found.value();
  impl_->groups.take(blocks);
  impl_->placer.took_data(blocks, want, goal);
  reservation.count_ -= blocks.count();
  impl_->reserved -= blocks.count().value();
  ++impl_->allocate_count;
  return blocks;
}

void Space::cancel(BlockRange blocks) { impl_->groups.give(blocks); }

IoGuard Space::guard_io() {
  const Operation* owner = Operation::current();
  return IoGuard(*this, impl_->releases.enter(owner), owner);
}

Attempt<std::optional<BlockRange>> Space::begin_trim(BlockNo from, BlockNo end, BlockCount min) {
  impl_->settle_releases();
  Attempt<std::optional<BlockRange>> found = impl_->placer.find_trim(from, end, min);
  if (!found.ok() || !found.value()) return found;
  impl_->groups.take(*found.value());
  impl_->trimming += found.value()->count().value();
  return found;
}

void Space::end_trim(BlockRange blocks) {
  impl_->groups.give(blocks);
  impl_->trimming -= blocks.count().value();
  impl_->trim_ended.wake_all();
}

void Space::keep_discards(bool keep) {
  impl_->keep_discards = keep;
  impl_->discards.clear();
}

Attempt<std::optional<BlockRange>> Space::begin_discard(BlockCount max) {
  impl_->settle_releases();
  DiscardQueue& queue = impl_->discards;
  while (!queue.empty()) {
    BlockRange blocks = queue.front();
    blocks.end = std::min(blocks.end, blocks.first + max);
    Attempt<std::optional<BlockRange>> found =
        impl_->placer.find_trim(blocks.first, blocks.end, BlockCount(1));
    if (!found.ok()) return found;
    queue.drop_before(found.value() ? found.value()->end : blocks.end);
    if (!found.value()) continue;
    impl_->groups.take(*found.value());
    impl_->trimming += found.value()->count().value();
    return found;
  }
  return std::optional<BlockRange>();
}

bool Space::discards_wanted() const {
  return impl_->keep_discards && (!impl_->discards.empty() || !impl_->releases.empty());
}

Waitable& Space::discards_changed() { return impl_->discards_changed; }

Attempt<bool> Space::is_allocated(BlockNo block) {
  if (!impl_->groups.inside(block_range(block, BlockCount(1)))) return Error::invalid_argument;
  const GroupNo group = impl_->groups.group_of(block);
  const Attempt<void> loaded = impl_->groups.load(group);
  if (!loaded.ok()) return Unfinished(loaded);
  return impl_->groups.loaded(group).committed.test(impl_->groups.bit_of(block));
}

BlockNo Space::data_first() const { return impl_->groups.data_first(); }
BlockNo Space::data_end() const { return impl_->groups.data_end(); }

SpaceStats Space::stats() const {
  SpaceStats stats;
  stats.block_count = (data_end() - data_first()).value();
  stats.free_blocks = impl_->groups.free_blocks();
  stats.reserved_blocks = impl_->reserved;
  stats.releasing_blocks = impl_->releases.blocks().value();
  stats.trimming_blocks = impl_->trimming;
  stats.metadata_reserve_blocks = 2 * impl_->node_reserve * kNodeBlocks;
  stats.writeback_reserve_blocks = impl_->writeback_reserve;
  const auto soon = static_cast<int64_t>(impl_->soon());
  const int64_t available = impl_->reservable(SpaceUse::ordinary) + soon;
  stats.writeback_reserve_free_blocks = static_cast<uint64_t>(std::clamp<int64_t>(
      impl_->reservable() + soon, 0, static_cast<int64_t>(impl_->writeback_reserve)));
  stats.available_blocks = static_cast<uint64_t>(std::max<int64_t>(available, 0));
  stats.loaded_groups = impl_->groups.loaded_count();
  stats.allocate_count = impl_->allocate_count;
  return stats;
}

// ---- SpaceMap ----

Attempt<void> Space::prepare_change(BlockRange blocks) {
  // A damaged extent may say anything.
  if (!impl_->groups.inside(blocks)) return Error::corrupt;
  return impl_->groups.load_all(blocks);
}

void Space::commit_allocate(BlockRange blocks) {
  if (impl_->replaying) {
    impl_->groups.replay_set(blocks);
    return;
  }
  const uint64_t changed = impl_->groups.commit_set(blocks);
  CHECK_MSG(changed == blocks.count().value(), "a block is allocated twice");
}

void Space::commit_release(BlockRange blocks, JournalSeq seq) {
  if (impl_->replaying) {
    // What replay finds is durable.
    impl_->groups.replay_clear(blocks);
    return;
  }
  impl_->tell_no_longer_shared(blocks);
  if (!impl_->clear_allocated(blocks)) return;
  const bool first = impl_->keep_discards && !discards_wanted();
  impl_->releases.add(blocks, seq);
  if (first) impl_->discards_changed.wake_all();
}

void Space::commit_unshare(BlockRange blocks, JournalSeq seq) {
  if (impl_->replaying) return;  // what replay finds is durable
  impl_->tell_no_longer_shared(blocks);
  impl_->settling.add(blocks, seq);
}

SettlingBlocks::Answer Space::settling(BlockRange blocks) const {
  if (impl_->settling.empty() || impl_->durability == nullptr) return {blocks.count(), false};
  const JournalSeq durable = impl_->durability->durable_seq();
  impl_->settling.prune(durable);
  return impl_->settling.at(blocks, durable);
}

void Space::set_replaying(bool replaying) { impl_->replaying = replaying; }

Attempt<void> Space::prepare_nodes(uint64_t count) {
  impl_->settle_releases();
  if (impl_->groups.free_chunks() < count) return impl_->wait_for_space();
  return impl_->placer.prepare_nodes(count);
}

BlockNo Space::allocate_node() {
  const BlockNo first = impl_->placer.find_node();
  const BlockRange blocks = block_range(first, BlockCount(kNodeBlocks));
  impl_->groups.take(blocks);
  impl_->groups.commit_set(blocks);
  return first;
}

void Space::release_node(BlockNo first) {
  const BlockRange blocks = block_range(first, BlockCount(kNodeBlocks));
  if (impl_->clear_allocated(blocks)) impl_->nodes_released.push_back(first);
}

uint64_t Space::node_reserve() const { return impl_->node_reserve; }

std::vector<FrozenPage> Space::freeze(CheckpointNo checkpoint) {
  CHECK(impl_->nodes_frozen.empty());
  impl_->nodes_frozen = std::exchange(impl_->nodes_released, {});
  return impl_->groups.freeze(checkpoint);
}

void Space::write_summary_slots(unsigned char* slots) const {
  impl_->groups.write_summary_slots(slots);
}

uint64_t Space::free_blocks_frozen() const { return impl_->groups.free_blocks_frozen(); }

void Space::checkpoint_durable(CheckpointNo) {
  impl_->groups.thaw(true);
  for (BlockNo first : std::exchange(impl_->nodes_frozen, {})) {
    impl_->groups.give(block_range(first, BlockCount(kNodeBlocks)));
  }
  impl_->checkpoint_ended.wake_all();
}

void Space::checkpoint_failed(CheckpointNo) {
  impl_->groups.thaw(false);
  // The superblock on the device still needs them, and so does the next checkpoint's crash.
  auto& released = impl_->nodes_released;
  released.insert(released.end(), impl_->nodes_frozen.begin(), impl_->nodes_frozen.end());
  impl_->nodes_frozen.clear();
  impl_->checkpoint_ended.wake_all();
}

}  // namespace fusefs
