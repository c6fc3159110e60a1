// Transaction: changes of keys and blocks that happen together or not at all.
//
// Built up within one attempt, on top of the present tree: find() and its relatives see the
// transaction's own staged changes. Nothing else sees them before commit(). An attempt that
// restarts simply drops its transaction and builds it again.
//
//     Transaction txn(store, stash.pins);
//     ATTEMPT(auto item, txn.find(key));      // reads, with restarts
//     txn.put(key, value);                    // staged
//     ATTEMPT_OK(txn.prepare());              // leaves loaded, journal and node room there
//     JournalSeq seq = txn.commit();          // applied and appended; cannot fail
//     // memory state (inodes, mappings) is changed here, after commit() and in the same attempt
//
// Limits: kTransactionBytesMax encoded bytes and kTransactionChangesMax changes; larger work is
// cut into several transactions that each leave a consistent volume (docs/CRASH.md). On a small
// volume fewer changes fit, because each may make a few tree nodes dirty: ask has_room().
//
// Monitor held for every call.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "core/io/write_cache.h"
#include "core/journal/change_codec.h"
#include "core/tree/tree.h"

namespace fusefs {

class Store;

inline constexpr uint32_t kTransactionChangesMax = 1024;

// An item that may be staged or in the tree; valid until the transaction changes or ends.
using Item = ItemView;

class Transaction {
 public:
  // `pins` is part of the caller's stash: what a restart waited for stays cached in it.
  Transaction(Store& store, NodePins& pins);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // The item with exactly `key` / the smallest at or after it / the largest at or before it.
  //   Restarts  node_load;  Errors  io_failed, corrupt
  Attempt<std::optional<Item>> find(const Key& key);
  Attempt<std::optional<Item>> at_or_after(const Key& key);
  Attempt<std::optional<Item>> at_or_before(const Key& key);

  void put(const Key& key, ConstBytes value);  // inserts or replaces; kItemValueBytesMax at most
  void erase(const Key& key);                  // may be absent
  void allocate(BlockRange blocks);            // blocks handed out by Space become allocated
  void release(BlockRange blocks);             // blocks become free, also such as it has allocated
  void unshare(BlockRange blocks);             // blocks keep one owner; says nothing to the journal
  // The transaction shows data that was written up to `stamp`: it becomes durable after it.
  void shows_data(WriteStamp stamp);

  bool empty() const;
  uint32_t change_count() const;
  // True while one more step of at most `changes` changes still fits, however large their values.
  bool has_room(uint32_t changes) const;

  //   Restarts  node_load, bitmap_load, journal_space, durable, dirty_nodes
  //   Errors    read_only_volume, io_failed, corrupt, no_space (needs more tree nodes than the
  //             volume's reserve has; see has_room()); nothing has changed then
  Attempt<void> prepare();
  // Requires prepare() in the same attempt, with no change staged since. Ends the transaction.
  // Nothing staged: the last transaction's number.
  JournalSeq commit();

 private:
  friend class Store;
  struct Staged {
    bool erased = false;
    std::vector<std::byte> value;
  };
  // What becomes of a range of blocks. Passing: it was allocated and released here, which nobody
  // needs to read in the journal, but the allocator must take it back.
  enum class BlockFate : uint8_t { allocated, released, passing };
  struct BlockChangeEntry {
    BlockFate fate = BlockFate::allocated;
    BlockRange blocks{};
  };

  void stage(const Key& key, Staged staged);
  void add_blocks(BlockFate fate, BlockRange blocks);
  void release_again(size_t entry, BlockRange blocks);
  uint32_t encoded_bytes() const;
  void encode(ChangeEncoder& encoder) const;

  Store& store_;
  NodePins& pins_;
  std::map<Key, Staged> staged_;
  std::vector<BlockChangeEntry> blocks_;  // in the order they were staged
  std::vector<BlockRange> unshared_;
  uint32_t key_bytes_ = 0;  // encoded size of staged_
  WriteStamp data_stamp_ = 0;
  bool prepared_ = false;
};

}  // namespace fusefs
