// The ioctls of windows: opening, flushing, direct I/O of a window. Requests on control files:
// ops_window_file.cc; how windows end: window_end.cc.
#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "core/file/mapped_io.h"
#include "fusefs/fusefs_ioctl.h"
#include "fusefs/huge_pages.h"
#include "fusefs/ioctl_answer.h"
#include "fusefs/pins_text.h"
#include "fusefs/range_refresh.h"
#include "fusefs/remap_source.h"
#include "fusefs/window_end.h"

namespace fusefs {
namespace {

OpenFile* find_file(FuseOperation& op) {
  return op.server().open_files().find(op.request().arg<fuse_ioctl_in>().fh);
}

// ---- Open ----

// What is made without the monitor; the work's too, which may outlive the operation.
struct MadeMemory {
  bool done = false;
  Result<std::shared_ptr<WindowMemory>> memory = Error::no_memory;
};

struct WindowOpenStash {
  enum class Phase : uint8_t { check, fetch, add, socket, memory, pin };
  Phase phase = Phase::check;
  uint64_t begun_ns = 0;
  InodeRef inode;  // before what refers to it
  WindowRequest request;
  Notifier::Stash notify;
  std::shared_ptr<WindowHolder> holder;
  std::shared_ptr<MadeMemory> made;
  WindowSocket::StartStash socket;
  PinStash pin;
  bool pinning = false;  // the mapped window: others wait
};

Result<void> check_flags(const fusefs_window_open& in) {
  constexpr uint32_t kKinds = FUSEFS_WINDOW_PINNED | FUSEFS_WINDOW_MAPPED;
  constexpr uint32_t kKnown = kKinds | FUSEFS_WINDOW_WRITE | FUSEFS_WINDOW_SOCKET;
  const uint32_t kind = in.flags & kKinds;
  if (in.version != 1 || (in.flags & ~kKnown) != 0 || in.reserved != 0) {
    return Error::invalid_argument;
  }
  if (kind == 0 || kind == kKinds) return Error::invalid_argument;
  if (kind == FUSEFS_WINDOW_MAPPED) {
    if ((in.flags & FUSEFS_WINDOW_WRITE) == 0) return Error::not_permitted;
  }
  return {};
}

// Who may read, and store, by a window is who may by the descriptor.
Result<void> check_file(const OpenFile* file, bool writable) {
  if (file == nullptr || (file->flags & O_ACCMODE) == O_WRONLY) return Error::bad_descriptor;
  if (!writable) return {};
  if (!file->writable || (file->flags & O_APPEND) != 0) return Error::bad_descriptor;
  if ((file->inode->attr.flags & (kInodeImmutable | kInodeAppendOnly)) != 0) {
    return Error::not_permitted;
  }
  return {};
}

Result<FileRange> window_range(const fusefs_window_open& in, uint64_t size) {
  const uint64_t end_of_file = file_pos(file_block_end(size));
  if (in.pos % kBlockBytes != 0 || in.len % kBlockBytes != 0) return Error::invalid_argument;
  if (in.pos >= end_of_file) return Error::invalid_argument;
  const uint64_t rest = end_of_file - in.pos;
  const uint64_t len = in.len != 0 ? in.len : rest;
  if (len > rest) return Error::invalid_argument;
  return FileRange{file_block_at(in.pos), file_block_at(in.pos + len)};
}

Attempt<void> make_memory(FuseOperation& op, WindowOpenStash& stash) {
  Window& window = *stash.holder->window;
  if (window.memory) return {};
  if (stash.made && stash.made->done) {
    window.being_made = false;
    window.changed.wake_all();
    const std::shared_ptr<MadeMemory> made = std::move(stash.made);
    TRY(window.memory, std::move(made->memory));
    return {};
  }
  if (window.being_made) return restart_after(window.changed, RestartReason::data_io);
  window.being_made = true;
  stash.made = std::make_shared<MadeMemory>();
  return restart_after_outside([made = stash.made, &channel = op.server().channel(),
                                len = window.len(), backed = op.server().kernel().passthrough] {
    made->memory = WindowMemory::create(channel, len, backed);
    made->done = true;
  });
}

PinRequest pin_request(FuseOperation& op, const WindowHolder& holder) {
  const Window& window = *holder.window;
  PinRequest request;
  request.range = window.range;
  request.kind = holder.writable ? PinKind::write : PinKind::read;
  request.uid = window.uid;
  request.kill_suid = !op.from_root();
  request.frames = window.memory->frames();
  request.frames_owner = window.memory;
  static_assert(block_bytes(kPreparePages) % kHugePageBytes == 0);
  if (window.len() < kHugePageBytes) return request;
  request.prepare = [memory = window.memory, first = window.range.first](FileRange pages) {
    memory->make_huge(block_bytes(pages.first - first), block_bytes(pages.end - first));
  };
  return request;
}

// One pin for all holders of a mapped window: the first makes it.
Attempt<void> pin_mapped(FuseOperation& op, WindowOpenStash& stash) {
  Server& server = op.server();
  Window& window = *stash.holder->window;
  FileContext& files = server.volume().files();
  if (!window.pin) {
    if (window.being_pinned && !stash.pinning) {
      return restart_after(window.changed, RestartReason::data_io);
    }
    window.being_pinned = stash.pinning = true;
    if (!window.faults) {
      window.faults =
          std::make_shared<WindowFaults>(server.fault_gate(), server.scheduler(), files,
                                         server.windows().counters(), window.range, window.uid);
    }
    PinRequest request = pin_request(op, *stash.holder);
    request.kind = PinKind::mapped;
    request.protect = [faults = std::weak_ptr<WindowFaults>(window.faults)](FileRange pages) {
      if (const auto there = faults.lock()) there->protect(pages);
    };
    Attempt<Ref<Pin>> pinned = begin_pin(files, *stash.inode, request, stash.pin);
    if (pinned.must_restart()) return pinned.restart();
    window.being_pinned = stash.pinning = false;
    window.changed.wake_all();
    if (pinned.failed()) return pinned.error();
    window.pin = std::move(pinned).value();
    window.faults->set_pin(window.pin);
  }
  ++window.pin_user_count;
  stash.holder->shares_pin = true;
  return {};
}

template <size_t N>
void copy_text(char (&to)[N], const std::string& text) {
  text.copy(to, N - 1);
}

void answer_opened(FuseOperation& op, IoctlStash& answer, const WindowHolder& holder,
                   fusefs_window_open out) {
  out.window = holder.window->id;
  std::memcpy(out.secret, holder.secret.data(), sizeof(out.secret));
  out.mapped_bytes = holder.window->len();
  out.pos = holder.window->pos();
  out.len = holder.window->len();
  out.road = 0;
  std::memset(out.file, 0, sizeof(out.file));
  std::memset(out.socket, 0, sizeof(out.socket));
  if (holder.by_file) {
    out.road |= FUSEFS_WINDOW_ROAD_FILE;
    copy_text(out.file, window_name(holder.secret));
  }
  const std::string address = op.server().window_socket().address();
  if (!address.empty()) {
    out.road |= FUSEFS_WINDOW_ROAD_SOCKET;
    copy_text(out.socket, address);
  }
  set_out(op, answer, out);
}

Attempt<void> try_open_window(FuseOperation& op, IoctlStash& answer, WindowOpenStash& stash) {
  using Phase = WindowOpenStash::Phase;
  Server& server = op.server();
  const auto in = get_in<fusefs_window_open>(op);
  const bool writable = (in.flags & FUSEFS_WINDOW_WRITE) != 0;
  if (stash.phase == Phase::check) {
    stash.begun_ns = server.clock().monotonic_ns();
    TRY_OK(check_flags(in));
    const OpenFile* file = find_file(op);
    TRY_OK(check_file(file, writable));
    stash.inode = file->inode;
    stash.phase = Phase::fetch;
  }
  Inode& inode = *stash.inode;
  if (stash.phase == Phase::fetch) {
    // What the kernel keeps of stores comes to us, and what it has of the range goes.
    if (stash.notify || server.has_kernel_pages(inode.ino, in.pos, in.len)) {
      ATTEMPT_OK(server.notifier().invalidate(inode.ino, in.pos, in.len, stash.notify));
    }
    stash.phase = Phase::add;
  }
  if (stash.phase == Phase::add) {
    WindowRequest& request = stash.request;
    TRY(request.range, window_range(in, inode.attr.size));
    request.inode = stash.inode;
    request.writable = writable;
    const bool mapped = (in.flags & FUSEFS_WINDOW_MAPPED) != 0;
    request.kind = mapped ? WindowKind::mapped : WindowKind::pinned;
    request.by_file = server.kernel().passthrough && (in.flags & FUSEFS_WINDOW_SOCKET) == 0;
    request.uid = op.caller().uid;
    request.gid = op.caller().gid;
    request.pid = op.request().header().pid;
    request.descriptor = op.request().arg<fuse_ioctl_in>().fh;
    request.now = server.clock().wall();
    stash.phase = Phase::memory;  // with the next ATTEMPT: a restart comes back to it
    Attempt<std::shared_ptr<WindowHolder>> added = server.windows().add(request);
    if (!added.ok()) {
      stash.phase = Phase::add;
      return Unfinished(added);
    }
    stash.holder = std::move(added).value();
  }
  if (stash.phase == Phase::memory) {
    ATTEMPT_OK(make_memory(op, stash));
    if (stash.holder->window->memory->backing() == 0) stash.holder->by_file = false;
    stash.phase = Phase::socket;
  }
  if (stash.phase == Phase::socket) {
    // The faults of a mapped one come by it.
    const bool mapped = stash.holder->window->kind == WindowKind::mapped;
    if (mapped || !stash.holder->by_file) ATTEMPT_OK(server.window_socket().start(stash.socket));
    stash.phase = Phase::pin;
  }
  Ref<Pin> pin;
  if (stash.holder->window->kind == WindowKind::mapped) {
    COMMIT_OK(pin_mapped(op, stash));
  } else {
    COMMIT(pin,
           begin_pin(server.volume().files(), inode, pin_request(op, *stash.holder), stash.pin));
  }
  server.windows().set_open(stash.holder, std::move(pin));
  server.windows().counters().open_latency_ns.record(server.clock().monotonic_ns() -
                                                     stash.begun_ns);
  answer_opened(op, answer, *stash.holder, in);
  return {};
}

// An answer that does not arrive ends with the descriptor.
Attempt<void> open_window(FuseOperation& op, IoctlStash& answer, WindowOpenStash& stash) {
  Attempt<void> opened = try_open_window(op, answer, stash);
  if (!opened.failed()) return opened;
  ++op.server().windows().counters().refused_count;
  if (stash.holder) op.server().windows().end(stash.holder);
  return opened;
}

// ---- Flush ----

std::shared_ptr<WindowHolder> find_holder(FuseOperation& op, const fusefs_window_ref& ref) {
  const auto holder = op.server().windows().find(ref.window, {ref.secret[0], ref.secret[1]});
  if (!holder) return nullptr;
  // As with the socket: the secret alone is not enough.
  const bool may = op.from_root() || op.caller().uid == holder->window->uid;
  return may ? holder : nullptr;
}

struct FlushStash {
  std::shared_ptr<WindowHolder> holder;
  RefreshStash refresh;
};

Attempt<void> flush_window(FuseOperation& op, IoctlStash& answer, FlushStash& stash) {
  if (!stash.holder) {
    const auto holder = find_holder(op, get_in<fusefs_window_ref>(op));
    const bool is_its =
        holder && (op.node() == holder->window->inode->ino || op.node().value() == holder->node());
    if (!is_its) {
      answer.errno_value = ESTALE;
      return {};
    }
    stash.holder = holder;
    ++op.server().windows().counters().flush_count;
  }
  return refresh_window(op.server(), *stash.holder->window, stash.refresh);
}

// ---- Giving back ----

struct GiveBackStash {};

Attempt<void> give_back_window(FuseOperation& op, IoctlStash& answer, GiveBackStash&) {
  const auto holder = find_holder(op, get_in<fusefs_window_ref>(op));
  if (holder && op.node() == holder->window->inode->ino) {
    op.server().windows().give_back(holder);
  } else {
    answer.errno_value = ESTALE;
  }
  return {};
}

// ---- Direct I/O ----

// As a clone: what the kernel has of the target is old from the moment it is replaced, also what it
// writes until it has dropped it.
struct ReplacedByWrite final : WriteWatch {
  void begin(ReplacedRanges& all, InodeNo ino, uint64_t pos) {
    if (!range.begun()) all.begin(ino, pos, range);
    ranges = &all;
    first = pos;
  }
  void written(uint64_t pos, uint64_t len) override {
    ranges->set_replaced(range, pos + len - first);
  }

