// Renaming, case by case.
#include <optional>
#include <string>

#include "tests/sim/namespace_cases.h"

namespace fusefs {
namespace {

enum class Kind { none, file, empty, full };

const char* name_of(Kind kind) {
  constexpr const char* kNames[] = {"none", "file", "empty directory", "full directory"};
  return kNames[static_cast<int>(kind)];
}

void make(NamespaceRig& rig, InodeNo parent, const std::string& name, Kind kind) {
  if (kind == Kind::none) return;
  const InodeNo ino =
      made(rig.create(parent, name, kind == Kind::file ? kRegularMode : kDirectoryMode));
  if (kind == Kind::full) made(rig.create(ino, "inside", kRegularMode));
}

std::optional<Error> expected_error(Kind source, Kind target, RenameMode mode) {
  const bool replaces = mode == RenameMode::replace || mode == RenameMode::whiteout;
  if (source == Kind::none) return Error::not_found;
  if (mode == RenameMode::exchange) {
    if (target == Kind::none) return Error::not_found;
    return std::nullopt;
  }
  if (target == Kind::none) return std::nullopt;
  if (!replaces) return Error::exists;
  if (source == Kind::file && target != Kind::file) return Error::is_a_directory;
  if (source != Kind::file && target == Kind::file) return Error::not_a_directory;
  if (target == Kind::full) return Error::directory_not_empty;
  return std::nullopt;
}

TEST_CASE("rename: every kind over every kind, in every mode, within one and between directories") {
  constexpr Kind kKinds[] = {Kind::none, Kind::file, Kind::empty, Kind::full};
  constexpr RenameMode kModes[] = {RenameMode::replace, RenameMode::no_replace,
                                   RenameMode::exchange, RenameMode::whiteout,
                                   RenameMode::whiteout_no_replace};
  for_each_seed(1, [&](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    int round = 0;
    for (const Kind source : kKinds) {
      for (const Kind target : kKinds) {
        for (const RenameMode mode : kModes) {
          for (const bool same : {false, true}) {
            CAPTURE(name_of(source));
            CAPTURE(name_of(target));
            CAPTURE(static_cast<int>(mode));
            CAPTURE(same);
            const std::string top = std::to_string(round++);
            const InodeNo from = made(rig.create(kRoot, top, kDirectoryMode));
            const InodeNo to = same ? from : made(rig.create(from, "to", kDirectoryMode));
            make(rig, from, "old", source);
            make(rig, to, "new", target);
            const NamespaceRig::Made old_ino = rig.lookup(from, "old");
            const NamespaceRig::Made new_ino = rig.lookup(to, "new");

            const auto result = rig.rename(from, "old", to, "new", mode);
            const std::optional<Error> expected = expected_error(source, target, mode);
            REQUIRE(result.ok() == !expected.has_value());
            if (expected) {
              CHECK(error_name(result.error()) == error_name(*expected));
              continue;
            }
            CHECK(made(rig.lookup(to, "new")) == old_ino.value());
            const InodeAttr moved = attr_of(rig, old_ino.value());
            if (moved.is_directory()) CHECK(moved.parent == to);
            const bool whiteout =
                mode == RenameMode::whiteout || mode == RenameMode::whiteout_no_replace;
            if (mode == RenameMode::exchange) {
              CHECK(result.value() == InodeNo());
              CHECK(made(rig.lookup(from, "old")) == new_ino.value());
              const InodeAttr other = attr_of(rig, new_ino.value());
              if (other.is_directory()) CHECK(other.parent == from);
            } else if (whiteout) {
              const InodeAttr left = attr_of(rig, made(rig.lookup(from, "old")));
              CHECK(left.mode == 0020000);
              CHECK(left.device == 0);
            } else {
              CHECK_ERROR(rig.lookup(from, "old"), Error::not_found);
            }
            if (target != Kind::none && mode != RenameMode::exchange) {
              CHECK(result.value() == new_ino.value());
              CHECK(attr_of(rig, new_ino.value()).link_count == 0);
              REQUIRE(rig.reap(new_ino.value()).ok());
            }
            for (const InodeNo directory : {from, to}) {
              const auto listed = rig.list(directory, 0, 100, true);
              uint32_t links = 2;
              for (const auto& one : listed.value()) {
                if (one.attr && one.attr->is_directory()) ++links;
              }
              CHECK(attr_of(rig, directory).link_count == links);
              CHECK(attr_of(rig, directory).size + 2 == listed.value().size());
            }
          }
        }
      }
    }
    CHECK(rig.orphans().empty());
  });
}

TEST_CASE("a directory never moves into itself or below, whichever way it is asked for") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo a = made(rig.create(kRoot, "a", kDirectoryMode));
    const InodeNo b = made(rig.create(a, "b", kDirectoryMode));
    const InodeNo c = made(rig.create(b, "c", kDirectoryMode));
    CHECK_ERROR(rig.rename(kRoot, "a", a, "x"), Error::invalid_argument);
    CHECK_ERROR(rig.rename(kRoot, "a", c, "x"), Error::invalid_argument);
    CHECK_ERROR(rig.rename(kRoot, "a", b, "c", RenameMode::exchange), Error::invalid_argument);
    CHECK_ERROR(rig.rename(b, "c", kRoot, "a", RenameMode::exchange), Error::invalid_argument);
    CHECK_ERROR(rig.rename(b, "c", kRoot, "a"), Error::directory_not_empty);
    made(rig.rename(b, "c", kRoot, "c"));
    made(rig.rename(kRoot, "a", c, "a"));
    CHECK(attr_of(rig, a).parent == c);
    CHECK(attr_of(rig, kRoot).link_count == 3);
  });
}

TEST_CASE("renaming one name of a file over another changes nothing") {
  NamespaceRig rig({});
  const InodeNo file = made(rig.create(kRoot, "a", kRegularMode));
  made(rig.link(file, kRoot, "b"));
  const uint64_t changes = attr_of(rig, kRoot).change_count;
  for (const RenameMode mode : {RenameMode::replace, RenameMode::exchange, RenameMode::whiteout}) {
    CHECK(made(rig.rename(kRoot, "a", kRoot, "b", mode)) == InodeNo());
    CHECK(made(rig.rename(kRoot, "a", kRoot, "a", mode)) == InodeNo());
  }
  CHECK_ERROR(rig.rename(kRoot, "a", kRoot, "b", RenameMode::no_replace), Error::exists);
  CHECK(rig.names_in(kRoot) == std::vector<std::string>{"a", "b"});
  CHECK(attr_of(rig, file).link_count == 2);
  CHECK(attr_of(rig, kRoot).change_count == changes);
}

}  // namespace
}  // namespace fusefs
