// The JSON model: envelope, histograms, and text that is not UTF-8.
#include <nlohmann/json.hpp>
#include <string>

#include "core/stats/json.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("the envelope has the agreed keys in the agreed order") {
  Json data;
  data["volume"]["size_bytes"] = 4096;
  const Json envelope = make_envelope(kStatsSchema, Timestamp{1, 5}, 2,
                                      {{MessageSeverity::warning, "it is late"}}, std::move(data));
  CHECK(dump_json(envelope, JsonLayout::line) ==
        R"({"schema":"fusefs.stats","schema_version":[1,0],"tool_version":")" FUSEFS_VERSION
        R"(","generated_unix_ns":1000000005,"exit_status":2,)"
        R"("messages":[{"severity":"warning","text":"it is late"}],)"
        R"("data":{"volume":{"size_bytes":4096}}})"
        "\n");
  CHECK(Json::parse(dump_json(envelope, JsonLayout::pretty)) == envelope);
}

TEST_CASE("an envelope without messages has an empty list of them") {
  const Json envelope = make_envelope(kStatsSchema, {}, 0, {}, Json::object());
  CHECK(envelope.at("messages").is_array());
  CHECK(envelope.at("messages").empty());
}

TEST_CASE("bytes that are not UTF-8 are replaced, and everything else is kept") {
  const std::string label =
      "a\xff\xfe"
      "b\"\\\n\xc3\xa9";
  const Json value = json_text(label);
  CHECK(value.get<std::string>() ==
        "a\xEF\xBF\xBD\xEF\xBF\xBD"
        "b\"\\\n\xc3\xa9");
  // Also when somebody has put it into the model unwashed.
  Json raw;
  raw["path"] = label;
  CHECK(Json::parse(dump_json(raw, JsonLayout::line)).at("path") == value);
}

TEST_CASE("an identifier is a string, whatever its size") {
  CHECK(json_id(1) == Json("1"));
  CHECK(json_id(UINT64_MAX) == Json("18446744073709551615"));
}

TEST_CASE("times before 1970 are negative") {
  CHECK(unix_ns(Timestamp{-1, 999'999'999}) == -1);
  CHECK(unix_ns(Timestamp{2, 3}) == 2'000'000'003);
}

TEST_CASE("the buckets of a histogram are cumulative and end with all records") {
  Histogram histogram;
  for (const uint64_t value : {0u, 1u, 5u, 5u, 6u, 100u, 5000u}) histogram.record(value);
  const Json json = json_histogram(histogram);
  CHECK(json.at("count") == 7);
  CHECK(json.at("sum") == 5117);
  CHECK(json.at("min") == 0);
  CHECK(json.at("max") == 5000);
  CHECK(json.at("p50") == 5);
  const Json expected = {{0, 1}, {1, 2}, {7, 5}, {127, 6}, {8191, 7}};
  CHECK(json.at("buckets") == expected);
  CHECK(is_histogram(json));
}

TEST_CASE("a histogram without records has zeroes and no buckets") {
  const Json json = json_histogram(Histogram());
  CHECK(json.at("count") == 0);
  CHECK(json.at("min") == 0);
  CHECK(json.at("p999") == 0);
  CHECK(json.at("buckets").is_array());
  CHECK(json.at("buckets").empty());
}

TEST_CASE("records beyond a histogram's range are in its last bucket") {
  Histogram histogram;
  histogram.record(3);
  histogram.record(uint64_t{1} << 50);
  const Json buckets = json_histogram(histogram).at("buckets");
  REQUIRE(buckets.size() == 2);
  CHECK(buckets.at(1).at(0).get<uint64_t>() == UINT64_MAX);
  CHECK(buckets.at(1).at(1) == 2);
}

}  // namespace
}  // namespace fusefs
