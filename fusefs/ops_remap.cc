// The ioctls that find blocks to share in what files hold, and give files their own again. Clones:
// ops_clone.cc.
//
// The kernel knows nothing of them: what it has of mapped pages must come to us before.
#include <cerrno>
#include <optional>

#include "core/file/dedupe.h"
#include "core/file/unshare.h"
#include "fusefs/ioctl_answer.h"
#include "fusefs/range_refresh.h"
#include "fusefs/remap_source.h"

namespace fusefs {
namespace {

static_assert(FUSEFS_DEDUPE_PIECE_BYTES == kDedupePieceBytes);

// ---- Dedupe ----

struct DedupeOpStash {
  InodeRef source;  // before what holds their locks
  InodeRef target;
  enum class Phase : uint8_t { flush_source, start, flush_target, dedupe, refresh };
  Phase phase = Phase::flush_source;
  uint64_t len = 0;
  Notifier::Stash notify_source;
  Notifier::Stash notify_target;
  Notifier::Stash notify_changed;
  uint64_t same_bytes = 0;
  DedupeStash dedupe;
  std::optional<Error> error;  // of that, perhaps after a part
};

// As the kernel for FIDEDUPERANGE: contents do not change, so that their owner may always.
bool may_dedupe(const FuseOperation& op, const OpenFile& target) {
  return op.from_root() || target.writable || op.caller().uid == target.inode->attr.uid;
}

Attempt<void> dedupe(FuseOperation& op, IoctlStash& answer, DedupeOpStash& stash) {
  using Phase = DedupeOpStash::Phase;
  auto range = get_in<fusefs_dedupe_range>(op);
  if (range.version != 1 || range.flags != 0) return Error::invalid_argument;
  Server& server = op.server();
  OpenFile* target = server.open_files().find(op.request().arg<fuse_ioctl_in>().fh);
  if (target == nullptr) return Error::bad_descriptor;
  if (!may_dedupe(op, *target)) return Error::not_permitted;
  find_source(op, range.source, stash.source);
  if (!stash.source) {
    answer.errno_value = ESTALE;
    return {};
  }
  Inode& from = *stash.source;
  stash.target = target->inode;
  Inode& to = *stash.target;
  Notifier& notifier = server.notifier();
  if (stash.phase == Phase::flush_source) {
    ATTEMPT_OK(fetch_mapped(op, from, range.source_pos, range.len, stash.notify_source));
    stash.phase = Phase::start;
  }
  if (stash.phase == Phase::start) {  // the size may have come with the flush
    const uint64_t size = from.attr.size;
    if (range.source_pos > size) return Error::invalid_argument;
    stash.len = range.len != 0 ? range.len : size - range.source_pos;
    stash.phase = Phase::flush_target;
  }
  if (stash.phase == Phase::flush_target) {
    ATTEMPT_OK(fetch_mapped(op, to, range.target_pos, range.len, stash.notify_target));
    stash.phase = Phase::dedupe;
  }
  if (stash.phase == Phase::dedupe) {
    const Attempt<uint64_t> same = dedupe_range(op.volume().files(), from, range.source_pos, to,
                                                range.target_pos, stash.len, stash.dedupe);
    COMMIT_OK(keep_error(same, stash.error));
    if (same.ok()) stash.same_bytes = same.value();
    op.set_bytes(stash.same_bytes);
    stash.phase = Phase::refresh;
  }
  // Where the source has a hole, the target has fewer blocks now. Also behind an error.
  if (stash.dedupe.shared != 0 || stash.error) {
    ATTEMPT_OK(notifier.invalidate_attr(to.ino, stash.notify_changed));
  }
  if (stash.error) return *stash.error;
  range.same_bytes = stash.same_bytes;
  range.shared_bytes = stash.dedupe.shared;
  if (!stash.dedupe.same) range.flags |= FUSEFS_DEDUPE_DIFFERS;
  set_out(op, answer, range);
  return {};
}

// ---- Unshare ----

struct UnshareOpStash {
  InodeRef inode;  // before what holds its lock
  uint64_t copied = 0;
  bool done = false;
  UnshareStash unshare;
  Notifier::Stash notify;
};

Attempt<void> unshare(FuseOperation& op, IoctlStash& answer, UnshareOpStash& stash) {
  auto range = get_in<fusefs_unshare_range>(op);
  if (range.version != 1 || (range.flags & ~FUSEFS_UNSHARE_KEEP_HOLES) != 0) {
    return Error::invalid_argument;
  }
  OpenFile* file = op.server().open_files().find(op.request().arg<fuse_ioctl_in>().fh);
  if (file == nullptr || !file->writable) return Error::bad_descriptor;
  stash.inode = file->inode;
  if (!stash.done) {
    const bool keep_holes = (range.flags & FUSEFS_UNSHARE_KEEP_HOLES) != 0;
    COMMIT(stash.copied, unshare_range(op.volume().files(), *file->inode, range.pos, range.len,
                                       keep_holes, stash.unshare));
    op.set_bytes(stash.copied);
    stash.done = true;
  }
  // Holes that were filled show in st_blocks.
  ATTEMPT_OK(op.server().notifier().invalidate_attr(file->inode->ino, stash.notify));
  range.copied_bytes = stash.copied;
  set_out(op, answer, range);
  return {};
}

}  // namespace

bool serve_remap_ioctl(unsigned command) {
  switch (command) {
    case FUSEFS_IOC_DEDUPE_RANGE:
      serve_ioctl<DedupeOpStash>(dedupe);
      return true;
    case FUSEFS_IOC_UNSHARE_RANGE:
      serve_ioctl<UnshareOpStash>(unshare);
      return true;
    default:
      return serve_clone_ioctl(command);
  }
}

}  // namespace fusefs
