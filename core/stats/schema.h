// The keys of `fusefs stats`: path, type, kind and meaning of each. The same table as in
// docs/STATS.md; a test holds table, document and collector against each other.
//
// A path starts below `data`. `*` stands for one key that is not known beforehand: an opcode, a
// reason.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace fusefs {

enum class StatType : uint8_t { integer, boolean, text, histogram };
enum class StatKind : uint8_t {
  fact,     // does not change while mounted
  gauge,    // goes up and down
  counter,  // only grows, from zero at the mount
};

struct StatEntry {
  std::string_view path;
  StatType type;
  StatKind kind;
  std::string_view meaning;
};

std::span<const StatEntry> stats_schema();

std::string_view stat_type_name(StatType type);
std::string_view stat_kind_name(StatKind kind);

}  // namespace fusefs
