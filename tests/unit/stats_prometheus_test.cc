// The model in Prometheus' text format.
#include <nlohmann/json.hpp>
#include <string>

#include "core/stats/prometheus.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST_CASE("counters end in total, and quantities are in base units") {
  Json data;
  data["device"]["read_bytes"] = 4096u;
  data["device"]["read_count"] = 3u;
  data["memory"]["dirty_bytes"] = 10u;
  data["engine"]["monitor_held_ns"] = 1'500'000'000u;
  data["engine"]["monitor_held_ns_max"] = 2000u;
  data["kernel"]["fuseblk"] = true;
  data["volume"]["mount_unix_ns"] = 5'000'000'000u;
  const std::string text = render_prometheus(data, stats_schema());
  CHECK(has_line(text, "# TYPE fusefs_device_read_bytes_total counter"));
  CHECK(has_line(text, "fusefs_device_read_bytes_total 4096"));
  CHECK(has_line(text, "fusefs_device_read_total 3"));
  CHECK(has_line(text, "# TYPE fusefs_memory_dirty_bytes gauge"));
  CHECK(has_line(text, "fusefs_memory_dirty_bytes 10"));
  CHECK(has_line(text, "fusefs_engine_monitor_held_seconds_total 1.5"));
  CHECK(has_line(text, "fusefs_engine_monitor_held_seconds_max 2e-06"));
  CHECK(has_line(text, "fusefs_kernel_fuseblk 1"));
  CHECK(has_line(text, "fusefs_volume_mount_timestamp_seconds 5"));
}

TEST_CASE("what stands for a wildcard becomes a label") {
  Json data;
  data["fuse"]["read"]["count"] = 7u;
  data["fuse"]["write"]["count"] = 8u;
  data["fuse"]["write"]["errors_count"] = 1u;
  data["fuse"]["write"]["bytes"] = 512u;
  data["engine"]["restarts"]["node_load"] = 9u;
  const std::string text = render_prometheus(data, stats_schema());
  CHECK(has_line(text, "fusefs_op_requests_total{op=\"read\"} 7"));
  CHECK(has_line(text, "fusefs_op_requests_total{op=\"write\"} 8"));
  CHECK(has_line(text, "fusefs_op_errors_total{op=\"write\"} 1"));
  CHECK(has_line(text, "fusefs_op_bytes_total{op=\"write\"} 512"));
  CHECK(has_line(text, "fusefs_engine_restarts_total{reason=\"node_load\"} 9"));
  const size_t first = text.find("# TYPE fusefs_op_requests_total");
  CHECK(text.find("# TYPE fusefs_op_requests_total", first + 1) == std::string::npos);
}

TEST_CASE("a histogram of times has buckets in seconds that never change their bounds") {
  Histogram latency;
  latency.record(900);
  latency.record(3000);
  latency.record(uint64_t{1} << 39);
  Json data;
  data["fuse"]["read"]["latency_ns"] = json_histogram(latency);
  const std::string text = render_prometheus(data, stats_schema());
  const std::string name = "fusefs_op_latency_seconds";
  CHECK(has_line(text, "# TYPE " + name + " histogram"));
  CHECK(has_line(text, name + "_bucket{op=\"read\",le=\"1.023e-06\"} 1"));
  CHECK(has_line(text, name + "_bucket{op=\"read\",le=\"2.047e-06\"} 1"));
  CHECK(has_line(text, name + "_bucket{op=\"read\",le=\"4.095e-06\"} 2"));
  CHECK(has_line(text, name + "_bucket{op=\"read\",le=\"17.179869183\"} 2"));
  CHECK(has_line(text, name + "_bucket{op=\"read\",le=\"+Inf\"} 3"));
  CHECK(has_line(text, name + "_count{op=\"read\"} 3"));

  // The same bounds without a record.
  const auto lines = [](const std::string& of) { return std::count(of.begin(), of.end(), '\n'); };
  data["fuse"]["read"]["latency_ns"] = json_histogram(Histogram());
  CHECK(lines(render_prometheus(data, stats_schema())) == lines(text));
}

TEST_CASE("texts become labels, escaped, of one info metric per section") {
  Json data;
  data["volume"]["uuid"] = "01-02";
  data["volume"]["label"] = "a\"b\\c\nd";
  data["volume"]["failure"] = nullptr;
  data["device"]["name"] = "/dev/x";
  const std::string text = render_prometheus(data, stats_schema());
  CHECK(has_line(text, R"(fusefs_volume_info{uuid="01-02",label="a\"b\\c\nd",failure=""} 1)"));
  CHECK(has_line(text, R"(fusefs_device_info{name="/dev/x"} 1)"));
}

TEST_CASE("labels of the mount are on every sample") {
  Json data;
  data["journal"]["batch_count"] = 1u;
  data["fuse"]["read"]["count"] = 7u;
  const std::string text = render_prometheus(data, stats_schema(), {{"mount", "/mnt"}});
  CHECK(has_line(text, "fusefs_journal_batch_total{mount=\"/mnt\"} 1"));
  CHECK(has_line(text, "fusefs_op_requests_total{mount=\"/mnt\",op=\"read\"} 7"));
}

TEST_CASE("a model of another shape is rendered as far as it goes") {
  Json data;
  data["device"] = 3;
  data["journal"]["commit_latency_ns"] = "none";
  data["unknown"]["key"] = 1;
  const std::string text = render_prometheus(data, stats_schema());
  CHECK(text.find("unknown") == std::string::npos);
  CHECK(text.find("fusefs_device") == std::string::npos);
}

}  // namespace
}  // namespace fusefs
