// Tree nodes: 16 KiB, keys in order, values (leaf) or children (interior).
//
//   byte 0         32       64                              ...              16384
//        +---------+--------+-------------------+---- free ----+----------------+
//        | header  | counts | slots, ascending  |              | values         |
//        +---------+--------+-------------------+--------------+----------------+
//                            grows ->                       <- grows
//
// A slot of an interior node has the smallest key its child may hold and a value of
// sizeof(ChildPointer). On the leftmost path the first slot's key is only a lower bound of what its
// child holds now: a smaller key would go there too, and lower it.
// A node has at least one slot; an empty tree has no node.
#pragma once

#include "core/format/block_header.h"
#include "core/format/key_format.h"

namespace fusefs {

inline constexpr uint32_t kNodeBytes = 16384;
inline constexpr uint32_t kNodeBlocks = kNodeBytes / kBlockBytes;
inline constexpr uint32_t kTreeLevelsMax = 12;
inline constexpr uint32_t kItemValueBytesMax = 4096;  // at least three items fit in a leaf

struct NodeHeader {
  BlockHeader header;      // 0   generation: the checkpoint that wrote it
  Le16 level;              // 32  0: leaf
  Le16 count;              // 34  slots in use
  Le32 values_first;       // 36  lowest byte used by values; kNodeBytes when none
  Le32 garbage_bytes;      // 40  bytes among the values that no slot names
  unsigned char zero[20];  // 44
};
static_assert(sizeof(NodeHeader) == 64 && alignof(NodeHeader) == 1);

struct NodeSlot {
  KeyFormat key;       // 0
  unsigned char zero;  // 17
  Le16 value_first;    // 18  byte offset in the node
  Le16 value_len;      // 20
  Le16 zero2;          // 22
};
static_assert(sizeof(NodeSlot) == 24 && alignof(NodeSlot) == 1);

struct ChildPointer {
  Le64 block;
  Le64 generation;  // must be the child's: a lost write of the child is found
};
static_assert(sizeof(ChildPointer) == 16 && alignof(ChildPointer) == 1);

// Verifies a node read from `at`: header, order of keys, slots and values inside the node and not
// overlapping. False: corrupt.
bool node_verifies(ConstBytes node, BlockNo at, uint64_t generation, uint64_t checksum_seed);

}  // namespace fusefs