  ReplacedRanges* ranges = nullptr;
  uint64_t first = 0;
  ReplacedRanges::Stash range;
};

struct WindowIoStash {
  enum class Phase : uint8_t { check, fetch, privileges, move, refresh, settle };
  Phase phase = Phase::check;
  uint64_t begun_ns = 0;
  InodeRef file;  // before what holds its locks
  std::shared_ptr<WindowHolder> holder;
  NamespaceStash names;
  Notifier::Stash notify;
  RangeRefresh refresh;
  uint64_t done = 0;
  std::optional<Error> error;  // behind what has been done
  ReplacedByWrite replaced;    // before what tells it
  std::optional<MappedIoStash> io;
  FsyncStash fsync;
};

Result<void> check_io(const fusefs_window_io& in, const Window& window) {
  if (in.version != 1 || (in.flags & ~FUSEFS_WINDOW_IO_WRITE) != 0) return Error::invalid_argument;
  if (in.len == 0 || in.len > FUSEFS_WINDOW_IO_MAX) return Error::invalid_argument;
  if (in.window_pos > window.len() || in.len > window.len() - in.window_pos) {
    return Error::invalid_argument;
  }
  if (in.file_pos > static_cast<uint64_t>(INT64_MAX) - in.len) return Error::invalid_argument;
  const bool aligned = in.window_pos % kBlockBytes == 0 && in.file_pos % kBlockBytes == 0;
  return aligned ? Result<void>() : Error::invalid_argument;
}

// Of the file that is read the part up to its end may be shorter.
Result<void> check_io_len(const fusefs_window_io& in, const WindowIoStash& stash) {
  if (in.len % kBlockBytes == 0) return {};
  const bool writes = (in.flags & FUSEFS_WINDOW_IO_WRITE) != 0;
  const uint64_t end =
      writes ? stash.holder->window->pos() + in.window_pos + in.len : in.file_pos + in.len;
  const Inode& read = writes ? *stash.holder->window->inode : *stash.file;
  return end >= read.attr.size ? Result<void>() : Error::invalid_argument;
}

Attempt<void> find_io(FuseOperation& op, IoctlStash& answer, const fusefs_window_io& in,
                      WindowIoStash& stash) {
  const bool writes = (in.flags & FUSEFS_WINDOW_IO_WRITE) != 0;
  const OpenFile* file = find_file(op);
  if (file == nullptr) return Error::bad_descriptor;
  const bool may = writes ? file->writable && (file->flags & O_APPEND) == 0
                          : (file->flags & O_ACCMODE) != O_WRONLY;
  if (!may) return Error::bad_descriptor;
  const auto holder = find_holder(op, in.ref);
  if (!holder) {
    answer.errno_value = ESTALE;
    return {};
  }
  TRY_OK(check_io(in, *holder->window));
  if (!writes && !holder->writable) return Error::bad_descriptor;
  if (writes && (file->inode->attr.flags & (kInodeImmutable | kInodeAppendOnly)) != 0) {
    return Error::not_permitted;
  }
  stash.begun_ns = op.server().clock().monotonic_ns();
  stash.file = file->inode;
  stash.holder = holder;
  return {};
}

// Keeps its error.
Attempt<void> write_from_window(FuseOperation& op, const fusefs_window_io& in,
                                const MappedRange& buffer, WindowIoStash& stash) {
  Server& server = op.server();
  stash.replaced.begin(server.replaced_ranges(), stash.file->ino, in.file_pos);
  stash.io->watch = &stash.replaced;
  const Attempt<size_t> written =
      write_mapped(server.volume().files(), *stash.file, in.file_pos, buffer, *stash.io);
  if (written.must_restart()) return written.restart();
  stash.done = written.ok() ? written.value() : stash.io->done;
  if (written.failed()) stash.error = written.error();
  server.windows().counters().io_write_bytes += stash.done;
  return {};
}

Attempt<void> read_to_window(FuseOperation& op, const fusefs_window_io& in,
                             const MappedRange& buffer, WindowIoStash& stash) {
  Server& server = op.server();
  const Attempt<size_t> read =
      read_mapped(server.volume().files(), *stash.file, in.file_pos, buffer, *stash.io);
  if (read.must_restart()) return read.restart();
  stash.done = read.ok() ? read.value() : stash.io->done;
  if (read.failed()) stash.error = read.error();
  server.windows().counters().io_read_bytes += stash.done;
  return {};
}

Attempt<void> window_io(FuseOperation& op, IoctlStash& answer, WindowIoStash& stash) {
  using Phase = WindowIoStash::Phase;
  Server& server = op.server();
  auto in = get_in<fusefs_window_io>(op);
  const bool writes = (in.flags & FUSEFS_WINDOW_IO_WRITE) != 0;
  if (stash.phase == Phase::check) {
    const Attempt<void> found = find_io(op, answer, in, stash);
    if (!found.ok() || !stash.holder) return found;
    stash.phase = Phase::fetch;
  }
  const Window& window = *stash.holder->window;
  if (stash.phase == Phase::fetch) {
    if (!writes || server.kernel().writeback_cache) {
      ATTEMPT_OK(fetch_mapped(op, *stash.file, in.file_pos, in.len, stash.notify));
    }
    TRY_OK(check_io_len(in, stash));
    stash.phase = Phase::privileges;
  }
  if (stash.phase == Phase::privileges) {
    if (writes) {
      COMMIT_OK(op.volume().names().kill_privileges(stash.file->ino, !op.from_root(), stash.names));
    }
    stash.phase = Phase::move;
  }
  if (stash.phase == Phase::move) {
    const MappedRange buffer{window.inode.get(), window.pos() + in.window_pos, in.len};
    if (!stash.io) stash.io.emplace();
    COMMIT_OK(writes ? write_from_window(op, in, buffer, stash)
                     : read_to_window(op, in, buffer, stash));
    op.set_bytes(stash.done);
    ++server.windows().counters().io_count;
    server.windows().counters().io_latency_ns.record(server.clock().monotonic_ns() -
                                                     stash.begun_ns);
    stash.io.reset();  // with all it holds
    stash.phase = Phase::refresh;
  }
  if (stash.phase == Phase::refresh) {
    if (writes) {
      // All was with the device at once: what lies behind an error may have changed too.
      ATTEMPT_OK(stash.refresh.run(server, stash.file->ino, in.file_pos, in.len));
      stash.replaced.range.end();
    }
    stash.phase = Phase::settle;
  }
  if (stash.error && stash.done == 0) return *stash.error;
  if (OpenFile* file = find_file(op); writes && file != nullptr && stash.done != 0) {
    COMMIT_OK(server.settle_contents(*file, stash.fsync));
  }
  in.done = stash.done;
  set_out(op, answer, in);
  return {};
}

// ---- Who has what ----

struct PinsTextStash {};

Attempt<void> pins_piece(FuseOperation& op, IoctlStash& stash, PinsTextStash&) {
  auto piece = get_in<fusefs_stats_piece>(op);
  const uint32_t uid = op.caller().uid;
  if (piece.snapshot == 0) {
    piece.snapshot = op.server().snapshots().add(pins_text(op.server(), uid), uid);
  }
  return answer_piece(op, stash, piece, uid);
}

}  // namespace

bool serve_window_file_ioctl(unsigned command) {
  if (command != FUSEFS_IOC_WINDOW_FLUSH) return false;
  serve_ioctl<FlushStash>(flush_window);
  return true;
}

bool serve_window_ioctl(unsigned command) {
  if (serve_window_file_ioctl(command)) return true;
  switch (command) {
    case FUSEFS_IOC_WINDOW_OPEN:
      serve_ioctl<WindowOpenStash>(open_window);
      return true;
    case FUSEFS_IOC_WINDOW_GIVE_BACK:
      serve_ioctl<GiveBackStash>(give_back_window);
      return true;
    case FUSEFS_IOC_WINDOW_IO:
      serve_ioctl<WindowIoStash>(window_io);
      return true;
    case FUSEFS_IOC_PINS:
      serve_ioctl<PinsTextStash>(pins_piece);
      return true;
    default:
      return false;
  }
}

}  // namespace fusefs
