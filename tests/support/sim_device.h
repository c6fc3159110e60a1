// SimDevice: a device in memory that does everything the contract of BlockDevice allows.
//
// Requests take a seeded time each and complete in the order of those times, so they overtake each
// other. Nothing happens by itself: whoever runs the simulation asks for the next event, advances
// the clock and delivers what is due (sim_world.h).
//
//      submit --> in flight --time--> completed: in the volatile cache --flush--> durable
//                     |                   |
//                     +---- power cut ----+--> each logical block survives or not, by chance
//
// A flush that fails may take what it covered with it: that stays visible, and no later flush
// brings it to the platters. So may the flush that a write with `fua` costs without has_fua, if
// a fault strikes there (SimFault::behind_data).
//
// After a power cut the device is dead: no completion is ever delivered again. What the platters
// hold then is one of many images; surviving_image() draws one, as often as it is asked.
//
// Invariants, each a CHECK on the caller:
//   (1) Addresses, lengths and buffers are aligned to the logical block; requests are in range.
//   (2) Two requests in flight that change the content never share a block.
//   (3) The memory of a write does not change while the write is in flight.
// A read in flight beside a write of the same block gets, per block, the old or the new.
//
// Deterministic: the same seed and the same requests at the same times give the same events.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "core/base/clock.h"
#include "core/base/random.h"
#include "core/io/block_device.h"
#include "core/io/writes_in_flight.h"
#include "tests/support/sim_image.h"

namespace fusefs {

inline constexpr uint64_t kSimSlowNs = 50 * kNsPerMs;

struct SimDeviceOptions {
  uint64_t seed = 1;
  uint64_t size_bytes = uint64_t{1} << 30;
  uint32_t logical_block_bytes = 4096;
  uint32_t io_bytes_max = 1 << 20;
  bool has_volatile_cache = true;
  bool has_fua = false;  // what the geometry says; a write with `fua` is durable either way
  bool can_discard = true;
  bool read_only = false;

  // Most requests take latency_ns_min to latency_ns_max; slow_probability of them kSimSlowNs.
  uint64_t latency_ns_min = 10'000;
  uint64_t latency_ns_max = 200'000;
  double slow_probability = 0.005;

  // The power fails when change number N (counted from 0: writes, discards, zeroing) has been
  // submitted: N came before it, and it is in flight. Nothing is heard of the device after that.
  std::optional<uint64_t> cut_after_writes = {};

  // How many requests the log remembers.
  size_t log_records_max = 100'000;
};

// Makes requests fail, or slow. A request matches by kind and address; of those that match, the
// first `skip` pass, the next `count` are struck, each with `probability`.
struct SimFault {
  std::optional<IoKind> kind = {};
  uint64_t addr_first = 0;
  uint64_t addr_end = UINT64_MAX;
  uint64_t skip = 0;
  uint64_t count = UINT64_MAX;
  double probability = 1.0;

  // device_gone stays: everything fails with it from then on.
  std::optional<Error> error = {};
  uint64_t delay_ns = 0;  // added to the latency
  // Strikes writes with `fua` where the device has none, and only what follows their data: that is
  // in the cache.
  bool behind_data = false;
};

struct SimIoRecord {
  IoKind kind = IoKind::read;
  bool fua = false;
  uint64_t addr = 0;
  uint64_t len = 0;
  uint64_t submit_ns = 0;
  uint64_t complete_ns = 0;  // 0 while in flight
  std::optional<Error> error = {};
};

struct SimDeviceStats {
  std::array<uint64_t, kIoKindCount> submitted_count = {};
  std::array<uint64_t, kIoKindCount> completed_count = {};
  std::array<uint64_t, kIoKindCount> submitted_bytes = {};
  uint64_t fua_count = 0;
  uint64_t failed_count = 0;
  uint64_t change_count = 0;  // what cut_after_writes counts
  uint64_t in_flight_max = 0;

  uint64_t submitted(IoKind kind) const { return submitted_count[static_cast<size_t>(kind)]; }
  uint64_t completed(IoKind kind) const { return completed_count[static_cast<size_t>(kind)]; }
  uint64_t bytes(IoKind kind) const { return submitted_bytes[static_cast<size_t>(kind)]; }
};

class SimDevice final : public BlockDevice {
 public:
  // `image` is what the device holds, durably, at first.
  SimDevice(const SimClock& clock, const SimDeviceOptions& options, SimImage image = {});

