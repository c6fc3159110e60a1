#include <fcntl.h>

#include <optional>
#include <string>

#include "fusefs/ops.h"
#include "fusefs/range_refresh.h"

namespace fusefs {
namespace {

// A name's inode. "." and ".." come from name_to_handle_at(2) users such as NFS, which know a
// number and want the inode or its parent.
Attempt<InodeRef> find_name(FuseOperation& op, std::string_view name, NamespaceStash& stash) {
  InodeTable& inodes = op.volume().inodes();
  if (name == ".") return inodes.get(op.node(), stash.pins);
  if (name == "..") {
    ATTEMPT(const InodeRef directory, inodes.get(op.node(), stash.pins));
    return inodes.get(directory->attr.parent, stash.pins);
  }
  return op.volume().names().lookup(op.node(), name, stash);
}

void lookup(fuse_req_t req, fuse_ino_t, const char* name) {
  struct Stash {
    NamespaceStash names;
    NodeView node;
    bool found = false;
    std::optional<fuse_entry_out> window;  // a control file
  };
  serve<Stash>(
      req,
      [name = std::string_view(name)](FuseOperation& op, Stash& stash) -> Attempt<void> {
        if (op.node() == InodeNo(wire::kRootNode)) {
          if (const auto holder = op.server().windows().find_name(name)) {
            // Hashed, the name would outlive the file's last user, and the window with it.
            COMMIT_OK(op.server().notifier().forget_name(op.node(), std::string(name)));
            stash.window = wire_window_entry(*holder);
            op.promise_lookup(InodeNo(holder->node()));
            return {};
          }
        }
        Attempt<InodeRef> found = find_name(op, name, stash.names);
        if (found.failed() && found.error() == Error::not_found) return {};
        ATTEMPT(const InodeRef inode, std::move(found));
        stash.node = NodeView(*inode);
        stash.found = true;
        op.promise_lookup(inode->ino);
        return {};
      },
      [](Reply& reply, Stash& stash) {
        if (stash.window) return reply.object(*stash.window);
        reply.object(stash.found ? wire_entry(stash.node) : wire_no_entry());
      });
}

void forget(fuse_req_t req, fuse_ino_t, uint64_t count) {
  struct Stash {};
  serve<Stash>(
      req,
      [count](FuseOperation& op, Stash&) -> Attempt<void> {
        op.server().forget(op.node(), count);
        return {};
      },
      [](Reply&, Stash&) {});
}

void forget_multi(fuse_req_t req, size_t count, fuse_forget_data*) {
  struct Stash {};
  serve<Stash>(
      req,
      [count](FuseOperation& op, Stash&) -> Attempt<void> {
        const ConstBytes list = op.request().after(sizeof(fuse_batch_forget_in));
        const auto* forgets = reinterpret_cast<const fuse_forget_one*>(list.data());
        for (size_t i = 0; i < count; ++i) {
          op.server().forget(InodeNo(forgets[i].nodeid), forgets[i].nlookup);
        }
        return {};
      },
      [](Reply&, Stash&) {});
}

struct AttrStash {
  NodePins pins;
  NodeView node;
};

Attempt<void> view_node(FuseOperation& op, AttrStash& stash) {
  ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), stash.pins));
  stash.node = NodeView(*inode);
  return {};
}

void getattr(fuse_req_t req, fuse_ino_t, fuse_file_info*) {
  serve<AttrStash>(req, view_node,
                   [](Reply& reply, AttrStash& stash) { reply.object(wire_attr_out(stash.node)); });
}

// ---- setattr ----

struct SetattrStash {
  enum class Phase : uint8_t { size, attributes, settle, done };
  Phase phase = Phase::size;
  std::optional<ShapeStash> shape;
  NamespaceStash names;
  std::optional<Error> error;
  Notifier::Stash notify;
  NodeView node;
};

Timestamp wire_time(uint64_t sec, uint32_t nsec) { return {static_cast<int64_t>(sec), nsec}; }

