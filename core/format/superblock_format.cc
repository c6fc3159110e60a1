#include "core/format/superblock_format.h"

#include "core/format/journal_format.h"
#include "core/format/node_format.h"
#include "core/format/space_format.h"

namespace fusefs {
namespace {

constexpr uint64_t divide_up(uint64_t value, uint64_t by) { return (value + by - 1) / by; }

// No volume has more blocks, so sums of a few numbers below it cannot overflow.
constexpr uint64_t kBlockCountMax = uint64_t{1} << 51;

// Areas follow each other in the order of the format; gaps are allowed.
bool areas_verify(const Superblock& sb) {
  const uint64_t blocks = sb.block_count;
  for (const uint64_t value :
       {blocks, sb.journal_first.get(), sb.journal_blocks.get(), sb.summary_first.get(),
        sb.summary_pages.get(), sb.bitmap_first.get(), sb.group_count.get(), sb.data_first.get()}) {
    if (value == 0 || value > kBlockCountMax) return false;
  }
  if (sb.journal_blocks * kBlockBytes < kJournalBytesMin ||
      sb.journal_blocks * kBlockBytes > kJournalBytesMax) {
    return false;
  }
  if (sb.journal_first < kFirstUsableBlock) return false;
  if (sb.journal_first + sb.journal_blocks > sb.summary_first) return false;
  if (sb.summary_first + 2 * sb.summary_pages > sb.bitmap_first) return false;
  if (sb.bitmap_first + 2 * sb.group_count > sb.data_first) return false;
  if (sb.data_first >= blocks) return false;
  if (sb.group_count != divide_up(blocks - sb.data_first, kGroupBlocks)) return false;
  return sb.summary_pages == divide_up(sb.group_count, kGroupsPerSummary) &&
         sb.summary_pages <= kSummarySlotBytes * 8;
}

bool checkpoint_verifies(const Superblock& sb) {
  const bool empty = sb.tree_root_generation == 0;
  if (!empty && (sb.tree_root < sb.data_first || sb.tree_root > sb.block_count - kNodeBlocks)) {
    return false;
  }
  if (sb.journal_tail_block < sb.journal_first ||
      sb.journal_tail_block - sb.journal_first >= sb.journal_blocks) {
    return false;
  }
  return sb.journal_tail_batch != 0 && sb.free_blocks <= sb.block_count;
}

}  // namespace

Result<void> verify_superblock(ConstBytes block, BlockNo at, uint64_t device_bytes) {
  if (block.size() != kBlockBytes) return Error::not_a_volume;
  const Superblock& sb = view_as<Superblock>(block);
  if (sb.signature != kSuperblockSignature) return Error::not_a_volume;
  if (!block_verifies(block, BlockKind::superblock, at, kSuperblockChecksumSeed)) {
    return Error::corrupt;
  }
  if (sb.format_version > kFormatVersion ||
      (sb.incompatible_features & ~kIncompatibleFeaturesKnown) != 0) {
    return Error::newer_version;
  }
  if (sb.format_version == 0 || !areas_verify(sb) || !checkpoint_verifies(sb)) {
    return Error::corrupt;
  }
  if (sb.block_count > device_bytes / kBlockBytes) return Error::truncated_volume;
  return {};
}

}  // namespace fusefs
