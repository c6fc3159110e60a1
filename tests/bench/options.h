// The words of a benchmark's command line: --json, options with a number, and perhaps a device.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <string_view>

namespace fusefs {

struct NumberOption {
  std::string_view name;
  uint64_t* value;
};

// `device`: where the one word goes that is no option; null: there is none. False: something else
// was said, or a device is missing.
inline bool parse_options(int argc, char** argv, bool& json,
                          std::initializer_list<NumberOption> numbers,
                          std::string* device = nullptr) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    uint64_t* value = nullptr;
    for (const NumberOption& option : numbers) {
      if (option.name == word) value = option.value;
    }
    if (word == "--json") {
      json = true;
    } else if (value != nullptr && i + 1 < argc) {
      *value = std::strtoull(argv[++i], nullptr, 10);
    } else if (device != nullptr && device->empty() && !word.starts_with("-")) {
      *device = word;
    } else {
      return false;
    }
  }
  return device == nullptr || !device->empty();
}

}  // namespace fusefs
