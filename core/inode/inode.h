// Inode: one file, directory or other object in memory, and the table that finds it.
//
// The tree has what is committed; the Inode is ahead of it by what is only in memory: sizes and
// times of buffered writes, access times under lazytime. `attr` is what stat(2) shows.
//
//     absent --get()--> referenced --last reference dropped--> idle --least recently used--> absent
//                         |    ^                                |         (clean, without pages)
//                         |    +------------get()---------------+
//                         +--reap()--> removed --last reference dropped--> gone
//
// An Inode in memory is what counts: the tree is read only when there is none. Whoever changes an
// inode builds its new attributes, puts them into a transaction, and copies them into the Inode
// after commit(), in the same attempt.
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
//   (4) An Inode with attr_dirty, cut_pending or with pages in its mapping is not evicted.
//
// Monitor held for every call.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/clock.h"
#include "core/base/ref.h"
#include "core/engine/two_state_lock.h"
#include "core/format/item_format.h"
#include "core/inode/busy_ranges.h"
#include "core/inode/lookup_counts.h"
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

  // S_IFMT >> 12, as directory entries have it.
  uint8_t type() const { return static_cast<uint8_t>(mode >> 12 & 017u); }

  static InodeAttr from_value(InodeNo ino, const InodeValue& value);
  InodeValue to_value() const;
};

//   Errors corrupt: not an inode's item, or one that makes no sense
Result<InodeAttr> decode_inode(const ItemView& item);

// st_size. A directory's `size` counts its entries; stat(2) shows this many bytes for each.
inline constexpr uint64_t kDirentStatBytes = 32;
inline uint64_t stat_size(const InodeAttr& attr) {
  return attr.is_directory() ? attr.size * kDirentStatBytes : attr.size;
}

// Extended attributes that the core looks for itself, often in vain.
enum class SpecialXattr : uint8_t { capability = 1, access_acl = 2, default_acl = 4 };

class InodeTable;

class Inode : public RefCounted {
 public:
  Inode(InodeTable& table, const InodeAttr& loaded);
  ~Inode() override;

  const InodeNo ino;
  InodeAttr attr;

  // Size and times in `attr` are ahead of the tree.
  bool attr_dirty = false;
  // Only the access time is, under lazytime: saved with the next other change, by fsync, when the
  // inode leaves memory, and at unmount.
  bool atime_lazy = false;
  // The size that the tree has; it follows attr.size as data gets to the device.
  uint64_t disk_size = 0;
  // Beyond disk_size its block may have bytes on the device (core/file/tail.h).
  bool tail_unknown = false;
  // A truncate has failed on its way: what has been cut off is mapped still, beyond the size. So is
  // its orphan item there, and the inode stays in memory.
  bool cut_pending = false;
  // The last write that made the end of a block zero; a larger size is committed after it.
  WriteStamp tail_stamp = 0;

  // The transaction that last changed this inode (any change / one that fdatasync must wait for).
  JournalSeq changed_seq;
  JournalSeq data_seq;
  // The last data write into blocks of this file that needed no transaction (or 0).
  WriteStamp data_stamp = 0;

  // Errors of background writes: each open file reports each error once. Grows with every error.
  uint64_t write_error_count = 0;
  Error write_error = Error::io_failed;

  // Special xattrs that the inode is known not to have (bits of SpecialXattr).
  uint8_t absent_xattrs = 0;

  // reap() has begun, so that no name can be made for it any more; it has ended.
  enum class Life : uint8_t { live, removing, removed };
  Life life = Life::live;

  uint32_t open_count = 0;
  // Blocks promised to dirty pages over holes and shared extents: part of st_blocks. Kept by the
  // mapping and by writeback.
  BlockCount delayed_blocks;
  // Where the last extent was allocated: the goal of the next.
  BlockNo allocation_goal;

  TwoStateLock pages_lock;
  BusyRanges busy_ranges;
  Mapping mapping{&delayed_blocks};

 protected:
  void last_reference_dropped() override;

 private:
  friend class InodeTable;
  friend class InodeList;
  InodeTable& table_;
  Inode* hash_next_ = nullptr;
  Inode* idle_links_[2] = {};   // in the table's list of idle inodes
  Inode* dirty_links_[2] = {};  // in the table's list of dirty inodes
  bool is_idle_ = false;
  bool is_listed_dirty_ = false;
  uint64_t dirty_since_ns_ = 0;
};

using InodeRef = Ref<Inode>;

struct InodeTableStats {
  uint64_t cached_inodes = 0;
  uint64_t known_to_kernel = 0;
  uint64_t dirty_inodes = 0;
  uint64_t load_count = 0;
};

