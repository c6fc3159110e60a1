// The other file of an ioctl that takes two: by token, or by the caller's descriptor. And what both
// files need before blocks are shared behind the kernel's back.
#pragma once

#include "fusefs/fusefs_ioctl.h"
#include "fusefs/operation.h"

namespace fusefs {

// The source that a token names; null for one that is not valid. The token may become so while
// the operation runs, and the operation needs the inode to its end.
void find_source(FuseOperation& op, const fusefs_source_token& token, InodeRef& source);

struct DescriptorStash {
  bool looked = false;
  Result<InodeNo> ino = Error::not_supported;
};
// The source that a descriptor of the caller names (caller_files.h).
//   Restarts  outside
//   Errors    bad_descriptor (not open for reading), cross_device (not of this mount),
//             not_supported (the caller's descriptors cannot be seen)
Attempt<void> find_source(FuseOperation& op, int64_t descriptor, DescriptorStash& stash,
                          InodeRef& source);

// Has the kernel send what was stored into [pos, pos + len) through mmap, or written if it keeps
// that as well; len 0: to the end.
Attempt<void> fetch_mapped(FuseOperation& op, const Inode& inode, uint64_t pos, uint64_t len,
                           Notifier::Stash& stash);

}  // namespace fusefs
