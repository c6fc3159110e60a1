// The JSON model of `fusefs stats` in Prometheus' text format. Names: docs/STATS.md, "Prometheus".
//
//   device.read_bytes        fusefs_device_read_bytes_total
//   engine.monitor_held_ns   fusefs_engine_monitor_held_seconds_total
//   fuse.write.latency_ns    fusefs_op_latency_seconds_bucket{op="write",le="..."}
//   volume.uuid, .label ...  fusefs_volume_info{uuid="...",label="..."} 1
//
// What the schema does not list is not shown.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/stats/json.h"
#include "core/stats/schema.h"

namespace fusefs {

// Added to every sample: which mount it is of.
using PrometheusLabels = std::vector<std::pair<std::string, std::string>>;

// `data` is the data of an envelope.
std::string render_prometheus(const Json& data, std::span<const StatEntry> schema,
                              const PrometheusLabels& labels = {});

}  // namespace fusefs
