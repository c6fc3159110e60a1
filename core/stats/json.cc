#include "core/stats/json.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace fusefs {
namespace {

constexpr std::string_view kSeverityNames[] = {"info", "warning", "error"};

// Bounds of the buckets that are shown are 2^k - 1: few, and the same in every histogram.
uint64_t shown_bound(uint64_t end) { return end == UINT64_MAX ? end : std::bit_ceil(end) - 1; }

Json buckets_of(const Histogram& histogram) {
  Json buckets = Json::array();
  uint64_t seen = 0;
  uint64_t bound = 0;
  histogram.for_each_bucket([&](uint64_t, uint64_t end, uint64_t count) {
    if (seen != 0 && shown_bound(end) != bound) buckets.push_back({bound, seen});
    bound = shown_bound(end);
    seen += count;
  });
  if (seen != 0) buckets.push_back({bound, seen});
  return buckets;
}

uint64_t lowest(const Histogram& histogram) {
  uint64_t low = UINT64_MAX;
  histogram.for_each_bucket(
      [&](uint64_t first, uint64_t, uint64_t) { low = std::min(low, first); });
  return low == UINT64_MAX ? 0 : low;
}

}  // namespace

int64_t unix_ns(Timestamp time) {
  return time.sec * static_cast<int64_t>(kNsPerSecond) + time.nsec;
}

Json make_envelope(const SchemaName& schema, Timestamp generated, int exit_status,
                   const std::vector<Message>& messages, Json data) {
  Json envelope;
  envelope["schema"] = std::string(schema.name);
  envelope["schema_version"] = {schema.major, schema.minor};
  envelope["tool_version"] = FUSEFS_VERSION;
  envelope["generated_unix_ns"] = unix_ns(generated);
  envelope["exit_status"] = exit_status;
  Json& list = envelope["messages"] = Json::array();
  for (const Message& message : messages) {
    Json entry;
    entry["severity"] = kSeverityNames[static_cast<size_t>(message.severity)];
    entry["text"] = json_text(message.text);
    list.push_back(std::move(entry));
  }
  envelope["data"] = std::move(data);
  return envelope;
}

Json json_id(uint64_t value) { return std::to_string(value); }

Json json_text(std::string_view text) {
  const std::string dumped =
      Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(dumped);
}

Json json_histogram(const Histogram& histogram) {
  Json json;
  json["count"] = histogram.count();
  json["sum"] = histogram.sum();
  json["min"] = lowest(histogram);
  json["mean"] = histogram.mean();
  json["p50"] = histogram.quantile(0.5);
  json["p90"] = histogram.quantile(0.9);
  json["p99"] = histogram.quantile(0.99);
  json["p999"] = histogram.quantile(0.999);
  json["max"] = histogram.max();
  json["buckets"] = buckets_of(histogram);
  return json;
}

bool is_histogram(const Json& value) {
  return value.is_object() && value.contains("buckets") && value.contains("p999") &&
         value.contains("sum");
}

std::string dump_json(const Json& value, JsonLayout layout) {
  const int indent = layout == JsonLayout::pretty ? 2 : -1;
  return value.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace fusefs
