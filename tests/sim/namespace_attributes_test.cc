// Attributes, flags, extended attributes and ACLs of a mounted volume.
#include <algorithm>
#include <string>
#include <vector>

#include "core/inode/acl.h"
#include "tests/sim/namespace_cases.h"

namespace fusefs {
namespace {

constexpr uint32_t kNoId = ~uint32_t{0};
constexpr const char* kCapability = "security.capability";
using XattrMode = Namespace::XattrMode;

std::vector<std::byte> pattern(size_t len, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> value(len);
  for (std::byte& byte : value) byte = static_cast<std::byte>(random.below(256));
  return value;
}

AttrChange permissions(uint32_t mode) {
  AttrChange change;
  change.permissions = mode;
  return change;
}

AttrChange owner(uint32_t uid) {
  AttrChange change;
  change.uid = uid;
  return change;
}

// ---- Attributes ----

TEST_CASE("attributes are changed as asked, survive a mount, and every change moves ctime") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
    const InodeAttr before = attr_of(rig, file);
    rig.world().run_for(kNsPerSecond);
    AttrChange change;
    change.permissions = 0711;
    change.uid = 7;
    change.gid = 8;
    change.atime = Timestamp{-5, 1};
    change.mtime = Timestamp{1'000'000'000'000, 999'999'999};
    made(rig.set_attr(file, change));
    rig.remount();
    const InodeAttr after = attr_of(rig, file);
    CHECK(after.mode == 0100711);
    CHECK(after.uid == 7);
    CHECK(after.gid == 8);
    CHECK(after.atime == *change.atime);
    CHECK(after.mtime == *change.mtime);
    CHECK(after.ctime > before.ctime);
    CHECK(after.btime == before.btime);
    CHECK(after.change_count == before.change_count + 1);
  });
}

TEST_CASE("a new owner takes suid, sgid and capabilities away, but not from a directory") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo program = made(rig.create(kRoot, "program", 0106755));
    const InodeNo locking = made(rig.create(kRoot, "locking", 0102644));
    const InodeNo shared = made(rig.create(kRoot, "shared", 0042775));
    REQUIRE(rig.set_xattr(program, kCapability, pattern(20, 1)).ok());
    REQUIRE(rig.set_xattr(program, "user.keep", pattern(20, 1)).ok());
    for (const InodeNo ino : {program, locking, shared}) made(rig.set_attr(ino, owner(5)));
    CHECK(attr_of(rig, program).mode == 0100755);
    CHECK(attr_of(rig, locking).mode == 0102644);
    CHECK(attr_of(rig, shared).mode == 0042775);
    CHECK_ERROR(rig.get_xattr(program, kCapability), Error::no_attribute);
    CHECK(rig.get_xattr(program, "user.keep").ok());
    CHECK(attr_of(rig, program).xattr_count == 1);
  });
}

TEST_CASE("writing takes capabilities away, and suid and sgid where it is asked for") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo program = made(rig.create(kRoot, "program", 0106755));
    REQUIRE(rig.set_xattr(program, kCapability, pattern(20, 1)).ok());
    REQUIRE(rig.kill_privileges(program, false).ok());
    CHECK_ERROR(rig.get_xattr(program, kCapability), Error::no_attribute);
    CHECK(attr_of(rig, program).mode == 0106755);
    REQUIRE(rig.kill_privileges(program, true).ok());
    CHECK(attr_of(rig, program).mode == 0100755);
    const uint64_t changes = attr_of(rig, program).change_count;
    REQUIRE(rig.kill_privileges(program, true).ok());
    CHECK(attr_of(rig, program).change_count == changes);
    // A capability that comes back is found again.
    REQUIRE(rig.set_xattr(program, "security.other", pattern(5, 1)).ok());
    REQUIRE(rig.kill_privileges(program, false).ok());
    REQUIRE(rig.set_xattr(program, kCapability, pattern(20, 1)).ok());
    REQUIRE(rig.kill_privileges(program, false).ok());
    CHECK(rig.list_xattrs(program).value() == std::vector<std::string>{"security.other"});
  });
}

