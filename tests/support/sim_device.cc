#include "tests/support/sim_device.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"

namespace fusefs {
namespace {

// How likely a block that was not durable survives a power cut: all, none, and in between.
constexpr double kSurvival[] = {0.0, 0.06, 0.5, 0.94, 1.0};
double draw_survival(Random& random) { return kSurvival[random.below(std::size(kSurvival))]; }

// What a failed read leaves in the caller's buffer.
constexpr std::byte kScrambled{0xE5};

bool has_buffers(IoKind kind) { return kind == IoKind::read || kind == IoKind::write; }

// Errors that leave the content alone, as opposed to those that leave any mixture.
bool leaves_content_alone(Error error) { return error != Error::io_failed; }

DeviceGeometry geometry_of(const SimDeviceOptions& options) {
  DeviceGeometry geometry;
  geometry.name = "simulated device";
  geometry.size_bytes = options.size_bytes;
  geometry.logical_block_bytes = options.logical_block_bytes;
  geometry.io_bytes_max = options.io_bytes_max;
  geometry.has_volatile_cache = options.has_volatile_cache;
  geometry.has_fua = options.has_fua;
  geometry.can_discard = options.can_discard;
  geometry.read_only = options.read_only;
  return geometry;
}

template <class Fn>
void for_each_buffer(const IoRequest& request, Fn&& fn) {
  size_t at = 0;
  for (const iovec& buffer : request.buffers) {
    fn(at, Bytes(static_cast<std::byte*>(buffer.iov_base), buffer.iov_len));
    at += buffer.iov_len;
  }
}

}  // namespace

SimDevice::SimDevice(const SimClock& clock, const SimDeviceOptions& options, SimImage image)
    : clock_(clock),
      options_(options),
      geometry_(geometry_of(options)),
      random_(options.seed),
      current_(image),
      durable_(std::move(image)) {
  CHECK(options.logical_block_bytes == 512 || options.logical_block_bytes == 4096);
  CHECK(options.size_bytes % options.logical_block_bytes == 0);
  CHECK(options.latency_ns_min > 0 && options.latency_ns_min <= options.latency_ns_max);
}

// ---- Submitting ----

void SimDevice::submit(IoRequest request, const Ref<IoTicket>& ticket) {
  check_request(request);
  ticket->begin_one();
  count_submitted(request.kind);
  if (dead_) {
    never_.push_back(ticket);
    return;
  }
  InFlight io;
  io.ticket = ticket;
  io.submit_order = submit_order_++;
  io.completed_before = completed_order_;
  io.error = refusal(request);
  io.request = std::move(request);

  uint64_t latency_ns = draw_latency();
  apply_faults(io, latency_ns);
  note_submitted(io);
  const bool is_change = changes_content(io.request.kind);
  if (is_change) {
    changing_.begin(io.request.addr, io.request.len);
    io.pieces = pieces_of(io.request);
  }
  in_flight_.emplace(clock_.monotonic_ns() + latency_ns, std::move(io));
  stats_.in_flight_max = std::max<uint64_t>(stats_.in_flight_max, in_flight_.size());
  if (is_change && stats_.change_count++ == options_.cut_after_writes) cut_power();
}

void SimDevice::check_request(const IoRequest& request) const {
  const uint64_t mask = block_bytes() - 1;
  CHECK_MSG((request.addr & mask) == 0 && (request.len & mask) == 0, "unaligned request");
  CHECK_MSG(
      request.addr <= options_.size_bytes && request.len <= options_.size_bytes - request.addr,
      "request beyond the end of the device");
  CHECK_MSG(request.kind == IoKind::flush || request.len > 0, "empty request");
  if (!has_buffers(request.kind)) {
    CHECK_MSG(request.buffers.empty(), "buffers where none belong");
    return;
  }
  uint64_t total = 0;
  for (const iovec& buffer : request.buffers) {
    CHECK_MSG((reinterpret_cast<uintptr_t>(buffer.iov_base) & mask) == 0, "unaligned buffer");
    CHECK_MSG((buffer.iov_len & mask) == 0, "unaligned length of a buffer");
    total += buffer.iov_len;
  }
  CHECK_MSG(total == request.len, "the buffers do not add up to the request");
}

uint64_t SimDevice::draw_latency() {
  const uint64_t usual_ns = random_.between(options_.latency_ns_min, options_.latency_ns_max);
  return random_.chance(options_.slow_probability) ? usual_ns + kSimSlowNs : usual_ns;
}

std::optional<Error> SimDevice::refusal(const IoRequest& request) const {
  if (gone_) return Error::device_gone;
  if (changes_content(request.kind) && options_.read_only) return Error::read_only_volume;
  if (request.kind == IoKind::discard && !options_.can_discard) return Error::not_supported;
  return std::nullopt;
}

void SimDevice::apply_faults(InFlight& io, uint64_t& latency_ns) {
  const IoRequest& request = io.request;
  const bool has_range = request.kind != IoKind::flush;
  for (auto& [id, active] : faults_) {
    const SimFault& fault = active.fault;
    if (fault.kind && *fault.kind != request.kind) continue;
    if (fault.behind_data && (!request.fua || options_.has_fua)) continue;
    if (has_range &&
        (request.addr >= fault.addr_end || request.addr + request.len <= fault.addr_first)) {
      continue;
    }
    const uint64_t seen = active.seen++;
    if (seen < fault.skip || seen - fault.skip >= fault.count) continue;
    if (!random_.chance(fault.probability)) continue;
    latency_ns += fault.delay_ns;
    if (!fault.error || io.error) continue;
    io.error = fault.error;
    io.behind_data = fault.behind_data;
  }
}

// Discarded pages become zeroes or stay, by chance; what holds no memory is zeroes already.
std::vector<SimDevice::Piece> SimDevice::pieces_of(const IoRequest& request) {
  std::vector<Piece> pieces;
  if (request.kind == IoKind::write) {
    std::vector<std::byte> data(request.len);
    for_each_buffer(request, [&](size_t at, Bytes buffer) {
      std::memcpy(data.data() + at, buffer.data(), buffer.size());
    });
    pieces.push_back({request.addr, std::move(data)});
    return pieces;
  }
  const uint64_t end = request.addr + request.len;
  for (const uint64_t page : current_.pages_within(request.addr, end)) {
    if (request.kind == IoKind::discard && random_.chance(0.5)) continue;
    const uint64_t first = std::max(page, request.addr);
    const uint64_t last = std::min(page + kBlockBytes, end);
    pieces.push_back({first, std::vector<std::byte>(last - first)});
  }
  return pieces;
}

// ---- Completing ----

std::optional<uint64_t> SimDevice::next_event_ns() const {
  if (dead_ || in_flight_.empty()) return std::nullopt;
  return in_flight_.begin()->first;
}

void SimDevice::deliver_due() {
  const uint64_t now_ns = clock_.monotonic_ns();
  while (!dead_ && !in_flight_.empty() && in_flight_.begin()->first <= now_ns) {
    auto node = in_flight_.extract(in_flight_.begin());
    complete(node.mapped());
  }
}

void SimDevice::complete(InFlight& io) {
  if (gone_) io.error = Error::device_gone;
  if (changes_content(io.request.kind)) {
    check_unchanged(io);
    changing_.end(io.request.addr);
  }
  count_completed(io.request.kind);
  if (io.error) {
    fail(io);
  } else if (io.request.kind == IoKind::read) {
    complete_read(io);
  } else if (io.request.kind == IoKind::flush) {
    complete_flush(io);
  } else {
    complete_change(io);
  }
  note_completed(io);
  io.ticket->complete_one(io.error ? Result<void>(*io.error) : Result<void>());
}

void SimDevice::check_unchanged(const InFlight& io) const {
  if (io.request.kind != IoKind::write || io.request.may_change) return;
  const std::vector<std::byte>& data = io.pieces.front().data;
  for_each_buffer(io.request, [&](size_t at, Bytes buffer) {
    CHECK_MSG(std::memcmp(data.data() + at, buffer.data(), buffer.size()) == 0,
              "the memory of a write changed while it was in flight");
  });
}

void SimDevice::fail(InFlight& io) {
  ++stats_.failed_count;
  if (*io.error == Error::device_gone) gone_ = true;
  if (io.request.kind == IoKind::read) {
    for_each_buffer(io.request, [](size_t, Bytes buffer) {
      std::fill(buffer.begin(), buffer.end(), kScrambled);
    });
  }
  if (io.behind_data) {
    for (Piece& piece : io.pieces) store(std::move(piece), !options_.has_volatile_cache);
    return drop_some(completed_order_);
  }
  if (leaves_content_alone(*io.error)) return;
  if (io.request.kind == IoKind::flush) return drop_some(io.completed_before);
  for (const Piece& piece : io.pieces) {
    for (size_t at = 0; at < piece.data.size(); at += block_bytes()) {
      if (random_.chance(0.5)) continue;
      const auto first = piece.data.begin() + static_cast<ptrdiff_t>(at);
      store({piece.addr + at, {first, first + static_cast<ptrdiff_t>(block_bytes())}},
            !options_.has_volatile_cache);
    }
  }
}

void SimDevice::complete_read(const InFlight& io) {
  const IoRequest& request = io.request;
  for_each_buffer(request,
                  [&](size_t at, Bytes buffer) { current_.read(request.addr + at, buffer); });
  // Beside a write in flight: old or new, per block.
  for (const auto& [time, other] : in_flight_) {
    for (const Piece& piece : other.pieces) {
      const uint64_t piece_end = piece.addr + piece.data.size();
      if (piece.addr >= request.addr + request.len || piece_end <= request.addr) continue;
      SimImage mixed = current_;
      write_blocks(mixed, piece, [&](size_t) { return random_.chance(0.5); });
      for_each_buffer(request, [&](size_t at, Bytes buffer) {
        const uint64_t first = std::max(request.addr + at, piece.addr);
        const uint64_t end = std::min(request.addr + at + buffer.size(), piece_end);
        if (first >= end) return;
        mixed.read(first, buffer.subspan(first - request.addr - at, end - first));
      });
    }
  }
}

void SimDevice::complete_change(InFlight& io) {
  const bool durable = io.request.fua || !options_.has_volatile_cache;
  for (Piece& piece : io.pieces) store(std::move(piece), durable);
}

void SimDevice::store(Piece piece, bool durable) {
  current_.write(piece.addr, piece.data);
  if (durable) {
    durable_.write(piece.addr, piece.data);
    overtake(piece);
  } else {
    const size_t blocks = piece.data.size() / block_bytes();
    cached_.push_back({++completed_order_, std::move(piece), std::vector<bool>(blocks)});
  }
}

// No power cut may bring back a version older than the durable one.
void SimDevice::overtake(const Piece& piece) {
  for (CachedWrite& write : cached_) {
    const uint64_t first = std::max(write.piece.addr, piece.addr);
    const uint64_t end =
        std::min(write.piece.addr + write.piece.data.size(), piece.addr + piece.data.size());
    for (uint64_t at = first; at < end; at += block_bytes()) {
      write.overtaken[(at - write.piece.addr) / block_bytes()] = true;
    }
  }
}

void SimDevice::complete_flush(const InFlight& io) {
  while (!cached_.empty() && cached_.front().order <= io.completed_before) {
    const CachedWrite& write = cached_.front();
    if (!write.dropped) {
      write_blocks(durable_, write.piece, [&](size_t block) { return !write.overtaken[block]; });
    }
    cached_.pop_front();
  }
  if (cached_.empty() && !has_dropped_)
    durable_ = current_;  // the same content, with all pages shared again
}

// As a kernel or a device does that counts as written what it could not write.
void SimDevice::drop_some(uint64_t order_max) {
  for (CachedWrite& write : cached_) {
    if (write.order > order_max || !random_.chance(0.5)) continue;
    write.dropped = has_dropped_ = true;
  }
}

template <class Survives>
void SimDevice::write_blocks(SimImage& image, const Piece& piece, Survives&& survives) const {
  const ConstBytes data(piece.data);
  for (size_t block = 0; block * block_bytes() < data.size(); ++block) {
    if (!survives(block)) continue;
    const size_t at = block * block_bytes();
    image.write(piece.addr + at, data.subspan(at, block_bytes()));
  }
}

void SimDevice::forget_buffers() {
  for (auto& [time, io] : in_flight_) io.request.buffers.clear();
}

// ---- Power ----

SimImage SimDevice::surviving_image(Random& random) const {
  CHECK(dead_);
  SimImage image = durable_;
  // Within one write either everything shares a fate, or each block has its own.
  auto survive = [&](const Piece& piece, double probability, const std::vector<bool>* overtaken) {
    const bool torn = random.chance(0.5);
    const bool whole = random.chance(probability);
    write_blocks(image, piece, [&](size_t block) {
      const bool lives = torn ? random.chance(probability) : whole;
      return lives && (overtaken == nullptr || !(*overtaken)[block]);
    });
  };
  // In the order of completion, so that a later version covers an earlier one and never the other
  // way round. Writes in flight are newer than what they overlap, and do not overlap each other.
  const double cached_survival = draw_survival(random);
  for (const CachedWrite& write : cached_) survive(write.piece, cached_survival, &write.overtaken);
  const double flight_survival = draw_survival(random);
  for (const auto& [time, io] : in_flight_) {
    if (io.error && leaves_content_alone(*io.error)) continue;
    for (const Piece& piece : io.pieces) survive(piece, flight_survival, nullptr);
  }
  return image;
}

// ---- Faults, log, counters ----

SimDevice::FaultId SimDevice::add_fault(const SimFault& fault) {
  faults_.emplace(next_fault_, ActiveFault{fault});
  return next_fault_++;
}

void SimDevice::clear_log() {
  log_.clear();
  log_first_ = submit_order_;
}

void SimDevice::note_submitted(const InFlight& io) {
  const auto kind = static_cast<size_t>(io.request.kind);
  ++stats_.submitted_count[kind];
  stats_.submitted_bytes[kind] += io.request.len;
  if (io.request.fua) ++stats_.fua_count;
  log_.push_back({io.request.kind, io.request.fua, io.request.addr, io.request.len,
                  clock_.monotonic_ns(), 0, std::nullopt});
  if (log_.size() > options_.log_records_max) {
    log_.pop_front();
    ++log_first_;
  }
}

void SimDevice::note_completed(const InFlight& io) {
  ++stats_.completed_count[static_cast<size_t>(io.request.kind)];
  if (io.submit_order < log_first_) return;
  SimIoRecord& record = log_[io.submit_order - log_first_];
  record.complete_ns = clock_.monotonic_ns();
  record.error = io.error;
}

}  // namespace fusefs
