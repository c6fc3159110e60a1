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
// cut into several transactions that each leave a consistent volume (docs/CRASH.md).
//
// Monitor held for every call.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "core/io/write_cache.h"
#include "core/tree/tree.h"

namespace fusefs {

class Store;

inline constexpr uint32_t kTransactionChangesMax = 1024;

// An item that may be staged or in the tree; valid until the transaction changes or ends.
using Item = ItemView;

class Transaction {
 public:
  Transaction(Store& store, NodePins& pins);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  Attempt<std::optional<Item>> find(const Key& key);
  Attempt<std::optional<Item>> at_or_after(const Key& key);
  Attempt<std::optional<Item>> at_or_before(const Key& key);

  void put(const Key& key, ConstBytes value);  // inserts or replaces
  void erase(const Key& key);                  // may be absent
  void allocate(BlockRange blocks);            // blocks handed out by Space become allocated
  void release(BlockRange blocks);             // blocks become free
  // The transaction shows data that was written up to `stamp`: it becomes durable after it.
  void shows_data(WriteStamp stamp);

  bool empty() const;
  uint32_t change_count() const;
  // True while one more step of at most `changes` changes still fits.
  bool has_room(uint32_t changes) const;

  //   Restarts  node_load, bitmap_load, journal_space, dirty_nodes
  //   Errors    read_only_volume, io_failed, corrupt; nothing has changed then
  Attempt<void> prepare();
  // Requires prepare() in the same attempt, with no change staged since.
  JournalSeq commit();

 private:
  friend class Store;
  struct Staged {
    bool erased = false;
    std::vector<std::byte> value;
  };
  struct BlockChangeEntry {
    bool allocated = false;
    BlockRange blocks{};
  };

  Store& store_;
  NodePins& pins_;
  std::map<Key, Staged> staged_;
  std::vector<BlockChangeEntry> blocks_;
  uint32_t encoded_bytes_ = 0;
  WriteStamp data_stamp_ = 0;
  bool prepared_ = false;
};

}  // namespace fusefs
