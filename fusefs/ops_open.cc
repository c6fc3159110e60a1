#include <fcntl.h>
#include <sys/stat.h>

#include <optional>

#include "fusefs/ops.h"
#include "fusefs/range_refresh.h"

namespace fusefs {
namespace {

// The kernel does not know immutable and append-only files, so open(2) is where they are refused.
Result<void> check_open(const InodeAttr& attr, int flags) {
  if ((flags & O_ACCMODE) == O_RDONLY && (flags & O_TRUNC) == 0) return {};
  if ((attr.flags & kInodeImmutable) != 0) return Error::not_permitted;
  const bool appends = (flags & O_APPEND) != 0 && (flags & O_TRUNC) == 0;
  if ((attr.flags & kInodeAppendOnly) != 0 && !appends) return Error::not_permitted;
  return {};
}

// How the kernel treats the open file.
//
//   ordinary    Its page cache serves reads, writes go through to us. The cache is kept from one
//               open to the next: nobody changes the file behind it without telling it.
//   O_DIRECT,   No page cache on the way: a write is one request that carries its sync flag, no
//   O_SYNC      FSYNC follows, and writes of several threads to one file come in parallel. Only if
//               mmap(MAP_SHARED) works on such files; else the kernel's way, with two requests.
uint32_t open_flags(const Server& server, const KernelFacts& kernel, const Inode& inode,
                    int flags) {
  uint32_t answer = FOPEN_KEEP_CACHE;
  const bool sync = server.sync_level(flags, inode) != SyncLevel::none;
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  if (kernel.direct_io_allow_mmap && ((flags & O_DIRECT) != 0 || (sync && writes))) {
    answer |= FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  }
  return answer;
}

fuse_open_out open_file(FuseOperation& op, const InodeRef& inode, int flags) {
  Server& server = op.server();
  fuse_open_out out{};
  out.fh = server.open_files().open(inode, flags);
  out.open_flags = open_flags(server, server.kernel(), *inode, flags);
  op.promise_handle(out.fh);
  return out;
}

// ---- open ----

struct OpenStash {
  NodePins pins;
  std::optional<ShapeStash> shape;
  bool truncated = false;
  std::optional<Error> error;  // then
  fuse_open_out out{};
};

Attempt<void> open_existing(FuseOperation& op, OpenStash& stash) {
  const auto& in = op.request().arg<fuse_open_in>();
  const int flags = static_cast<int>(in.flags);
  Volume& volume = op.volume();
  ATTEMPT(const InodeRef inode, volume.inodes().get(op.node(), stash.pins));
  const Result<void> allowed = check_open(inode->attr, flags);
  if (!allowed.ok()) return allowed.error();
  if ((flags & O_TRUNC) != 0 && !stash.truncated) {
    // Without HANDLE_KILLPRIV_V2 the kernel leaves an O_TRUNC that it hands on to us as it is.
    const bool told = op.server().kernel().killpriv_v2;
    const bool kill_suid = told ? (in.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0 : !op.from_root();
    if (!stash.shape) stash.shape.emplace();
    COMMIT_OK(
        keep_error(set_size(volume.files(), *inode, 0, kill_suid, *stash.shape), stash.error));
    stash.shape.reset();  // with all it holds
    stash.truncated = true;
  }
  if (stash.truncated && !stash.error) {
    COMMIT_OK(keep_error(op.server().settle(inode->changed_seq, *inode), stash.error));
  }
  if (stash.error) {
    // Linux takes no notice of what has changed.
    COMMIT_OK(op.server().notifier().invalidate_soon(op.node(), 0, 0));
    return *stash.error;
  }
  stash.out = open_file(op, inode, flags);
  return {};
}

void open(fuse_req_t req, fuse_ino_t, fuse_file_info*) {
  serve<OpenStash>(req, open_existing,
                   [](Reply& reply, OpenStash& stash) { reply.object(stash.out); });
}

// ---- create and tmpfile ----

struct CreateStash {
  NamespaceStash names;
  InodeRef inode;  // once it has been committed
  NodeView node;
  fuse_open_out out{};
};

Attempt<void> create_file(FuseOperation& op, CreateStash& stash, bool named) {
  const auto& in = op.request().arg<fuse_create_in>();
  Namespace& names = op.volume().names();
  const std::string_view name = named ? op.request().name_after(sizeof(in)) : std::string_view();
  if (!stash.inode) {
    CreateRequest create;
    create.mode = S_IFREG | (in.mode & 07777);
    const Caller caller = op.caller(in.umask);
    if (named) {
      COMMIT(stash.inode, names.create(op.node(), name, create, caller, stash.names));
    } else {
      COMMIT(stash.inode, names.create_unnamed(op.node(), create, caller, stash.names));
    }
  }
  ATTEMPT_OK(named ? settle_name(op, stash.names.seq, op.node(), name)
                   : op.server().settle_names(stash.names.seq, op.node()));
  stash.node = NodeView(*stash.inode);
  op.promise_lookup(stash.inode->ino);
  if (!named) op.server().note_unlinked(*stash.inode);
  stash.out = open_file(op, stash.inode, static_cast<int>(in.flags));
  return {};
}

void answer_created(Reply& reply, CreateStash& stash) {
  reply.objects(wire_entry(stash.node), stash.out);
}

void create(fuse_req_t req, fuse_ino_t, const char*, mode_t, fuse_file_info*) {
  serve<CreateStash>(
      req, [](FuseOperation& op, CreateStash& stash) { return create_file(op, stash, true); },
      answer_created);
}

void release(fuse_req_t req, fuse_ino_t, fuse_file_info*) {
  struct Stash {};
  serve<Stash>(
      req,
      [](FuseOperation& op, Stash&) -> Attempt<void> {
        op.server().close_file(op.request().arg<fuse_release_in>().fh);
        return {};
      },
      [](Reply& reply, Stash&) { reply.empty(); });
}

}  // namespace

void serve_tmpfile() {
  serve<CreateStash>(
      [](FuseOperation& op, CreateStash& stash) { return create_file(op, stash, false); },
      answer_created);
}

void add_open_ops(fuse_lowlevel_ops& ops) {
  ops.open = open;
  ops.create = create;
  ops.release = release;
}

}  // namespace fusefs
