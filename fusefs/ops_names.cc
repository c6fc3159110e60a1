#include <sys/stat.h>

#include <string>

#include "fusefs/ops.h"

namespace fusefs {
namespace {

// ---- What makes an entry ----

struct EntryStash {
  NamespaceStash names;
  InodeRef inode;  // once it has been committed
  NodeView node;
};

// The entry is there: durable if it must be, then promised.
Attempt<void> finish_entry(FuseOperation& op, std::string_view name, EntryStash& stash) {
  ATTEMPT_OK(settle_name(op, stash.names.seq, op.node(), name));
  stash.node = NodeView(*stash.inode);
  op.promise_lookup(stash.inode->ino);
  return {};
}

void answer_entry(Reply& reply, EntryStash& stash) { reply.object(wire_entry(stash.node)); }

void serve_create(fuse_req_t req, std::string_view name, CreateRequest create) {
  const uint32_t umask = fuse_req_ctx(req)->umask;
  serve<EntryStash>(
      req,
      [name, umask, create = std::move(create)](FuseOperation& op,
                                                EntryStash& stash) -> Attempt<void> {
        if (!stash.inode) {
          COMMIT(stash.inode, op.volume().names().create(op.node(), name, create, op.caller(umask),
                                                         stash.names));
        }
        return finish_entry(op, name, stash);
      },
      answer_entry);
}

void mknod(fuse_req_t req, fuse_ino_t, const char* name, mode_t mode, dev_t device) {
  CreateRequest create;
  create.mode = mode;
  if (S_ISCHR(mode) || S_ISBLK(mode)) create.device = core_device(static_cast<uint32_t>(device));
  serve_create(req, name, std::move(create));
}

void mkdir(fuse_req_t req, fuse_ino_t, const char* name, mode_t mode) {
  CreateRequest create;
  create.mode = S_IFDIR | (mode & 07777);
  serve_create(req, name, std::move(create));
}

void symlink(fuse_req_t req, const char* target, fuse_ino_t, const char* name) {
  CreateRequest create;
  create.mode = S_IFLNK | 0777;
  create.symlink_target = target;
  serve_create(req, name, std::move(create));
}

void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t, const char* name) {
  serve<EntryStash>(
      req,
      [ino = InodeNo(ino), name = std::string_view(name)](FuseOperation& op,
                                                          EntryStash& stash) -> Attempt<void> {
        if (!stash.inode) {
          COMMIT(stash.inode, op.volume().names().link(ino, op.node(), name, stash.names));
        }
        return finish_entry(op, name, stash);
      },
      answer_entry);
}

// ---- What takes one away, or moves it ----

struct RemoveStash {
  NamespaceStash names;
  bool done = false;
};

using Remove = Attempt<InodeRef> (Namespace::*)(InodeNo, std::string_view, NamespaceStash&);

void serve_remove(fuse_req_t req, std::string_view name, Remove remove) {
  serve<RemoveStash>(
      req,
      [name, remove](FuseOperation& op, RemoveStash& stash) -> Attempt<void> {
        if (!stash.done) {
          COMMIT(const InodeRef removed,
                 (op.volume().names().*remove)(op.node(), name, stash.names));
          stash.done = true;
          op.server().note_unlinked(*removed);
        }
        return settle_name(op, stash.names.seq, op.node(), name);
      },
      [](Reply& reply, RemoveStash&) { reply.empty(); });
}

void unlink(fuse_req_t req, fuse_ino_t, const char* name) {
  serve_remove(req, name, &Namespace::unlink);
}

void rmdir(fuse_req_t req, fuse_ino_t, const char* name) {
  serve_remove(req, name, &Namespace::rmdir);
}

constexpr unsigned kRenameNoReplace = 1;
constexpr unsigned kRenameExchange = 2;
constexpr unsigned kRenameWhiteout = 4;

// The kernel has already looked whether the target of a NOREPLACE exists, so that beside WHITEOUT
// it says nothing new.
std::optional<RenameMode> rename_mode(unsigned flags) {
  switch (flags) {
    case 0:
      return RenameMode::replace;
    case kRenameNoReplace:
      return RenameMode::no_replace;
    case kRenameExchange:
      return RenameMode::exchange;
    case kRenameWhiteout:
    case kRenameWhiteout | kRenameNoReplace:
      return RenameMode::whiteout;
    default:
      return std::nullopt;
  }
}

void rename(fuse_req_t req, fuse_ino_t, const char* name, fuse_ino_t to, const char* to_name,
            unsigned flags) {
  struct Names {
    std::string_view from;
    InodeNo to_directory;
    std::string_view to;
  };
  serve<RemoveStash>(
      req,
      [names = Names{name, InodeNo(to), to_name}, mode = rename_mode(flags)](
          FuseOperation& op, RemoveStash& stash) -> Attempt<void> {
        if (!mode) return Error::invalid_argument;
        if (!stash.done) {
          COMMIT(const InodeRef replaced,
                 op.volume().names().rename(op.node(), names.from, names.to_directory, names.to,
                                            *mode, op.caller(), stash.names));
          stash.done = true;
          if (replaced && *mode != RenameMode::exchange) op.server().note_unlinked(*replaced);
        }
        const JournalSeq seq = stash.names.seq;
        const Attempt<void> from = settle_name(op, seq, op.node(), names.from);
        if (from.must_restart()) return from;
        ATTEMPT_OK(settle_name(op, seq, names.to_directory, names.to));
        return from;
      },
      [](Reply& reply, RemoveStash&) { reply.empty(); });
}

}  // namespace

Attempt<void> settle_name(FuseOperation& op, JournalSeq seq, InodeNo directory,
                          std::string_view name) {
  const Attempt<void> settled = op.server().settle_names(seq, directory);
  if (!settled.failed()) return settled;
  COMMIT_OK(op.server().notifier().forget_name(directory, std::string(name)));
  return settled;
}

void add_name_ops(fuse_lowlevel_ops& ops) {
  ops.mknod = mknod;
  ops.mkdir = mkdir;
  ops.symlink = symlink;
  ops.link = link;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.rename = rename;
}

}  // namespace fusefs
