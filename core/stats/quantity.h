// Quantity: what the last words of a key say about its number, and the number for people.
//
//   _bytes   512 B, 1.50 KiB, 3.00 GiB        _unix_ns  2026-11-21 09:44:01 UTC
//   _ns      850 ns, 1.20 us, 3.40 ms, 5.60 s _ratio    12.5 %
//   others   as it is
//
// A qualifier may follow the unit: latency_ns_p99, dirty_bytes_max.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fusefs {

enum class Unit : uint8_t { none, bytes, ns, unix_ns, ratio };

Unit unit_of(std::string_view key);
// The key without its unit: "latency_ns_p99" is "latency_p99", "bytes" is "".
std::string without_unit(std::string_view key);

std::string format_quantity(double value, Unit unit);
std::string format_quantity(uint64_t value, Unit unit);

}  // namespace fusefs
