// Space: which blocks are free, whom they are promised to, and where to put new ones.
//
// A group's bitmap (126 MiB of volume) is loaded when it is needed, found by its summary; mounting
// reads the summaries only. In memory each loaded group has two bitmaps:
//   committed    what the transactions so far say; what the next checkpoint writes
//   unavailable  committed, and blocks handed out but not committed yet, and blocks released by a
//                transaction that is not durable yet, or still read or written by I/O in flight
//
//     free --allocate()--> handed out --commit_allocate()--> allocated
//      ^                      |                                 | commit_release(seq)
//      +------cancel()--------+                                 v
//      +---- seq durable, and I/O that began before has ended --- released
//
// Invariants:
//   (1) A block is handed out once.
//   (2) Sum of reservations <= available blocks: what was reserved can be allocated.
//   (3) At least node_reserve() aligned chunks stay free for checkpoints: allocate() takes from
//       broken chunks when few whole ones are left, and never those.
//
// How the free blocks are divided:
//
//     | reserved | available | writeback reserve | growth of the tree | one checkpoint's nodes |
//                |-- for ordinary reserve()      |   4 * node_reserve     4 * node_reserve
//                |-- for writeback --------------|
//
// The writeback reserve is for mapped pages: the kernel tells nobody when one becomes dirty, so
// nobody could be refused. What writeback has taken of it, the next blocks that become free put
// back, before anybody else gets one.
//
// Monitor held for every call.
#pragma once

#include <memory>
#include <optional>

#include "core/engine/scheduler.h"
#include "core/format/space_format.h"
#include "core/format/superblock_format.h"
#include "core/io/block_device.h"
#include "core/io/health.h"
#include "core/journal/journal.h"
#include "core/space/owners_listener.h"
#include "core/space/settling_blocks.h"
#include "core/tree/space_map.h"

namespace fusefs {

class Space;

// Blocks promised but not yet placed. Given back with the object.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { release(); }
  BlockCount count() const { return count_; }
  // Moves `count` blocks of the promise into the returned one.
  Reservation split(BlockCount count);
  void merge(Reservation&& other);
  void release();

 private:
  friend class Space;
  Reservation(Space& space, BlockCount count) : space_(&space), count_(count) {}
  Space* space_ = nullptr;
  BlockCount count_{0};
};

// Who wants blocks. Writeback: of data that has been accepted already, and is lost without them.
enum class SpaceUse : uint8_t { ordinary, writeback };

// The writeback reserve takes so much of a volume at most: a 16th.
inline constexpr uint64_t kWritebackReserveShare = 16;

// Marks I/O in flight on blocks that a transaction may release meanwhile: while any guard that
// existed at a release lives, the released blocks are not handed out.
class IoGuard {
 public:
  IoGuard() = default;
  IoGuard(IoGuard&& other) noexcept;
  IoGuard& operator=(IoGuard&& other) noexcept;
  ~IoGuard() { release(); }
  void release();

 private:
  friend class Space;
  IoGuard(Space& space, uint64_t epoch, const Operation* owner)
      : space_(&space), epoch_(epoch), owner_(owner) {}
  Space* space_ = nullptr;
  uint64_t epoch_ = 0;
  const Operation* owner_ = nullptr;
};

// What Space asks of the journal: when a release is durable. A seam for tests.
class Durability {
 public:
  virtual ~Durability() = default;
  virtual JournalSeq durable_seq() const = 0;
  virtual void kick() = 0;
  virtual Waitable& durable_changed() = 0;
};

struct SpaceStats {
  uint64_t block_count = 0;  // of the data area
  uint64_t free_blocks = 0;  // neither allocated nor handed out nor waiting for durability
  uint64_t reserved_blocks = 0;
  uint64_t releasing_blocks = 0;  // released, not yet reusable
  uint64_t trimming_blocks = 0;   // free, and being discarded
  uint64_t metadata_reserve_blocks = 0;
  uint64_t writeback_reserve_blocks = 0;       // to be kept
  uint64_t writeback_reserve_free_blocks = 0;  // of these, there or about to be
  uint64_t available_blocks = 0;  // what statfs offers: reserve() of so much would succeed
  uint64_t loaded_groups = 0;
  uint64_t allocate_count = 0;
};

