// The ioctls that clone.
//
// The kernel knows nothing of them: what has been stored into the source through mappings must come
// to us before; what it keeps of the target must go afterwards, also after an error
// (range_refresh.h), and what it writes of it in between is looked at twice (replaced_ranges.h).
#include <fcntl.h>

#include <cerrno>
#include <optional>

#include "core/file/copy_range.h"
#include "fusefs/ioctl_answer.h"
#include "fusefs/range_refresh.h"
#include "fusefs/remap_source.h"

namespace fusefs {
namespace {

static_assert(FUSEFS_REMAP_ATOMIC_BYTES == kRemapAtomicBytes);

struct TokenStash {};

void serve_source_token() {
  serve_ioctl<TokenStash>([](FuseOperation& op, IoctlStash& stash, TokenStash&) -> Attempt<void> {
    const uint64_t handle = op.request().arg<fuse_ioctl_in>().fh;
    const OpenFile* file = op.server().open_files().find(handle);
    if (file == nullptr || (file->flags & O_ACCMODE) == O_WRONLY) return Error::bad_descriptor;
    set_out(op, stash, fusefs_source_token{handle, op.server().open_files().secret(handle)});
    return {};
  });
}

struct CloneStash {
  InodeRef source;  // before what holds their locks
  InodeRef target;
  DescriptorStash descriptor;
  enum class Phase : uint8_t { flush_source, flush_target, privileges, copy, refresh, settle };
  Phase phase = Phase::flush_source;
  uint64_t len = 0;
  std::optional<Error> error;  // of the copy, perhaps after a part of it
  Notifier::Stash notify_source;
  Notifier::Stash notify_target;
  RangeRefresh refresh;
  NamespaceStash names;
  std::optional<CopyStash> copy;
  FsyncStash fsync;
  ReplacedRanges::Stash replaced;
};

struct CloneRange {
  uint64_t source_pos;
  uint64_t len;  // 0: to the source's end
  uint64_t target_pos;
};

Result<uint64_t> clone_len(const CloneRange& range, uint64_t source_size) {
  if (range.source_pos > source_size) return Error::invalid_argument;
  const uint64_t rest = source_size - range.source_pos;
  const uint64_t len = range.len != 0 ? range.len : rest;
  if (len > rest) return Error::invalid_argument;
  const bool aligned = range.source_pos % kBlockBytes == 0 && range.target_pos % kBlockBytes == 0 &&
                       (len % kBlockBytes == 0 || len == rest);
  if (!aligned) return Error::invalid_argument;
  return len;
}

// Null if it may not be cloned into.
OpenFile* find_target(FuseOperation& op) {
  OpenFile* target = op.server().open_files().find(op.request().arg<fuse_ioctl_in>().fh);
  const bool may = target != nullptr && target->writable && (target->flags & O_APPEND) == 0;
  return may ? target : nullptr;
}

// Keeps its error.
Attempt<void> copy(FuseOperation& op, const CloneRange& range, CloneStash& stash) {
  Inode& from = *stash.source;
  Inode& to = *stash.target;
  ReplacedRanges& replaced = op.server().replaced_ranges();
  if (!stash.replaced.begun()) replaced.begin(to.ino, range.target_pos, stash.replaced);
  if (!stash.copy) stash.copy.emplace();
  const Attempt<uint64_t> copied = copy_range(op.volume().files(), from, range.source_pos, to,
                                              range.target_pos, stash.len, *stash.copy);
  replaced.set_replaced(stash.replaced, copied_bytes(*stash.copy, range.source_pos));
  if (copied.must_restart()) return copied.restart();
  if (copied.failed()) {
    stash.error = copied.error();
  } else {
    op.set_bytes(copied.value());
    // There is no place in the answer for less: the source became shorter, or an error came.
    if (copied.value() < stash.len) {
      stash.error = stash.copy->error.value_or(Error::invalid_argument);
    }
  }
  stash.copy.reset();  // with all it holds
  return {};
}

// With both files found.
Attempt<void> clone(FuseOperation& op, const CloneRange& range, CloneStash& stash) {
  using Phase = CloneStash::Phase;
  Server& server = op.server();
  Inode& from = *stash.source;
  Inode& to = *stash.target;
  if (stash.phase == Phase::flush_source) {
    ATTEMPT_OK(fetch_mapped(op, from, range.source_pos, range.len, stash.notify_source));
    TRY(stash.len, clone_len(range, from.attr.size));
    stash.phase = Phase::flush_target;
  }
  if (stash.phase == Phase::flush_target) {
    // Only what the kernel keeps of writes: stores are replaced, or no business of ours.
    if (server.kernel().writeback_cache) {
      ATTEMPT_OK(fetch_mapped(op, to, range.target_pos, range.len, stash.notify_target));
    }
    stash.phase = Phase::privileges;
  }
  if (stash.phase == Phase::privileges) {
    COMMIT_OK(op.volume().names().kill_privileges(to.ino, !op.from_root(), stash.names));
    stash.phase = Phase::copy;
  }
  if (stash.phase == Phase::copy) {
    COMMIT_OK(copy(op, range, stash));
    stash.phase = Phase::refresh;
  }
  if (stash.phase == Phase::refresh) {
    ATTEMPT_OK(stash.refresh.run(server, to.ino, range.target_pos, range.len));
    stash.replaced.end();
    stash.phase = Phase::settle;
  }
  if (stash.error) return *stash.error;
  if (OpenFile* target = find_target(op)) return server.settle_contents(*target, stash.fsync);
  return {};
}

Attempt<void> clone_by_token(FuseOperation& op, IoctlStash& answer, CloneStash& stash) {
  const auto range = get_in<fusefs_clone_range>(op);
  const OpenFile* target = find_target(op);
  if (target == nullptr) return Error::bad_descriptor;
  if (range.reserved != 0) return Error::invalid_argument;
  find_source(op, range.source, stash.source);
  if (!stash.source) {
    answer.errno_value = ESTALE;
    return {};
  }
  stash.target = target->inode;
  return clone(op, {range.source_pos, range.len, range.target_pos}, stash);
}

Attempt<void> clone_by_descriptor(FuseOperation& op, IoctlStash&, CloneStash& stash) {
  const auto range = get_in<fusefs_clone_from>(op);
  const OpenFile* target = find_target(op);
  if (target == nullptr) return Error::bad_descriptor;
  ATTEMPT_OK(find_source(op, range.source_fd, stash.descriptor, stash.source));
  stash.target = target->inode;
  return clone(op, {range.source_pos, range.len, range.target_pos}, stash);
}

}  // namespace

bool serve_clone_ioctl(unsigned command) {
  switch (command) {
    case FUSEFS_IOC_SOURCE_TOKEN:
      serve_source_token();
      return true;
    case FUSEFS_IOC_CLONE_RANGE:
      serve_ioctl<CloneStash>(clone_by_token);
      return true;
    case FUSEFS_IOC_CLONE_FROM:
      serve_ioctl<CloneStash>(clone_by_descriptor);
      return true;
    default:
      return false;
  }
}

}  // namespace fusefs
