#include "core/tree/checkpoint.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/tree/node.h"
#include "core/tree/store_impl.h"

namespace fusefs {

struct Store::Checkpoint::Images {
  Tree::Frozen frozen;
  std::vector<FrozenPage> pages;
  std::vector<Image> list;
};

// The device may use the memory until it has completed, whatever has become of the store.
class Store::Checkpoint::ImagesTicket final : public IoTicket {
 public:
  explicit ImagesTicket(std::shared_ptr<Images> images) : images_(std::move(images)) {}

 private:
  std::shared_ptr<Images> images_;
};

Store::Checkpoint::Checkpoint(Impl& store, std::optional<LogPosition> replayed)
    : store_(store), replayed_(replayed), images_(std::make_shared<Images>()) {}
Store::Checkpoint::~Checkpoint() = default;

Attempt<void> Store::Checkpoint::make() {
  Attempt<void> advanced = advance();
  if (advanced.failed()) {
    store_.health.fail(advanced.error(), "checkpoint, " + what_);
    if (phase_ != Phase::freeze) store_.space->checkpoint_failed(no_);
  }
  return advanced;
}

Attempt<void> Store::Checkpoint::advance() {
  if (phase_ == Phase::freeze) {
    what_ = "free space";
    if (started_ns_ == 0) started_ns_ = store_.scheduler.clock().monotonic_ns();
    ATTEMPT_OK(store_.tree->prepare_freeze(*store_.space));
    freeze();
    phase_ = Phase::seal;
  }
  if (phase_ == Phase::seal) {
    if (sealed_count_ < images_->list.size()) return seal_some();
    phase_ = Phase::write;
  }
  if (phase_ == Phase::write) {
    ATTEMPT_OK(write_images());
    phase_ = Phase::log;
  }
  if (phase_ == Phase::log) {
    what_ = "journal";
    ATTEMPT_OK(wait_for_log());
    stamp_ = store_.write_cache.last_write();
    phase_ = Phase::flush;
  }
  if (phase_ == Phase::flush) {
    what_ = "flush";
    ATTEMPT_OK(store_.write_cache.flush(stamp_, flush_));
    phase_ = Phase::superblock;
  }
  return write_superblock();
}

// ---- 1: freeze ----

void Store::Checkpoint::freeze() {
  no_ = store_.next_checkpoint();
  if (replayed_) {
    log_ = *replayed_;
  } else {
    log_.seq = store_.journal->last_seq();
    sealed_batch_ = store_.journal->seal();
  }
  // The tree first: it allocates and releases nodes.
  images_->frozen = store_.tree->freeze(no_, *store_.space);
  images_->pages = store_.space->freeze(no_);
  for (const Tree::FrozenNode& node : images_->frozen.nodes) {
    images_->list.push_back({node.at, node.image, kNodeBytes});
  }
  for (FrozenPage& page : images_->pages) {
    images_->list.push_back({page.at, page.image.data(), page.image.size()});
  }
  std::sort(images_->list.begin(), images_->list.end(),
            [](const Image& a, const Image& b) { return a.at < b.at; });
  fill_superblock();
  store_.note_frozen();
}

void Store::Checkpoint::fill_superblock() {
  superblock_ = store_.next;
  superblock_.checkpoint_no = no_.value();
  superblock_.tree_root = images_->frozen.root.block.value();
  superblock_.tree_root_generation = images_->frozen.root.generation;
  superblock_.tree_node_count = images_->frozen.node_count;
  superblock_.committed_seq = log_.seq.value();
  superblock_.free_blocks = store_.space->free_blocks_frozen();
  store_.space->write_summary_slots(superblock_.summary_slots);
  uint32_t flags = superblock_.flags & ~kVolumeClean;
  if (store_.health.saw_corruption()) flags |= kVolumeHasErrors;
  // The log is empty behind it, since nothing is committed any more.
  if (store_.shutting_down) flags |= kVolumeClean;
  superblock_.flags = flags;
}

// ---- 2: checksums ----

Restart Store::Checkpoint::seal_some() {
  const size_t end = std::min(images_->list.size(), sealed_count_ + kCheckpointSealsMax);
  return restart_after_outside([this, end] {
    const uint64_t seed = store_.next.checksum_seed;
    for (; sealed_count_ < end; ++sealed_count_) {
      const Image& image = images_->list[sealed_count_];
      seal_block(Bytes(image.data, image.len), seed);
    }
  });
}

// ---- 3: writes ----

Attempt<void> Store::Checkpoint::write_images() {
  for (;;) {
    while (!writes_.empty() && !writes_.front().ticket->pending()) {
      const Result<void> written = writes_.front().ticket->result();
      what_ = "block " + std::to_string(writes_.front().at.value());
      if (!written.ok()) return written.error();
      store_.write_cache.note_write();
      writes_.pop_front();
    }
    while (submitted_count_ < images_->list.size() && writes_.size() < kCheckpointWritesMax) {
      submit_next();
    }
    if (writes_.empty()) return {};
    if (writes_.front().ticket->pending()) {
      return restart_after(writes_.front().ticket->completion(), RestartReason::data_io);
    }
  }
}

// Neighbours go together.
void Store::Checkpoint::submit_next() {
  const std::vector<Image>& list = images_->list;
  const size_t len_max =
      std::min<size_t>(kCheckpointWriteBytesMax, store_.device.geometry().io_bytes_max);
  IoRequest request;
  request.kind = IoKind::write;
  const BlockNo at = list[submitted_count_].at;
  request.addr = block_addr(at);
  do {
    const Image& image = list[submitted_count_++];
    request.buffers.push_back({image.data, image.len});
    request.len += image.len;
  } while (submitted_count_ < list.size() &&
           block_addr(list[submitted_count_].at) == request.addr + request.len &&
           request.len + list[submitted_count_].len <= len_max);
  Ref<IoTicket> ticket = make_ref<ImagesTicket>(images_);
  writes_.push_back({at, ticket});
  store_.device.submit(std::move(request), ticket);
}

// The superblock says where replay starts, which is known when everything before it is in the ring.
Attempt<void> Store::Checkpoint::wait_for_log() {
  if (replayed_) return {};
  ATTEMPT_INTO(log_.mark, store_.journal->mark_of(sealed_batch_));
  return {};
}

// ---- 4 and 5 ----

Attempt<void> Store::Checkpoint::write_superblock() {
  what_ = "superblock";
  superblock_.journal_tail_block = log_.mark.block.value();
  superblock_.journal_tail_batch = log_.mark.batch;
  Attempt<void> written = store_.superblocks.write(superblock_);
  if (written.ok()) finish();  // no restart in between, or it would be written twice
  return written;
}

// What the checkpoint says of itself; the rest may have changed meanwhile.
void Store::Checkpoint::note_in_next() {
  Superblock& next = store_.next;
  next.checkpoint_no = superblock_.checkpoint_no;
  next.tree_root = superblock_.tree_root;
  next.tree_root_generation = superblock_.tree_root_generation;
  next.tree_node_count = superblock_.tree_node_count;
  next.committed_seq = superblock_.committed_seq;
  next.journal_tail_block = superblock_.journal_tail_block;
  next.journal_tail_batch = superblock_.journal_tail_batch;
  next.free_blocks = superblock_.free_blocks;
  next.flags = superblock_.flags;
  std::copy(std::begin(superblock_.summary_slots), std::end(superblock_.summary_slots),
            std::begin(next.summary_slots));
}

void Store::Checkpoint::finish() {
  if (!replayed_) store_.journal->release_before(log_.mark);
  store_.space->checkpoint_durable(no_);
  store_.tree->frozen_written(images_->frozen);
  store_.completed_no = no_;
  note_in_next();
  ++store_.stats.checkpoint_count;
  store_.stats.checkpoint_nodes_written += images_->frozen.nodes.size();
  store_.stats.checkpoint_pages_written += images_->pages.size();
  store_.stats.checkpoint_duration_ns.record(store_.scheduler.clock().monotonic_ns() - started_ns_);
}

}  // namespace fusefs
