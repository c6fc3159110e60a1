#include "core/format/block_header.h"

#include "core/base/check.h"
#include "core/base/checksum.h"

namespace fusefs {

void set_block_header(Bytes block, BlockKind kind, BlockNo at, uint64_t generation) {
  CHECK(block.size() % kBlockBytes == 0);
  BlockHeader& header = view_as<BlockHeader>(block);
  header.magic = kBlockMagic;
  header.kind = static_cast<uint16_t>(kind);
  header.zero = uint16_t{0};
  header.block = at.value();
  header.generation = generation;
}

void seal_block(Bytes block, uint64_t checksum_seed) {
  view_as<BlockHeader>(block).checksum = checksum_seeded(block.subspan(8), checksum_seed);
}

bool block_verifies(ConstBytes block, BlockKind kind, BlockNo at, uint64_t checksum_seed) {
  const BlockHeader& header = view_as<BlockHeader>(block);
  return header.magic == kBlockMagic && header.kind == static_cast<uint16_t>(kind) &&
         header.zero == 0 && header.block == at.value() &&
         header.checksum == checksum_seeded(block.subspan(8), checksum_seed);
}

}  // namespace fusefs
