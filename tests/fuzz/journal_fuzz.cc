// A damaged journal: the decoder of changes trusts no length, no kind and no count.
#include <cstring>

#include "core/journal/change_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  uint32_t count = 0;
  std::memcpy(&count, data, sizeof(count));
  const auto bytes = std::as_bytes(std::span<const uint8_t>(data + 4, size - 4));
  (void)fusefs::decode_changes(bytes, count);
  return 0;
}
