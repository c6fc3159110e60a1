// The first 32 bytes of every metadata block, and how it is sealed and verified.
//
//   byte 0          8       12     14     16        24           32
//        +----------+-------+------+------+---------+------------+
//        | checksum | magic | kind | zero | block   | generation |
//        +----------+-------+------+------+---------+------------+
//
// The checksum is XXH3 over bytes [8, size) of the block, seeded with the volume's checksum seed,
// so a block of another volume that once lay here is refused. `block` is the block's own place: a
// misdirected write is found. `generation` is the checkpoint that wrote it (superblock, node,
// bitmap, summary) or the batch number (journal).
#pragma once

#include <type_traits>

#include "core/base/bytes.h"
#include "core/base/error.h"
#include "core/base/units.h"

namespace fusefs {

enum class BlockKind : uint16_t {
  superblock = 1,
  journal = 2,
  node = 3,
  bitmap = 4,
  summary = 5,
};

inline constexpr uint32_t kBlockMagic = 0x46735546;  // "FUsF" in memory order

struct BlockHeader {
  Le64 checksum;
  Le32 magic;
  Le16 kind;
  Le16 zero;
  Le64 block;
  Le64 generation;
};
static_assert(sizeof(BlockHeader) == 32 && alignof(BlockHeader) == 1);

// Fills in everything but the checksum.
void set_block_header(Bytes block, BlockKind kind, BlockNo at, uint64_t generation);
// Computes and stores the checksum; the last thing done before the write.
void seal_block(Bytes block, uint64_t checksum_seed);
// True when checksum, magic, kind and place are right.
bool block_verifies(ConstBytes block, BlockKind kind, BlockNo at, uint64_t checksum_seed);

}  // namespace fusefs