TEST_CASE("immutable and append-only forbid what they forbid elsewhere") {
  NamespaceRig rig({});
  const InodeNo frozen = made(rig.create(kRoot, "frozen", kDirectoryMode));
  const InodeNo grows = made(rig.create(kRoot, "grows", kDirectoryMode));
  const InodeNo file = made(rig.create(kRoot, "file", kRegularMode));
  made(rig.create(frozen, "f", kRegularMode));
  made(rig.create(grows, "f", kRegularMode));
  made(rig.set_flags(frozen, kInodeImmutable));
  made(rig.set_flags(grows, kInodeAppendOnly));
  for (const InodeNo directory : {frozen, grows}) {
    CHECK_ERROR(rig.unlink(directory, "f"), Error::not_permitted);
    CHECK_ERROR(rig.rename(directory, "f", kRoot, "moved"), Error::not_permitted);
    CHECK_ERROR(rig.rename(kRoot, "file", directory, "f"), Error::not_permitted);
    CHECK_ERROR(rig.rename(kRoot, "file", directory, "f", RenameMode::exchange),
                Error::not_permitted);
    CHECK_ERROR(rig.set_attr(directory, permissions(0700)), Error::not_permitted);
    CHECK_ERROR(rig.rmdir(kRoot, directory == frozen ? "frozen" : "grows"), Error::not_permitted);
  }
  CHECK_ERROR(rig.create(frozen, "new", kRegularMode), Error::not_permitted);
  CHECK_ERROR(rig.create_unnamed(frozen, kRegularMode), Error::not_permitted);
  CHECK_ERROR(rig.link(file, frozen, "new"), Error::not_permitted);
  CHECK_ERROR(rig.rename(kRoot, "file", frozen, "new"), Error::not_permitted);
  made(rig.create(grows, "new", kRegularMode));
  made(rig.link(file, grows, "link"));
  for (const uint32_t flag : {kInodeImmutable, kInodeAppendOnly}) {
    made(rig.set_flags(file, flag));
    CHECK_ERROR(rig.unlink(kRoot, "file"), Error::not_permitted);
    CHECK_ERROR(rig.link(file, kRoot, "other"), Error::not_permitted);
    CHECK_ERROR(rig.rename(kRoot, "file", kRoot, "other"), Error::not_permitted);
    CHECK_ERROR(rig.set_attr(file, owner(1)), Error::not_permitted);
    CHECK_ERROR(rig.set_xattr(file, "user.a", {}), Error::not_permitted);
    CHECK_ERROR(rig.remove_xattr(file, "user.a"), Error::not_permitted);
    AttrChange touch;
    touch.atime = touch.mtime = rig.inodes().now();
    touch.times_are_now = true;
    CHECK(rig.set_attr(file, touch).ok() == (flag == kInodeAppendOnly));
  }
  made(rig.set_flags(file, 0));
  made(rig.unlink(kRoot, "file"));
}

TEST_CASE("flags are inherited where they say how to treat a file, and refused where unknown") {
  NamespaceRig rig({});
  const InodeNo directory = made(rig.create(kRoot, "d", kDirectoryMode));
  const InodeNo pipe = made(rig.create(kRoot, "p", 0010644));
  made(rig.set_flags(directory, kInodeNoAtime | kInodeDirSync | kInodeAppendOnly));
  CHECK(attr_of(rig, made(rig.create(directory, "f", kRegularMode))).flags == kInodeNoAtime);
  CHECK(attr_of(rig, made(rig.create(directory, "d", kDirectoryMode))).flags ==
        (kInodeNoAtime | kInodeDirSync));
  CHECK(attr_of(rig, made(rig.create(directory, "p", 0010644))).flags == 0);
  CHECK_ERROR(rig.set_flags(directory, 1u << 20), Error::not_supported);
  CHECK_ERROR(rig.set_flags(pipe, kInodeImmutable), Error::not_supported);
}

// ---- Extended attributes ----

