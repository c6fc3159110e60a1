#include <linux/fs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "fusefs/fusefs_ioctl.h"
#include "fusefs/ioctl_answer.h"
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
  // First: what has changed stays changed, also if it cannot be made durable.
  ATTEMPT_OK(op.server().notifier().invalidate_attr(op.node(), stash.notify));
  return op.server().settle(stash.names.seq, *stash.inode);
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
  if (piece.snapshot == 0) {
    ATTEMPT(std::string text, stats_text(op.server(), own.stats));
    piece.snapshot = op.server().snapshots().add(std::move(text));
  }
  return answer_piece(op, stash, piece);
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
    default:
      if (!serve_remap_ioctl(command) && !serve_window_ioctl(command)) serve_unknown();
  }
}

}  // namespace

Attempt<void> answer_piece(FuseOperation& op, IoctlStash& stash, fusefs_stats_piece& piece,
                           uint32_t uid) {
  const std::string* text = op.server().snapshots().find(piece.snapshot, uid);
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

void add_ioctl_ops(fuse_lowlevel_ops& ops) { ops.ioctl = ioctl; }

}  // namespace fusefs