class Space final : public SpaceMap {
 public:
  Space(Scheduler& scheduler, BlockDevice& device, Health& health, const Superblock& superblock);
  ~Space() override;

  // Reads the summaries. Mount calls it first.
  Attempt<void> load(Ref<IoTicket>& ticket);
  // Needed to know when released blocks are durable; set before the first commit.
  void set_journal(Journal& journal);
  void set_durability(Durability& durability);
  // Told at each commit which blocks are released or left with one owner; not during replay.
  // Outlives every commit.
  void set_owners_listener(BlockOwnersListener& listener);

  // Promises `count` blocks; the writeback reserve is for writeback only.
  //   Restarts  space: when blocks are about to become free by commits, I/O or a trim under way
  //   Errors    no_space; the volume's, when it failed meanwhile
  // Who holds an IoGuard gets no_space instead of waiting for guards to end.
  Attempt<Reservation> reserve(BlockCount count, SpaceUse use = SpaceUse::ordinary);
  // Sets the size of the writeback reserve, cut to kWritebackReserveShare; returns it. Of a volume
  // that has less left, all of that.
  BlockCount keep_writeback_reserve(BlockCount count);
  // Room for the metadata of something new (create, xattr, extent split): refuses when only the
  // reserve is left. Removing things never asks.
  //   Restarts, Errors  like reserve()
  Attempt<void> check_room();

  // Hands out up to `want` contiguous blocks, at least one, near `goal` (a block, or none), and
  // takes as many from `reservation`, which is not empty.
  //   Restarts  bitmap_load; space, like reserve()
  //   Errors    no_space: only if the tree has outgrown its reserve; io_failed
  // The caller commits them (Transaction::allocate) or gives them back (cancel). They are handed
  // out once: ATTEMPT_INTO(stash.blocks, ...), and they stay there until either.
  Attempt<BlockRange> allocate(BlockCount want, std::optional<BlockNo> goal,
                               Reservation& reservation);
  // Gives back blocks handed out and not committed; the promise is not renewed.
  void cancel(BlockRange blocks);

  IoGuard guard_io();

  // The first free range of at least `min` blocks in [from, end), for FITRIM, within one group:
  // unavailable until end_trim(), so that nothing is written there while the discard is under way.
  // Without a value when there is none. ATTEMPT_INTO, like allocate().
  //   Restarts  bitmap_load
  Attempt<std::optional<BlockRange>> begin_trim(BlockNo from, BlockNo end, BlockCount min);
  void end_trim(BlockRange blocks);

  // Whether to remember, from here on, what becomes free by transactions, for the discarder.
  void keep_discards(bool keep);
  // Takes what has become reusable, and looks for a range of it that is free still, of at most
  // `max` blocks: unavailable until end_trim(). Without a value when there is none.
  //   Restarts  bitmap_load
  Attempt<std::optional<BlockRange>> begin_discard(BlockCount max);
  // Something waits to be discarded, now or when it is durable; woken when that begins.
  bool discards_wanted() const;
  Waitable& discards_changed();

  // Whether blocks.first got its single owner by a transaction that is not durable yet, and for how
  // many blocks the answer holds.
  SettlingBlocks::Answer settling(BlockRange blocks) const;

  // True when the committed bitmaps say that `block` is allocated (check, dump).
  Attempt<bool> is_allocated(BlockNo block);

  BlockNo data_first() const;
  BlockNo data_end() const;
  SpaceStats stats() const;

  // SpaceMap, for tree and store.
  Attempt<void> prepare_change(BlockRange blocks) override;
  void commit_allocate(BlockRange blocks) override;
  void commit_release(BlockRange blocks, JournalSeq seq) override;
  void commit_unshare(BlockRange blocks, JournalSeq seq) override;
  void set_replaying(bool replaying) override;
  Attempt<void> prepare_nodes(uint64_t count) override;
  BlockNo allocate_node() override;
  void release_node(BlockNo first) override;
  uint64_t node_reserve() const override;
  std::vector<FrozenPage> freeze(CheckpointNo checkpoint) override;
  void write_summary_slots(unsigned char* slots) const override;
  uint64_t free_blocks_frozen() const override;
  void checkpoint_durable(CheckpointNo checkpoint) override;
  void checkpoint_failed(CheckpointNo checkpoint) override;

 private:
  friend class Reservation;
  friend class IoGuard;
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
