#include <cerrno>
#include <map>
#include <string>
#include <vector>

#include "tests/support/fake_kernel.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kRoot = wire::kRootNode;

struct Entry {
  uint64_t ino = 0;
  uint64_t cookie = 0;
  uint64_t nodeid = 0;  // readdirplus
  std::string name;
};

// What the kernel reads out of an answer to readdir or readdirplus.
std::vector<Entry> unpack(const Message& packed, bool plus) {
  std::vector<Entry> entries;
  size_t at = 0;
  while (at < packed.size()) {
    Entry entry;
    const size_t start = at;
    if (plus) {
      fuse_entry_out out;
      REQUIRE(at + sizeof(out) <= packed.size());
      std::memcpy(&out, &packed[at], sizeof(out));
      entry.nodeid = out.nodeid;
      at += sizeof(out);
    }
    fuse_dirent head{};
    REQUIRE(at + FUSE_NAME_OFFSET <= packed.size());
    std::memcpy(&head, &packed[at], FUSE_NAME_OFFSET);
    at += FUSE_NAME_OFFSET;
    REQUIRE(at + head.namelen <= packed.size());
    entry.ino = head.ino;
    entry.cookie = head.off;
    entry.name = text_of(ConstBytes(packed).subspan(at, head.namelen));
    entries.push_back(entry);
    const size_t used = at + head.namelen - start;
    at = start + FUSE_REC_ALIGN(used);
  }
  CHECK(at == packed.size());
  return entries;
}

std::vector<Entry> list(FuseRig& rig, bool plus, uint64_t node, uint32_t room,
                        uint64_t cookie = 0) {
  fuse_read_in in{};
  in.offset = cookie;
  in.size = room;
  const FakeReply reply = rig.call(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, Body(in));
  REQUIRE(reply.error == 0);
  CHECK(reply.body.size() <= room);
  return unpack(reply.body, plus);
}

TEST_CASE("the lookup count of an inode is what the answers that arrived have promised") {
  for_each_seed(3, [](const TestSeed& seed) {
    FuseRig rig(seed);
    const uint64_t node = rig.create("file").nodeid;
    CHECK(rig.lookup_count(node) == 1);
    CHECK(rig.lookup(kRoot, "file").nodeid == node);
    CHECK(rig.lookup_count(node) == 2);
    const FakeReply linked = rig.call(FUSE_LINK, kRoot, Body(fuse_link_in{node}).name("other"));
    CHECK(linked.as<fuse_entry_out>().attr.nlink == 2);
    CHECK(rig.lookup_count(node) == 3);
    const std::vector<Entry> entries = list(rig, true, kRoot, 4096);
    CHECK(rig.lookup_count(node) == 5);  // under both names
    rig.forget(node, 4);
    CHECK(rig.lookup_count(node) == 1);

    const fuse_forget_one all[2] = {{node, 1}, {kRoot, 0}};
    rig.kernel().send(FUSE_BATCH_FORGET, 0, Body(fuse_batch_forget_in{2, 0}).data(bytes_of(all)));
    rig.serve();
    CHECK(rig.lookup_count(node) == 0);
  });
}

TEST_CASE("an answer that does not arrive promises nothing") {
  for_each_seed(3, [](const TestSeed& seed) {
    FuseRig rig(seed);
    const uint64_t node = rig.create("file").nodeid;
    const uint64_t directory = rig.mkdir(kRoot, "directory").nodeid;
    rig.kernel().set_deaf(true);
    rig.call(FUSE_LOOKUP, kRoot, Body().name("file"));
    rig.call(FUSE_LINK, directory, Body(fuse_link_in{node}).name("link"));
    fuse_read_in in{};
    in.size = 4096;
    rig.call(FUSE_READDIRPLUS, kRoot, Body(in));
    fuse_create_in create{};
    create.flags = 2;
    create.mode = 0100600;
    rig.call(FUSE_CREATE, directory, Body(create).name("unheard"));
    rig.call(FUSE_OPEN, node, Body(fuse_open_in{2, 0}));
    rig.call(wire::kOpTmpfile, directory, Body(create).name("/"));
    rig.kernel().set_deaf(false);

    CHECK(rig.lookup_count(node) == 1);
    CHECK(rig.lookup_count(directory) == 1);
    CHECK(rig.server().open_files().count() == 0);
    CHECK(rig.server().counters().snapshot().undelivered_count == 6);
    // What was done is done.
    const uint64_t unheard = rig.lookup(directory, "unheard").nodeid;
    CHECK(rig.lookup_count(unheard) == 1);
  });
}

TEST_CASE("a name that is not there is answered with an entry without a node, to be remembered") {
  FuseRig rig(TestSeed{1});
  const fuse_entry_out entry = rig.lookup(kRoot, "absent");
  CHECK(entry.nodeid == 0);
  CHECK(entry.entry_valid > 0);
}

TEST_CASE("an unlinked file lives until it is closed and forgotten, whichever comes last") {
  for_each_seed(2, [](const TestSeed& seed) {
    FuseRig rig(seed);
    for (const bool close_first : {true, false}) {
      uint64_t handle = 0;
      const uint64_t node = rig.create("file", &handle).nodeid;
      CHECK(rig.write(node, handle, 0, bytes_of(std::string_view("still here"))).error == 0);
      CHECK(rig.call(FUSE_UNLINK, kRoot, Body().name("file")).error == 0);
      CHECK(rig.exists(node));
      if (close_first) {
        rig.release(node, handle);
        CHECK(rig.exists(node));
        rig.forget(node, 1);
      } else {
        rig.forget(node, 1);
        CHECK(text_of(rig.read(node, handle, 0, 100).body) == "still here");
        rig.release(node, handle);
      }
      CHECK_FALSE(rig.exists(node));
    }
  });
}