// Which attributes but the size change.
AttrChange change_of(const fuse_setattr_in& in, Timestamp now, bool is_directory) {
  AttrChange change;
  if ((in.valid & FATTR_MODE) != 0) change.permissions = in.mode & 07777;
  if ((in.valid & FATTR_UID) != 0) change.uid = in.uid;
  if ((in.valid & FATTR_GID) != 0) change.gid = in.gid;
  if ((in.valid & FATTR_ATIME) != 0) {
    change.atime = (in.valid & FATTR_ATIME_NOW) != 0 ? now : wire_time(in.atime, in.atimensec);
  }
  if ((in.valid & FATTR_MTIME) != 0) {
    change.mtime = (in.valid & FATTR_MTIME_NOW) != 0 ? now : wire_time(in.mtime, in.mtimensec);
  }
  if ((in.valid & FATTR_CTIME) != 0) change.ctime = wire_time(in.ctime, in.ctimensec);
  // With HANDLE_KILLPRIV_V2 chown(2) clears them here, whoever calls it.
  const bool chown = (in.valid & (FATTR_UID | FATTR_GID)) != 0;
  change.kill_privileges = chown && !is_directory;
  return change;
}

// The kernel that keeps what is written keeps its times too, and brings them later: nobody's call,
// though utimensat(2) of mtime alone looks the same.
bool brings_times(Server& server, const fuse_setattr_in& in) {
  constexpr uint32_t kBrought = FATTR_MTIME | FATTR_CTIME;
  return server.kernel().writeback_cache && (in.valid & ~uint32_t{FATTR_FH}) == kBrought;
}

bool is_empty(const AttrChange& change) {
  return !change.permissions && !change.uid && !change.gid && !change.atime && !change.mtime &&
         !change.ctime;
}

// Linux takes no notice of what has changed when the answer is an error.
Attempt<void> forget_attributes(FuseOperation& op, SetattrStash& stash) {
  const auto& in = op.request().arg<fuse_setattr_in>();
  Notifier& notifier = op.server().notifier();
  if ((in.valid & FATTR_SIZE) != 0) return notifier.invalidate_soon(op.node(), in.size, 0);
  return notifier.invalidate_attr(op.node(), stash.notify);
}

Attempt<void> set_attributes(FuseOperation& op, SetattrStash& stash) {
  using Phase = SetattrStash::Phase;
  const auto& in = op.request().arg<fuse_setattr_in>();
  Volume& volume = op.volume();
  ATTEMPT(const InodeRef inode, volume.inodes().get(op.node(), stash.names.pins));
  if (stash.phase == Phase::size) {
    if ((in.valid & FATTR_SIZE) != 0) {
      const bool kill_suid = (in.valid & FATTR_KILL_SUIDGID) != 0;
      if (!stash.shape) stash.shape.emplace();
      COMMIT_OK(keep_error(set_size(volume.files(), *inode, in.size, kill_suid, *stash.shape),
                           stash.error));
      stash.shape.reset();  // with all it holds
    }
    stash.phase = stash.error ? Phase::done : Phase::attributes;
  }
  if (stash.phase == Phase::attributes) {
    AttrChange change = change_of(in, volume.inodes().now(), inode->attr.is_directory());
    change.times_are_now = change.times_are_now || brings_times(op.server(), in);
    if (!is_empty(change)) {
      COMMIT_OK(keep_error(volume.names().set_attr(op.node(), change, stash.names), stash.error));
    }
    stash.phase = stash.error ? Phase::done : Phase::settle;
  }
  if (stash.phase == Phase::settle) {
    COMMIT_OK(keep_error(op.server().settle(inode->changed_seq, *inode), stash.error));
    stash.phase = Phase::done;
  }
  if (stash.error) {
    COMMIT_OK(forget_attributes(op, stash));
    return *stash.error;
  }
  stash.node = NodeView(*inode);
  return {};
}

void setattr(fuse_req_t req, fuse_ino_t, struct stat*, int, fuse_file_info*) {
  serve<SetattrStash>(req, set_attributes, [](Reply& reply, SetattrStash& stash) {
    reply.object(wire_attr_out(stash.node));
  });
}

void readlink(fuse_req_t req, fuse_ino_t) {
  struct Stash {
    NamespaceStash names;
    std::string target;
  };
  serve<Stash>(
      req,
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        ATTEMPT_INTO(stash.target, op.volume().names().read_symlink(op.node(), stash.names));
        return {};
      },
      [](Reply& reply, Stash& stash) { reply.data(bytes_of(std::string_view(stash.target))); });
}

}  // namespace

void serve_statx() {
  serve<AttrStash>(view_node,
                   [](Reply& reply, AttrStash& stash) { reply.object(wire_statx(stash.node)); });
}

void add_node_ops(fuse_lowlevel_ops& ops) {
  ops.lookup = lookup;
  ops.forget = forget;
  ops.forget_multi = forget_multi;
  ops.getattr = getattr;
  ops.setattr = setattr;
  ops.readlink = readlink;
}

}  // namespace fusefs
