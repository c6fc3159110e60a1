// Inode: one file, directory or other object in memory, and the table that finds it.
//
// The tree has what is committed; the Inode is ahead of it by what is only in memory: sizes and
// times of buffered writes, access times under lazytime. `attr` is what stat(2) shows.
//
//     absent --get()--> loading --> cached --last reference dropped, clean--> evicted
//                                     |  ^
//                     attr_dirty ----> saved by save_attr() in the next transaction
//
// What keeps an Inode in memory: references (operations, open files), dirty attributes, pages in
// its mapping. The kernel's lookups do not: an inode is found again by its number, which is never
// used twice. Only their number is kept (LookupCounts), since an unlinked inode lives until the
// kernel has forgotten it.
//
// Invariants:
//   (1) One Inode per number at a time.
//   (2) attr_disk.size <= attr.size while a size change is not committed, and bytes between are in
//       dirty or writeback pages or are a hole.
//   (3) An inode with link_count 0 has an orphan item until it is removed.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/base/clock.h"
#include "core/base/ref.h"
#include "core/engine/two_state_lock.h"
#include "core/format/item_format.h"
#include "core/inode/busy_ranges.h"
#include "core/memory/mapping.h"
#include "core/space/space.h"
#include "core/tree/store.h"

namespace fusefs {

// What stat(2) shows of an inode, and a little more.
struct InodeAttr {
  InodeNo ino;
  uint32_t mode = 0;  // type and permissions
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t link_count = 0;
  uint64_t size = 0;
  BlockCount block_count;  // mapped on the device; st_blocks adds the delayed ones
  InodeNo parent;          // directories
  Timestamp atime, mtime, ctime, btime;
  uint64_t device = 0;  // (major << 32) | minor
  uint32_t flags = 0;   // kInode...
  uint32_t xattr_count = 0;
  uint64_t change_count = 0;
  uint64_t generation = 0;

  bool is_regular() const { return (mode & 0170000u) == 0100000u; }
  bool is_directory() const { return (mode & 0170000u) == 0040000u; }
  bool is_symlink() const { return (mode & 0170000u) == 0120000u; }

  static InodeAttr from_value(InodeNo ino, const InodeValue& value);
  InodeValue to_value() const;
};

class InodeTable;

class Inode : public RefCounted {
 public:
  Inode(InodeTable& table, const InodeAttr& loaded);
  ~Inode() override;

  const InodeNo ino;
  InodeAttr attr;

  // Size and times in `attr` are ahead of the tree.
  bool attr_dirty = false;
  // The size that the tree has; it follows attr.size as data gets to the device.
  uint64_t disk_size = 0;

  // The transaction that last changed this inode (any change / one that fdatasync must wait for).
  JournalSeq changed_seq;
  JournalSeq data_seq;
  // The last data write into blocks of this file that needed no transaction (or 0).
  WriteStamp data_stamp = 0;

  // Errors of background writes: each open file reports each error once. Grows with every error.
  uint64_t write_error_count = 0;
  Error write_error = Error::io_failed;

  uint32_t open_count = 0;
  // Blocks promised to dirty pages over holes and shared extents: part of st_blocks. Kept by the
  // mapping and by writeback.
  BlockCount delayed_blocks;
  // Where the last extent was allocated: the goal of the next.
  BlockNo allocation_goal;

  TwoStateLock pages_lock;
  BusyRanges direct_writes;
  Mapping mapping{this, &delayed_blocks};

 protected:
  void last_reference_dropped() override;

 private:
  friend class InodeTable;
  InodeTable& table_;
};

using InodeRef = Ref<Inode>;

// How many times the kernel knows each inode (nlookup), 16 bytes each.
class LookupCounts {
 public:
  void add(InodeNo ino, uint64_t count);
  // Returns how many are left. Forgetting more than was added is clamped.
  uint64_t forget(InodeNo ino, uint64_t count);
  uint64_t count(InodeNo ino) const;
  size_t inode_count() const;
  void clear();

 private:
  struct Slot {
    uint64_t ino = 0;  // 0: empty
    uint64_t count = 0;
  };
  void grow();
  size_t find_slot(uint64_t ino) const;
  std::vector<Slot> slots_;
  size_t used_ = 0;
};

struct InodeTableStats {
  uint64_t cached_inodes = 0;
  uint64_t known_to_kernel = 0;
  uint64_t dirty_inodes = 0;
  uint64_t load_count = 0;
};

// Inodes without references and dirt are kept up to this many, least recently used go first.
inline constexpr size_t kCachedInodesMax = 8192;

class InodeTable {
 public:
  InodeTable(Store& store, Space& space, const Clock& clock);
  ~InodeTable();

  // The inode with this number.
  //   Restarts node_load;  Errors not_found, io_failed, corrupt
  Attempt<InodeRef> get(InodeNo ino, NodePins& pins);
  // The same if it is in memory.
  InodeRef peek(InodeNo ino);
  // A new inode in memory for one that the caller's transaction has just created.
  InodeRef adopt(const InodeAttr& attr);

  // Numbers are handed out once, also if the operation then fails.
  InodeNo take_inode_no();
  void set_next_inode_no(InodeNo next);
  InodeNo next_inode_no() const;

  // Puts the inode item into `txn` with `attr.size` replaced by `size`, and, after commit, notes
  // that the tree has it: saved() is called by the caller when the commit is done.
  void put_inode(Transaction& txn, const Inode& inode, uint64_t size);
  void saved(Inode& inode, JournalSeq seq, uint64_t size, bool data_changed);

  void mark_attr_dirty(Inode& inode);
  // Inodes with attr_dirty, for the flusher.
  std::vector<InodeRef> dirty_inodes(size_t max);

  LookupCounts& lookups() { return lookups_; }
  Store& store() { return store_; }
  Space& space() { return space_; }
  Timestamp now() const { return clock_.wall(); }
  InodeTableStats stats() const;

 private:
  friend class Inode;
  void unreferenced(Inode& inode);
  void trim_cache();

  Store& store_;
  Space& space_;
  const Clock& clock_;
  LookupCounts lookups_;
  InodeNo next_inode_no_{2};
  std::unordered_map<InodeNo, Inode*> inodes_;
  std::list<Inode*> idle_;  // no references; least recently used first
  uint64_t load_count_ = 0;
  // Extended by the owner of inode.cc (positions in idle_, the set of dirty inodes).
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fusefs
