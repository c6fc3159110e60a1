#include <vector>

#include "core/base/random.h"
#include "core/inode/acl.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint32_t kNobody = ~uint32_t{0};

std::vector<std::byte> encode(const std::vector<Acl::Entry>& entries, uint32_t version = 2) {
  std::vector<std::byte> value;
  const auto append = [&](ConstBytes bytes) {
    value.insert(value.end(), bytes.begin(), bytes.end());
  };
  append(bytes_of(AclHeader{version}));
  for (const Acl::Entry& entry : entries) {
    append(bytes_of(AclEntryFormat{static_cast<uint16_t>(entry.tag), entry.permissions, entry.id}));
  }
  return value;
}

const Acl::Entry kOwner{AclTag::user_owner, 7, kNobody};
const Acl::Entry kUser{AclTag::user, 6, 1000};
const Acl::Entry kGroupOwner{AclTag::group_owner, 5, kNobody};
const Acl::Entry kGroup{AclTag::group, 3, 2000};
const Acl::Entry kMask{AclTag::mask, 6, kNobody};
const Acl::Entry kOther{AclTag::other, 1, kNobody};

Acl parsed(const std::vector<Acl::Entry>& entries) {
  Result<Acl> acl = Acl::parse(encode(entries));
  REQUIRE(acl.ok());
  return std::move(acl).value();
}

TEST_CASE("a whole ACL survives parsing and encoding") {
  const auto value = encode({kOwner, kUser, kGroupOwner, kGroup, kMask, kOther});
  const Result<Acl> acl = Acl::parse(value);
  REQUIRE(acl.ok());
  CHECK(acl.value().to_bytes() == value);
  CHECK_FALSE(acl.value().is_minimal());
}

TEST_CASE("an ACL that is not whole, ordered or sane is refused") {
  const std::vector<std::vector<Acl::Entry>> bad = {
      {},
      {kOwner, kGroupOwner},
      {kOwner, kOther},
      {kGroupOwner, kOther},
      {kOwner, kUser, kGroupOwner, kOther},         // a user needs a mask
      {kOwner, kGroupOwner, kGroup, kOther},        // and so does a group
      {kGroupOwner, kOwner, kOther},                // order
      {kOwner, kGroupOwner, kOther, kMask},         //
      {kOwner, kOwner, kGroupOwner, kOther},        // twice
      {kOwner, kGroupOwner, kMask, kMask, kOther},  //
      {{AclTag::user_owner, 8, 0}, kGroupOwner, kOther},
      {kOwner, {AclTag::user, 7, kNobody}, kGroupOwner, kMask, kOther},
      {kOwner, {AclTag{3}, 7, 1}, kGroupOwner, kMask, kOther},
      {kOwner, kGroupOwner, {AclTag{0}, 7, 1}, kOther},
      {kOwner, kGroupOwner, kOther, {AclTag{0x40}, 7, 1}},
  };
  for (const auto& entries : bad) CHECK_FALSE(Acl::parse(encode(entries)).ok());
  CHECK_FALSE(Acl::parse(encode({kOwner, kGroupOwner, kOther}, 1)).ok());
  CHECK_FALSE(Acl::parse({}).ok());
}

TEST_CASE("garbage is refused, or is an ACL that encodes to what it was") {
  Random random(1);
  for (int round = 0; round < 20'000; ++round) {
    auto value = encode({kOwner, kUser, kGroupOwner, kGroup, kMask, kOther});
    for (uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
      value[random.below(value.size())] = static_cast<std::byte>(random.below(256));
    }
    value.resize(random.chance(0.3) ? random.below(value.size() + 1) : value.size());
    const Result<Acl> acl = Acl::parse(value);
    if (!acl.ok()) continue;
    const auto again = acl.value().to_bytes();
    CHECK(again.size() == value.size());
    const Result<Acl> same = Acl::parse(again);
    REQUIRE(same.ok());
    CHECK(same.value().to_bytes() == again);
  }
}

TEST_CASE("the group bits of the mode are the mask, or without one the owning group") {
  CHECK(parsed({kOwner, kGroupOwner, kOther}).apply_to_mode(0100000) == 0100751);
  CHECK(parsed({kOwner, kGroupOwner, kOther}).is_minimal());
  CHECK(parsed({kOwner, kUser, kGroupOwner, kMask, kOther}).apply_to_mode(0104000) == 0104761);
  CHECK_FALSE(parsed({kOwner, kGroupOwner, kMask, kOther}).is_minimal());
}

TEST_CASE("chmod goes to the mask and leaves the owning group alone") {
  Acl acl = parsed({kOwner, kUser, kGroupOwner, kMask, kOther});
  acl.take_mode(0100640);
  CHECK(acl.apply_to_mode(0) == 0640);
  CHECK(acl.entries()[1].permissions == 6);
  CHECK(acl.entries()[2].permissions == 5);
  CHECK(acl.entries()[3].permissions == 4);
}

TEST_CASE("what is created keeps what both its mode and the default ACL allow") {
  struct Row {
    uint16_t owner, group, mask, other;
    uint32_t mode;
    uint32_t expected;
  };
  for (const Row& row :
       {Row{7, 7, 7, 7, 0666, 0666}, Row{7, 5, 7, 0, 0666, 0660}, Row{6, 7, 4, 7, 0777, 0647},
        Row{0, 0, 0, 0, 0777, 0000}, Row{7, 7, 2, 1, 0111, 0101}}) {
    Acl acl = parsed({{AclTag::user_owner, row.owner, kNobody},
                      kUser,
                      {AclTag::group_owner, row.group, kNobody},
                      {AclTag::mask, row.mask, kNobody},
                      {AclTag::other, row.other, kNobody}});
    CHECK(acl.intersect_with_mode(0100000 | row.mode) == (0100000 | row.expected));
    CHECK(acl.apply_to_mode(0) == row.expected);
    CHECK(acl.entries()[1].permissions == 6);
    CHECK(acl.entries()[2].permissions == row.group);
  }
}

}  // namespace
}  // namespace fusefs
