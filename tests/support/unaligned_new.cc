// Memory of the tests' containers, which is never aligned to 512 bytes or more by chance.
//
// The device takes data from aligned memory only, so a direct write of other data goes another way.
// Where malloc(3) puts a vector depends on all that has been allocated before, the length of the
// program's path too: a seed would not replay elsewhere. Who wants aligned memory says so
// (AlignedBuffer).
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

// What malloc(3) aligns to; the block's own address is in the unit before the memory.
constexpr size_t kUnit = 16;
constexpr uintptr_t kSectorBytes = 512;

static_assert(__STDCPP_DEFAULT_NEW_ALIGNMENT__ <= kUnit);

}  // namespace

void* operator new(size_t bytes) {
  auto* const block = static_cast<char*>(std::malloc(bytes + 2 * kUnit));
  if (block == nullptr) throw std::bad_alloc();
  char* memory = block + kUnit;
  if (reinterpret_cast<uintptr_t>(memory) % kSectorBytes == 0) memory += kUnit;
  *reinterpret_cast<void**>(memory - kUnit) = block;
  return memory;
}

void operator delete(void* memory) noexcept {
  if (memory != nullptr) std::free(*reinterpret_cast<void**>(static_cast<char*>(memory) - kUnit));
}

void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