  const DeviceGeometry& geometry() const override { return geometry_; }
  void submit(IoRequest request, const Ref<IoTicket>& ticket) override;

  // When the next completion is due; nothing in flight, or dead: null.
  std::optional<uint64_t> next_event_ns() const;
  // Completes what is due by the clock. Monitor held.
  void deliver_due();

  // The process that submitted is gone, and its memory with it: what is in flight still completes,
  // but reads and checks no buffer.
  void forget_buffers();

  // ---- Errors ----

  using FaultId = uint64_t;
  FaultId add_fault(const SimFault& fault);
  void remove_fault(FaultId id) { faults_.erase(id); }
  void clear_faults() { faults_.clear(); }

  // ---- Power ----

  bool dead() const { return dead_; }
  void cut_power() { dead_ = true; }
  // One of the images that the power cut may have left. Requires dead().
  SimImage surviving_image(Random& random) const;
  // Both.
  SimImage power_cut(Random& random) {
    cut_power();
    return surviving_image(random);
  }

  // What a read gets now: every completed write, durable or not. Also what is left when only the
  // daemon dies. Nothing in flight is in it.
  SimImage snapshot() const { return current_; }
  // What the next power cut cannot take away.
  SimImage durable_image() const { return durable_; }

  // ---- What happened ----

  const std::deque<SimIoRecord>& log() const { return log_; }
  void clear_log();
  const SimDeviceStats& stats() const { return stats_; }
  size_t in_flight_count() const { return in_flight_.size(); }

 private:
  struct Piece {
    uint64_t addr;
    std::vector<std::byte> data;
  };
  struct InFlight {
    IoRequest request;
    Ref<IoTicket> ticket;
    std::vector<Piece> pieces;  // what it changes, as its buffers were at submit
    uint64_t submit_order = 0;
    uint64_t completed_before = 0;  // of a flush: the cached writes it covers
    std::optional<Error> error = {};
    bool behind_data = false;  // the error
  };
  // A completed write that no flush has covered.
  struct CachedWrite {
    uint64_t order;  // of completion
    Piece piece;
    std::vector<bool> overtaken;  // per logical block: a newer version is durable
    bool dropped = false;         // by a flush that failed: no later one writes it
  };
  struct ActiveFault {
    SimFault fault;
    uint64_t seen = 0;
  };

  uint64_t block_bytes() const { return options_.logical_block_bytes; }
  void check_request(const IoRequest& request) const;
  void check_unchanged(const InFlight& io) const;
  uint64_t draw_latency();
  void apply_faults(InFlight& io, uint64_t& latency_ns);
  std::optional<Error> refusal(const IoRequest& request) const;
  std::vector<Piece> pieces_of(const IoRequest& request);

  void complete(InFlight& io);
  void fail(InFlight& io);
  void complete_read(const InFlight& io);
  void complete_change(InFlight& io);
  void complete_flush(const InFlight& io);
  void drop_some(uint64_t order_max);
  void store(Piece piece, bool durable);
  void overtake(const Piece& piece);
  // Writes those blocks of `piece` to `image` that `survives(index)` names.
  template <class Survives>
  void write_blocks(SimImage& image, const Piece& piece, Survives&& survives) const;
  void note_submitted(const InFlight& io);
  void note_completed(const InFlight& io);

  const SimClock& clock_;
  const SimDeviceOptions options_;
  DeviceGeometry geometry_;
  Random random_;
  bool dead_ = false;
  bool gone_ = false;

  SimImage current_;  // durable_ with cached_ on top
  SimImage durable_;
  std::deque<CachedWrite> cached_;  // by order
  uint64_t completed_order_ = 0;
  bool has_dropped_ = false;  // current_ shows what may never be durable

  std::multimap<uint64_t, InFlight> in_flight_;  // by time of completion, then of submission
  WritesInFlight changing_;
  std::vector<Ref<IoTicket>> never_;  // submitted to the dead
  uint64_t submit_order_ = 0;

  std::map<FaultId, ActiveFault> faults_;
  FaultId next_fault_ = 1;

  std::deque<SimIoRecord> log_;
  uint64_t log_first_ = 0;  // submit order of log_.front()
  SimDeviceStats stats_;
};

}  // namespace fusefs
