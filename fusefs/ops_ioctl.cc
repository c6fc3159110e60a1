#include <linux/fs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "fusefs/fusefs_ioctl.h"
#include "fusefs/ops.h"
#include "fusefs/stats_text.h"

namespace fusefs {
namespace {

// FS_IOC_FSGETXATTR is in newer headers of the system than we ask for.
struct FsXattr {
  uint32_t xflags;
  uint32_t extent_bytes;
  uint32_t extent_count;
  uint32_t project;
  uint32_t cow_extent_bytes;
  unsigned char pad[8];
};
static_assert(sizeof(FsXattr) == sizeof(fsxattr));

// ---- Answers ----

// What an ioctl copies out, up to the room the kernel has made from the command's size.
struct IoctlStash {
  int errno_value = 0;  // not one of the core's: ENOTTY, ESTALE
  std::vector<std::byte> out;
};

void answer_ioctl(Reply& reply, IoctlStash& stash) {
  if (stash.errno_value != 0) return reply.error(stash.errno_value);
  const fuse_ioctl_out head{};
  reply.data(bytes_of(head), stash.out);
}

template <class T>
void set_out(FuseOperation& op, IoctlStash& stash, const T& object) {
  const size_t room = op.request().arg<fuse_ioctl_in>().out_size;
  const ConstBytes bytes = bytes_of(object).first(std::min(sizeof(T), room));
  stash.out.assign(bytes.begin(), bytes.end());
}

// What the caller handed in, zeroes behind it.
template <class T>
T get_in(FuseOperation& op) {
  T object{};
  const auto& in = op.request().arg<fuse_ioctl_in>();
  const ConstBytes bytes = op.request().after(sizeof(in)).first(in.in_size);
  std::memcpy(&object, bytes.data(), std::min(sizeof(T), bytes.size()));
  return object;
}

// An ioctl that needs no more than the inode and an answer.
template <class Stash, class Fn>
void serve_ioctl(Fn fn) {
  struct All : IoctlStash {
    Stash own;
  };
  serve<All>([fn](FuseOperation& op, All& stash) { return fn(op, stash, stash.own); },
             [](Reply& reply, All& stash) { answer_ioctl(reply, stash); });
}

// ---- Inode flags ----

struct FlagRow {
  uint32_t inode;   // kInode...
  uint32_t fs;      // FS_..._FL
  uint32_t xflags;  // FS_XFLAG_...
};
constexpr std::array<FlagRow, 6> kFlagRows = {{
    {kInodeImmutable, FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE},
    {kInodeAppendOnly, FS_APPEND_FL, FS_XFLAG_APPEND},
    {kInodeNoAtime, FS_NOATIME_FL, FS_XFLAG_NOATIME},
    {kInodeNoDump, FS_NODUMP_FL, FS_XFLAG_NODUMP},
    {kInodeSync, FS_SYNC_FL, FS_XFLAG_SYNC},
    {kInodeDirSync, FS_DIRSYNC_FL, 0},
}};

uint32_t wire_flags(uint32_t inode_flags, uint32_t FlagRow::*column) {
  uint32_t flags = 0;
  for (const FlagRow& row : kFlagRows) {
    if ((inode_flags & row.inode) != 0) flags |= row.*column;
  }
  return flags;
}

// Null when there are flags that we do not keep.
std::optional<uint32_t> inode_flags(uint32_t flags, uint32_t FlagRow::*column) {
  uint32_t kept = 0;
  for (const FlagRow& row : kFlagRows) {
    if ((flags & row.*column) == 0) continue;
    kept |= row.inode;
    flags &= ~(row.*column);
  }
  if (flags != 0) return std::nullopt;
  return kept;
}

struct PinsStash {
  NodePins pins;
};

void serve_get_flags() {
  serve_ioctl<PinsStash>([](FuseOperation& op, IoctlStash& stash, PinsStash& own) -> Attempt<void> {
    ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), own.pins));
    set_out(op, stash, wire_flags(inode->attr.flags, &FlagRow::fs));
    return {};
  });
}

void serve_get_xflags() {
  serve_ioctl<PinsStash>([](FuseOperation& op, IoctlStash& stash, PinsStash& own) -> Attempt<void> {
    ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), own.pins));
    FsXattr out{};
    out.xflags = wire_flags(inode->attr.flags, &FlagRow::xflags);
    set_out(op, stash, out);
    return {};
  });
}

void serve_get_version() {
  serve_ioctl<PinsStash>([](FuseOperation& op, IoctlStash& stash, PinsStash& own) -> Attempt<void> {
    ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), own.pins));
    set_out(op, stash, inode->attr.generation);
    return {};
  });
}

struct SetFlagsStash {
  NamespaceStash names;
  InodeRef inode;  // once the change has been committed
  Notifier::Stash notify;
};

// The kernel has checked owner and capabilities; it does not look at the times again by itself.
Attempt<void> set_inode_flags(FuseOperation& op, std::optional<uint32_t> flags,
                              SetFlagsStash& stash) {
  if (!flags) return Error::not_supported;
  if (!stash.inode) {
    COMMIT(stash.inode, op.volume().names().set_flags(op.node(), *flags, stash.names));
  }
  ATTEMPT_OK(op.server().settle(stash.names.seq, *stash.inode));
  return op.server().notifier().invalidate_attr(op.node(), stash.notify);
}