TEST_CASE("values of every length around the chunk boundaries come back, replaced by any other") {
  for_each_seed(1, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
    const std::string name = "user.value";
    const size_t head = kXattrChunkBytesMax - sizeof(XattrValue) - name.size();
    std::vector<size_t> lengths = {0, 1, 100, kXattrValueBytesMax - 1, kXattrValueBytesMax};
    for (const size_t chunks : {0u, 1u, 2u, 20u}) {
      for (const size_t about : {0u, 1u, 2u}) {
        lengths.push_back(head + chunks * kXattrChunkBytesMax + about - 1);
      }
    }
    Random random(seed.seed);
    for (int round = 0; round < 60; ++round) {
      const size_t len = lengths[random.below(lengths.size())];
      const auto value = pattern(len, random.next());
      CAPTURE(len);
      REQUIRE(rig.set_xattr(file, name, value).ok());
      if (random.chance(0.1)) rig.remount();
      CHECK(rig.get_xattr(file, name).value() == value);
      CHECK(attr_of(rig, file).xattr_count == 1);
    }
    REQUIRE(rig.remove_xattr(file, name).ok());
    CHECK(attr_of(rig, file).xattr_count == 0);
    const auto left = rig.run([&](NamespaceStash& stash) -> Attempt<bool> {
      ATTEMPT(const auto item,
              rig.inodes().store().tree().at_or_after(xattr_key(file, 0), stash.pins));
      return item && item->key.object == file.value();
    });
    CHECK_FALSE(left.value());
  });
}

TEST_CASE("creating wants no attribute, replacing wants one, and names have their prefixes") {
  NamespaceRig rig({});
  const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
  CHECK_ERROR(rig.set_xattr(file, "user.a", {}, XattrMode::replace), Error::no_attribute);
  REQUIRE(rig.set_xattr(file, "user.a", {}, XattrMode::create).ok());
  CHECK_ERROR(rig.set_xattr(file, "user.a", {}, XattrMode::create), Error::exists);
  REQUIRE(rig.set_xattr(file, "user.a", pattern(3, 1), XattrMode::replace).ok());
  CHECK(rig.get_xattr(file, "user.a").value() == pattern(3, 1));
  REQUIRE(rig.set_xattr(file, "trusted.a", {}).ok());
  REQUIRE(rig.set_xattr(file, "security.a", {}).ok());
  for (const char* name : {"system.other", "other.a", "user", ""}) {
    CHECK_ERROR(rig.set_xattr(file, name, {}), Error::not_supported);
    CHECK_ERROR(rig.get_xattr(file, name), Error::not_supported);
    CHECK_ERROR(rig.remove_xattr(file, name), Error::not_supported);
  }
  CHECK_ERROR(rig.set_xattr(file, "user.", {}), Error::invalid_argument);
  CHECK_ERROR(rig.set_xattr(file, "user.b", pattern(kXattrValueBytesMax + 1, 1)),
              Error::value_too_large);
  CHECK_ERROR(rig.get_xattr(file, "user.b"), Error::no_attribute);
  CHECK_ERROR(rig.remove_xattr(file, "user.b"), Error::no_attribute);
  auto names = rig.list_xattrs(file).value();
  std::sort(names.begin(), names.end());
  CHECK(names == std::vector<std::string>{"security.a", "trusted.a", "user.a"});
  CHECK(attr_of(rig, file).xattr_count == 3);
}

