// Requests on control files of windows: names in the root of the mount that nobody sees, which are
// ways to the memory of windows.
//
// Reading, writing and mapping go to the memory without us. What is left is little, and everything
// else is refused: the file has the size and the rights of its window and nothing of an inode.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "fusefs/ioctl_answer.h"
#include "fusefs/ops.h"
#include "fusefs/range_refresh.h"
#include "fusefs/window_end.h"

namespace fusefs {
namespace {

fuse_attr wire_window_attr(const WindowHolder& holder) {
  fuse_attr out{};
  out.ino = holder.node();
  out.size = holder.window->len();
  out.blocks = out.size / 512;
  out.mode = S_IFREG | (holder.writable ? 0600u : 0400u);
  out.nlink = 1;
  out.uid = holder.window->uid;
  out.gid = holder.gid;
  out.blksize = kBlockBytes;
  const auto sec = static_cast<uint64_t>(holder.since.sec);
  out.atime = out.mtime = out.ctime = sec;
  out.atimensec = out.mtimensec = out.ctimensec = holder.since.nsec;
  return out;
}

void serve_attr() {
  struct Stash {
    fuse_attr_out out{};
  };
  serve<Stash>(
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        const auto holder = op.server().windows().find_node(op.node().value());
        if (!holder) return Error::not_found;
        stash.out.attr = wire_window_attr(*holder);
        return {};
      },
      [](Reply& reply, Stash& stash) { reply.object(stash.out); });
}

void serve_window_statx() {
  struct Stash {
    wire::StatxOut out{};
  };
  serve<Stash>(
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        const auto holder = op.server().windows().find_node(op.node().value());
        if (!holder) return Error::not_found;
        const fuse_attr attr = wire_window_attr(*holder);
        wire::Statx& stat = stash.out.stat;
        stat.mask = STATX_BASIC_STATS | STATX_BTIME;
        stat.blksize = attr.blksize;
        stat.nlink = attr.nlink;
        stat.uid = attr.uid;
        stat.gid = attr.gid;
        stat.mode = static_cast<uint16_t>(attr.mode);
        stat.ino = attr.ino;
        stat.size = attr.size;
        stat.blocks = attr.blocks;
        stat.btime = {holder->since.sec, holder->since.nsec, 0};
        stat.atime = stat.mtime = stat.ctime = stat.btime;
        return {};
      },
      [](Reply& reply, Stash& stash) { reply.object(stash.out); });
}

void serve_open() {
  struct Stash {
    fuse_open_out out{};
  };
  serve<Stash>(
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        const auto holder = op.server().windows().find_node(op.node().value());
        if (!holder || holder->phase != WindowHolder::Phase::open) return Error::not_found;
        const auto flags = static_cast<int>(op.request().arg<fuse_open_in>().flags);
        // Root may open what its mode forbids.
        const bool stores = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
        if (stores && (!holder->writable || (flags & O_TRUNC) != 0)) return Error::access_denied;
        stash.out.open_flags = wire::kOpenPassthrough;
        const uint32_t backing = holder->window->memory->backing();
        std::memcpy(&stash.out.padding, &backing, sizeof(backing));
        op.server().windows().note_taken(holder);
        return {};
      },
      [](Reply& reply, Stash& stash) { reply.object(stash.out); });
}

void serve_fsync() {
  struct Stash {
    std::shared_ptr<WindowHolder> holder;  // before what uses its file
    bool synced = false;
    std::optional<Error> error;  // of that
    FsyncStash fsync;
    RefreshStash refresh;
  };
  serve<Stash>(
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        Server& server = op.server();
        if (!stash.holder) stash.holder = server.windows().find_node(op.node().value());
        if (!stash.holder) return Error::bad_descriptor;
        OpenFile& file = stash.holder->file;
        if (!stash.synced) {
          const bool data_only = (op.request().arg<fuse_fsync_in>().fsync_flags & 1) != 0;
          COMMIT_OK(keep_error(fsync(server.volume().files(), file, data_only, stash.fsync),
                               stash.error));
          stash.synced = true;
        }
        ATTEMPT_OK(refresh_windows(server, file.inode->ino, stash.refresh));
        if (stash.error) return *stash.error;
        return {};
      },
      [](Reply& reply, Stash&) { reply.empty(); });
}

void serve_nothing() {
  struct Stash {};
  serve<Stash>([](FuseOperation&, Stash&) -> Attempt<void> { return {}; },
               [](Reply& reply, Stash&) { reply.empty(); });
}

void serve_refusal(int errno_value) {
  struct Stash {};
  serve<Stash>([](FuseOperation&, Stash&) -> Attempt<void> { return {}; },
               [errno_value](Reply& reply, Stash&) { reply.error(errno_value); });
}

}  // namespace

fuse_entry_out wire_window_entry(const WindowHolder& holder) {
  // Valid for no time, so that the kernel asks again.
  fuse_entry_out out{};
  out.nodeid = holder.node();
  out.attr = wire_window_attr(holder);
  return out;
}

bool serve_window_node(const fuse_in_header& header) {
  if (!is_window_node(header.nodeid)) return false;
  switch (header.opcode) {
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_STATFS:
      return false;  // as any other's
    case FUSE_GETATTR:
      serve_attr();
      return true;
    case FUSE_OPEN:
      serve_open();
      return true;
    case FUSE_FSYNC:
      serve_fsync();
      return true;
    case FUSE_RELEASE:
      serve_nothing();
      return true;
    case FUSE_IOCTL: {
      const auto& in = decoded_request().arg<fuse_ioctl_in>();
      if (!serve_window_file_ioctl(in.cmd)) serve_refusal(ENOTTY);
      return true;
    }
    // Never ENOSYS: the kernel would believe it of all files.
    case FUSE_GETXATTR:
      serve_refusal(ENODATA);
      return true;
    case wire::kOpStatx:
      serve_window_statx();
      return true;
    case FUSE_LISTXATTR:
    case FUSE_LSEEK:
      serve_refusal(EOPNOTSUPP);
      return true;
    default:
      serve_refusal(EPERM);
      return true;
  }
}

}  // namespace fusefs
