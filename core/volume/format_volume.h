// Making a volume: where everything lies, and the writes that make a device one.
//
// An interrupted format never leaves what looks like a volume and is none:
//
//   1. the superblocks of an older volume are overwritten, first the older one (the newer is still
//      that volume), then the newer; then the signatures of anything else, and the start of the
//      journal: from here on the device holds nothing. Each durably before the next.
//   2. discard, if asked for
//   3. journal's first block, summary pages, and the root directory: a tree of one node, with the
//      bitmap page of its group; flush: everything is there, and nothing points to it
//   4. superblock slot 1, durably: it is a whole volume already
//   5. superblock slot 0 (the place where programs look for a signature) with a later generation
//
// The same holds for a device that had a fusefs volume before: its pages do not verify with the
// new checksum seed.
//
// It does not ask whether something valuable is there: that is the command's.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "core/base/clock.h"
#include "core/format/superblock_format.h"
#include "core/io/aligned_buffer.h"
#include "core/io/block_device.h"
#include "core/tree/superblock_io.h"

namespace fusefs {

struct FormatOptions {
  uint64_t size_bytes = 0;  // 0: the whole device
  std::string label;
  std::optional<std::array<unsigned char, 16>> uuid;  // a random one if not given
  std::optional<uint64_t> seed;  // for tests: the source of everything that is random otherwise
  bool discard = true;
  Timestamp created;
  uint32_t root_uid = 0;  // who owns the root directory
  uint32_t root_gid = 0;
};

// In blocks. The areas follow each other in the order of superblock_format.h.
struct VolumeLayout {
  uint64_t block_count = 0;
  uint64_t journal_first = 0;
  uint64_t journal_blocks = 0;
  uint64_t summary_first = 0;
  uint64_t summary_pages = 0;
  uint64_t bitmap_first = 0;
  uint64_t group_count = 0;
  uint64_t data_first = 0;
};

// How a device of this size is divided. What is left over at the end is not used.
//   Errors  invalid_argument: smaller than kVolumeBytesMin, or larger than the format can describe
Result<VolumeLayout> plan_layout(uint64_t device_bytes);

class VolumeFormatter {
 public:
  VolumeFormatter(BlockDevice& device, const FormatOptions& options)
      : device_(device), options_(options) {}

  // The stash is the object: one format.
  //   Restarts  on the writes
  //   Errors    invalid_argument (size, label), read_only_volume, io_failed, device_gone, no_space
  Attempt<void> run();

  // After run(): what was written, for people.
  const Superblock& superblock() const { return superblock_; }

 private:
  enum class Phase : uint8_t { start, erase, discard, contents, flush, slot1, slot0, done };

  // What is overwritten first, in this order.
  struct Erasure {
    BlockNo first;
    uint64_t blocks;
  };

  struct Page {
    BlockNo at;
    AlignedBuffer image;
  };

  Result<void> prepare();
  Attempt<void> plan_erasures();
  Attempt<void> erase();
  void describe(const VolumeLayout& layout);
  void build_root();
  void build_summaries();
  void write(bool fua);
  Attempt<void> discard();
  void write_superblock(int slot, uint64_t generation);

  BlockDevice& device_;
  const FormatOptions options_;
  Phase phase_ = Phase::start;
  Superblock superblock_{};
  SuperblockStash older_;
  std::vector<Erasure> erasures_;  // still to be done, the next one last
  std::vector<Page> pages_;        // being written, or to be
  Ref<IoTicket> ticket_;
  uint64_t discarded_bytes_ = 0;
};

}  // namespace fusefs
