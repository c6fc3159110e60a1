#include "core/stats/text.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/stats/quantity.h"

namespace fusefs {
namespace {

constexpr std::array<const char*, 4> kTableQuantiles = {"p50", "p99", "p999", "max"};

// Code points; what we print has no wide ones.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string padded(std::string text, size_t width) {
  const size_t have = width_of(text);
  if (have < width) text.append(width - have, ' ');
  return text;
}

std::string right_aligned(const std::string& text, size_t width) {
  const size_t have = width_of(text);
  return std::string(have < width ? width - have : 0, ' ') + text;
}

// A label or a path may hold escape sequences for the terminal.
std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7F) {
      out += c;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
    out += escaped;
  }
  return out;
}

std::string histogram_text(std::string_view key, const Json& histogram) {
  const Unit unit = unit_of(key);
  std::string text = std::to_string(histogram.value("count", uint64_t{0})) + ":";
  for (const char* part : {"p50", "p90", "p99", "p999", "max"}) {
    text += text.back() == ':' ? " " : ", ";
    text += std::string(part) + " " + format_quantity(histogram.value(part, uint64_t{0}), unit);
  }
  return text;
}

std::string scalar_text(std::string_view key, const Json& value) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_string()) return printable(value.get<std::string>());
  if (value.is_number_unsigned()) return format_quantity(value.get<uint64_t>(), unit_of(key));
  if (value.is_number()) {
    const auto number = value.get<double>();
    return number < 0 && value.is_number_integer() ? std::to_string(value.get<int64_t>())
                                                   : format_quantity(number, unit_of(key));
  }
  if (is_histogram(value)) return histogram_text(key, value);
  std::string text;
  for (const Json& element : value) {
    if (!text.empty()) text += ", ";
    text += scalar_text(key, element);
  }
  return text.empty() ? "-" : text;
}

// Fits on a line: a value, a histogram, a list of values.
bool is_plain(const Json& value) {
  if (value.is_object()) return is_histogram(value);
  if (!value.is_array()) return true;
  return std::none_of(value.begin(), value.end(),
                      [](const Json& element) { return element.is_structured(); });
}

// Objects with the same keys and plain values.
bool is_table(const Json& object) {
  if (object.empty()) return false;
  const Json& first = *object.begin();
  for (const Json& row : object) {
    if (!row.is_object() || is_histogram(row) || row.size() != first.size()) return false;
    for (const auto& [key, value] : row.items()) {
      if (!is_plain(value) || !first.contains(key)) return false;
    }
  }
  return true;
}

class TextRenderer {
 public:
  void section(const std::string& title, const Json& object) {
    begin(title);
    plain_lines(object);
    for (const auto& [key, value] : object.items()) {
      if (is_plain(value)) continue;
      const std::string name = title.empty() ? key : title + "." + key;
      if (value.is_array()) {
        for (size_t i = 0; i < value.size(); ++i) {
          if (value[i].is_object()) section(name + "[" + std::to_string(i) + "]", value[i]);
        }
      } else if (is_table(value)) {
        table(name, value);
      } else {
        section(name, value);
      }
    }
  }
  std::string take() { return std::move(out_); }

 private:
  void begin(const std::string& title) { title_ = title; }

  // The title comes with the first line below it: a section of sections has none.
  void line(const std::string& text) {
    if (!title_.empty()) {
      if (!out_.empty()) out_ += '\n';
      out_ += title_ + "\n";
      title_.clear();
      indent_ = 2;
    }
    out_ += std::string(indent_, ' ') + text + "\n";
  }

  void plain_lines(const Json& object) {
    size_t width = 0;
    for (const auto& [key, value] : object.items()) {
      if (is_plain(value)) width = std::max(width, width_of(key));
    }
    for (const auto& [key, value] : object.items()) {
      if (is_plain(value)) line(padded(key, width) + "  " + scalar_text(key, value));
    }
  }

  using Row = std::vector<std::string>;

  static void add_cells(Row& head, Row& cells, const std::string& key, const Json& value) {
    if (!is_histogram(value)) {
      head.push_back(key);
      cells.push_back(scalar_text(key, value));
      return;
    }
    for (const char* part : kTableQuantiles) {
      head.push_back(key + "_" + part);
      cells.push_back(format_quantity(value.value(part, uint64_t{0}), unit_of(key)));
    }
  }

  void table(const std::string& title, const Json& object) {
    std::vector<Row> rows(1);
    for (const auto& [name, record] : object.items()) {
      Row head{""};
      Row cells{printable(name)};
      // In the order of the first row, whatever the others' is.
      for (const auto& [key, ignored] : object.begin()->items()) {
        (void)ignored;
        add_cells(head, cells, key, record.at(key));
      }
      rows.front() = head;
      rows.push_back(cells);
    }
    std::vector<size_t> widths(rows.front().size());
    for (const Row& row : rows) {
      for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
    }
    begin(title);
    for (const Row& row : rows) {
      std::string text = padded(row[0], widths[0]);
      for (size_t i = 1; i < row.size(); ++i) text += "  " + right_aligned(row[i], widths[i]);
      line(text);
    }
  }

  std::string out_;
  std::string title_;
  size_t indent_ = 0;
};

}  // namespace

std::string render_text(const Json& data) {
  TextRenderer renderer;
  renderer.section("", data);
  return renderer.take();
}

}  // namespace fusefs
