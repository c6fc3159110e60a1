// What the tests of names and attributes share.
#pragma once

#include "tests/support/namespace_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {

inline constexpr InodeNo kRoot = kRootInode;

inline NamespaceRig::Options options_of(const TestSeed& seed, uint64_t hash_mask = ~uint64_t{0}) {
  return {seed.seed, seed.forced_restart_probability, hash_mask};
}

inline InodeNo made(const NamespaceRig::Made& result) {
  REQUIRE(result.ok());
  return result.value();
}

inline InodeAttr attr_of(NamespaceRig& rig, InodeNo ino) {
  auto attr = rig.attr(ino);
  REQUIRE(attr.ok());
  return attr.value();
}

}  // namespace fusefs

#define CHECK_ERROR(call, expected)                                  \
  do {                                                               \
    const auto error_result = (call);                                \
    REQUIRE_FALSE(error_result.ok());                                \
    CHECK(error_name(error_result.error()) == error_name(expected)); \
  } while (false)
