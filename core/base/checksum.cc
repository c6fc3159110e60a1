#include "core/base/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace fusefs {

uint64_t checksum(ConstBytes bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

uint64_t checksum_seeded(ConstBytes bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

}  // namespace fusefs
