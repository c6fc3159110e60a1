// XXH3, 64 bits: the checksum of every metadata block and the hash of names.
#pragma once

#include <cstdint>

#include "core/base/bytes.h"

namespace fusefs {

uint64_t checksum(ConstBytes bytes);
uint64_t checksum_seeded(ConstBytes bytes, uint64_t seed);

}  // namespace fusefs
