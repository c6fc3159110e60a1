// The superblock: two slots, the newer valid one is the volume. Spec: docs/FORMAT.md.
//
// Blocks of a volume, in order:
//
//   0            superblock slot 0            kSuperblockBlocks[0]
//   16           superblock slot 1            kSuperblockBlocks[1]
//   32           journal ring                 journal_first, journal_blocks
//                summary pages, two slots     summary_first + 2 * page + slot
//                bitmap pages, two slots      bitmap_first + 2 * group + slot
//                data and tree nodes          data_first + group * kGroupBlocks ...
//
// Writing the superblock is the commit point of a checkpoint: it names the tree root, the slot of
// every summary page (which name the slot of every bitmap page) and where replay of the journal
// starts. Slots are written in turn; the header's generation counts superblock writes.
#pragma once

#include <array>

#include "core/base/clock.h"
#include "core/format/block_header.h"

namespace fusefs {

inline constexpr std::array<uint64_t, 2> kSuperblockBlocks = {0, 16};
inline constexpr uint64_t kFirstUsableBlock = 32;
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr uint64_t kVolumeBytesMin = 64ull << 20;
inline constexpr size_t kLabelBytesMax = 64;
inline constexpr size_t kSummarySlotBytes = 1024;  // one bit per summary page

// incompatible_features: an older program must not mount. Bits not known here: newer_version.
inline constexpr uint64_t kIncompatibleFeaturesKnown = 0;
// read_only_features: an older program may mount read-only.
inline constexpr uint64_t kReadOnlyFeaturesKnown = 0;

inline constexpr uint32_t kVolumeClean = 1u << 0;      // unmounted; the journal is empty
inline constexpr uint32_t kVolumeHasErrors = 1u << 1;  // an error was met: check it

struct Superblock {
  BlockHeader header;                   // 0    generation: counts superblock writes
  Le64 signature;                       // 32   kSuperblockSignature, for libblkid and people
  Le32 format_version;                  // 40
  Le32 flags;                           // 44   kVolume...
  Le64 incompatible_features;           // 48
  Le64 read_only_features;              // 56
  Le64 compatible_features;             // 64
  unsigned char uuid[16];               // 72
  unsigned char label[kLabelBytesMax];  // 88   UTF-8, zero padded, no terminator needed
  Le64 checksum_seed;                   // 152  of all other metadata blocks
  Le64 name_hash_seed;                  // 160
  Le64 block_count;                     // 168
  Le64 journal_first;                   // 176
  Le64 journal_blocks;                  // 184
  Le64 summary_first;                   // 192
  Le64 summary_pages;                   // 200
  Le64 bitmap_first;                    // 208
  Le64 group_count;                     // 216
  Le64 data_first;                      // 224
  Le64 created_sec;                     // 232
  Le64 mounted_sec;                     // 240  last mount for writing
  Le64 mount_count;                     // 248
  // What a checkpoint changes.
  Le64 checkpoint_no;                              // 256
  Le64 tree_root;                                  // 264  block of the root node
  Le64 tree_root_generation;                       // 272
  Le64 tree_node_count;                            // 280
  Le64 committed_seq;                              // 288  last transaction contained in the tree
  Le64 journal_tail_block;                         // 296  where the first batch to replay starts
  Le64 journal_tail_batch;                         // 304  its number
  Le64 next_inode;                                 // 312
  Le64 free_blocks;                                // 320
  Le64 shared_blocks;                              // 328  blocks with a refcount of 2 or more
  unsigned char reserved[168];                     // 336  zero
  unsigned char summary_slots[kSummarySlotBytes];  // 504
  unsigned char zero[kBlockBytes - 504 - kSummarySlotBytes];
};
static_assert(sizeof(Superblock) == kBlockBytes && alignof(Superblock) == 1);
static_assert(std::has_unique_object_representations_v<Superblock>, "no padding to leak");

inline constexpr uint64_t kSuperblockSignature = 0x31307366'65737566;  // "fusefs01" in memory

// The superblock verifies with a seed of its own, since it holds the others' seed.
inline constexpr uint64_t kSuperblockChecksumSeed = 0x66757365'66730001;

// Verifies header, version, features and that every area lies inside `device_bytes` without
// overlapping another.
//   Errors  not_a_volume (no signature in it), corrupt (signature, but it does not verify or makes
//           no sense), newer_version, truncated_volume
Result<void> verify_superblock(ConstBytes block, BlockNo at, uint64_t device_bytes);

inline bool summary_slot(const Superblock& sb, uint64_t page) {
  return ((sb.summary_slots[page / 8] >> (page % 8)) & 1) != 0;
}
inline void set_summary_slot(Superblock& sb, uint64_t page, bool slot) {
  const auto bit = static_cast<unsigned char>(1u << (page % 8));
  if (slot) {
    sb.summary_slots[page / 8] = static_cast<unsigned char>(sb.summary_slots[page / 8] | bit);
  } else {
    sb.summary_slots[page / 8] = static_cast<unsigned char>(sb.summary_slots[page / 8] & ~bit);
  }
}

}  // namespace fusefs
