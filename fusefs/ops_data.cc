#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "core/file/unshare.h"
#include "core/file/write_through.h"
#include "fusefs/ops.h"
#include "fusefs/range_refresh.h"
#include "fusefs/window_end.h"

namespace fusefs {
namespace {

Attempt<OpenFile*> find_file(FuseOperation& op, uint64_t handle) {
  OpenFile* file = op.server().open_files().find(handle);
  if (file == nullptr || file->inode->ino != op.node()) return Error::bad_descriptor;
  return file;
}

// ---- read ----

struct ReadOpStash {
  ReadStash read;
  PooledBuffer buffer;
  size_t len = 0;
  bool begun = false;
};

// A read that the kernel does not keep in its page cache: it names the lock owner of the caller,
// which filling the cache has not.
bool bypasses_kernel_cache(const fuse_read_in& in) {
  return (in.read_flags & FUSE_READ_LOCKOWNER) != 0;
}

Attempt<void> read_data(FuseOperation& op, ReadOpStash& stash) {
  const auto& in = op.request().arg<fuse_read_in>();
  Volume& volume = op.volume();
  if (in.size > kMaxWriteBytes) return Error::invalid_argument;
  ATTEMPT(OpenFile * file, find_file(op, in.fh));
  if (!stash.buffer) stash.buffer = op.server().buffers().take(in.offset % kBlockBytes + in.size);
  const bool is_kept = !bypasses_kernel_cache(in);
  stash.read.direct = !is_kept;
  if (is_kept) op.server().note_kernel_read(file->inode->ino, in.offset, in.size);
  if (!std::exchange(stash.begun, true) && is_kept) {
    read_ahead(volume.files(), *file, in.offset, in.size);
  }
  const auto read = [&]() -> Attempt<size_t> {
    const bool was_planned = stash.read.planned;
    Attempt<size_t> attempt = read_file(volume.files(), *file->inode, in.offset, in.size,
                                        stash.buffer.bytes(), stash.read);
    // It reads the file as it was planned.
    if (is_kept && stash.read.planned && !was_planned) {
      op.server().replaced_ranges().note_kernel_has(file->inode->ino, in.offset, in.size);
    }
    return attempt;
  };
  ATTEMPT_INTO(stash.len, read());
  op.set_bytes(stash.len);
  if ((in.flags & O_NOATIME) == 0) volume.touch_atime(*file->inode);
  return {};
}

void read(fuse_req_t req, fuse_ino_t, size_t, off_t, fuse_file_info*) {
  const uint64_t skip = decoded_request().arg<fuse_read_in>().offset % kBlockBytes;
  serve<ReadOpStash>(req, read_data, [skip](Reply& reply, ReadOpStash& stash) {
    reply.data(stash.buffer.bytes().subspan(skip, stash.len));
    stash.buffer = PooledBuffer();  // large ones are better given back without the monitor
  });
}

// ---- write ----

struct WriteOpStash final : WriteEnd {
  bool must_invalidate() override { return has_stale_pages() || cleared_suid(); }
  void ended(size_t written) override {
    len = written;
    op->set_bytes(written);
  }
  // A write past the kernel's cache leaves pages that were read during it in there as they were, if
  // it is asynchronous (Linux before 7.2), or at all (before 6.18, by O_SYNC and O_DSYNC), and
  // nothing tells us which is. One after which the kernel drops them loses only time by our doing
  // it too, and little: what has been dropped is not noted any more.
  bool has_stale_pages() const {
    const auto& in = op->request().arg<fuse_write_in>();
    return past_kernel_cache && op->server().has_kernel_reads(inode->ino) &&
           op->server().has_kernel_pages(inode->ino, in.offset, in.size);
  }
  bool cleared_suid() const { return inode->attr.mode != mode_before; }

