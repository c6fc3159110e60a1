// Store::Checkpoint: one checkpoint, from freezing to the superblock. Internal to core/tree.
//
//     freeze --> seal --> write --> log --> flush --> superblock --> (over)
//      one       outside  bounded   batch   write     FUA: the
//     attempt    monitor  in flight durable cache     commit point
//
// It is the stash of whoever makes it: the checkpointer, or replay.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "core/tree/store.h"

namespace fusefs {

// Writes in flight at once, and how large one is at most.
inline constexpr size_t kCheckpointWritesMax = 32;
inline constexpr size_t kCheckpointWriteBytesMax = 256 * 1024;
// Images summed up in one go without the monitor.
inline constexpr size_t kCheckpointSealsMax = 256;

class Store::Checkpoint {
 public:
  // Where the log continues that the checkpoint does not contain.
  struct LogPosition {
    JournalMark mark;
    JournalSeq seq;  // of the last transaction before it
  };
  // `replayed` is set when it contains what replay has applied up to there; otherwise it contains
  // everything committed when it is frozen.
  Checkpoint(Impl& store, std::optional<LogPosition> replayed);
  ~Checkpoint();

  // Makes it. After an error the volume is no longer writable, and on the device is the checkpoint
  // before.
  //   Restarts  on I/O;  Errors  io_failed, corrupt, no_space
  Attempt<void> make();

 private:
  enum class Phase : uint8_t { freeze, seal, write, log, flush, superblock };
  struct Image {
    BlockNo at;
    std::byte* data;
    size_t len;
  };
  struct Images;       // all of them, and what keeps their memory
  class ImagesTicket;  // of a write of some of them

  Attempt<void> advance();
  void freeze();
  void fill_superblock();
  Restart seal_some();
  Attempt<void> write_images();
  void submit_next();
  Attempt<void> wait_for_log();
  Attempt<void> write_superblock();
  void note_in_next();
  void finish();

  struct Write {
    BlockNo at;
    Ref<IoTicket> ticket;
  };

  Impl& store_;
  const std::optional<LogPosition> replayed_;
  Phase phase_ = Phase::freeze;
  uint64_t started_ns_ = 0;
  CheckpointNo no_;
  std::shared_ptr<Images> images_;
  size_t sealed_count_ = 0;
  size_t submitted_count_ = 0;
  std::deque<Write> writes_;
  LogPosition log_;
  uint64_t sealed_batch_ = 0;
  WriteStamp stamp_ = 0;
  Ref<IoTicket> flush_;
  Superblock superblock_{};
  std::string what_;  // being done, for the message of a failure
};

}  // namespace fusefs
