#include "fusefs/window_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "fusefs/huge_pages.h"

namespace fusefs {
namespace {

Error memory_error() {
  switch (errno) {
    case EMFILE:
    case ENFILE:
      return Error::too_busy;
    case ENOSYS:
    case ENOENT:
      return Error::not_supported;
    default:
      return Error::no_memory;
  }
}

// Of newer kernels' headers: nobody runs programs from it, which a system may demand.
constexpr unsigned kNoExecSeal = 0x8;

OwnedFd make_memfd() {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const int fd = memfd_create("fusefs-window", kFlags | kNoExecSeal);
  if (fd >= 0 || errno != EINVAL) return OwnedFd(fd);
  return OwnedFd(memfd_create("fusefs-window", kFlags));
}

}  // namespace

Result<std::shared_ptr<WindowMemory>> WindowMemory::create(Channel& channel, size_t bytes,
                                                           bool backed) {
  const std::shared_ptr<WindowMemory> memory(new WindowMemory(channel, bytes));
  TRY_OK(memory->make(backed));
  return memory;
}

Result<void> WindowMemory::make(bool backed) {
  writer_ = make_memfd();
  if (!writer_ || ftruncate(writer_.get(), static_cast<off_t>(bytes_)) != 0) return memory_error();
  const std::string path = "/proc/self/fd/" + std::to_string(writer_.get());
  reader_ = OwnedFd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!reader_) return memory_error();
  if (fcntl(writer_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0 ||
      fchmod(writer_.get(), 0) != 0) {
    return memory_error();
  }
  frames_ = map_at_huge_page(bytes_, writer_.get());
  if (frames_ == nullptr) return memory_error();
  (void)madvise(frames_, bytes_, MADV_DONTDUMP);
  if (!backed) return {};
  const Result<uint32_t> backing = channel_.open_backing(writer_.get());
  if (backing.ok()) backing_ = backing.value();
  return {};
}

void WindowMemory::make_huge(size_t begin, size_t end) {
  const std::lock_guard lock(mutex_);
  size_t at = std::max(tried_end_, round_up(begin, kHugePageBytes));
  for (; !refused_ && at + kHugePageBytes <= end; at += kHugePageBytes) {
    if (make_huge_page(frames_ + at)) {
      huge_bytes_ += kHugePageBytes;
    } else {
      refused_ = errno != EAGAIN && errno != EBUSY;  // somebody uses one of the pages
    }
  }
  tried_end_ = std::max(tried_end_, at);
}

WindowMemory::~WindowMemory() {
  if (backing_ != 0) channel_.close_backing(backing_);
  if (frames_ != nullptr) munmap(frames_, bytes_);
}

}  // namespace fusefs
