#include "core/volume/volume.h"

#include <algorithm>
#include <utility>

#include "core/memory/shared_blocks.h"
#include "core/space/discarder.h"
#include "core/tree/superblock_io.h"

namespace fusefs {
namespace {

constexpr uint64_t kDayNs = 86'400 * kNsPerSecond;
// A discard longer than this is cut, so that one does not hold up everything behind it.
constexpr uint64_t kTrimStepBlocks = (1ull << 30) / kBlockBytes;

bool older(const Timestamp& a, const Timestamp& b) { return a < b; }

}  // namespace

class Volume::Impl {
 public:
  Impl(Scheduler& scheduler, BlockDevice& device, const Clock& clock, const VolumeOptions& options,
       std::function<void(const std::string&)> report)
      : scheduler_(scheduler),
        device_(device),
        clock_(clock),
        options_(options),
        write_cache_(device),
        health_(options.read_only, std::move(report)) {}

  Attempt<void> mount();
  Attempt<void> unmount();
  Attempt<uint64_t> trim(uint64_t pos, uint64_t len, uint64_t min_bytes, TrimStash& stash);
  void release_inode(InodeNo ino);
  void touch_atime(Inode& inode);
  VolumeStat stat() const;

  // Everything but opening and closing: there once mount() has read the superblock.
  Scheduler& scheduler_;
  BlockDevice& device_;
  const Clock& clock_;
  const VolumeOptions options_;
  WriteCache write_cache_;
  Health health_;
  std::string error_detail_;
  RecoveryStats recovery_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Space> space_;
  std::unique_ptr<Discarder> discarder_;  // null: nothing is discarded but by trim()
  std::unique_ptr<PageCache> cache_;      // outlives the inodes with their folios
  std::unique_ptr<InodeTable> inodes_;
  std::unique_ptr<Namespace> names_;
  std::unique_ptr<FileContext> files_;

 private:
  class ReapOperation;
  enum class MountPhase : uint8_t { superblock, summaries, replay, start, orphans, mounted };
  enum class UnmountPhase : uint8_t { lazy, sync, orphans, shut_down, discard, done };

  void build_parts(const Superblock& superblock, int slot);
  Attempt<void> open_superblock();
  Attempt<void> finish_orphans();
  bool discards() const {
    return options_.discard && !options_.read_only && device_.geometry().can_discard;
  }
  Attempt<void> reap(InodeNo ino, NamespaceStash& stash);

  MountPhase mount_phase_ = MountPhase::superblock;
  UnmountPhase unmount_phase_ = UnmountPhase::lazy;
  uint64_t mount_started_ns_ = 0;
  SuperblockStash superblock_stash_;
  Ref<IoTicket> summaries_;
  // The orphan being finished.
  struct OrphanStash {
    InodeNo ino;
    OrphanKind kind = OrphanKind::unlinked;
    bool found = false;
    NodePins pins;
    NamespaceStash names;
    ShapeStash shape;
  };
  std::unique_ptr<OrphanStash> orphan_;
  InodeNo orphan_after_;
  FsyncStash sync_;
  CheckpointNo last_checkpoint_;
};

// Removes an unlinked inode that nobody uses any more.
class Volume::Impl::ReapOperation final : public Operation {
 public:
  ReapOperation(Impl& volume, InodeNo ino) : volume_(volume), ino_(ino) {}
  const char* name() const override { return "reap"; }
  Attempt<void> attempt() override { return volume_.reap(ino_, stash_); }

