#include "core/io/device_ring.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr unsigned kRingEntries = 128;

// Requests kept for use again, so that the usual depth allocates nothing.
constexpr size_t kFreeRequestsMax = 256;
constexpr uint32_t kFreeCommandsMax = 4;

// What is done by system calls at a stretch, before those who asked are told.
constexpr uint64_t kDirectBytesPerTurn = 128 << 10;

#ifdef NDEBUG
constexpr bool kChecksOverlap = false;
#else
constexpr bool kChecksOverlap = true;
#endif

thread_local DeviceRing* t_rings = nullptr;

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
    Ring& ring = polled_ring_ ? *polled_ring_ : *ring_;
    buffers_registered_ = ring.register_buffers(device_.regions_);
    (buffers_registered_ ? device_.registered_buffers_ : device_.refused_buffers_) = true;
  }
  device_.registered_file_ = file_registered_;
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
  owned->used_fixed = owned->was_helped = false;
  owned->command_count = 0;
  owned->result = judge(owned->io);
  ticket->begin_one();
  ++in_flight_;
  device_.stats_.note_submitted();
  device_.count_submitted(owned->io.kind);

  // Without a cache to empty, whatever has completed is durable already.
  const DeviceGeometry& geometry = device_.geometry();
  const bool is_needless =
      owned->io.kind == IoKind::flush ? !geometry.has_volatile_cache : owned->io.len == 0;
  if (!owned->result.ok() || is_needless) {
    done_.push_back(std::move(owned));
    return;
  }
  if (kChecksOverlap && changes_content(owned->io.kind)) {
    device_.changing_.begin(owned->io.addr, owned->io.len);
    owned->listed = true;
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
    if (request.io.kind == IoKind::flush && device_.volatile_cache_) {
      command.flush_stamp = device_.volatile_cache_->stamp();
    }
  }
}

void DeviceRing::complete() {
  DeviceStats& stats = device_.stats_;
  for (std::unique_ptr<Request>& request : done_) {
    const IoRequest& io = request->io;
    if (std::exchange(request->listed, false)) device_.changing_.end(io.addr);
    stats.note_completed(io.kind, io.len, request->result.ok(),
                         request->end_ns - request->start_ns);
    if (io.kind == IoKind::write && io.fua) ++stats.fua_count;
    if (request->used_fixed) ++stats.fixed_count;
    if (request->was_helped) ++stats.helped_count;
    if (request->command_count > 1) ++stats.split_count;
    device_.count_completed(io.kind);
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
  if (device_.volatile_cache_) return true;
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