TEST_CASE("64 names of one hash fit, and freed places are used again") {
  NamespaceRig rig({1, 0.0, 0});
  const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
  const auto name = [](int i) { return "user.n" + std::to_string(i); };
  for (int i = 0; i < 64; ++i) {
    REQUIRE(rig.set_xattr(file, name(i), pattern(static_cast<size_t>(i) * 150, 1)).ok());
  }
  CHECK_ERROR(rig.set_xattr(file, "user.more", {}), Error::no_space);
  CHECK_ERROR(rig.get_xattr(file, "user.more"), Error::no_attribute);
  REQUIRE(rig.kill_privileges(file, false).ok());
  for (int i = 0; i < 64; i += 5) REQUIRE(rig.remove_xattr(file, name(i)).ok());
  REQUIRE(rig.set_xattr(file, "user.more", pattern(9000, 2)).ok());
  CHECK(rig.get_xattr(file, "user.more").value() == pattern(9000, 2));
  for (int i = 0; i < 64; ++i) {
    const auto got = rig.get_xattr(file, name(i));
    REQUIRE(got.ok() == (i % 5 != 0));
    if (got.ok()) CHECK(got.value() == pattern(static_cast<size_t>(i) * 150, 1));
  }
  CHECK(rig.list_xattrs(file).value().size() == 64 - 13 + 1);
}

TEST_CASE("the list of names never gets longer than the kernel can hand out") {
  NamespaceRig rig({});
  const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
  const auto name = [](int i) {
    std::string text = "user." + std::to_string(1000 + i);
    return text + std::string(kXattrNameBytesMax - text.size(), 'x');
  };
  for (int i = 0; i < 256; ++i) REQUIRE(rig.set_xattr(file, name(i), {}).ok());
  CHECK_ERROR(rig.set_xattr(file, "user.a", {}), Error::no_space);
  REQUIRE(rig.set_xattr(file, name(3), pattern(10, 1)).ok());
  size_t bytes = 0;
  const auto names = rig.list_xattrs(file);
  for (const std::string& one : names.value()) bytes += one.size() + 1;
  CHECK(bytes == kXattrListBytesMax);
  REQUIRE(rig.remove_xattr(file, name(3)).ok());
  REQUIRE(rig.set_xattr(file, "user.a", {}).ok());
}

// ---- ACLs ----

struct AclPerms {
  uint16_t owner, user, group, mask, other;
};

std::vector<std::byte> acl_value(std::vector<Acl::Entry> entries) {
  std::vector<std::byte> value;
  const auto append = [&](ConstBytes bytes) {
    value.insert(value.end(), bytes.begin(), bytes.end());
  };
  append(bytes_of(AclHeader{kAclVersion}));
  for (const Acl::Entry& entry : entries) {
    append(bytes_of(AclEntryFormat{static_cast<uint16_t>(entry.tag), entry.permissions, entry.id}));
  }
  return value;
}

std::vector<std::byte> full_acl(const AclPerms& p) {
  return acl_value({{AclTag::user_owner, p.owner, kNoId},
                    {AclTag::user, p.user, 1000},
                    {AclTag::group_owner, p.group, kNoId},
                    {AclTag::mask, p.mask, kNoId},
                    {AclTag::other, p.other, kNoId}});
}

std::vector<std::byte> minimal_acl(uint16_t owner, uint16_t group, uint16_t other) {
  return acl_value({{AclTag::user_owner, owner, kNoId},
                    {AclTag::group_owner, group, kNoId},
                    {AclTag::other, other, kNoId}});
}

const std::string kAccess(kAccessAclName);
const std::string kDefault(kDefaultAclName);

TEST_CASE("an access ACL sets the mode, is kept if the mode does not say it all, follows chmod") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo file = made(rig.create(kRoot, "f", 0102644));
    REQUIRE(rig.set_xattr(file, kAccess, full_acl({7, 6, 5, 4, 1})).ok());
    CHECK(attr_of(rig, file).mode == 0102741);
    CHECK(rig.get_xattr(file, kAccess).value() == full_acl({7, 6, 5, 4, 1}));
    made(rig.set_attr(file, permissions(0620)));
    CHECK(rig.get_xattr(file, kAccess).value() == full_acl({6, 6, 5, 2, 0}));
    CHECK(attr_of(rig, file).mode == 0100620);
    REQUIRE(rig.set_xattr(file, kAccess, minimal_acl(7, 5, 4)).ok());
    CHECK(attr_of(rig, file).mode == 0100754);
    CHECK_ERROR(rig.get_xattr(file, kAccess), Error::no_attribute);
    CHECK(attr_of(rig, file).xattr_count == 0);
    REQUIRE(rig.set_xattr(file, kAccess, full_acl({7, 7, 7, 7, 7})).ok());
    REQUIRE(rig.set_xattr(file, kAccess, acl_value({})).ok());
    CHECK(rig.list_xattrs(file).value().empty());
    REQUIRE(rig.remove_xattr(file, kAccess).ok());
    CHECK_ERROR(rig.set_xattr(file, kAccess, pattern(21, 1)), Error::invalid_argument);
  });
}

