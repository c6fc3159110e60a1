#include "core/stats/prometheus.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "core/stats/quantity.h"

namespace fusefs {
namespace {

// Histograms of times show these bounds, 2^k - 1 ns: 1 us to 17 s. The same ones always, or rates
// over them would be wrong.
constexpr int kTimeBoundBitsMin = 10;
constexpr int kTimeBoundBitsMax = 34;
// Other histograms: 0, 1, 3, ... 1023.
constexpr int kPlainBoundBitsMax = 10;

struct Match {
  std::string wildcard;  // what `*` stood for
  const Json* value;
};

std::string_view first_word(std::string_view& path) {
  const size_t dot = path.find('.');
  const std::string_view word = path.substr(0, dot);
  path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
  return word;
}

void find_matches(const Json& at, std::string_view path, const std::string& wildcard,
                  std::vector<Match>& matches) {
  if (path.empty()) {
    matches.push_back({wildcard, &at});
    return;
  }
  if (!at.is_object()) return;
  const std::string word(first_word(path));
  if (word == "*") {
    for (const auto& [key, value] : at.items()) find_matches(value, path, key, matches);
  } else if (const auto found = at.find(word); found != at.end()) {
    find_matches(*found, path, wildcard, matches);
  }
}

std::string number_text(double value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

std::string labels_text(const PrometheusLabels& labels) {
  if (labels.empty()) return {};
  std::string text = "{";
  for (const auto& [name, value] : labels) {
    if (text.size() > 1) text += ',';
    text += name + "=\"" + escaped(value) + "\"";
  }
  return text + "}";
}

bool is_seconds(std::string_view path) { return unit_of(path) == Unit::ns; }

// fuse.*.errors_count -> fusefs_op_errors_total; engine.restarts.* -> fusefs_engine_restarts_total
std::string metric_name(const StatEntry& entry) {
  std::string_view rest = entry.path;
  std::string leaf;
  std::string name = "fusefs";
  const bool of_opcode = rest.starts_with("fuse.*.");
  while (!rest.empty()) {
    const std::string_view word = first_word(rest);
    if (word == "*") continue;
    if (!leaf.empty()) name += "_" + leaf;
    leaf = of_opcode && word == "fuse" ? "op" : std::string(word);
  }
  const bool counts = entry.kind == StatKind::counter && entry.type != StatType::histogram;
  const Unit unit = unit_of(leaf);
  if (unit == Unit::ns || unit == Unit::unix_ns) {
    const bool qualified = leaf.ends_with("_max");
    leaf = without_unit(leaf);
    if (qualified) leaf.resize(leaf.size() - 4);
    leaf += std::string(leaf.empty() ? "" : "_") +
            (unit == Unit::ns ? "seconds" : "timestamp_seconds") + (qualified ? "_max" : "");
  } else if (leaf == "count") {
    leaf = "requests";
  } else if (counts && leaf.ends_with("_count")) {
    leaf.resize(leaf.size() - 6);
  }
  return name + "_" + leaf + (counts ? "_total" : "");
}

class PrometheusRenderer {
 public:
  explicit PrometheusRenderer(const PrometheusLabels& labels) : labels_(labels) {}

  void entry(const Json& data, const StatEntry& entry) {
    std::vector<Match> matches;
    find_matches(data, entry.path, {}, matches);
    if (entry.type == StatType::text) {
      for (const Match& match : matches) note_text(entry, *match.value);
      return;
    }
    if (matches.empty()) return;
    const std::string name = metric_name(entry);
    head(name, entry.meaning,
         entry.type == StatType::histogram ? "histogram"
         : entry.kind == StatKind::counter ? "counter"
                                           : "gauge");
    for (const Match& match : matches) {
      PrometheusLabels labels = labels_;
      if (!match.wildcard.empty()) {
        labels.emplace_back(entry.path.starts_with("fuse.") ? "op" : "reason", match.wildcard);
      }
      if (entry.type == StatType::histogram) {
        if (is_histogram(*match.value)) histogram(entry, name, labels, *match.value);
      } else {
        sample(name, labels, value_text(entry, *match.value));
      }
    }
  }

  std::string take() {
    for (const auto& [section, texts] : texts_) {
      const std::string name = "fusefs_" + section + "_info";
      head(name, "names of the " + section, "gauge");
      PrometheusLabels labels = labels_;
      labels.insert(labels.end(), texts.begin(), texts.end());
      sample(name, labels, "1");
    }
    return std::move(out_);
  }

 private:
  void head(const std::string& name, std::string_view help, const char* type) {
    out_ += "# HELP " + name + " " + std::string(help) + "\n";
    out_ += "# TYPE " + name + " " + type + "\n";
  }
  void sample(const std::string& name, const PrometheusLabels& labels, const std::string& value) {
    out_ += name + labels_text(labels) + " " + value + "\n";
  }

  static std::string value_text(const StatEntry& entry, const Json& value) {
    if (value.is_boolean()) return value.get<bool>() ? "1" : "0";
    const Unit unit = unit_of(entry.path);
    if (unit == Unit::ns || unit == Unit::unix_ns) return number_text(value.get<double>() / 1e9);
    return value.is_number() ? value.dump() : "NaN";
  }

  void histogram(const StatEntry& entry, const std::string& name, const PrometheusLabels& labels,
                 const Json& value) {
    const bool seconds = is_seconds(entry.path);
    const int bits_min = seconds ? kTimeBoundBitsMin : 0;
    const int bits_max = seconds ? kTimeBoundBitsMax : kPlainBoundBitsMax;
    const Json& buckets = value.at("buckets");
    for (int bits = bits_min; bits <= bits_max; ++bits) {
      const uint64_t bound = (uint64_t{1} << bits) - 1;
      uint64_t records = 0;  // at most `bound`: of the last bucket listed up to there
      for (const Json& bucket : buckets) {
        if (bucket.at(0).get<uint64_t>() <= bound) records = bucket.at(1).get<uint64_t>();
      }
      const auto number = static_cast<double>(bound);
      bucket(name, labels, number_text(seconds ? number / 1e9 : number), records);
    }
    bucket(name, labels, "+Inf", value.at("count").get<uint64_t>());
    const auto sum = value.at("sum").get<double>();
    sample(name + "_sum", labels, number_text(seconds ? sum / 1e9 : sum));
    sample(name + "_count", labels, value.at("count").dump());
  }
  void bucket(const std::string& name, PrometheusLabels labels, const std::string& bound,
              uint64_t records) {
    labels.emplace_back("le", bound);
    sample(name + "_bucket", labels, std::to_string(records));
  }

  void note_text(const StatEntry& entry, const Json& value) {
    std::string_view rest = entry.path;
    const std::string section(first_word(rest));
    std::string label(rest);
    std::replace(label.begin(), label.end(), '.', '_');
    if (texts_.empty() || texts_.back().first != section) texts_.push_back({section, {}});
    texts_.back().second.emplace_back(label,
                                      value.is_string() ? value.get<std::string>() : std::string());
  }

  const PrometheusLabels& labels_;
  std::string out_;
  std::vector<std::pair<std::string, PrometheusLabels>> texts_;
};

}  // namespace

std::string render_prometheus(const Json& data, std::span<const StatEntry> schema,
                              const PrometheusLabels& labels) {
  PrometheusRenderer renderer(labels);
  for (const StatEntry& entry : schema) renderer.entry(data, entry);
  return renderer.take();
}

}  // namespace fusefs
