// The JSON model that every command prints, and its envelope. Rules and keys: docs/STATS.md.
//
//   {"schema": "fusefs.stats", "schema_version": [1, 0], "tool_version": "0.1.0",
//    "generated_unix_ns": N, "exit_status": 0, "messages": [], "data": {...}}
//
// One model, three renderers: dump_json(), render_text() (text.h), render_prometheus()
// (prometheus.h). None of them looks at anything but the model.
//
// Quantities are JSON numbers, with their unit in the key. Identifiers that use all of 64 bits
// (inode numbers, hashes) are always strings: a reader with 53 bits would merge two of them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/clock.h"
#include "core/stats/histogram.h"

namespace fusefs {

using Json = nlohmann::ordered_json;  // keys stay in the order in which they were added

enum class MessageSeverity : uint8_t { info, warning, error };

struct Message {
  MessageSeverity severity = MessageSeverity::info;
  std::string text;
};

// Additive within a major version: keys are added, never renamed, removed or given another meaning.
struct SchemaName {
  std::string_view name;  // "fusefs.stats"
  uint32_t major = 1;
  uint32_t minor = 0;
};
inline constexpr SchemaName kStatsSchema{"fusefs.stats", 1, 0};

Json make_envelope(const SchemaName& schema, Timestamp generated, int exit_status,
                   const std::vector<Message>& messages, Json data);

// Negative before 1970.
int64_t unix_ns(Timestamp time);

// An identifier.
Json json_id(uint64_t value);
// Text from a disk or a user; what is not UTF-8 in it becomes U+FFFD.
Json json_text(std::string_view text);
// Goes under a key that names the unit of its values, "latency_ns":
//   {"count", "sum", "min", "mean", "p50", "p90", "p99", "p999", "max", "buckets": [[le, n], ...]}
// n records are at most le; only such le are listed behind which n has grown.
Json json_histogram(const Histogram& histogram);
bool is_histogram(const Json& value);

enum class JsonLayout : uint8_t { pretty, line };
// Never throws: bytes that are not UTF-8 are replaced.
std::string dump_json(const Json& value, JsonLayout layout);

}  // namespace fusefs