TEST_CASE("setting the access ACL clears sgid when the kernel says so") {
  NamespaceRig rig({});
  const InodeNo file = made(rig.create(kRoot, "f", 0102755));
  const auto acl = full_acl({7, 5, 5, 5, 5});
  REQUIRE(rig.set_xattr(file, kAccess, acl).ok());
  CHECK(attr_of(rig, file).mode == 0102755);
  REQUIRE(rig.set_xattr(file, kAccess, acl, XattrMode::create_or_replace, true).ok());
  CHECK(attr_of(rig, file).mode == 0100755);
}

TEST_CASE("ACLs belong where they belong") {
  NamespaceRig rig({});
  const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
  const InodeNo link = made(rig.symlink(kRoot, "s", "x"));
  CHECK_ERROR(rig.set_xattr(file, kDefault, full_acl({7, 7, 7, 7, 7})), Error::access_denied);
  CHECK_ERROR(rig.set_xattr(link, kAccess, full_acl({7, 7, 7, 7, 7})), Error::not_supported);
  REQUIRE(rig.remove_xattr(file, kDefault).ok());
}

TEST_CASE("what is created below a default ACL gets its access ACL from it, and no umask") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo top = made(rig.create(kRoot, "top", kDirectoryMode));
    const auto inherited = full_acl({7, 7, 5, 7, 5});
    REQUIRE(rig.set_xattr(top, kDefault, inherited).ok());
    CHECK(attr_of(rig, top).mode == kDirectoryMode);
    const Caller caller{1, 1, 077};

    const InodeNo file = made(rig.create(top, "file", 0100664, caller));
    CHECK(attr_of(rig, file).mode == 0100664);
    CHECK(rig.get_xattr(file, kAccess).value() == full_acl({6, 7, 5, 6, 4}));
    CHECK_ERROR(rig.get_xattr(file, kDefault), Error::no_attribute);
    CHECK(attr_of(rig, file).xattr_count == 1);

    const InodeNo sub = made(rig.create(top, "sub", 0040777, caller));
    CHECK(attr_of(rig, sub).mode == 0040775);
    CHECK(rig.get_xattr(sub, kDefault).value() == inherited);
    CHECK(rig.get_xattr(sub, kAccess).value() == full_acl({7, 7, 5, 7, 5}));
    CHECK(attr_of(rig, sub).xattr_count == 2);
    rig.remount();
    const InodeNo deep = made(rig.create(sub, "deep", 0100600, caller));
    CHECK(rig.get_xattr(deep, kAccess).value() == full_acl({6, 7, 5, 0, 0}));

    const InodeNo link = made(rig.symlink(top, "link", "x"));
    CHECK(attr_of(rig, link).mode == kSymlinkMode);
    CHECK(attr_of(rig, link).xattr_count == 0);

    // A default ACL that a mode can express leaves no access ACL behind.
    REQUIRE(rig.set_xattr(top, kDefault, minimal_acl(7, 5, 0)).ok());
    const InodeNo plain = made(rig.create(top, "plain", 0100666, caller));
    CHECK(attr_of(rig, plain).mode == 0100640);
    CHECK(attr_of(rig, plain).xattr_count == 0);

    REQUIRE(rig.remove_xattr(top, kDefault).ok());
    const InodeNo masked = made(rig.create(top, "masked", 0100666, caller));
    CHECK(attr_of(rig, masked).mode == 0100600);
  });
}

}  // namespace
}  // namespace fusefs
