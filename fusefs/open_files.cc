#include "fusefs/open_files.h"

#include <fcntl.h>

#include "core/base/random.h"

namespace fusefs {

uint64_t OpenFiles::open(InodeRef inode, int flags) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Slot& slot = slots_[index];
  ++slot.use;
  ++count_;
  slot.secret = 0;
  slot.file = std::make_unique<OpenFile>();
  slot.file->flags = flags;
  slot.file->writable = (flags & O_ACCMODE) != O_RDONLY;
  slot.file->write_errors_seen = inode->write_error_count;
  ++inode->open_count;
  if ((flags & O_ACCMODE) == O_RDWR) ++read_write_[inode->ino];
  slot.file->inode = std::move(inode);
  return (uint64_t{slot.use} << 32) | index;
}

OpenFile* OpenFiles::find(uint64_t handle) {
  const uint64_t index = handle & UINT32_MAX;
  if (index >= slots_.size() || slots_[index].use != handle >> 32) return nullptr;
  return slots_[index].file.get();
}

uint64_t OpenFiles::secret(uint64_t handle) {
  if (find(handle) == nullptr) return 0;
  Slot& slot = slots_[handle & UINT32_MAX];
  while (slot.secret == 0) slot.secret = entropy();
  return slot.secret;
}

OpenFile* OpenFiles::find_by_secret(uint64_t handle, uint64_t secret) {
  OpenFile* file = find(handle);
  if (file == nullptr || secret == 0 || slots_[handle & UINT32_MAX].secret != secret) {
    return nullptr;
  }
  return file;
}

void OpenFiles::close_all() {
  for (size_t index = 0; index < slots_.size(); ++index) {
    if (slots_[index].file) close((uint64_t{slots_[index].use} << 32) | index);
  }
}

InodeRef OpenFiles::close(uint64_t handle) {
  if (find(handle) == nullptr) return {};
  const auto index = static_cast<uint32_t>(handle);
  InodeRef inode = std::move(slots_[index].file->inode);
  if ((slots_[index].file->flags & O_ACCMODE) == O_RDWR && --read_write_[inode->ino] == 0) {
    read_write_.erase(inode->ino);
  }
  slots_[index].file.reset();
  free_.push_back(index);
  --count_;
  --inode->open_count;
  return inode;
}

}  // namespace fusefs
