// Store::Impl: what a store consists of. Internal to core/tree.
//
//   store.cc         opening, the checkpointer, waiting for checkpoints
//   store_replay.cc  what happens before the store is started
//   checkpoint.cc    one checkpoint from freezing to the superblock
//   transaction.cc   uses it to commit
#pragma once

#include <memory>
#include <optional>

#include "core/journal/journal_reader.h"
#include "core/tree/checkpoint.h"
#include "core/tree/store.h"
#include "core/tree/superblock_io.h"

namespace fusefs {

class Store::Impl {
 public:
  Impl(Scheduler& scheduler, BlockDevice& device, WriteCache& write_cache, Health& health,
       const Superblock& superblock, int superblock_slot, const Options& options);
  ~Impl();

  // ---- For transactions ----

  // How many nodes may be dirty or on their way to the device.
  uint64_t node_limit() const;
  uint32_t transaction_changes_max() const;
  // Restarts  dirty_nodes, until a checkpoint has made room;  Errors  no_space
  Attempt<void> prepare_nodes(uint64_t new_dirty);
  // One key of a transaction, prepared; all puts come before all erases.
  void put(const Key& key, ConstBytes value);
  void erase(const Key& key);
  // A transaction has been applied.
  void committed();

  // ---- Checkpoints ----

  Attempt<void> run_checkpointer();
  Attempt<void> wait_for_checkpoint(CheckpointNo wanted);
  Attempt<void> checkpoint(CheckpointNo& wanted);
  Attempt<void> shut_down(CheckpointNo& wanted);
  CheckpointNo next_checkpoint() const { return frozen_no.next(); }

  // ---- Before start() ----

  Attempt<void> replay(const std::function<void(InodeNo)>& on_inode);
  Attempt<void> start(Timestamp now);

  Scheduler& scheduler;
  BlockDevice& device;
  WriteCache& write_cache;
  Health& health;
  const Options options;
  SpaceMap* space = nullptr;
  SuperblockWriter superblocks;
  // Geometry and label, and what the inode layer keeps: as the next checkpoint will have them.
  Superblock next;
  std::unique_ptr<Tree> tree;
  std::unique_ptr<Journal> journal;
  StoreStats stats;

  // ---- State of checkpoints; written by Checkpoint ----

  CheckpointNo frozen_no;      // the last that was frozen
  CheckpointNo completed_no;   // the last that is durable
  bool something_new = false;  // since the last freeze
  bool shutting_down = false;
  Checkpointer* checkpointer = nullptr;  // null: not started, or ended
  uint64_t replayed_transactions = 0;
  uint64_t replayed_bytes = 0;

  void note_new();
  void note_frozen();

 private:
  JournalLayout journal_layout() const;
  void make_journal(const JournalMark& head, JournalSeq next_seq);
  bool checkpoint_due() const;
  void request(CheckpointNo wanted);
  // No checkpoint will ever end any more: whoever waits for one gets the error.
  void end_checkpoints(Error error);
  Attempt<void> apply(const LoggedTransaction& txn, const std::function<void(InodeNo)>& on_inode);
  Attempt<void> prepare_logged(const LoggedTransaction& txn);
  Attempt<void> replay_log(const std::function<void(InodeNo)>& on_inode);
  void count_shared(const Key& key, ConstBytes value, bool erased);

  bool started_ = false;
  CheckpointNo requested_no_;
  std::optional<uint64_t> dirty_since_ns_;
  std::optional<Scheduler::TimerId> timer_;
  std::unique_ptr<Checkpoint> checkpoint_;  // under way
  std::optional<Error> error_;              // no checkpoint will ever end any more
  Waitable checkpoint_ended_;
  Waitable room_made_;  // for dirty nodes

  // The stash of replay().
  bool replay_done_ = false;
  std::unique_ptr<JournalReader> reader_;
  NodePins replay_pins_;
  JournalSeq replayed_seq_;
};

}  // namespace fusefs
