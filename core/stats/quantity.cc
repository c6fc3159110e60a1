#include "core/stats/quantity.h"

#include <array>
#include <cstdio>
#include <ctime>
#include <utility>

namespace fusefs {
namespace {

constexpr std::array<std::string_view, 8> kQualifiers = {
    "_max", "_min", "_mean", "_p50", "_p90", "_p99", "_p999", "_total",
};
struct UnitWord {
  std::string_view word;
  Unit unit;
};
constexpr std::array<UnitWord, 4> kUnitWords = {{
    {"unix_ns", Unit::unix_ns},  // before "ns"
    {"ns", Unit::ns},
    {"bytes", Unit::bytes},
    {"ratio", Unit::ratio},
}};

std::string_view qualifier_of(std::string_view key) {
  for (const std::string_view qualifier : kQualifiers) {
    if (key.ends_with(qualifier)) return qualifier;
  }
  return {};
}

bool ends_with_word(std::string_view key, std::string_view word) {
  if (!key.ends_with(word)) return false;
  return key.size() == word.size() || key[key.size() - word.size() - 1] == '_';
}

std::string printed(const char* format, double value, const char* unit) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return std::string(text) + " " + unit;
}

// Three digits that mean something.
std::string scaled(double value, const char* unit) {
  const char* format = value < 9.995 ? "%.2f" : value < 99.95 ? "%.1f" : "%.0f";
  return printed(format, value, unit);
}

std::string format_bytes(double value) {
  static constexpr std::array<const char*, 7> kNames = {"B",   "KiB", "MiB", "GiB",
                                                        "TiB", "PiB", "EiB"};
  if (value < 1024) return printed("%.0f", value, kNames[0]);
  size_t power = 0;
  while (value >= 1023.5 && power + 1 < kNames.size()) {
    value /= 1024;
    ++power;
  }
  return scaled(value, kNames[power]);
}

std::string format_ns(double value) {
  if (value < 1e3) return printed("%.0f", value, "ns");
  if (value < 999.5e3) return scaled(value / 1e3, "us");
  if (value < 999.5e6) return scaled(value / 1e6, "ms");
  return scaled(value / 1e9, "s");
}

std::string format_time(double value) {
  const auto seconds = static_cast<std::time_t>(value / 1e9);
  std::tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) return printed("%.0f", value, "ns");
  char text[64];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts);
  return text;
}

}  // namespace

Unit unit_of(std::string_view key) {
  key.remove_suffix(qualifier_of(key).size());
  for (const UnitWord& entry : kUnitWords) {
    if (ends_with_word(key, entry.word)) return entry.unit;
  }
  return Unit::none;
}

std::string without_unit(std::string_view key) {
  const std::string_view qualifier = qualifier_of(key);
  std::string_view stem = key.substr(0, key.size() - qualifier.size());
  for (const UnitWord& entry : kUnitWords) {
    if (!ends_with_word(stem, entry.word)) continue;
    stem.remove_suffix(entry.word.size());
    if (!stem.empty()) stem.remove_suffix(1);  // the underscore before it
    return std::string(stem) + std::string(qualifier);
  }
  return std::string(key);
}

std::string format_quantity(double value, Unit unit) {
  switch (unit) {
    case Unit::bytes:
      return format_bytes(value);
    case Unit::ns:
      return format_ns(value);
    case Unit::unix_ns:
      return format_time(value);
    case Unit::ratio:
      return scaled(value * 100, "%");
    case Unit::none:
      break;
  }
  char text[64];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

std::string format_quantity(uint64_t value, Unit unit) {
  if (unit == Unit::none) return std::to_string(value);
  return format_quantity(static_cast<double>(value), unit);
}

}  // namespace fusefs