  // Since the first attempt.
  FuseOperation* op = nullptr;
  Inode* inode = nullptr;
  bool past_kernel_cache = false;
  bool drops_pages = false;  // of the kernel's, in the last phase
  uint32_t mode_before = 0;
  enum class Phase : uint8_t { write, durable, invalidate };
  Phase phase = Phase::write;
  std::optional<WriteStash> write;
  uint64_t run_end = 0;  // of the part that `write` writes; 0: none is begun
  FsyncStash fsync;
  std::optional<Error> error;  // of the write or its fsync
  Notifier::Stash notify;
  size_t len = 0;
};

// What one FUSE_WRITE asks for, from its flags and those of its file.
struct WriteKind {
  bool from_kernel_cache;  // writeback of mapped pages: nobody's system call
  bool past_kernel_cache;  // O_DIRECT, O_SYNC and O_DSYNC
  bool leaves_pages;       // in the kernel's cache
  bool direct;             // O_DIRECT: past our cache as well
  bool through;            // to the device at once
  SyncLevel sync;          // before the answer
  bool by_fsync;           // that is seen to by an fsync after the write, not by the write itself

  static WriteKind of(const fuse_write_in& in, const Inode& inode, const Server& server) {
    const SyncWrites sync_writes = server.options().sync_writes;
    WriteKind kind{};
    const auto flags = static_cast<int>(in.flags);
    kind.from_kernel_cache = (in.write_flags & FUSE_WRITE_CACHE) != 0;
    kind.past_kernel_cache = (in.write_flags & FUSE_WRITE_LOCKOWNER) != 0;
    kind.leaves_pages = !kind.past_kernel_cache;
    if (!kind.from_kernel_cache) kind.sync = server.sync_level(flags, inode);
    kind.by_fsync = kind.sync != SyncLevel::none && sync_writes != SyncWrites::through;
    kind.direct = !kind.from_kernel_cache && (flags & O_DIRECT) != 0;
    // What the kernel has kept has been dirty long enough.
    kind.through = !kind.direct && sync_writes == SyncWrites::through &&
                   (kind.from_kernel_cache || kind.sync != SyncLevel::none);
    return kind;
  }
};

WriteRequest write_request(const FuseOperation& op, const fuse_write_in& in, const Inode& inode) {
  WriteRequest request;
  request.pos = in.offset;
  request.data = op.request().after(sizeof(in)).first(in.size);
  request.kill_suid = (in.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
  // The kernel has put an appending write at the end of the file, piece by piece if it is large.
  request.append = (in.flags & O_APPEND) != 0 && (inode.attr.flags & kInodeAppendOnly) != 0 &&
                   in.offset >= inode.attr.size;
  return request;
}

Attempt<size_t> write_bytes(FuseOperation& op, Inode& inode, const WriteKind& kind,
                            const WriteRequest& request, WriteStash& stash) {
  FileContext& files = op.volume().files();
  if (kind.direct) return write_direct(files, inode, request, stash);
  if (kind.through) return write_through(files, inode, request, stash);
  return write_buffered(files, inode, request, stash);
}

// What the kernel writes from its cache, but for what a clone has replaced meanwhile: part by part.
Attempt<void> write_from_cache(FuseOperation& op, Inode& inode, const WriteKind& kind,
                               const WriteRequest& whole, WriteOpStash& stash) {
  ReplacedRanges& replaced = op.server().replaced_ranges();
  const uint64_t end = whole.pos + whole.data.size();
  // With its completion, if it is one part: then there is nothing to look at between.
  const bool ends_here = kind.through;
  while (stash.len < whole.data.size()) {
    const uint64_t pos = whole.pos + stash.len;
    // It may be a clone that it waited for. Then nothing of it is under way.
    if (stash.write && replaced.any_stale(inode.ino, pos + stash.write->done, stash.run_end)) {
      stash.len += std::exchange(stash.write, std::nullopt)->done;
      continue;
    }
    if (!stash.write) {
      const ReplacedRanges::Part part = replaced.part_at(inode.ino, pos, end);
      if (part.stale) {
        op.volume().files().stats.clone_stale_bytes += part.end - pos;
        stash.len += part.end - pos;
        continue;
      }
      stash.run_end = part.end;
      stash.write.emplace();
    }
    WriteRequest request = whole;
    request.pos = pos;
    request.data = whole.data.subspan(stash.len).first(stash.run_end - pos);
    stash.write->end = ends_here && request.data.size() == whole.data.size() ? &stash : nullptr;
    COMMIT(const size_t written, write_bytes(op, inode, kind, request, *stash.write));
    // The kernel takes no notice of a short answer.
    if (written < request.data.size()) return Error::no_space;
    stash.len += written;
    stash.write.reset();
  }
  return {};
}

Attempt<void> write_once(FuseOperation& op, const fuse_write_in& in, const OpenFile& file,
                         const WriteKind& kind, WriteOpStash& stash) {
  Server& server = op.server();
  Inode& inode = *file.inode;
  WriteRequest request = write_request(op, in, inode);
  request.kernel_writeback = kind.from_kernel_cache;
  // It keeps what is written by appending, and then sends it as it does any page.
  request.appends_only =
      kind.from_kernel_cache && server.kernel().writeback_cache && (file.flags & O_APPEND) != 0;
  if (!kind.by_fsync) request.sync = kind.sync;
  if (kind.leaves_pages) server.note_kernel_write(inode.ino, in.offset, in.size);
  if (kind.from_kernel_cache) {
    COMMIT_OK(write_from_cache(op, inode, kind, request, stash));
  } else {
    if (!stash.write) stash.write.emplace();
    const bool ends_here = (kind.direct || kind.through) && !kind.leaves_pages && !kind.by_fsync;
    stash.write->end = ends_here ? &stash : nullptr;
    COMMIT(stash.len, write_bytes(op, inode, kind, request, *stash.write));
    if (kind.leaves_pages) {
      server.replaced_ranges().note_kernel_has(inode.ino, in.offset, stash.len);
    }
  }
  op.set_bytes(stash.len);
  return {};
}

Attempt<void> write_data(FuseOperation& op, WriteOpStash& stash) {
  using Phase = WriteOpStash::Phase;
  const auto& in = op.request().arg<fuse_write_in>();
  ATTEMPT(OpenFile * file, find_file(op, in.fh));
  if (!file->writable) return Error::bad_descriptor;
  Inode& inode = *file->inode;
  const WriteKind kind = WriteKind::of(in, inode, op.server());
  if (stash.op == nullptr) {
    stash.op = &op;
    stash.inode = &inode;
    stash.past_kernel_cache = kind.past_kernel_cache;
    stash.mode_before = inode.attr.mode;
  }
  if (stash.phase == Phase::write) {
    COMMIT_OK(keep_error(write_once(op, in, *file, kind, stash), stash.error));
    stash.write.reset();  // with all it holds
    stash.phase = Phase::durable;
  }
  if (stash.phase == Phase::durable) {
    if (kind.by_fsync && !stash.error) {
      const bool data_only = kind.sync == SyncLevel::data;
      COMMIT_OK(keep_error(fsync(op.volume().files(), *file, data_only, stash.fsync), stash.error));
    }
    stash.drops_pages = stash.has_stale_pages();
    stash.phase = Phase::invalidate;
  }
  if (stash.drops_pages) {
    // Also behind an error: any of it may have been written.
    ATTEMPT_OK(op.server().notifier().invalidate(inode.ino, in.offset, in.size, stash.notify));
  } else if (stash.cleared_suid()) {
    ATTEMPT_OK(op.server().notifier().invalidate_attr(inode.ino, stash.notify));
  }
  if (stash.error) return *stash.error;
  return {};
}

void write(fuse_req_t req, fuse_ino_t, const char*, size_t, off_t, fuse_file_info*) {
  serve<WriteOpStash>(req, write_data, [](Reply& reply, WriteOpStash& stash) {
    fuse_write_out out{};
    out.size = static_cast<uint32_t>(stash.len);
    reply.object(out);
  });
}

// ---- fsync ----

struct FsyncOpStash {
  NodePins pins;
  FsyncStash fsync;
  bool synced = false;
  std::optional<Error> error;  // of that
  RefreshStash refresh;
};

void fsync(fuse_req_t req, fuse_ino_t, int data_only, fuse_file_info*) {
  serve<FsyncOpStash>(
      req,
      [data_only](FuseOperation& op, FsyncOpStash& stash) -> Attempt<void> {
        ATTEMPT(OpenFile * file, find_file(op, op.request().arg<fuse_fsync_in>().fh));
        if (!stash.synced) {
          COMMIT_OK(keep_error(
              fusefs::fsync(op.volume().files(), *file, data_only != 0, stash.fsync), stash.error));
          stash.synced = true;
        }
        ATTEMPT_OK(refresh_windows(op.server(), op.node(), stash.refresh));
        if (stash.error) return *stash.error;
        return {};
      },
      [](Reply& reply, FsyncOpStash&) { reply.empty(); });
}

// ---- fallocate, lseek ----

// Before contents change by something that carries no flag for it: the capabilities of the caller
// are unknown, so everybody but root is taken to have none.
struct PrivilegeStash {
  NamespaceStash names;
  bool done = false;
};
Attempt<void> drop_privileges(FuseOperation& op, InodeNo ino, PrivilegeStash& stash) {
  if (stash.done) return {};
  COMMIT_OK(op.volume().names().kill_privileges(ino, !op.from_root(), stash.names));
  stash.done = true;
  return {};
}

std::optional<FallocateMode> fallocate_mode(uint32_t mode) {
  switch (mode & ~uint32_t{FALLOC_FL_KEEP_SIZE}) {
    case 0:
      return FallocateMode::allocate;
    case FALLOC_FL_PUNCH_HOLE:
      return FallocateMode::punch_hole;
    case FALLOC_FL_ZERO_RANGE:
      return FallocateMode::zero_range;
    default:
      return std::nullopt;
  }
}

struct FallocateStash {
  PrivilegeStash privileges;
  UnshareStash unshare;
  std::optional<ShapeStash> shape;
  FsyncStash fsync;
  enum class Phase : uint8_t { shape, settle, refresh } phase = Phase::shape;
  std::optional<Error> error;
  RangeRefresh refresh;
};

// The kernel drops its pages by itself, unless there is an error.
Attempt<void> shape_file(FuseOperation& op, FallocateStash& stash) {
  using Phase = FallocateStash::Phase;
  const auto& in = op.request().arg<fuse_fallocate_in>();
  // No kernel so far passes it on.
  const bool unshares = (in.mode & FALLOC_FL_UNSHARE_RANGE) != 0;
  const std::optional<FallocateMode> mode =
      fallocate_mode(in.mode & ~uint32_t{FALLOC_FL_UNSHARE_RANGE});
  if (!mode || (unshares && *mode != FallocateMode::allocate)) return Error::not_supported;
  ATTEMPT(OpenFile * file, find_file(op, in.fh));
  if (!file->writable) return Error::bad_descriptor;
  ATTEMPT_OK(drop_privileges(op, file->inode->ino, stash.privileges));
  FileContext& files = op.volume().files();
  Inode& inode = *file->inode;
  if (stash.phase == Phase::shape) {
    if (unshares) {
      ATTEMPT_OK(unshare_range(files, inode, in.offset, in.length, true, stash.unshare));
    }
    const bool keep_size = (in.mode & FALLOC_FL_KEEP_SIZE) != 0;
    if (!stash.shape) stash.shape.emplace();
    COMMIT_OK(keep_error(
        fallocate_range(files, inode, *mode, in.offset, in.length, keep_size, *stash.shape),
        stash.error));
    stash.shape.reset();  // with all it holds
    stash.phase = stash.error ? Phase::refresh : Phase::settle;
  }
  if (stash.phase == Phase::settle) {
    COMMIT_OK(keep_error(op.server().settle_contents(*file, stash.fsync), stash.error));
    stash.phase = Phase::refresh;
  }
  if (!stash.error) return {};
  ATTEMPT_OK(stash.refresh.run(op.server(), inode.ino, in.offset, in.length));
  return *stash.error;
}

void fallocate(fuse_req_t req, fuse_ino_t, int, off_t, off_t, fuse_file_info*) {
  serve<FallocateStash>(req, shape_file, [](Reply& reply, FallocateStash&) { reply.empty(); });
}

void lseek(fuse_req_t req, fuse_ino_t, off_t, int, fuse_file_info*) {
  struct Stash {
    NodePins pins;
    Notifier::Stash notify;
    fuse_lseek_out out{};
  };
  serve<Stash>(
      req,
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        const auto& in = op.request().arg<fuse_lseek_in>();
        if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) return Error::invalid_argument;
        ATTEMPT(OpenFile * file, find_file(op, in.fh));
        // What the kernel keeps is data too.
        if (op.server().kernel().writeback_cache) {
          ATTEMPT_OK(op.server().notifier().invalidate(op.node(), in.offset, 0, stash.notify));
        }
        auto* const seek = in.whence == SEEK_DATA ? seek_data : seek_hole;
        ATTEMPT(stash.out.offset, seek(op.volume().files(), *file->inode, in.offset, stash.pins));
        return {};
      },
      [](Reply& reply, Stash& stash) { reply.object(stash.out); });
}

// ---- copy_file_range ----

struct CopyOpStash {
  PrivilegeStash privileges;
  std::optional<CopyStash> copy;
  ReplacedRanges::Stash replaced;
  RangeRefresh refresh;
  FsyncStash fsync;
  enum class Phase : uint8_t { copy, refresh, settle } phase = Phase::copy;
  uint64_t copied = 0;
  std::optional<Error> error;
};

// Keeps its error.
Attempt<void> copy_and_note(FuseOperation& op, Inode& from, Inode& to, CopyOpStash& stash) {
  const auto& in = op.request().arg<fuse_copy_file_range_in>();
  Server& server = op.server();
  ReplacedRanges& replaced = server.replaced_ranges();
  if (!stash.replaced.begun()) replaced.begin(to.ino, in.off_out, stash.replaced);
  if (!stash.copy) stash.copy.emplace();
  const Attempt<uint64_t> copied =
      copy_range(op.volume().files(), from, in.off_in, to, in.off_out, in.len, *stash.copy);
  replaced.set_replaced(stash.replaced, copied_bytes(*stash.copy, in.off_in));
  if (copied.must_restart()) return copied.restart();
  if (copied.failed()) {
    stash.error = copied.error();
  } else {
    stash.copied = copied.value();
    op.set_bytes(stash.copied);
  }
  stash.copy.reset();  // with all it holds
  return {};
}

// The kernel drops its pages of the target by itself, but only after the answer, which is too late
// for those that somebody may store into meanwhile; and only if that is no error.
bool must_refresh(Server& server, const OpenFile& to, const fuse_copy_file_range_in& in,
                  const CopyOpStash& stash) {
  const InodeNo ino = to.inode->ino;
  if (stash.error) return true;
  if (stash.copied == 0) return false;
  if (server.sync_level(to.flags, *to.inode) != SyncLevel::none) return true;
  return server.open_files().may_be_mapped_writable(ino) &&
         server.has_kernel_pages(ino, in.off_out, stash.copied);
}

Attempt<void> copy_data(FuseOperation& op, CopyOpStash& stash) {
  using Phase = CopyOpStash::Phase;
  const auto& in = op.request().arg<fuse_copy_file_range_in>();
  if (in.flags != 0) return Error::invalid_argument;
  ATTEMPT(OpenFile * from, find_file(op, in.fh_in));
  OpenFile* to = op.server().open_files().find(in.fh_out);
  if (to == nullptr || to->inode->ino != InodeNo(in.nodeid_out) || !to->writable) {
    return Error::bad_descriptor;
  }
  ATTEMPT_OK(drop_privileges(op, to->inode->ino, stash.privileges));
  Server& server = op.server();
  if (stash.phase == Phase::copy) {
    COMMIT_OK(copy_and_note(op, *from->inode, *to->inode, stash));
    stash.phase = must_refresh(server, *to, in, stash) ? Phase::refresh : Phase::settle;
  }
  if (stash.phase == Phase::refresh) {
    const uint64_t len = stash.error ? in.len : stash.copied;
    ATTEMPT_OK(stash.refresh.run(server, to->inode->ino, in.off_out, len));
    stash.replaced.end();
    stash.phase = Phase::settle;
  }
  if (stash.error) return *stash.error;
  return server.settle_contents(*to, stash.fsync);
}

void copy_file_range(fuse_req_t req, fuse_ino_t, off_t, fuse_file_info*, fuse_ino_t, off_t,
                     fuse_file_info*, size_t, int) {
  fuse_reply_none(req);
  serve_copy_file_range(false);
}

}  // namespace

void serve_copy_file_range(bool wide_answer) {
  serve<CopyOpStash>(copy_data, [wide_answer](Reply& reply, CopyOpStash& stash) {
    if (wide_answer) return reply.object(wire::CopyFileRangeOut{stash.copied});
    fuse_write_out out{};
    out.size = static_cast<uint32_t>(stash.copied);
    reply.object(out);
  });
}

void add_data_ops(fuse_lowlevel_ops& ops) {
  ops.read = read;
  ops.write = write;
  ops.fsync = fsync;
  ops.fallocate = fallocate;
  ops.lseek = lseek;
  ops.copy_file_range = copy_file_range;
}

}  // namespace fusefs
