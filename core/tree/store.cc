#include "core/tree/store.h"

#include <algorithm>
#include <cstring>

#include "core/base/check.h"
#include "core/format/item_format.h"
#include "core/tree/store_impl.h"

namespace fusefs {
namespace {

// So many nodes may be dirty however small the cache: the smallest volumes' reserve is less.
constexpr uint64_t kDirtyNodesMin = 256;
// A change makes a leaf dirty and, by the estimate of Tree::prepare(), may split it twice and add
// to its parent.
constexpr uint64_t kNodesPerChange = 4;
constexpr uint32_t kTransactionChangesMin = 24;

}  // namespace

// Makes checkpoints, for as long as the store lives.
class Store::Checkpointer final : public Operation {
 public:
  explicit Checkpointer(Impl& store) : store_(&store) {}
  ~Checkpointer() override {
    if (store_ != nullptr) store_->checkpointer = nullptr;
  }
  const char* name() const override { return "checkpointer"; }
  bool is_background() const override { return true; }
  Attempt<void> attempt() override {
    if (store_ == nullptr) return {};
    return store_->run_checkpointer();
  }
  // The store goes away.
  void detach() { store_ = nullptr; }

 private:
  Impl* store_;
};

// ---- Opening ----

Store::Impl::Impl(Scheduler& scheduler_, BlockDevice& device_, WriteCache& write_cache_,
                  Health& health_, const Superblock& superblock, int superblock_slot,
                  const Options& options_)
    : scheduler(scheduler_),
      device(device_),
      write_cache(write_cache_),
      health(health_),
      options(options_),
      superblocks(device_, superblock, superblock_slot),
      next(superblock),
      frozen_no(superblock.checkpoint_no),
      completed_no(superblock.checkpoint_no),
      requested_no_(superblock.checkpoint_no),
      replayed_seq_(superblock.committed_seq) {
  Tree::Options tree_options;
  tree_options.cached_nodes_max = options.cached_nodes_max;
  tree_options.checksum_seed = superblock.checksum_seed;
  tree_options.node_count = superblock.tree_node_count;
  const TreeRoot root{BlockNo(superblock.tree_root), superblock.tree_root_generation};
  tree = std::make_unique<Tree>(device, health, root, tree_options);
  const JournalMark tail{BlockNo(superblock.journal_tail_block), superblock.journal_tail_batch};
  make_journal(tail, replayed_seq_.next());
}

Store::Impl::~Impl() {
  if (timer_) scheduler.cancel_timer(*timer_);
  if (checkpointer != nullptr) checkpointer->detach();
}

JournalLayout Store::Impl::journal_layout() const {
  return {BlockNo(next.journal_first), BlockCount(next.journal_blocks), next.checksum_seed};
}

void Store::Impl::make_journal(const JournalMark& head, JournalSeq next_seq) {
  const Superblock& durable = superblocks.current();
  const JournalMark tail{BlockNo(durable.journal_tail_block), durable.journal_tail_batch};
  journal = std::make_unique<Journal>(scheduler, device, write_cache, health, journal_layout(),
                                      tail, head, next_seq);
}

Attempt<void> Store::Impl::start(Timestamp now) {
  if (started_) return {};
  if (!health.writable()) return Error::read_only_volume;
  // What a checkpoint changes stays as it is on the device, but for its number: the checkpoint that
  // a crash may have left unfinished has used the next one for its nodes, and a node must not be
  // taken for another of the same place and number.
  Superblock in_use = superblocks.current();
  in_use.flags = in_use.flags & ~kVolumeClean;
  in_use.mount_count = in_use.mount_count + 1;
  in_use.mounted_sec = static_cast<uint64_t>(now.sec);
  in_use.checkpoint_no = in_use.checkpoint_no + 1;
  const Attempt<void> written = superblocks.write(in_use);
  if (written.failed()) health.fail(written.error(), "superblock");
  if (!written.ok()) return written;

  next.flags = in_use.flags;
  next.mount_count = in_use.mount_count;
  next.mounted_sec = in_use.mounted_sec;
  frozen_no = completed_no = requested_no_ = CheckpointNo(in_use.checkpoint_no);
  started_ = true;
  journal->start();
  auto operation = std::make_unique<Checkpointer>(*this);
  checkpointer = operation.get();
  scheduler.start(std::move(operation));
  if (replayed_transactions != 0) note_new();
  return {};
}

// ---- For transactions ----

uint64_t Store::Impl::node_limit() const {
  return std::min(space->node_reserve(), std::max(options.cached_nodes_max, kDirtyNodesMin));
}

uint32_t Store::Impl::transaction_changes_max() const {
  const uint64_t by_nodes = node_limit() / kNodesPerChange;
  return std::clamp(static_cast<uint32_t>(by_nodes), kTransactionChangesMin,
                    kTransactionChangesMax);
}

Attempt<void> Store::Impl::prepare_nodes(uint64_t new_dirty) {
  if (new_dirty == 0) return {};
  const uint64_t in_use = tree->dirty_count() + tree->frozen_count();
  const uint64_t limit = node_limit();
  if (in_use + new_dirty <= limit) return {};
  // The estimate is about twice of what it turns out to be.
  if (in_use == 0 && new_dirty <= 2 * limit) return {};
  if (in_use == 0) return Error::no_space;
  if (tree->frozen_count() == 0) request(next_checkpoint());
  return restart_after(room_made_, RestartReason::dirty_nodes);
}

void Store::Impl::count_shared(const Key& key, ConstBytes value, bool erased) {
  if (key.object != kSharedObject) return;
  uint64_t blocks = next.shared_blocks;
  const std::optional<ItemView> old = tree->prepared_item(key);
  if (old && old->value.size() == sizeof(SharedValue)) {
    blocks -= view_as<SharedValue>(old->value).length;
  }
  if (!erased && value.size() == sizeof(SharedValue)) blocks += view_as<SharedValue>(value).length;
  next.shared_blocks = blocks;
}

void Store::Impl::put(const Key& key, ConstBytes value) {
  count_shared(key, value, false);
  tree->put(key, value);
}

void Store::Impl::erase(const Key& key) {
  count_shared(key, {}, true);
  tree->erase(key);
}

void Store::Impl::committed() {
  note_new();
  if (tree->dirty_count() * 2 > node_limit()) journal->checkpoint_wanted().wake_all();
}

// ---- Checkpointer ----

void Store::Impl::note_new() {
  something_new = true;
  if (dirty_since_ns_ || !started_) return;
  dirty_since_ns_ = scheduler.clock().monotonic_ns();
  timer_ =
      scheduler.wake_at(*dirty_since_ns_ + kCheckpointIntervalNs, journal->checkpoint_wanted());
}

void Store::Impl::note_frozen() {
  frozen_no = next_checkpoint();
  something_new = false;
  dirty_since_ns_.reset();
  if (timer_) scheduler.cancel_timer(*timer_);
  timer_.reset();
}

bool Store::Impl::checkpoint_due() const {
  if (requested_no_ > completed_no || journal->wants_checkpoint()) return true;
  if (tree->dirty_count() * 2 > node_limit()) return true;
  return dirty_since_ns_ &&
         scheduler.clock().monotonic_ns() >= *dirty_since_ns_ + kCheckpointIntervalNs;
}

// Its waitable is the journal's, so that the journal, commits, requests and the timer wake it.
Attempt<void> Store::Impl::run_checkpointer() {
  Waitable& idle = journal->checkpoint_wanted();
  if (error_) return restart_after(idle, RestartReason::idle);
  if (!checkpoint_) {
    if (!health.writable()) {
      end_checkpoints(health.failed() ? health.error() : Error::read_only_volume);
      return restart_after(idle, RestartReason::idle);
    }
    if (!checkpoint_due()) return restart_after(idle, RestartReason::idle);
    checkpoint_ = std::make_unique<Checkpoint>(*this, std::nullopt);
  }
  const Attempt<void> made = checkpoint_->make();
  if (made.must_restart()) return made;
  checkpoint_.reset();
  checkpointer->note_progress();
  if (made.failed()) end_checkpoints(made.error());
  checkpoint_ended_.wake_all();
  room_made_.wake_all();
  return restart_now();
}

void Store::Impl::end_checkpoints(Error error) {
  error_ = error;
  checkpoint_ended_.wake_all();
  room_made_.wake_all();
  journal->wake_after_failure();
}

void Store::Impl::request(CheckpointNo wanted) {
  if (wanted <= requested_no_) return;
  requested_no_ = wanted;
  journal->checkpoint_wanted().wake_all();
}

Attempt<void> Store::Impl::wait_for_checkpoint(CheckpointNo wanted) {
  if (completed_no >= wanted) return {};
  if (!started_) return Error::read_only_volume;
  if (error_) return *error_;
  if (health.failed()) return health.error();
  request(wanted);
  return restart_after(checkpoint_ended_, RestartReason::durable);
}

Attempt<void> Store::Impl::checkpoint(CheckpointNo& wanted) {
  if (wanted == CheckpointNo()) wanted = something_new ? next_checkpoint() : frozen_no;
  return wait_for_checkpoint(wanted);
}

Attempt<void> Store::Impl::shut_down(CheckpointNo& wanted) {
  if (!started_) return {};
  if (wanted == CheckpointNo()) {
    shutting_down = true;
    wanted = next_checkpoint();
  }
  return wait_for_checkpoint(wanted);
}

// ---- Store ----

Store::Store(Scheduler& scheduler, BlockDevice& device, WriteCache& write_cache, Health& health,
             const Superblock& superblock, int superblock_slot, const Options& options)
    : impl_(std::make_unique<Impl>(scheduler, device, write_cache, health, superblock,
                                   superblock_slot, options)) {}
Store::~Store() = default;

void Store::set_space(SpaceMap& space) { impl_->space = &space; }
Attempt<void> Store::replay(const std::function<void(InodeNo)>& on_inode) {
  return impl_->replay(on_inode);
}
uint64_t Store::replayed_transactions() const { return impl_->replayed_transactions; }
uint64_t Store::replayed_bytes() const { return impl_->replayed_bytes; }
Attempt<void> Store::start(Timestamp now) { return impl_->start(now); }

Tree& Store::tree() { return *impl_->tree; }
Journal& Store::journal() { return *impl_->journal; }

Attempt<void> Store::checkpoint(CheckpointNo& wanted) { return impl_->checkpoint(wanted); }
Attempt<void> Store::shut_down(CheckpointNo& wanted) { return impl_->shut_down(wanted); }

void Store::set_label(std::string_view label) {
  std::memset(impl_->next.label, 0, kLabelBytesMax);
  std::memcpy(impl_->next.label, label.data(), std::min(label.size(), kLabelBytesMax));
  impl_->note_new();
}
const Superblock& Store::superblock() const { return impl_->next; }
void Store::set_next_inode(InodeNo next) { impl_->next.next_inode = next.value(); }
uint64_t Store::shared_blocks() const { return impl_->next.shared_blocks; }
Store::LastChange Store::last_change() const {
  const JournalSeq seq = impl_->journal ? impl_->journal->last_seq() : JournalSeq();
  return {seq, impl_->write_cache.last_write()};
}

const StoreStats& Store::stats() const { return impl_->stats; }

}  // namespace fusefs
