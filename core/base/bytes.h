// Views of bytes, and little-endian integers for what lies on the device.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace fusefs {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

// An unsigned integer stored little-endian at any alignment.
template <class T>
class LittleEndian {
  static_assert(std::is_unsigned_v<T>);
  static_assert(std::endian::native == std::endian::little, "byte swapping is not written yet");

 public:
  constexpr LittleEndian() = default;
  LittleEndian(T value) { std::memcpy(bytes_, &value, sizeof(T)); }
  operator T() const {
    T value;
    std::memcpy(&value, bytes_, sizeof(T));
    return value;
  }
  T get() const { return *this; }

 private:
  unsigned char bytes_[sizeof(T)] = {};
};

using Le16 = LittleEndian<uint16_t>;
using Le32 = LittleEndian<uint32_t>;
using Le64 = LittleEndian<uint64_t>;

template <class T>
ConstBytes bytes_of(const T& object) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span<const T, 1>(&object, 1));
}
inline ConstBytes bytes_of(std::string_view text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}
inline std::string_view text_of(ConstBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The disk struct at the start of `bytes`; the caller has checked the size.
template <class T>
const T& view_as(ConstBytes bytes) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) == 1);
  return *reinterpret_cast<const T*>(bytes.data());
}
template <class T>
T& view_as(Bytes bytes) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) == 1);
  return *reinterpret_cast<T*>(bytes.data());
}

}  // namespace fusefs
