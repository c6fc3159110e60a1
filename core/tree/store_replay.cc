// Replay: what the journal holds beyond the last checkpoint is applied again.
//
// A transaction is prepared, with restarts, and then applied and passed by in the same attempt, so
// it is applied once. Nothing is appended: the batches stay in the ring, behind its tail, until the
// next checkpoint contains them.
#include "core/base/check.h"
#include "core/engine/operation.h"
#include "core/tree/store_impl.h"

namespace fusefs {
namespace {

// The decoder knows lengths; what may be in the tree is known here.
bool plausible(const Change& change) {
  if (change.kind != ChangeKind::put && change.kind != ChangeKind::erase) return true;
  return change.key.type >= KeyType::inode && change.key.type <= KeyType::orphan &&
         change.value.size() <= kItemValueBytesMax;
}

}  // namespace

Attempt<void> Store::Impl::prepare_logged(const LoggedTransaction& txn) {
  tree->begin_prepare();
  uint64_t new_dirty = 0;
  for (const Change& change : txn.changes) {
    if (!plausible(change)) return Error::corrupt;
    if (change.kind == ChangeKind::put || change.kind == ChangeKind::erase) {
      ATTEMPT_OK(tree->prepare(change.key, change.value.size(), replay_pins_, new_dirty));
    } else {
      ATTEMPT_OK(space->prepare_change(change.blocks));
    }
  }
  return {};
}

Attempt<void> Store::Impl::apply(const LoggedTransaction& txn,
                                 const std::function<void(InodeNo)>& on_inode) {
  ATTEMPT_OK(prepare_logged(txn));
  for (const Change& change : txn.changes) {
    switch (change.kind) {
      case ChangeKind::put:
        put(change.key, change.value);
        if (change.key.type == KeyType::inode) on_inode(InodeNo(change.key.object));
        break;
      case ChangeKind::erase:
        break;  // behind all puts, see Tree
      case ChangeKind::allocate:
        space->commit_allocate(change.blocks);
        break;
      case ChangeKind::release:
        space->commit_release(change.blocks, txn.seq);
        break;
    }
  }
  for (const Change& change : txn.changes) {
    if (change.kind == ChangeKind::erase) erase(change.key);
  }
  replayed_seq_ = txn.seq;
  ++replayed_transactions;
  replay_pins_.clear();
  return {};
}

Attempt<void> Store::Impl::replay_log(const std::function<void(InodeNo)>& on_inode) {
  for (;;) {
    if (checkpoint_) {
      const Attempt<void> made = checkpoint_->make();
      if (!made.ok()) return made;
      checkpoint_.reset();
    }
    ATTEMPT(const LoggedTransaction* txn, reader_->current());
    if (txn == nullptr) return {};
    if (txn->seq > replayed_seq_) {
      if (txn->seq != replayed_seq_.next()) return Error::corrupt;
      const Attempt<void> applied = apply(*txn, on_inode);
      if (!applied.ok()) return applied;
    }
    const uint64_t batch = reader_->head().batch;
    reader_->advance();
    if (Operation* operation = Operation::current()) operation->note_progress();
    // The tail can only move to where a batch begins.
    const bool between_batches = reader_->head().batch != batch;
    if (between_batches && health.writable() && tree->dirty_count() > node_limit()) {
      checkpoint_ = std::make_unique<Checkpoint>(
          *this, Checkpoint::LogPosition{reader_->head(), replayed_seq_});
    }
  }
}

Attempt<void> Store::Impl::replay(const std::function<void(InodeNo)>& on_inode) {
  if (replay_done_) return {};
  if (!reader_) {
    const Superblock& durable = superblocks.current();
    const JournalMark tail{BlockNo(durable.journal_tail_block), durable.journal_tail_batch};
    reader_ = std::make_unique<JournalReader>(device, journal_layout(), tail);
    space->set_replaying(true);
  }
  const Attempt<void> replayed = replay_log(on_inode);
  if (replayed.must_restart()) return replayed;
  space->set_replaying(false);
  if (replayed.failed()) return replayed;
  replayed_bytes = reader_->log_bytes();
  make_journal(reader_->head(), replayed_seq_.next());
  reader_.reset();
  replay_done_ = true;
  return {};
}

}  // namespace fusefs
