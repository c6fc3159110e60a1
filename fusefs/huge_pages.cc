#include "fusefs/huge_pages.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>

#include "core/base/units.h"

namespace fusefs {
namespace {

// Of Linux 5.14 and 6.1; the installed headers may be older.
constexpr int kPopulateWrite = 23;
constexpr int kCollapse = 25;

}  // namespace

std::byte* map_at_huge_page(size_t len, int fd) {
  const size_t reserved_len = len + kHugePageBytes;
  void* const reserved =
      mmap(nullptr, reserved_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  auto* const first = static_cast<std::byte*>(reserved);
  const size_t skip = round_up(reinterpret_cast<uintptr_t>(first), kHugePageBytes) -
                      reinterpret_cast<uintptr_t>(first);
  const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
  void* const mapped = mmap(first + skip, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    munmap(reserved, reserved_len);
    errno = error;
    return nullptr;
  }
  if (skip != 0) munmap(first, skip);
  const size_t end = round_up(skip + len, kBlockBytes);
  munmap(first + end, reserved_len - end);
  return first + skip;
}

bool make_huge_page(std::byte* memory) {
  // Of what is empty the kernel makes none.
  return madvise(memory, kBlockBytes, kPopulateWrite) == 0 &&
         madvise(memory, kHugePageBytes, kCollapse) == 0;
}

}  // namespace fusefs