void serve_set_flags() {
  serve_ioctl<SetFlagsStash>([](FuseOperation& op, IoctlStash&, SetFlagsStash& own) {
    return set_inode_flags(op, inode_flags(get_in<uint32_t>(op), &FlagRow::fs), own);
  });
}

void serve_set_xflags() {
  serve_ioctl<SetFlagsStash>(
      [](FuseOperation& op, IoctlStash&, SetFlagsStash& own) -> Attempt<void> {
        const auto in = get_in<FsXattr>(op);
        if (in.extent_bytes != 0 || in.project != 0 || in.cow_extent_bytes != 0) {
          return Error::not_supported;
        }
        return set_inode_flags(op, inode_flags(in.xflags, &FlagRow::xflags), own);
      });
}

// ---- The volume ----

using Label = std::array<char, FSLABEL_MAX>;

Label label_of(const Superblock& superblock) {
  Label label{};
  static_assert(kLabelBytesMax < FSLABEL_MAX);
  std::memcpy(label.data(), superblock.label, kLabelBytesMax);
  return label;
}

void serve_get_label() {
  serve_ioctl<PinsStash>([](FuseOperation& op, IoctlStash& stash, PinsStash&) -> Attempt<void> {
    set_out(op, stash, label_of(op.volume().store().superblock()));
    return {};
  });
}

void serve_set_label() {
  struct Stash {
    bool set = false;
    CheckpointNo checkpoint;
  };
  serve_ioctl<Stash>([](FuseOperation& op, IoctlStash&, Stash& own) -> Attempt<void> {
    if (!op.from_root()) return Error::not_permitted;
    if (!op.volume().writable()) return Error::read_only_volume;
    const auto label = get_in<Label>(op);
    const auto end = std::find(label.begin(), label.end(), '\0');
    const auto len = static_cast<size_t>(end - label.begin());
    if (len > kLabelBytesMax) return Error::invalid_argument;
    if (!own.set) op.volume().store().set_label({label.data(), len});
    own.set = true;
    return op.volume().store().checkpoint(own.checkpoint);
  });
}

void serve_trim() {
  serve_ioctl<Volume::TrimStash>(
      [](FuseOperation& op, IoctlStash& stash, Volume::TrimStash& own) -> Attempt<void> {
        if (!op.from_root()) return Error::not_permitted;
        auto range = get_in<fstrim_range>(op);
        COMMIT(range.len, op.volume().trim(range.start, range.len, range.minlen, own));
        set_out(op, stash, range);
        return {};
      });
}

void serve_info() {
  serve_ioctl<PinsStash>([](FuseOperation& op, IoctlStash& stash, PinsStash&) -> Attempt<void> {
    Server& server = op.server();
    const Superblock& superblock = op.volume().store().superblock();
    fusefs_info info{};
    info.version = 1;
    if (!op.volume().writable()) info.flags |= FUSEFS_INFO_READ_ONLY;
    if (op.volume().health().failed()) info.flags |= FUSEFS_INFO_FAILED;
    if (server.kernel().fuseblk) info.flags |= FUSEFS_INFO_FUSEBLK;
    std::memcpy(info.uuid, superblock.uuid, sizeof(info.uuid));
    info.daemon_pid = getpid();
    info.block_bytes = kBlockBytes;
    info.volume_blocks = superblock.block_count;
    info.mounted_sec = server.facts().mounted_at.sec;
    info.mounted_nsec = server.facts().mounted_at.nsec;
    std::memcpy(info.label, superblock.label, kLabelBytesMax);
    std::strncpy(info.tool_version, FUSEFS_VERSION, sizeof(info.tool_version) - 1);
    server.facts().source.copy(info.source, sizeof(info.source) - 1);
    set_out(op, stash, info);
    return {};
  });
}

// ---- Statistics ----

struct StatsOpStash {
  StatsStash stats;
};

Attempt<void> stats_piece(FuseOperation& op, IoctlStash& stash, StatsOpStash& own) {
  auto piece = get_in<fusefs_stats_piece>(op);
  Snapshots& snapshots = op.server().snapshots();
  if (piece.snapshot == 0) {
    ATTEMPT(std::string text, stats_text(op.server(), own.stats));
    piece.snapshot = snapshots.add(std::move(text));
  }
  const std::string* text = snapshots.find(piece.snapshot);
  if (text == nullptr) {
    stash.errno_value = ESTALE;
    return {};
  }
  if (piece.offset > text->size()) return Error::invalid_argument;
  piece.total = text->size();
  piece.len = static_cast<uint32_t>(text->copy(piece.data, sizeof(piece.data), piece.offset));
  set_out(op, stash, piece);
  return {};
}

// ---- Clones ----

