// Bitmap and summary pages: which blocks of the data area are allocated.
//
// A group is what one bitmap page describes. Bit i of group g is block
// data_first + g * kGroupBlocks + i: 1 = allocated. Bits beyond the volume's end are 1.
// A summary page holds 8 bytes for each of kGroupsPerSummary groups, so that free space is found,
// and a volume is mounted, without reading the bitmaps.
#pragma once

#include "core/format/block_header.h"

namespace fusefs {

inline constexpr uint32_t kBitmapBytes = kBlockBytes - 64;
inline constexpr uint32_t kGroupBlocks = kBitmapBytes * 8;  // 32256 blocks, 126 MiB

struct BitmapPage {
  BlockHeader header;                // 0   generation: the checkpoint that wrote it
  Le64 group;                        // 32
  Le32 free_count;                   // 40  zero bits
  unsigned char zero[20];            // 44
  unsigned char bits[kBitmapBytes];  // 64
};
static_assert(sizeof(BitmapPage) == kBlockBytes && alignof(BitmapPage) == 1);

// Set once the group has a bitmap page on the device; before that all its blocks are free.
inline constexpr uint16_t kGroupInitialized = 1u << 0;
// Which slot of the bitmap page is the committed one.
inline constexpr uint16_t kGroupSlot = 1u << 1;

struct GroupSummary {
  Le16 free_count;    // free blocks, at most kGroupBlocks
  Le16 free_run_max;  // blocks in the longest run of free blocks
  Le16 free_chunks;   // free runs of kNodeBlocks blocks aligned to kNodeBlocks within the group
  Le16 flags;
};
static_assert(sizeof(GroupSummary) == 8 && alignof(GroupSummary) == 1);

inline constexpr uint32_t kGroupsPerSummary = (kBlockBytes - 32) / sizeof(GroupSummary);  // 508

struct SummaryPage {
  BlockHeader header;
  GroupSummary groups[kGroupsPerSummary];
};
static_assert(sizeof(SummaryPage) == kBlockBytes && alignof(SummaryPage) == 1);

}  // namespace fusefs
