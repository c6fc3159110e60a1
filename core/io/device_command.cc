// The commands of a DeviceRing: what each asks of the kernel, and what its answer means.
#include <limits.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "core/io/aligned_buffer.h"
#include "core/io/device_ring.h"

namespace fusefs {
namespace {

// A command that the kernel is too busy for is tried so often, each time behind all others.
constexpr uint32_t kRetriesMax = 100'000;

// linux/blkdev.h of 6.12; the installed headers may be older.
constexpr uint32_t kBlockUringCommandDiscard = _IO(0x12, 0);

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

}  // namespace

// ---- Asking ----

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

// The memory of the command's remaining bytes.
iovec DeviceRing::gather(Command& command) {
  return gather(command.request->io, command.begin + command.done, command.len - command.done,
                command.vectors);
}

// The memory of `len` bytes of a request: one piece as the result, more in `vectors`.
iovec DeviceRing::gather(const IoRequest& io, uint64_t begin, uint64_t len,
                         std::vector<iovec>& vectors) {
  uint64_t skip = begin;
  uint64_t wanted = len;
  vectors.clear();
  iovec piece = {};
  for (const iovec& memory : io.buffers) {
    if (skip >= memory.iov_len) {
      skip -= memory.iov_len;
      continue;
    }
    const uint64_t taken = std::min(wanted, memory.iov_len - skip);
    if (piece.iov_len != 0) vectors.push_back(piece);
    piece = {static_cast<char*>(memory.iov_base) + skip, taken};
    skip = 0;
    wanted -= taken;
    if (wanted == 0 || vectors.size() + 1 == IOV_MAX) break;
  }
  if (!vectors.empty()) vectors.push_back(piece);
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

// ---- Answers ----

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

// As the ring would: a count, or a negative errno.
int32_t DeviceRing::call(Command& command) {
  int64_t result = 0;
  if (device_.volatile_cache_) {
    result = call_volatile(command);
  } else if (command.request->io.kind == IoKind::flush) {
    result = ::fdatasync(device_.probed_.fd.get()) == 0 ? 0 : -errno;
  } else {
    result = call_transfer(command);
  }
  return static_cast<int32_t>(result);
}

int64_t DeviceRing::call_transfer(Command& command) {
  class SystemCalls final : public TransferHelpers::Transfer {
   public:
    SystemCalls(int fd, Command& command, int flags)
        : fd_(fd),
          command_(command),
          io_(command.request->io),
          begin_(command.begin + command.done),
          flags_(flags) {}
    uint64_t len() const { return command_.len - command_.done; }
    int64_t move(uint64_t begin, uint64_t len) override {
      std::vector<iovec> of_piece;
      // Who moves all of it is alone.
      std::vector<iovec>& vectors = len == this->len() ? command_.vectors : of_piece;
      const iovec single = gather(io_, begin_ + begin, len, vectors);
      const iovec* const memory = vectors.empty() ? &single : vectors.data();
      const int count = vectors.empty() ? 1 : static_cast<int>(vectors.size());
      const auto addr = static_cast<off_t>(io_.addr + begin_ + begin);
      const ssize_t result = io_.kind == IoKind::read
                                 ? ::preadv2(fd_, memory, count, addr, flags_)
                                 : ::pwritev2(fd_, memory, count, addr, flags_);
      return result < 0 ? -errno : result;
    }

   private:
    const int fd_;
    Command& command_;
    const IoRequest& io_;
    const uint64_t begin_;
    const int flags_;
  };

  const IoRequest& io = command.request->io;
  const DeviceGeometry& geometry = device_.geometry();
  const int flags = io.fua && geometry.has_volatile_cache ? RWF_DSYNC : 0;
  SystemCalls calls(device_.probed_.fd.get(), command, flags);
  // Two writes of one file would wait for one another, and each durable part is a flush.
  const bool is_file_write = io.kind == IoKind::write && !geometry.is_block_device;
  if (is_file_write || flags != 0) return calls.move(0, calls.len());
  const TransferHelpers::Outcome outcome = device_.helpers_.run(calls, calls.len());
  if (outcome.helped) command.request->was_helped = true;
  return outcome.result;
}

int64_t DeviceRing::call_volatile(Command& command) {
  const IoRequest& io = command.request->io;
  VolatileCache& cache = *device_.volatile_cache_;
  if (io.kind == IoKind::flush) return cache.flush(command.flush_stamp);
  if (io.kind == IoKind::discard) return cache.discard(io.addr, io.len);
  if (io.kind == IoKind::write_zeroes) return cache.write_zeroes(io.addr, io.len);
  const iovec single = gather(command);
  const std::span<const iovec> buffers =
      command.vectors.empty() ? std::span(&single, 1) : std::span<const iovec>(command.vectors);
  const uint64_t addr = io.addr + command.begin + command.done;
  return io.kind == IoKind::read ? cache.read(addr, buffers) : cache.write(addr, buffers, io.fua);
}

}  // namespace fusefs
