// Huge pages: memory where a device finds long pieces, and the CPU fewer entries to look up.
#pragma once

#include <cstddef>

#include "core/base/bytes.h"

namespace fusefs {

// Of x86-64, and of arm64 with pages of 4 KiB.
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

constexpr size_t round_up(size_t len, size_t unit) { return (len + unit - 1) / unit * unit; }

// Maps `len` bytes, whole pages, for reading and writing at a multiple of kHugePageBytes: of `fd`,
// shared, or anonymous memory if that is -1. Null if there is no memory; errno then says why.
std::byte* map_at_huge_page(size_t len, int fd);

// Makes one huge page of the kHugePageBytes at `memory`, a multiple of that, whatever is there:
// contents stay, what is missing is zeroes. False if the kernel would not; errno says why.
bool make_huge_page(std::byte* memory);

}  // namespace fusefs
