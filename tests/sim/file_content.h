// What the tests of files share: contents to write, and a model of what a file holds.
#pragma once

#include <algorithm>
#include <vector>

#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "tests/support/sim_volume.h"

namespace fusefs {

using How = SimVolume::How;
using Content = std::vector<std::byte>;

// Bytes that are neither zero nor canary.
inline Content random_bytes(Random& random, size_t len) {
  Content bytes(len);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(1 + random.below(0xC0));
  return bytes;
}

inline void put(Content& content, uint64_t pos, ConstBytes data) {
  if (content.size() < pos + data.size()) content.resize(pos + data.size());
  std::copy(data.begin(), data.end(), content.begin() + static_cast<ptrdiff_t>(pos));
}

// A direct write takes its bytes from anywhere; the device takes them from aligned memory only.
struct Source {
  AlignedBuffer buffer;
  ConstBytes bytes;
};
inline Source random_source(Random& random, size_t len, bool aligned) {
  const size_t offset = aligned ? 0 : 1 + random.below(100);
  Source source{AlignedBuffer((offset + len + kBlockBytes) / kBlockBytes * kBlockBytes), {}};
  const Content data = random_bytes(random, len);
  std::copy(data.begin(), data.end(), source.buffer.data() + offset);
  source.bytes = ConstBytes(source.buffer.data() + offset, len);
  return source;
}

}  // namespace fusefs
