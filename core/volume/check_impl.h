// What a scan collects, shared by the parts of the checker (check_tree.cc, check_names.cc,
// check_space.cc, check_scan.cc). Private to core/volume.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "core/space/bitmap.h"
#include "core/volume/check.h"

namespace fusefs {

struct CheckedInode {
  uint64_t ino = 0;
  uint64_t parent = 0;
  uint64_t size = 0;  // directories: entries, as the inode says
  uint32_t mode = 0;
  uint32_t link_count = 0;
  uint64_t entries = 0;  // directories: entries found
  uint32_t links = 0;    // entries that name it
  uint32_t subdirectories = 0;
  bool orphan = false;  // has an orphan item for being unlinked
  bool directory() const { return (mode & 0170000u) == 0040000u; }
};

struct CheckedEntry {
  uint64_t target = 0;
  uint64_t directory = 0;
  uint64_t cookie = 0;
  uint8_t type = 0;
};

struct CheckedShared {
  BlockRange blocks{};
  uint32_t owners = 0;
};

// The findings and the counts that all parts add to.
class CheckFindings {
 public:
  explicit CheckFindings(CheckReport& report) : report_(report) {}

  Finding& add(FindingKind kind, std::string text) {
    ++report_.findings_count;
    if (report_.findings.size() >= kFindingsListedMax) return overflow_ = {};
    Finding& finding = report_.findings.emplace_back();
    finding.kind = kind;
    finding.text = std::move(text);
    return finding;
  }

 private:
  CheckReport& report_;
  Finding overflow_;
};

// Everything found in the tree.
struct CheckedTree {
  std::vector<CheckedInode> inodes;  // by number
  std::vector<CheckedEntry> entries;
  std::vector<BlockRange> extents;    // of files
  std::vector<BlockRange> nodes;      // of the tree
  std::vector<CheckedShared> shared;  // by first block
  std::vector<std::pair<uint64_t, OrphanKind>> orphans;
  uint64_t max_inode = 0;
  bool damaged = false;  // a part is missing: nothing can be concluded from absence

  CheckedInode* find(uint64_t ino) {
    auto at = std::lower_bound(inodes.begin(), inodes.end(), ino,
                               [](const CheckedInode& a, uint64_t b) { return a.ino < b; });
    return at != inodes.end() && at->ino == ino ? &*at : nullptr;
  }
};

// Checks one item after the other, in the order of their keys.
class ItemChecker {
 public:
  ItemChecker(const Superblock& superblock, CheckedTree& tree, CheckReport& report,
              CheckFindings& findings);
  void item(const Key& key, ConstBytes value);
  void end();

 private:
  void begin_object(uint64_t object);
  void end_object();
  void inode(const Key& key, ConstBytes value);
  void xattr(const Key& key, ConstBytes value);
  void dirent(const Key& key, ConstBytes value);
  void extent(const Key& key, ConstBytes value);
  void shared(const Key& key, ConstBytes value);
  void orphan(const Key& key, ConstBytes value);
  void end_xattr();
  bool in_data_area(BlockRange blocks) const;
  void damaged(const Key& key, const char* what);

  const Superblock& superblock_;
  CheckedTree& tree_;
  CheckReport& report_;
  CheckFindings& findings_;
  // The object under way.
  uint64_t object_ = 0;
  bool has_inode_ = false;
  InodeValue inode_{};
  FileBlock extents_end_;
  uint64_t mapped_blocks_ = 0;
  uint64_t xattr_count_ = 0;
  // The attribute under way.
  uint64_t xattr_first_ = 0;
  uint64_t xattr_chunk_ = 0;
  uint64_t xattr_bytes_left_ = 0;
  bool symlink_ = false;
  BlockNo shared_end_;
};

// Links, entries, parents, orphans; after all items.
void check_names(CheckedTree& tree, CheckFindings& findings);
uint64_t blocks_in_items(const std::vector<CheckedShared>& shared);
// Owners of blocks against the shared items; adds the union of all blocks to `groups`.
void check_owners(CheckedTree& tree, const Superblock& superblock, CheckReport& report,
                  CheckFindings& findings, std::vector<std::unique_ptr<Bitmap>>& groups);

}  // namespace fusefs