TEST_CASE("a file without a name gets one by link, or is gone when it is closed") {
  for_each_seed(2, [](const TestSeed& seed) {
    FuseRig rig(seed);
    fuse_create_in in{};
    in.flags = 2;
    in.mode = 0100600;
    for (const bool linked : {true, false}) {
      const FakeReply reply = rig.call(wire::kOpTmpfile, kRoot, Body(in).name("/"));
      REQUIRE(reply.error == 0);
      const uint64_t node = reply.as<fuse_entry_out>().nodeid;
      const uint64_t handle = reply.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
      CHECK(reply.as<fuse_entry_out>().attr.nlink == 0);
      if (linked) {
        CHECK(rig.call(FUSE_LINK, kRoot, Body(fuse_link_in{node}).name("named")).error == 0);
        rig.forget(node, 1);
      }
      rig.release(node, handle);
      rig.forget(node, 1);
      CHECK(rig.exists(node) == linked);
    }
  });
}

TEST_CASE("a directory is listed completely and without repetition, whatever room there is") {
  for_each_seed(1, [](const TestSeed& seed) {
    FuseRig rig(seed);
    std::map<std::string, uint64_t> made;
    for (int i = 0; i < 60; ++i) {
      const std::string name = "name-" + std::string(static_cast<size_t>(i), 'x');
      made[name] = rig.create(name).nodeid;
    }
    for (const bool plus : {false, true}) {
      for (const uint32_t room : {512u, 4096u, 65536u}) {
        std::map<std::string, uint64_t> found;
        uint64_t cookie = 0;
        for (auto entries = list(rig, plus, kRoot, room); !entries.empty();
             entries = list(rig, plus, kRoot, room, cookie)) {
          for (const Entry& entry : entries) {
            CHECK(found.emplace(entry.name, entry.ino).second);
            cookie = entry.cookie;
          }
        }
        CHECK(found.erase(".") == 1);
        CHECK(found.erase("..") == 1);
        CHECK(found == made);
      }
    }
  });
}

TEST_CASE("readdirplus promises an inode for each entry, and none for the dots") {
  FuseRig rig(TestSeed{1});
  const uint64_t node = rig.create("file").nodeid;
  for (const Entry& entry : list(rig, true, kRoot, 4096)) {
    CHECK(entry.nodeid == (entry.name == "file" ? node : 0));
  }
  CHECK(rig.lookup_count(node) == 2);
  CHECK(rig.lookup_count(kRoot) == 0);
}

TEST_CASE("a node is found by its number through dot, and its parent through two") {
  FuseRig rig(TestSeed{1});
  const uint64_t directory = rig.mkdir(kRoot, "directory").nodeid;
  const uint64_t inner = rig.mkdir(directory, "inner").nodeid;
  CHECK(rig.lookup(inner, ".").nodeid == inner);
  CHECK(rig.lookup(inner, "..").nodeid == directory);
  CHECK(rig.lookup(987654, ".").nodeid == 0);
}

TEST_CASE("rename replaces, refuses, exchanges or leaves a whiteout, as it is told") {
  for_each_seed(2, [](const TestSeed& seed) {
    FuseRig rig(seed);
    const auto rename = [&rig](const char* from, const char* to, uint32_t flags) {
      return rig
          .call(FUSE_RENAME2, kRoot, Body(fuse_rename2_in{kRoot, flags, 0}).name(from).name(to))
          .error;
    };
    const uint64_t a = rig.create("a").nodeid;
    const uint64_t b = rig.create("b").nodeid;
    CHECK(rename("a", "b", 1) == EEXIST);
    CHECK(rename("a", "b", 2) == 0);
    CHECK(rig.lookup(kRoot, "a").nodeid == b);
    CHECK(rename("a", "b", 8) == EINVAL);
    CHECK(rename("a", "b", 0) == 0);
    CHECK(rig.lookup(kRoot, "a").nodeid == 0);
    rig.forget(a, 9);
    CHECK_FALSE(rig.exists(a));
    CHECK(rename("b", "c", 4) == 0);
    const fuse_entry_out whiteout = rig.lookup(kRoot, "b");
    CHECK((whiteout.attr.mode & 0170000) == 0020000);
    CHECK(whiteout.attr.rdev == 0);
  });
}

TEST_CASE("device numbers travel as Linux packs them, all 12 and 20 bits") {
  FuseRig rig(TestSeed{1});
  const uint64_t device = (uint64_t{0xabc} << 32) | 0xfedcb;
  CHECK(core_device(wire_device(device)) == device);
  fuse_mknod_in in{};
  in.mode = 0020600;
  in.rdev = wire_device(device);
  const FakeReply reply = rig.call(FUSE_MKNOD, kRoot, Body(in).name("device"));
  REQUIRE(reply.error == 0);
  CHECK(reply.as<fuse_entry_out>().attr.rdev == in.rdev);
  const FakeReply statx =
      rig.call(wire::kOpStatx, reply.as<fuse_entry_out>().nodeid, Body(wire::StatxIn{}));
  CHECK(statx.as<wire::StatxOut>().stat.rdev_major == 0xabc);
  CHECK(statx.as<wire::StatxOut>().stat.rdev_minor == 0xfedcb);
}

}  // namespace
}  // namespace fusefs