// Inodes without references and dirt are kept up to this many, least recently used go first.
inline constexpr size_t kCachedInodesMax = 8192;

// Inodes in a row, oldest first, linked through one of their pairs of links.
class InodeList {
 public:
  explicit InodeList(Inode* (Inode::*links)[2]) : links_(links) {}
  void push_back(Inode& inode);
  void remove(Inode& inode);
  Inode* front() const { return first_; }
  Inode* after(const Inode& inode) const { return (inode.*links_)[1]; }
  size_t size() const { return size_; }

 private:
  Inode* (Inode::*links_)[2];
  Inode* first_ = nullptr;
  Inode* last_ = nullptr;
  size_t size_ = 0;
};

class InodeTable {
 public:
  InodeTable(Store& store, Space& space, const Clock& clock);
  // Requires that no inode is referenced.
  ~InodeTable();
  InodeTable(const InodeTable&) = delete;
  InodeTable& operator=(const InodeTable&) = delete;

  // The inode with this number.
  //   Restarts node_load;  Errors not_found, io_failed, corrupt
  Attempt<InodeRef> get(InodeNo ino, NodePins& pins);
  // The same if it is in memory.
  InodeRef peek(InodeNo ino);
  // Attributes of one that is in memory, or null; without counting as a use of it.
  const InodeAttr* peek_attr(InodeNo ino) const {
    const Inode* inode = find(ino);
    return inode != nullptr ? &inode->attr : nullptr;
  }
  // A new inode in memory for one that the caller's transaction `seq` has just created.
  InodeRef adopt(const InodeAttr& attr, JournalSeq seq);
  // The caller's transaction has just removed the inode item.
  void removed(Inode& inode);

  // Numbers are handed out once, also if the operation then fails.
  InodeNo take_inode_no();
  void set_next_inode_no(InodeNo next);
  InodeNo next_inode_no() const { return next_inode_no_; }

  // Puts the inode item into `txn` with `attr.size` replaced by `size`, and, after commit, notes
  // that the tree has it: saved() is called by the caller when the commit is done.
  void put_inode(Transaction& txn, const Inode& inode, uint64_t size);
  // The same for attributes that are the inode's only after the commit.
  static void put_attr(Transaction& txn, const InodeAttr& attr, uint64_t size);
  // Requires that inode.attr is what was put, except for the size of a file with dirty data.
  // `data_changed`: fdatasync must wait for it.
  void saved(Inode& inode, JournalSeq seq, uint64_t size, bool data_changed);

  // The attributes are ahead of the tree, or a page is dirty: the flusher finds the inode from now
  // on, until its attributes are saved and no page is dirty or under writeback.
  void mark_attr_dirty(Inode& inode);
  // Has the access times saved that lazytime keeps in memory.
  void mark_lazy_dirty();
  void mark_pages_dirty(Inode& inode) { list_dirty(inode); }
  // Inodes for the flusher, those that became dirty first come first.
  std::vector<InodeRef> dirty_inodes(size_t max);
  // The same, only those that became dirty at `deadline_ns` (monotonic) or before.
  std::vector<InodeRef> dirty_inodes_until(uint64_t deadline_ns, size_t max);

  LookupCounts& lookups() { return lookups_; }
  const LookupCounts& lookups() const { return lookups_; }
  Store& store() { return store_; }
  Space& space() { return space_; }
  Timestamp now() const { return clock_.wall(); }
  // What the inodes' two-state locks have in common: the delay is set before the first inode is
  // used, the statistics are read.
  TwoStateLocks& pages_locks() { return pages_locks_; }
  // How many idle inodes are kept; tests make it small.
  void set_cached_max(size_t count) { cached_max_ = count; }
  InodeTableStats stats() const;

 private:
  friend class Inode;

  size_t bucket_of(InodeNo ino) const;
  Inode* find(InodeNo ino) const;
  void insert(Inode& inode);
  void unlink(Inode& inode);
  void grow_buckets();
  // A reference to an inode that may be idle.
  InodeRef reference(Inode& inode);
  void unreferenced(Inode& inode);
  static bool is_evictable(const Inode& inode);
  void trim_cache();
  void list_dirty(Inode& inode);
  void unlist_dirty(Inode& inode);

  Store& store_;
  Space& space_;
  const Clock& clock_;
  TwoStateLocks pages_locks_{clock_};
  LookupCounts lookups_;
  InodeNo next_inode_no_{2};
  std::vector<Inode*> buckets_;  // a power of two; chained through hash_next_
  size_t count_ = 0;
  size_t cached_max_ = kCachedInodesMax;
  InodeList idle_;   // no references; least recently used first
  InodeList dirty_;  // in the order they became dirty
  uint64_t load_count_ = 0;
};

}  // namespace fusefs
