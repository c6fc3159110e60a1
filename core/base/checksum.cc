#include "core/base/checksum.h"

#include <array>

#ifdef FUSEFS_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>  // XXH3_64bits, by what this CPU has, up to AVX-512
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

namespace fusefs {
namespace {

#ifdef FUSEFS_XXHASH_DISPATCH
// What the CPU has is found out by the first call with more than 240 bytes. Before there are
// threads: the library notes it without a lock.
[[maybe_unused]] const uint64_t kFirstCall = [] {
  const std::array<std::byte, 1024> zeroes{};
  return XXH3_64bits(zeroes.data(), zeroes.size());
}();
#endif

}  // namespace

uint64_t checksum(ConstBytes bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

uint64_t checksum_seeded(ConstBytes bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

}  // namespace fusefs
