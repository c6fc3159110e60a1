#include "fusefs/fuse_counters.h"

#include "fusefs/request.h"

namespace fusefs {
namespace {

std::atomic<uint64_t> g_next_id{1};

}  // namespace

FuseCounters::FuseCounters() : id_(g_next_id.fetch_add(1)) {}
FuseCounters::~FuseCounters() = default;

FuseCounters::Part& FuseCounters::my_part() {
  thread_local uint64_t owner_id = 0;
  thread_local Part* part = nullptr;
  if (owner_id != id_) {
    const std::lock_guard<std::mutex> lock(parts_mutex_);
    parts_.push_back(std::make_unique<Part>());
    part = parts_.back().get();
    owner_id = id_;
  }
  return *part;
}

void FuseCounters::end(uint32_t opcode, bool failed, uint64_t bytes, uint64_t latency_ns) {
  in_flight_.fetch_sub(1, std::memory_order_relaxed);
  Part& part = my_part();
  const std::lock_guard<std::mutex> lock(part.mutex);
  std::unique_ptr<FuseOpStats>& stats = part.opcodes[opcode];
  if (!stats) stats = std::make_unique<FuseOpStats>();
  ++stats->count;
  if (failed) ++stats->errors_count;
  stats->bytes += bytes;
  stats->latency_ns.record(latency_ns);
}

FuseCounters::Snapshot FuseCounters::snapshot() const {
  Snapshot snapshot;
  const std::lock_guard<std::mutex> parts_lock(parts_mutex_);
  for (const auto& part : parts_) {
    const std::lock_guard<std::mutex> lock(part->mutex);
    for (uint32_t opcode = 0; opcode < wire::kOpcodeEnd; ++opcode) {
      const FuseOpStats* stats = part->opcodes[opcode].get();
      if (stats == nullptr) continue;
      FuseOpStats& sum = snapshot.opcodes[opcode_name(opcode)];
      sum.count += stats->count;
      sum.errors_count += stats->errors_count;
      sum.bytes += stats->bytes;
      sum.latency_ns.merge(stats->latency_ns);
    }
  }
  snapshot.in_flight_count = in_flight_.load();
  snapshot.malformed_count = malformed_.load();
  snapshot.not_served_count = not_served_.load();
  snapshot.undelivered_count = undelivered_.load();
  snapshot.notify_count = notify_.load();
  return snapshot;
}

}  // namespace fusefs
