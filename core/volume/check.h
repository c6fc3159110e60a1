// Check: is what lies on the device one consistent volume?
//
// The checker reads the last checkpoint by itself: superblock, journal, every tree node, every
// bitmap and summary page. It does not go through Tree and Space, so that their mistakes are found
// too. The tree is the truth; what can be derived from it is compared with it:
//
//     tree nodes, extents  -->  bitmaps, summaries, free block count
//     extents              -->  shared items, block_count of inodes
//     shared items         -->  shared block count
//     directory entries    -->  link counts, entry counts, ".." of directories, orphans
//     attribute items      -->  xattr_count
//
// A volume that was not unmounted is consistent as of its checkpoint; its journal is verified but
// not replayed by a scan.
//
// Memory: 48 bytes per inode, 32 per directory entry, 16 per extent, one bit per block.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/format/item_format.h"
#include "core/format/node_format.h"
#include "core/format/space_format.h"
#include "core/format/superblock_format.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"

namespace fusefs {

enum class FindingKind : uint8_t {
  // Cannot be derived from anything else: reported, not repaired.
  node_damaged,    // a tree node does not verify: what was below it is lost
  item_damaged,    // an item makes no sense
  extent_outside,  // an extent leaves the data area, or overlaps another of its file
  block_conflict,  // a tree node's block is also a file's
  // Derived, repaired on the device.
  superblock_damaged,  // one of the two slots
  bitmap_damaged,      // a bitmap or summary page does not verify
  bitmap_wrong,        // blocks used but free, or allocated but unused
  free_count_wrong,
  shared_count_wrong,  // the superblock's count of blocks in shared items
  // Derived, repaired in the mounted volume.
  shared_wrong,  // owners of blocks
  block_count_wrong,
  link_count_wrong,
  entry_count_wrong,
  parent_wrong,
  xattr_count_wrong,
  entry_dangling,     // an entry for an inode that is not there, or of another type
  inode_unreachable,  // no entry, no orphan item: goes to lost+found
  orphan_missing,     // no link and no orphan item
  orphan_wrong,       // an orphan item for an inode that is linked or not there
  journal_damaged,    // a batch verifies but makes no sense
};
std::string_view finding_kind_name(FindingKind kind);
bool finding_repairable(FindingKind kind);

struct Finding {
  FindingKind kind{};
  std::string text;    // names the thing: "inode 17: link count is 3, 2 entries name it"
  uint64_t ino = 0;    // what a repair needs, as far as it applies
  uint64_t other = 0;  // the right value; the directory of an entry
  uint64_t cookie = 0;
  BlockRange blocks{};
  uint32_t owners = 0;
  bool repaired = false;
};
// More are counted, not listed.
inline constexpr size_t kFindingsListedMax = 10'000;

struct CheckCounts {
  uint64_t node_count = 0;
  uint64_t item_count = 0;
  uint64_t inode_count = 0;
  uint64_t directory_count = 0;
  uint64_t entry_count = 0;
  uint64_t extent_count = 0;
  uint64_t allocated_blocks = 0;  // nodes and extents
  uint64_t shared_blocks = 0;
  uint64_t orphan_count = 0;
  uint64_t journal_transactions = 0;
};

struct CheckReport {
  Superblock superblock{};
  bool clean = true;        // unmounted properly
  bool has_errors = false;  // an error was met while it was mounted
  CheckCounts counts;
  std::vector<Finding> findings;
  uint64_t findings_count = 0;  // including those not listed
  bool ok() const { return findings_count == 0; }
};

struct CheckProgress {
  uint64_t done = 0;  // nodes, then groups
  uint64_t total = 0;
};

// One scan, restartable; the object is its own stash.
class CheckScan {
 public:
  // `progress` is called now and then, inside the monitor.
  CheckScan(BlockDevice& device, std::function<void(const CheckProgress&)> progress = {});
  ~CheckScan();

  //   Restarts  on reads
  //   Errors    not_a_volume, corrupt, newer_version, truncated_volume (no usable superblock),
  //             io_failed (the device, not the volume, is at fault)
  Attempt<void> run();
  CheckReport& report();

  // Writes the right bitmap and summary pages and the free count where they were found wrong.
  // Requires a finished run() without damaged nodes, and nobody else using the device.
  //   Restarts on writes;  Errors io_failed
  Attempt<void> repair_space();

  // Takes back that an error was met (kVolumeHasErrors). Requires a finished run() without
  // findings, no repair_space(), and nobody else using the device.
  //   Restarts on the write;  Errors io_failed
  Attempt<void> clear_error_mark();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

class Volume;

// Repairs in a mounted volume, one finding per transaction; the object is its own stash.
// Findings of a scan of this volume, made while it was not mounted and had an empty journal.
class CheckRepair {
 public:
  CheckRepair(Volume& volume, CheckReport& report);
  ~CheckRepair();

  // Marks what it repaired.
  //   Restarts, Errors  as any transaction
  Attempt<void> run();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fusefs
