#include "core/io/device_ring.h"

#include <limits.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/base/check.h"
#include "core/io/aligned_buffer.h"

namespace fusefs {
namespace {

constexpr unsigned kRingEntries = 256;

// A command that the kernel is too busy for is tried so often, each time behind all others.
constexpr uint32_t kRetriesMax = 100'000;

// Requests kept for use again, so that the usual depth allocates nothing.
constexpr size_t kFreeRequestsMax = 256;
constexpr uint32_t kFreeCommandsMax = 4;

// What is done by system calls at a stretch, before those who asked are told.
constexpr uint64_t kDirectBytesPerTurn = 128 << 10;

// linux/blkdev.h of 6.12; the installed headers may be older.
constexpr uint32_t kBlockUringCommandDiscard = _IO(0x12, 0);

thread_local DeviceRing* t_rings = nullptr;

// What write_zeroes writes where nothing shorter works. Never written to.
iovec zeroes(uint64_t len, uint64_t len_max) {
  static AlignedBuffer buffer(1 << 20);
  return {buffer.data(), std::min({len, len_max, static_cast<uint64_t>(buffer.size())})};
}

Error error_of_io(int value) {
  switch (value) {
    case ENOSPC:
    case EDQUOT:
      return Error::no_space;
    case ENODEV:
    case ENXIO:
    case ENOMEDIUM:
      return Error::device_gone;
    case EROFS:
    case EOPNOTSUPP:
      return error_from_errno(value);
    default:
      return Error::io_failed;
  }
}

bool is_transfer(IoKind kind) { return kind == IoKind::read || kind == IoKind::write; }

}  // namespace

// ---- Setting up ----

DeviceRing::DeviceRing(UringDevice& device) : device_(device) {}

Result<std::unique_ptr<DeviceRing>> DeviceRing::create(UringDevice& device) {
  std::unique_ptr<DeviceRing> ring(new DeviceRing(device));
  TRY_OK(ring->set_up());
  ring->next_of_thread_ = std::exchange(t_rings, ring.get());
  return ring;
}

Result<void> DeviceRing::set_up() {
  TRY(ring_, Ring::create(Ring::Mode::interrupt, kRingEntries, nullptr));
  if (device_.options_.iopoll) {
    TRY(polled_ring_, Ring::create(Ring::Mode::poll, kRingEntries, nullptr));
  }
  register_resources();
  return {};
}

void DeviceRing::register_resources() {
  const int fd = device_.probed_.fd.get();
  file_registered_ = ring_->register_file(fd);
  if (polled_ring_) file_registered_ = polled_ring_->register_file(fd) && file_registered_;
  if (!device_.regions_.empty()) {
    buffers_registered_ =
        (polled_ring_ ? *polled_ring_ : *ring_).register_buffers(device_.regions_);
  }
  device_.registered_file_ = file_registered_;
  device_.registered_buffers_ = buffers_registered_;
  device_.defer_taskrun_ = ring_->defers_taskrun();
}

DeviceRing::~DeviceRing() {
  CHECK_MSG(idle(), "I/O is still in flight");
  DeviceRing** link = &t_rings;
  while (*link != nullptr && *link != this) link = &(*link)->next_of_thread_;
  if (*link == this) *link = next_of_thread_;
}

DeviceRing* DeviceRing::of_this_thread(const UringDevice& device) {
  DeviceRing* ring = t_rings;
  while (ring != nullptr && &ring->device_ != &device) ring = ring->next_of_thread_;
  return ring;
}

// ---- Requests ----

Result<void> DeviceRing::judge(const IoRequest& io) const {
  const DeviceGeometry& geometry = device_.geometry();
  if (io.kind == IoKind::flush) return {};
  if (io.kind != IoKind::read && geometry.read_only) return Error::read_only_volume;
  if (io.kind == IoKind::discard && device_.discard_method_.load() == UringDevice::Method::none) {
    return Error::not_supported;
  }
  const uint64_t mask = geometry.logical_block_bytes - 1;
  if (((io.addr | io.len) & mask) != 0) return Error::invalid_argument;
  if (io.len > geometry.size_bytes || io.addr > geometry.size_bytes - io.len) {
    return Error::invalid_argument;
  }
  if (!is_transfer(io.kind)) return {};
  uint64_t sum = 0;
  for (const iovec& memory : io.buffers) {
    if (((reinterpret_cast<uintptr_t>(memory.iov_base) | memory.iov_len) & mask) != 0) {
      return Error::invalid_argument;
    }
    sum += memory.iov_len;
  }
  if (sum != io.len) return Error::invalid_argument;
  return {};
}

void DeviceRing::queue(IoRequest io, const Ref<IoTicket>& ticket) {
  std::unique_ptr<Request> owned;
  if (free_.empty()) {
    owned = std::make_unique<Request>();
  } else {
    owned = std::move(free_.back());
    free_.pop_back();
  }
  owned->io = std::move(io);
  owned->ticket = ticket;
  owned->start_ns = owned->end_ns = device_.clock_.monotonic_ns();
  owned->used_fixed = false;
  owned->command_count = 0;
  owned->result = judge(owned->io);
  ticket->begin_one();
  ++in_flight_;
  device_.stats_.note_submitted();

  // Without a cache to empty, whatever has completed is durable already.
  const DeviceGeometry& geometry = device_.geometry();
  const bool is_needless =
      owned->io.kind == IoKind::flush ? !geometry.has_volatile_cache : owned->io.len == 0;
  if (!owned->result.ok() || is_needless) {
    done_.push_back(std::move(owned));
    return;
  }
  Request* request = owned.release();  // the ring's, until its last command ends
  split(*request);
  for (uint32_t i = 0; i < request->command_count; ++i) {
    issue(request->commands[i]);
  }
}

void DeviceRing::split(Request& request) {
  const uint64_t len = request.io.len;
  const uint64_t piece_max = is_transfer(request.io.kind) ? device_.geometry().io_bytes_max : len;
  const uint64_t pieces = len == 0 ? 1 : (len + piece_max - 1) / piece_max;
  // Not resized while they are under way: entries of the ring point at them.
  if (request.commands.size() < pieces) request.commands.resize(pieces);
  request.command_count = request.commands_pending = static_cast<uint32_t>(pieces);
  for (uint64_t i = 0; i < pieces; ++i) {
    Command& command = request.commands[i];
    command.owner = this;
    command.request = &request;
    command.begin = i * piece_max;
    command.len = std::min(piece_max, len - command.begin);
    command.done = 0;
    command.retries = 0;
    command.method = UringDevice::Method::none;
  }
}

void DeviceRing::complete() {
  DeviceStats& stats = device_.stats_;
  for (std::unique_ptr<Request>& request : done_) {
    const IoRequest& io = request->io;
    stats.note_completed(io.kind, io.len, request->result.ok(),
                         request->end_ns - request->start_ns);
    if (io.kind == IoKind::write && io.fua) ++stats.fua_count;
    if (request->used_fixed) ++stats.fixed_count;
    if (request->command_count > 1) ++stats.split_count;
    request->ticket->complete_one(request->result);
    request->ticket.reset();
    --in_flight_;
    if (free_.size() < kFreeRequestsMax && request->command_count <= kFreeCommandsMax) {
      free_.push_back(std::move(request));
    }
  }
  done_.clear();
}

// ---- Commands ----

bool DeviceRing::is_direct(const Command& command) const {
  if (!device_.probed_.is_memory) return false;
  const IoKind kind = command.request->io.kind;
  return is_transfer(kind) || kind == IoKind::flush;
}

void DeviceRing::issue(Command& command) {
  if (is_direct(command)) {
    direct_.push_back(&command);
  } else if (!backlog_.empty() || !prepare(command)) {
    backlog_.push_back(&command);
  }
}

// Behind all others, and from a completion without touching the ring.
void DeviceRing::issue_again(Command& command) {
  (is_direct(command) ? direct_ : backlog_).push_back(&command);
}

void DeviceRing::refill() {
  while (!backlog_.empty()) {
    Command& command = *backlog_.front();
    if (!prepare(command)) {
      Ring& ring = ring_for(command);
      if (!ring.has_unsubmitted()) return;  // full of what is under way
      ring.submit();
      if (!prepare(command)) return;
    }
    backlog_.pop_front();
  }
}

Ring& DeviceRing::ring_for(const Command& command) {
  return polled_ring_ && is_transfer(command.request->io.kind) ? *polled_ring_ : *ring_;
}

// False when the ring has no room.
bool DeviceRing::prepare(Command& command) {
  const IoKind kind = command.request->io.kind;
  io_uring_sqe* entry = ring_for(command).sqe(command);
  if (entry == nullptr) return false;
  ++in_ring_;
  switch (kind) {
    case IoKind::read:
    case IoKind::write:
      prepare_transfer(command, *entry);
      break;
    case IoKind::flush:
      entry->opcode = IORING_OP_FSYNC;
      entry->fsync_flags = IORING_FSYNC_DATASYNC;
      aim(*entry);
      break;
    case IoKind::discard:
      prepare_discard(command, *entry);
      break;
    case IoKind::write_zeroes:
      prepare_zeroes(command, *entry);
      break;
  }
  return true;
}

void DeviceRing::aim(io_uring_sqe& entry) const {
  if (file_registered_) {
    entry.fd = 0;
    entry.flags |= IOSQE_FIXED_FILE;
  } else {
    entry.fd = device_.probed_.fd.get();
  }
}

// The memory of the command's remaining bytes: one piece as the result, more in `vectors`.
iovec DeviceRing::gather(Command& command) {
  uint64_t skip = command.begin + command.done;
  uint64_t wanted = command.len - command.done;
  command.vectors.clear();
  iovec piece = {};
  for (const iovec& memory : command.request->io.buffers) {
    if (skip >= memory.iov_len) {
      skip -= memory.iov_len;
      continue;
    }
    const uint64_t len = std::min(wanted, memory.iov_len - skip);
    if (piece.iov_len != 0) command.vectors.push_back(piece);
    piece = {static_cast<char*>(memory.iov_base) + skip, len};
    skip = 0;
    wanted -= len;
    if (wanted == 0 || command.vectors.size() + 1 == IOV_MAX) break;
  }
  if (!command.vectors.empty()) command.vectors.push_back(piece);
  return piece;
}

std::optional<uint16_t> DeviceRing::region_of(const iovec& memory) const {
  if (!buffers_registered_) return std::nullopt;
  const auto first = reinterpret_cast<uintptr_t>(memory.iov_base);
  for (size_t i = 0; i < device_.regions_.size(); ++i) {
    const auto start = reinterpret_cast<uintptr_t>(device_.regions_[i].iov_base);
    const size_t len = device_.regions_[i].iov_len;
    if (first >= start && first - start <= len && len - (first - start) >= memory.iov_len) {
      return static_cast<uint16_t>(i);
    }
  }
  return std::nullopt;
}

void DeviceRing::prepare_transfer(Command& command, io_uring_sqe& entry) {
  const IoRequest& io = command.request->io;
  const bool is_read = io.kind == IoKind::read;
  const iovec single = gather(command);
  aim(entry);
  entry.off = io.addr + command.begin + command.done;
  // On a device without a volatile cache every completed write is durable.
  if (io.fua && device_.geometry().has_volatile_cache) entry.rw_flags = RWF_DSYNC;
  if (!command.vectors.empty()) {
    entry.opcode = is_read ? IORING_OP_READV : IORING_OP_WRITEV;
    entry.addr = reinterpret_cast<uintptr_t>(command.vectors.data());
    entry.len = static_cast<uint32_t>(command.vectors.size());
    return;
  }
  entry.addr = reinterpret_cast<uintptr_t>(single.iov_base);
  entry.len = static_cast<uint32_t>(single.iov_len);
  if (const std::optional<uint16_t> region = region_of(single)) {
    entry.opcode = is_read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED;
    entry.buf_index = *region;
    command.request->used_fixed = true;
  } else {
    entry.opcode = is_read ? IORING_OP_READ : IORING_OP_WRITE;
  }
}

void DeviceRing::prepare_fallocate(Command& command, io_uring_sqe& entry, int mode) {
  aim(entry);
  entry.opcode = IORING_OP_FALLOCATE;
  entry.off = command.request->io.addr;
  entry.addr = command.len;  // where the kernel expects the length
  entry.len = static_cast<uint32_t>(mode | FALLOC_FL_KEEP_SIZE);
}

void DeviceRing::prepare_discard(Command& command, io_uring_sqe& entry) {
  command.method = device_.discard_method_.load();
  if (command.method != UringDevice::Method::uring_command) {
    prepare_fallocate(command, entry, FALLOC_FL_PUNCH_HOLE);
    return;
  }
  aim(entry);
  entry.opcode = IORING_OP_URING_CMD;
  entry.cmd_op = kBlockUringCommandDiscard;
  entry.addr = command.request->io.addr;
  entry.addr3 = command.len;
}

void DeviceRing::prepare_zeroes(Command& command, io_uring_sqe& entry) {
  command.method = device_.zero_method_.load();
  if (command.method == UringDevice::Method::fallocate) {
    prepare_fallocate(command, entry, FALLOC_FL_ZERO_RANGE);
    return;
  }
  const iovec memory = zeroes(command.len - command.done, device_.geometry().io_bytes_max);
  aim(entry);
  entry.opcode = IORING_OP_WRITE;
  entry.off = command.request->io.addr + command.done;
  entry.addr = reinterpret_cast<uintptr_t>(memory.iov_base);
  entry.len = static_cast<uint32_t>(memory.iov_len);
}

// ---- Completions ----

void DeviceRing::Command::on_completion(int32_t res, uint32_t flags) {
  (void)flags;
  --owner->in_ring_;
  owner->carry_on(*this, res);
}

void DeviceRing::carry_on(Command& command, int32_t res) {
  const IoKind kind = command.request->io.kind;
  if (res < 0) {
    const int error = -res;
    const bool is_busy = error == EAGAIN || error == EINTR || error == ENOMEM;
    if ((is_busy && ++command.retries <= kRetriesMax) || try_another_way(command, error)) {
      issue_again(command);
      return;
    }
    return end(command, error_of_io(error));
  }
  const bool moves_bytes = is_transfer(kind) || command.method == UringDevice::Method::write_zeroes;
  if (!moves_bytes) return end(command, {});
  // A file that somebody cut short ends here, perhaps within a block.
  const uint64_t moved =
      static_cast<uint64_t>(res) & ~uint64_t{device_.geometry().logical_block_bytes - 1};
  if (moved == 0) return end(command, Error::io_failed);
  command.done += moved;
  if (command.done >= command.len) return end(command, {});
  issue_again(command);
}

// Judged by the method this command has tried: others in flight may have found out meanwhile.
bool DeviceRing::try_another_way(Command& command, int error) {
  using Method = UringDevice::Method;
  const bool is_unknown = error == EOPNOTSUPP || error == ENOTTY || error == ENOSYS;
  if (!is_unknown && error != EINVAL) return false;
  switch (command.request->io.kind) {
    case IoKind::discard: {
      Method expected = command.method;
      if (expected == Method::uring_command) {
        device_.discard_method_.compare_exchange_strong(expected, Method::fallocate);
        return true;
      }
      if (is_unknown) device_.discard_method_.store(Method::none);
      return false;
    }
    case IoKind::write_zeroes:
      if (command.method != Method::fallocate) return false;
      device_.zero_method_.store(Method::write_zeroes);
      return true;
    default:
      return false;
  }
}

void DeviceRing::end(Command& command, Result<void> result) {
  Request* request = command.request;
  if (!result.ok() && request->result.ok()) request->result = result;
  if (--request->commands_pending != 0) return;
  request->end_ns = device_.clock_.monotonic_ns();
  done_.emplace_back(request);
}

// ---- System calls, where the device is memory ----

bool DeviceRing::run_direct() {
  uint64_t bytes = 0;
  // Each command once: one that has to be carried on goes behind the others.
  for (size_t left = direct_.size(); left > 0 && bytes < kDirectBytesPerTurn; --left) {
    Command& command = *direct_.front();
    direct_.pop_front();
    bytes += command.len - command.done;
    carry_on(command, call(command));
  }
  return has_done();
}

// As the ring would: a count, or a negative errno.
int32_t DeviceRing::call(Command& command) {
  const IoRequest& io = command.request->io;
  const int fd = device_.probed_.fd.get();
  ssize_t result = 0;
  if (io.kind == IoKind::flush) {
    result = ::fdatasync(fd);
  } else {
    const iovec single = gather(command);
    const iovec* vectors = command.vectors.empty() ? &single : command.vectors.data();
    const int count = command.vectors.empty() ? 1 : static_cast<int>(command.vectors.size());
    const auto addr = static_cast<off_t>(io.addr + command.begin + command.done);
    const int flags = io.fua && device_.geometry().has_volatile_cache ? RWF_DSYNC : 0;
    result = io.kind == IoKind::read ? ::preadv2(fd, vectors, count, addr, flags)
                                     : ::pwritev2(fd, vectors, count, addr, flags);
  }
  return static_cast<int32_t>(result < 0 ? -errno : result);
}

// ---- The kernel ----

void DeviceRing::flush() {
  refill();
  ring_->submit();
  if (polled_ring_) polled_ring_->submit();
}

void DeviceRing::poll() {
  refill();
  if (in_ring_ == 0) return;
  if (polled_ring_ && polled_ring_->outstanding() != 0) polled_ring_->submit_and_poll();
  ring_->submit_and_poll();
}

void DeviceRing::wait(std::optional<uint64_t> timeout_ns) {
  run_direct();
  refill();
  if (has_done() || !direct_.empty()) return flush();
  if (polled_ring_ && polled_ring_->outstanding() != 0) return spin(timeout_ns);
  ring_->submit_and_wait(timeout_ns);
}

// Nothing interrupts for a polled ring: whoever waits has to look.
void DeviceRing::spin(std::optional<uint64_t> timeout_ns) {
  const uint64_t start_ns = device_.clock_.monotonic_ns();
  for (;;) {
    polled_ring_->submit_and_poll();
    if (polled_ring_->has_completions()) return ring_->submit();
    ring_->submit_and_poll();
    if (ring_->has_completions()) return;
    if (timeout_ns && device_.clock_.monotonic_ns() - start_ns >= *timeout_ns) return;
  }
}

bool DeviceRing::reap() {
  ring_->reap();
  if (polled_ring_) polled_ring_->reap();
  return has_done();
}

}  // namespace fusefs