void serve_source_token() {
  serve_ioctl<PinsStash>([](FuseOperation& op, IoctlStash& stash, PinsStash&) -> Attempt<void> {
    const uint64_t handle = op.request().arg<fuse_ioctl_in>().fh;
    const OpenFile* file = op.server().open_files().find(handle);
    if (file == nullptr || (file->flags & O_ACCMODE) == O_WRONLY) return Error::bad_descriptor;
    set_out(op, stash, fusefs_source_token{handle, op.server().open_files().secret(handle)});
    return {};
  });
}

struct CloneStash {
  enum class Phase : uint8_t { flush_source, flush_target, privileges, copy, settle, refresh };
  Phase phase = Phase::flush_source;
  Notifier::Stash notify_source;
  Notifier::Stash notify_target;
  Notifier::Stash notify_changed;
  NamespaceStash names;
  CopyStash copy;
};

Result<uint64_t> clone_len(const fusefs_clone_range& range, uint64_t source_size) {
  if (range.reserved != 0 || range.source_pos > source_size) return Error::invalid_argument;
  const uint64_t rest = source_size - range.source_pos;
  const uint64_t len = range.len != 0 ? range.len : rest;
  if (len > rest) return Error::invalid_argument;
  const bool aligned = range.source_pos % kBlockBytes == 0 && range.target_pos % kBlockBytes == 0 &&
                       (len % kBlockBytes == 0 || len == rest);
  if (!aligned) return Error::invalid_argument;
  return len;
}

// The kernel knows nothing of this: what it has of mapped pages must come to us before, and what
// it keeps of the target must go afterwards.
Attempt<void> clone(FuseOperation& op, IoctlStash& answer, CloneStash& stash) {
  using Phase = CloneStash::Phase;
  const auto range = get_in<fusefs_clone_range>(op);
  Server& server = op.server();
  OpenFile* target = server.open_files().find(op.request().arg<fuse_ioctl_in>().fh);
  if (target == nullptr || !target->writable) return Error::bad_descriptor;
  OpenFile* source = server.open_files().find_by_secret(range.source.handle, range.source.secret);
  if (source == nullptr) {
    answer.errno_value = ESTALE;
    return {};
  }
  Inode& from = *source->inode;
  Inode& to = *target->inode;
  Notifier& notifier = server.notifier();
  const Result<uint64_t> len = clone_len(range, from.attr.size);
  if (!len.ok()) return len.error();

  if (stash.phase == Phase::flush_source) {
    ATTEMPT_OK(notifier.invalidate(from.ino, range.source_pos, range.len, stash.notify_source));
    stash.phase = Phase::flush_target;
  }
  if (stash.phase == Phase::flush_target) {
    ATTEMPT_OK(notifier.invalidate(to.ino, range.target_pos, range.len, stash.notify_target));
    stash.phase = Phase::privileges;
  }
  if (stash.phase == Phase::privileges) {
    COMMIT_OK(op.volume().names().kill_privileges(to.ino, !op.from_root(), stash.names));
    stash.phase = Phase::copy;
  }
  if (stash.phase == Phase::copy) {
    COMMIT(const uint64_t copied, copy_range(op.volume().files(), from, range.source_pos, to,
                                             range.target_pos, len.value(), stash.copy));
    op.set_bytes(copied);
    stash.phase = Phase::settle;
  }
  if (stash.phase == Phase::settle) {
    ATTEMPT_OK(server.settle(to.changed_seq, to));
    stash.phase = Phase::refresh;
  }
  return notifier.invalidate(to.ino, range.target_pos, range.len, stash.notify_changed);
}

// ---- Dispatch ----

void serve_unknown() {
  serve_ioctl<PinsStash>([](FuseOperation&, IoctlStash& stash, PinsStash&) -> Attempt<void> {
    stash.errno_value = ENOTTY;
    return {};
  });
}

void ioctl(fuse_req_t req, fuse_ino_t, unsigned command, void*, fuse_file_info*, unsigned,
           const void*, size_t, size_t) {
  fuse_reply_none(req);
  switch (command) {
    case FS_IOC_GETFLAGS:
      return serve_get_flags();
    case FS_IOC_SETFLAGS:
      return serve_set_flags();
    case FS_IOC_FSGETXATTR:
      return serve_get_xflags();
    case FS_IOC_FSSETXATTR:
      return serve_set_xflags();
    case FS_IOC_GETVERSION:
      return serve_get_version();
    case FS_IOC_GETFSLABEL:
      return serve_get_label();
    case FS_IOC_SETFSLABEL:
      return serve_set_label();
    case FITRIM:
      return serve_trim();
    case FUSEFS_IOC_INFO:
      return serve_info();
    case FUSEFS_IOC_STATS:
      return serve_ioctl<StatsOpStash>(stats_piece);
    case FUSEFS_IOC_SOURCE_TOKEN:
      return serve_source_token();
    case FUSEFS_IOC_CLONE_RANGE:
      return serve_ioctl<CloneStash>(clone);
    default:
      return serve_unknown();
  }
}

}  // namespace

void add_ioctl_ops(fuse_lowlevel_ops& ops) { ops.ioctl = ioctl; }

}  // namespace fusefs
