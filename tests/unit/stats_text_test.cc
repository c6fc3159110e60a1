// The model as text: units from the keys, aligned, safe for a terminal.
#include <nlohmann/json.hpp>
#include <string>

#include "core/stats/quantity.h"
#include "core/stats/text.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

std::string pretty(uint64_t value, std::string_view key) {
  return format_quantity(value, unit_of(key));
}

TEST_CASE("the unit of a number is the last word of its key, qualifiers aside") {
  CHECK(unit_of("read_bytes") == Unit::bytes);
  CHECK(unit_of("bytes") == Unit::bytes);
  CHECK(unit_of("dirty_bytes_max") == Unit::bytes);
  CHECK(unit_of("latency_ns_p99") == Unit::ns);
  CHECK(unit_of("mount_unix_ns") == Unit::unix_ns);
  CHECK(unit_of("hit_ratio") == Unit::ratio);
  CHECK(unit_of("read_count") == Unit::none);
  CHECK(unit_of("maxbytes") == Unit::none);
  CHECK(unit_of("max_pages") == Unit::none);
}

TEST_CASE("a key without its unit keeps its qualifier") {
  CHECK(without_unit("latency_ns_p99") == "latency_p99");
  CHECK(without_unit("read_bytes") == "read");
  CHECK(without_unit("bytes").empty());
  CHECK(without_unit("in_flight_max") == "in_flight_max");
}

TEST_CASE("quantities have three digits that mean something, and their unit") {
  CHECK(pretty(0, "x_bytes") == "0 B");
  CHECK(pretty(1023, "x_bytes") == "1023 B");
  CHECK(pretty(1536, "x_bytes") == "1.50 KiB");
  CHECK(pretty(uint64_t{256} << 20, "x_bytes") == "256 MiB");
  CHECK(pretty((uint64_t{1} << 20) - 1, "x_bytes") == "1.00 MiB");
  CHECK(pretty(UINT64_MAX, "x_bytes") == "16.0 EiB");
  CHECK(pretty(999, "x_ns") == "999 ns");
  CHECK(pretty(5300, "x_ns") == "5.30 us");
  CHECK(pretty(999'999, "x_ns") == "1.00 ms");
  CHECK(pretty(20'300'000'000, "x_ns") == "20.3 s");
  CHECK(pretty(1234567, "x_count") == "1234567");
  CHECK(format_quantity(0.125, Unit::ratio) == "12.5 %");
  CHECK(pretty(1'000'000'000ull * 86400, "mount_unix_ns") == "1970-01-02 00:00:00 UTC");
}

TEST_CASE("sections have titles, and values stand in one column") {
  Json data;
  data["device"]["name"] = "/dev/zram0";
  data["device"]["read_bytes"] = 3u << 20;
  data["device"]["read_only"] = false;
  data["device"]["reason"] = nullptr;
  CHECK(render_text(data) ==
        "device\n"
        "  name        /dev/zram0\n"
        "  read_bytes  3.00 MiB\n"
        "  read_only   no\n"
        "  reason      -\n");
}

TEST_CASE("objects of one shape become a table") {
  Json data;
  for (const char* op : {"read", "write"}) {
    Histogram latency;
    latency.record(1000);
    data["fuse"][op]["count"] = 7u;
    data["fuse"][op]["bytes"] = 4096u;
    data["fuse"][op]["latency_ns"] = json_histogram(latency);
  }
  CHECK(
      render_text(data) ==
      "fuse\n"
      "         count     bytes  latency_ns_p50  latency_ns_p99  latency_ns_p999  latency_ns_max\n"
      "  read       7  4.00 KiB          999 ns          999 ns           999 ns         1.00 us\n"
      "  write      7  4.00 KiB          999 ns          999 ns           999 ns         1.00 "
      "us\n");
}

TEST_CASE("a part of a section has a title with its path") {
  Json data;
  data["volume"]["size_bytes"] = 4096u;
  data["volume"]["recovery"]["was_clean"] = true;
  data["volume"]["recovery"]["hosts"] = {"a", "b"};
  CHECK(render_text(data) ==
        "volume\n"
        "  size_bytes  4.00 KiB\n"
        "\n"
        "volume.recovery\n"
        "  was_clean  yes\n"
        "  hosts      a, b\n");
}

TEST_CASE("a list of objects is shown one after the other") {
  Json data;
  data["problems"] = Json::array();
  data["problems"].push_back({{"kind", "leak"}});
  data["problems"].push_back({{"kind", "double"}});
  CHECK(render_text(data) == "problems[0]\n  kind  leak\n\nproblems[1]\n  kind  double\n");
}

TEST_CASE("text from a disk cannot command the terminal") {
  Json data;
  data["label"] = "\x1b[31mred\n";
  CHECK(render_text(data) == "label  \\x1b[31mred\\x0a\n");
}

TEST_CASE("columns are as wide as what is read, not as the bytes") {
  Json data;
  data["t"]["\xc3\xa9"]["label"] = "\xc3\xa9\xc3\xa9";
  data["t"]["ab"]["label"] = "abc";
  CHECK(render_text(data) ==
        "t\n"
        "      label\n"
        "  \xc3\xa9      \xc3\xa9\xc3\xa9\n"
        "  ab    abc\n");
}

}  // namespace
}  // namespace fusefs