 private:
  Impl& volume_;
  const InodeNo ino_;
  NamespaceStash stash_;
};

void Volume::Impl::build_parts(const Superblock& superblock, int slot) {
  Store::Options store_options;
  store_options.cached_nodes_max = options_.cached_nodes_max;
  store_ = std::make_unique<Store>(scheduler_, device_, write_cache_, health_, superblock, slot,
                                   store_options);
  space_ = std::make_unique<Space>(scheduler_, device_, health_, superblock);
  store_->set_space(*space_);
  inodes_ = std::make_unique<InodeTable>(*store_, *space_, clock_);
  inodes_->pages_locks().delay_ns = options_.lock_delay_ns;
  inodes_->set_next_inode_no(InodeNo(superblock.next_inode));
  names_ =
      std::make_unique<Namespace>(*inodes_, *store_, *space_, NameHash(superblock.name_hash_seed));
  cache_ = std::make_unique<PageCache>(options_.cache_bytes);
  space_->set_owners_listener(cache_->shared());
  files_.reset(new FileContext{scheduler_, device_, write_cache_, health_, *store_, *space_,
                               *inodes_, *names_, *cache_,
                               Completions(scheduler_, options_.completion)});
  files_->self_io = options_.self_io;
  files_->fault_policy = options_.fault_policy;
  files_->readahead_bytes_max = options_.readahead_bytes;
  files_->pins.bytes_max = options_.pin_limit_bytes;
  files_->pins.bytes_max_per_user = options_.pin_limit_bytes_per_user;
  files_->pins.policy = options_.pinned_policy;
  files_->pins.on_end = [this](InodeNo ino) { release_inode(ino); };
}

Attempt<void> Volume::Impl::open_superblock() {
  Attempt<FoundSuperblock> found = read_superblocks(device_, superblock_stash_);
  if (found.failed()) error_detail_ = "superblock";
  ATTEMPT(const FoundSuperblock superblock, std::move(found));
  const bool clean = (superblock.superblock.flags & kVolumeClean) != 0;
  recovery_.was_clean = clean;
  if (!clean && device_.geometry().read_only && !options_.skip_recovery) {
    // Replay happens in memory only: nothing is written to a read-only device.
    recovery_.was_clean = false;
  }
  build_parts(superblock.superblock, superblock.slot);
  // A daemon that died may have left writes in the device's cache: no fsync may count on them.
  if (!clean) write_cache_.note_write();
  return {};
}

Attempt<void> Volume::Impl::mount() {
  if (mount_phase_ == MountPhase::superblock) {
    if (mount_started_ns_ == 0) mount_started_ns_ = clock_.monotonic_ns();
    ATTEMPT_OK(open_superblock());
    mount_phase_ = MountPhase::summaries;
  }
  if (mount_phase_ == MountPhase::summaries) {
    ATTEMPT_OK(space_->load(summaries_));
    mount_phase_ = MountPhase::replay;
  }
  if (mount_phase_ == MountPhase::replay) {
    if (!options_.skip_recovery) {
      ATTEMPT_OK(store_->replay([this](InodeNo ino) {
        if (ino >= inodes_->next_inode_no()) inodes_->set_next_inode_no(ino.next());
      }));
    }
    recovery_.replayed_transactions = store_->replayed_transactions();
    recovery_.replayed_bytes = store_->replayed_bytes();
    space_->set_journal(store_->journal());
    mount_phase_ = MountPhase::start;
  }
  if (mount_phase_ == MountPhase::start) {
    if (!options_.read_only) ATTEMPT_OK(store_->start(clock_.wall()));
    space_->keep_discards(discards());
    mount_phase_ = MountPhase::orphans;
  }
  if (mount_phase_ == MountPhase::orphans) {
    if (!options_.read_only) {
      ATTEMPT_OK(finish_orphans());
      scheduler_.start(make_flusher(*files_));
      if (discards()) {
        discarder_ = std::make_unique<Discarder>(device_, *space_);
        scheduler_.start(make_discard_operation(scheduler_, *discarder_));
      }
    }
    recovery_.duration_ns = clock_.monotonic_ns() - mount_started_ns_;
    mount_phase_ = MountPhase::mounted;
  }
  return {};
}

// Each orphan in turn; what one leaves behind on an error stays an orphan for the next mount.
Attempt<void> Volume::Impl::finish_orphans() {
  while (true) {
    if (!orphan_) orphan_ = std::make_unique<OrphanStash>();
    OrphanStash& stash = *orphan_;
    if (!stash.found) {
      ATTEMPT(const std::optional<InodeNo> next,
              names_->next_orphan(orphan_after_, stash.kind, stash.pins));
      if (!next) break;
      stash.ino = *next;
      stash.found = true;
    }
    if (stash.kind == OrphanKind::truncate) {
      ATTEMPT(const InodeRef inode, inodes_->get(stash.ino, stash.pins));
      ATTEMPT_OK(finish_truncate(*files_, *inode, stash.shape));
    } else {
      ATTEMPT_OK(reap(stash.ino, stash.names));
    }
    orphan_after_ = stash.ino;
    orphan_.reset();
    ++recovery_.orphans;
    Operation::current()->note_progress();
  }
  orphan_.reset();
  return {};
}

Attempt<void> Volume::Impl::reap(InodeNo ino, NamespaceStash& stash) {
  Attempt<InodeRef> got = inodes_->get(ino, stash.pins);
  if (got.failed() && got.error() == Error::not_found) return {};  // the last step removed it
  ATTEMPT(const InodeRef inode, std::move(got));
  if (!names_->is_reapable(*inode)) return {};
  const FileRange all{FileBlock(0), FileBlock((kFileBytesMax >> kBlockShift) + 1)};
  ATTEMPT_OK(drop_folios(*files_, *inode, all));
  ATTEMPT_OK(names_->reap(ino, stash));
  return {};
}

void Volume::Impl::release_inode(InodeNo ino) {
  if (!health_.writable()) return;
  const InodeRef inode = inodes_->peek(ino);
  // An inode that is not in memory has no name left only if a mount after a crash would find it.
  if (inode && !names_->is_reapable(*inode)) return;
  if (!inode && inodes_->lookups().count(ino) != 0) return;
  scheduler_.start(std::make_unique<ReapOperation>(*this, ino));
}

void Volume::Impl::touch_atime(Inode& inode) {
  if (options_.atime == AtimePolicy::none || !health_.writable()) return;
  if ((inode.attr.flags & kInodeNoAtime) != 0) return;
  const Timestamp now = clock_.wall();
  if (options_.atime == AtimePolicy::relatime) {
    const InodeAttr& attr = inode.attr;
    const Timestamp day_ago{now.sec - static_cast<int64_t>(kDayNs / kNsPerSecond), now.nsec};
    const bool stale = !older(attr.mtime, attr.atime) || !older(attr.ctime, attr.atime) ||
                       older(attr.atime, day_ago);
    if (!stale) return;
  }
  inode.attr.atime = now;
  if (options_.lazytime) {
    inode.atime_lazy = !inode.attr_dirty;
  } else {
    inodes_->mark_attr_dirty(inode);
  }
}

VolumeStat Volume::Impl::stat() const {
  const SpaceStats space = space_->stats();
  VolumeStat result;
  result.block_count = space.block_count;
  // Blocks promised to dirty pages are used already, whoever asks: df must see a write at once.
  const uint64_t free_blocks = space.free_blocks + space.releasing_blocks + space.trimming_blocks;
  result.free_blocks =
      std::max(free_blocks - std::min(free_blocks, space.reserved_blocks), space.available_blocks);
  result.available_blocks = space.available_blocks;
  // An inode with its entry takes about a quarter of a KiB of the tree.
  result.inode_count_free = space.available_blocks * (kBlockBytes / 256);
  return result;
}

Attempt<uint64_t> Volume::Impl::trim(uint64_t pos, uint64_t len, uint64_t min_bytes,
                                     TrimStash& stash) {
  if (!device_.geometry().can_discard) return Error::not_supported;
  if (!health_.writable()) return Error::read_only_volume;
  const uint64_t area_blocks = (space_->data_end() - space_->data_first()).value();
  const uint64_t first = std::min(file_block_end(pos).value(), area_blocks);
  const uint64_t last =
      len > ~pos ? area_blocks : std::min((pos + len) >> kBlockShift, area_blocks);
  const BlockNo end = space_->data_first() + BlockCount(std::max(first, last));
  const BlockCount min(std::max<uint64_t>(1, file_block_end(min_bytes).value()));
  if (!stash.started) {
    // What was freed becomes free for good first.
    ATTEMPT_OK(store_->checkpoint(stash.checkpoint));
    stash.cursor = space_->data_first() + BlockCount(first);
    stash.started = true;
  }
  while (true) {
    if (!stash.ticket) {
      ATTEMPT_INTO(stash.busy, space_->begin_trim(stash.cursor, end, min));
      if (!stash.busy) return stash.trimmed_bytes;
      if (stash.busy->count().value() > kTrimStepBlocks) {
        const BlockNo cut = stash.busy->first + BlockCount(kTrimStepBlocks);
        space_->end_trim({cut, stash.busy->end});
        stash.busy->end = cut;
      }
      stash.ticket = make_ref<IoTicket>();
      device_.submit(
          IoRequest::discard(block_addr(stash.busy->first), block_bytes(stash.busy->count())),
          stash.ticket);
    }
    const Attempt<void> discarded = stash.ticket->wait();
    if (discarded.must_restart()) return discarded.restart();
    space_->end_trim(*stash.busy);
    stash.ticket.reset();
    if (discarded.failed()) return discarded.error();
    stash.trimmed_bytes += block_bytes(stash.busy->count());
    stash.cursor = stash.busy->end;
    stash.busy.reset();
    Operation::current()->note_progress();
  }
}

Attempt<void> Volume::Impl::unmount() {
  if (options_.read_only || mount_phase_ != MountPhase::mounted) return {};
  if (health_.failed()) return health_.error();
  if (unmount_phase_ == UnmountPhase::lazy) {
    inodes_->mark_lazy_dirty();
    unmount_phase_ = UnmountPhase::sync;
  }
  if (unmount_phase_ == UnmountPhase::sync) {
    ATTEMPT_OK(sync_all(*files_, sync_));
    inodes_->lookups().clear();  // the kernel is gone
    orphan_after_ = InodeNo(0);
    unmount_phase_ = UnmountPhase::orphans;
  }
  if (unmount_phase_ == UnmountPhase::orphans) {
    ATTEMPT_OK(finish_orphans());
    unmount_phase_ = UnmountPhase::shut_down;
  }
  if (unmount_phase_ == UnmountPhase::shut_down) {
    ATTEMPT_OK(store_->shut_down(last_checkpoint_));
    unmount_phase_ = UnmountPhase::discard;
  }
  if (unmount_phase_ == UnmountPhase::discard) {
    if (discarder_) ATTEMPT_OK(discarder_->drain());
    unmount_phase_ = UnmountPhase::done;
  }
  return {};
}

Volume::Volume(Scheduler& scheduler, BlockDevice& device, const Clock& clock,
               const VolumeOptions& options, std::function<void(const std::string&)> report)
    : impl_(std::make_unique<Impl>(scheduler, device, clock, options, std::move(report))) {}

Volume::~Volume() = default;

Attempt<void> Volume::mount() { return impl_->mount(); }
Attempt<void> Volume::unmount() { return impl_->unmount(); }
const std::string& Volume::error_detail() const {
  return impl_->health_.reason().empty() ? impl_->error_detail_ : impl_->health_.reason();
}

bool Volume::writable() const { return impl_->health_.writable(); }
const VolumeOptions& Volume::options() const { return impl_->options_; }
Namespace& Volume::names() { return *impl_->names_; }
InodeTable& Volume::inodes() { return *impl_->inodes_; }
Space& Volume::space() { return *impl_->space_; }
Store& Volume::store() { return *impl_->store_; }
Health& Volume::health() { return impl_->health_; }
PageCache& Volume::cache() { return *impl_->cache_; }
FileContext& Volume::files() { return *impl_->files_; }
const RecoveryStats& Volume::recovery() const { return impl_->recovery_; }

void Volume::release_inode(InodeNo ino) { impl_->release_inode(ino); }
void Volume::touch_atime(Inode& inode) { impl_->touch_atime(inode); }
Attempt<VolumeStat> Volume::stat_volume() { return impl_->stat(); }

Attempt<uint64_t> Volume::trim(uint64_t pos, uint64_t len, uint64_t min_bytes, TrimStash& stash) {
  return impl_->trim(pos, len, min_bytes, stash);
}

}  // namespace fusefs
