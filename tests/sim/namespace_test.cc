// Names, links, directories and removal, case by case. Against a model: namespace_model_test.cc.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/sim/namespace_cases.h"
#include "tests/support/sim_volume.h"

namespace fusefs {
namespace {

TEST_CASE("what is created is found, with its owner, times and link counts, also after a mount") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeAttr before = attr_of(rig, kRoot);
    rig.world().run_for(kNsPerSecond);
    const InodeNo file = made(rig.create(kRoot, "file", 0100666, {1000, 100, 022}));
    const InodeNo directory = made(rig.create(kRoot, "directory", kDirectoryMode));
    const InodeNo link = made(rig.symlink(kRoot, "symlink", "some/where"));
    CHECK_ERROR(rig.create(kRoot, "file", kRegularMode), Error::exists);
    CHECK_ERROR(rig.create(file, "x", kRegularMode), Error::not_a_directory);
    CHECK_ERROR(rig.create(kRoot, std::string(256, 'n'), kRegularMode), Error::name_too_long);
    CHECK_ERROR(rig.create(kRoot, "a/b", kRegularMode), Error::invalid_argument);
    CHECK_ERROR(rig.symlink(kRoot, "long", std::string(4096, 'x')), Error::name_too_long);
    made(rig.create(kRoot, std::string(255, 'n'), kRegularMode));
    for (const bool again : {false, true}) {
      if (again) rig.remount();
      CHECK(made(rig.lookup(kRoot, "file")) == file);
      CHECK(made(rig.lookup(kRoot, "symlink")) == link);
      CHECK(made(rig.lookup(directory, "..")) == kRoot);
      CHECK_ERROR(rig.lookup(kRoot, "File"), Error::not_found);
      CHECK_ERROR(rig.lookup(file, "x"), Error::not_a_directory);
      const InodeAttr root = attr_of(rig, kRoot);
      CHECK(root.size == 4);
      CHECK(root.link_count == 3);
      CHECK(root.mtime > before.mtime);
      CHECK(root.ctime == root.mtime);
      CHECK(root.change_count > before.change_count);
      const InodeAttr attr = attr_of(rig, file);
      CHECK(attr.mode == 0100644);
      CHECK(attr.uid == 1000);
      CHECK(attr.gid == 100);
      CHECK(attr.link_count == 1);
      CHECK(attr.btime == attr.mtime);
      CHECK(attr_of(rig, directory).link_count == 2);
      CHECK(attr_of(rig, directory).parent == kRoot);
      CHECK(attr_of(rig, link).size == 10);
      CHECK(rig.read_symlink(link).value() == "some/where");
      CHECK_ERROR(rig.read_symlink(file), Error::invalid_argument);
    }
    // Numbers are never used twice.
    CHECK(made(rig.create(kRoot, "later", kRegularMode)) > file);
  });
}

TEST_CASE("setgid directories pass on their group, and subdirectories the bit") {
  NamespaceRig rig({});
  const InodeNo shared = made(rig.create(kRoot, "shared", 0042775, {1, 50, 0}));
  const InodeNo file = made(rig.create(shared, "file", 0100664, {2, 2, 0}));
  const InodeNo sub = made(rig.create(shared, "sub", 0040775, {2, 2, 0}));
  CHECK(attr_of(rig, file).gid == 50);
  CHECK(attr_of(rig, file).mode == 0100664);
  CHECK(attr_of(rig, sub).gid == 50);
  CHECK(attr_of(rig, sub).mode == 0042775);
  CHECK(made(rig.create(sub, "deeper", 0040755, {2, 2, 0})) > sub);
}

TEST_CASE("a link is another name of the same inode, and the last one takes it away") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo file = made(rig.create(kRoot, "a", kRegularMode));
    const InodeNo directory = made(rig.create(kRoot, "d", kDirectoryMode));
    CHECK(made(rig.link(file, directory, "b")) == file);
    CHECK_ERROR(rig.link(file, directory, "b"), Error::exists);
    CHECK_ERROR(rig.link(directory, kRoot, "e"), Error::not_permitted);
    CHECK(attr_of(rig, file).link_count == 2);
    CHECK(made(rig.unlink(kRoot, "a")) == file);
    CHECK(attr_of(rig, file).link_count == 1);
    CHECK(rig.orphans().empty());
    CHECK_ERROR(rig.unlink(kRoot, "d"), Error::is_a_directory);
    CHECK_ERROR(rig.rmdir(directory, "b"), Error::not_a_directory);
    CHECK_ERROR(rig.rmdir(kRoot, "d"), Error::directory_not_empty);
    CHECK(made(rig.unlink(directory, "b")) == file);
    CHECK(attr_of(rig, file).link_count == 0);
    CHECK(rig.orphans() == std::vector{file});
    REQUIRE(rig.reap(file).ok());
    CHECK(rig.orphans().empty());
    CHECK_ERROR(rig.attr(file), Error::not_found);
    REQUIRE(rig.reap(file).ok());
  });
}

TEST_CASE("an unlinked inode lives as long as an opener or the kernel knows it") {
  NamespaceRig rig({});
  const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
  rig.inodes().lookups().add(file, 2);
  made(rig.unlink(kRoot, "f"));
  REQUIRE(rig.reap(file).ok());
  CHECK(attr_of(rig, file).link_count == 0);
  rig.inodes().lookups().forget(file, 2);
  rig.inodes().peek(file)->open_count = 1;
  REQUIRE(rig.reap(file).ok());
  CHECK(attr_of(rig, file).link_count == 0);
  rig.inodes().peek(file)->open_count = 0;
  REQUIRE(rig.reap(file).ok());
  CHECK_ERROR(rig.attr(file), Error::not_found);
}

TEST_CASE("nothing can be made in a directory that has been removed") {
  NamespaceRig rig({});
  const InodeNo gone = made(rig.create(kRoot, "gone", kDirectoryMode));
  const InodeNo file = made(rig.create(kRoot, "file", kRegularMode));
  CHECK(made(rig.rmdir(kRoot, "gone")) == gone);
  CHECK(attr_of(rig, gone).link_count == 0);
  CHECK(attr_of(rig, kRoot).link_count == 2);
  CHECK_ERROR(rig.create(gone, "x", kRegularMode), Error::not_found);
  CHECK_ERROR(rig.create_unnamed(gone, kRegularMode), Error::not_found);
  CHECK_ERROR(rig.link(file, gone, "x"), Error::not_found);
  CHECK_ERROR(rig.rename(kRoot, "file", gone, "x"), Error::not_found);
  CHECK(rig.list(gone).value().empty());
  REQUIRE(rig.reap(gone).ok());
  CHECK(rig.orphans().empty());
}

TEST_CASE("an unnamed file is an orphan until it gets a name") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo kept = made(rig.create_unnamed(kRoot, kRegularMode));
    const InodeNo lost = made(rig.create_unnamed(kRoot, kRegularMode));
    CHECK(attr_of(rig, kept).link_count == 0);
    CHECK(rig.orphans() == std::vector{kept, lost});
    made(rig.link(kept, kRoot, "named"));
    CHECK(rig.orphans() == std::vector{lost});
    rig.crash();
    CHECK(rig.orphans().empty());
    CHECK(attr_of(rig, kept).link_count == 1);
    CHECK_ERROR(rig.attr(lost), Error::not_found);
    CHECK(attr_of(rig, kRoot).size == 1);
  });
}

TEST_CASE("orphans that a crash leaves are removed by the next mount, with all their items") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo file = made(rig.create(kRoot, "file", kRegularMode));
    const InodeNo link = made(rig.symlink(kRoot, "link", "target"));
    const InodeNo directory = made(rig.create(kRoot, "directory", kDirectoryMode));
    for (int i = 0; i < 40; ++i) {
      const std::vector<std::byte> value(static_cast<size_t>(i) * 100);
      REQUIRE(rig.set_xattr(file, "user." + std::to_string(i), value).ok());
    }
    made(rig.unlink(kRoot, "file"));
    made(rig.unlink(kRoot, "link"));
    made(rig.rmdir(kRoot, "directory"));
    CHECK(rig.orphans() == std::vector{file, link, directory});
    rig.crash();
    CHECK(rig.orphans().empty());
    for (const InodeNo ino : {file, link, directory}) {
      CHECK_ERROR(rig.attr(ino), Error::not_found);
      // No item of any type is left.
      const auto item = rig.run([&](NamespaceStash& stash) -> Attempt<bool> {
        ATTEMPT(const auto found,
                rig.inodes().store().tree().at_or_after(inode_key(ino), stash.pins));
        return found && found->key.object == ino.value();
      });
      CHECK_FALSE(item.value());
    }
  });
}

uint64_t free_blocks(NamespaceRig& rig) {
  REQUIRE(rig.volume().sync().ok());
  const auto stat = rig.world().run([&] { return rig.volume().volume().stat_volume(); });
  REQUIRE(stat.ok());
  return stat.value().free_blocks;
}

TEST_CASE("removing a file in many pieces goes on where a power cut stopped it, and frees it all") {
  for_each_seed(2, [](const TestSeed& seed) {
    bool stopped_half_way = false;
    for (const int steps_max : {1, 3, 6, 1000}) {
      NamespaceRig rig(options_of(seed));
      const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
      const uint64_t free_before = free_blocks(rig);
      {
        const InodeRef inode = rig.inodes().peek(file);
        for (uint64_t i = 0; i < 300; ++i) {
          REQUIRE(rig.volume()
                      .fallocate(*inode, FallocateMode::allocate, 2 * i * kBlockBytes, kBlockBytes,
                                 false)
                      .ok());
        }
      }
      for (int i = 0; i < 30; ++i) {
        const std::vector<std::byte> value(20'000);
        REQUIRE(rig.set_xattr(file, "user." + std::to_string(i), value).ok());
      }
      CHECK(attr_of(rig, file).block_count == BlockCount(300));
      made(rig.unlink(kRoot, "f"));
      CHECK(free_blocks(rig) <= free_before - 300);
      int steps = 0;
      JournalSeq last;
      const Result<void> reaped = rig.run([&](NamespaceStash& stash) -> Attempt<void> {
        if (stash.seq != std::exchange(last, stash.seq)) ++steps;
        if (steps >= steps_max) return Error::interrupted;
        return rig.names().reap(file, stash);
      });
      CHECK(rig.orphans().empty() == reaped.ok());
      if (!reaped.ok() && attr_of(rig, file).block_count < BlockCount(300)) stopped_half_way = true;
      rig.crash();
      CHECK(rig.orphans().empty());
      CHECK_ERROR(rig.attr(file), Error::not_found);
      // What xattrs and extents took of the tree may be given back later.
      rig.remount();
      CHECK(free_blocks(rig) + 100 >= free_before);
    }
    CHECK(stopped_half_way);
  });
}

// ---- Cookies ----

TEST_CASE("names of one hash live side by side, 256 of them, and free places are used again") {
  for_each_seed(1, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed, 0));
    std::vector<std::string> names;
    for (int i = 0; i < 256; ++i) names.push_back("n" + std::to_string(i));
    for (const std::string& name : names) made(rig.create(kRoot, name, kRegularMode));
    CHECK_ERROR(rig.create(kRoot, "one more", kRegularMode), Error::no_space);
    CHECK_ERROR(rig.rename(kRoot, "n1", kRoot, "one more"), Error::no_space);
    for (int i = 0; i < 256; i += 3) made(rig.unlink(kRoot, names[static_cast<size_t>(i)]));
    for (int i = 0; i < 256; ++i) {
      CHECK(rig.lookup(kRoot, names[static_cast<size_t>(i)]).ok() == (i % 3 != 0));
    }
    made(rig.create(kRoot, "one more", kRegularMode));
    made(rig.rename(kRoot, "n1", kRoot, "n0"));
    rig.remount();
    CHECK(rig.lookup(kRoot, "one more").ok());
    CHECK(rig.names_in(kRoot, 7).size() == 256 - 86 + 1);
  });
}

TEST_CASE("a listing that goes on after changes and a mount misses nothing that stayed") {
  for_each_seed(3, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed, seed.seed % 2 == 0 ? ~uint64_t{0} : 7));
    std::vector<std::string> stay;
    for (int i = 0; i < 150; ++i) {
      made(rig.create(kRoot, "stay" + std::to_string(i), kRegularMode));
      made(rig.create(kRoot, "go" + std::to_string(i), kRegularMode));
      stay.push_back("stay" + std::to_string(i));
    }
    std::vector<std::string> seen;
    uint64_t cookie = 0;
    int round = 0;
    while (true) {
      const auto listed = rig.list(kRoot, cookie, 9, true);
      REQUIRE(listed.ok());
      if (listed.value().empty()) break;
      for (const auto& one : listed.value()) {
        CHECK(one.entry.cookie > cookie);
        cookie = one.entry.cookie;
        if (one.entry.name.starts_with("stay")) {
          seen.push_back(one.entry.name);
          REQUIRE(one.attr.has_value());
          CHECK(one.attr->ino == one.entry.ino);
          CHECK(one.attr->link_count == 1);
        }
      }
      const std::string number = std::to_string(round);
      if (rig.lookup(kRoot, "go" + number).ok()) made(rig.unlink(kRoot, "go" + number));
      made(rig.create(kRoot, "new" + number, kRegularMode));
      if (++round == 10) rig.remount();
    }
    std::sort(stay.begin(), stay.end());
    std::sort(seen.begin(), seen.end());
    CHECK(seen == stay);
  });
}

TEST_CASE("a listing begins with . and .. and has the types of its entries") {
  NamespaceRig rig({});
  const InodeNo directory = made(rig.create(kRoot, "d", kDirectoryMode));
  made(rig.create(directory, "f", kRegularMode));
  made(rig.create(directory, "p", 0010600));
  made(rig.symlink(directory, "s", "x"));
  const auto listed = rig.list(directory);
  REQUIRE(listed.value().size() == 5);
  CHECK(listed.value()[0].entry.name == ".");
  CHECK(listed.value()[0].entry.ino == directory);
  CHECK(listed.value()[1].entry.name == "..");
  CHECK(listed.value()[1].entry.ino == kRoot);
  for (const auto& one : listed.value()) {
    const std::string& name = one.entry.name;
    CHECK(one.entry.type == (name == "f" ? 8 : name == "p" ? 1 : name == "s" ? 10 : 4));
  }
  CHECK(rig.list(directory, 1, 1).value()[0].entry.name == "..");
  CHECK(rig.list(directory, 0, 0).value().empty());
  CHECK(rig.list(directory, UINT64_MAX >> 1, 10).value().empty());
}

// ---- Inodes in memory ----

TEST_CASE("a change of names never makes a size visible that is not on the device yet") {
  for_each_seed(2, [](const TestSeed& seed) {
    NamespaceRig rig(options_of(seed));
    const InodeNo file = made(rig.create(kRoot, "f", kRegularMode));
    const auto stored = rig.run([&](NamespaceStash& stash) -> Attempt<InodeAttr> {
      // The flusher may have saved it since the last attempt: ahead again.
      const InodeRef inode = rig.inodes().peek(file);
      inode->attr.size = inode->disk_size + 1000;
      rig.inodes().mark_attr_dirty(*inode);
      const uint64_t disk_size = inode->disk_size;
      Attempt<InodeRef> linked = rig.names().link(file, kRoot, "g", stash);
      if (!linked.ok()) return Unfinished(linked);
      // No ATTEMPT from here on: it is this moment that counts.
      CHECK(inode->attr.size == disk_size + 1000);
      CHECK(inode->disk_size == disk_size);
      CHECK(inode->attr_dirty);
      CHECK(rig.inodes().dirty_inodes(10).size() == 1);
      Tree& tree = rig.inodes().store().tree();
      auto item = tree.find(inode_key(file), stash.pins);
      while (item.must_restart() && item.restart().reason == RestartReason::forced) {
        item = tree.find(inode_key(file), stash.pins);
      }
      REQUIRE((item.ok() && item.value().has_value()));
      TRY(const InodeAttr attr, decode_inode(*item.value()));
      CHECK(attr.size == disk_size);
      return attr;
    });
    CHECK(stored.value().link_count == 2);
  });
}

TEST_CASE("idle inodes are kept up to a bound, and one that was dirty loses nothing by it") {
  NamespaceRig rig({});
  const InodeNo kept = made(rig.create(kRoot, "kept", kRegularMode));
  const InodeNo dirty = made(rig.create(kRoot, "dirty", kRegularMode));
  InodeRef held = rig.inodes().peek(kept);
  {
    const InodeRef inode = rig.inodes().peek(dirty);
    inode->attr.atime = {5, 6};
    rig.inodes().mark_attr_dirty(*inode);
  }
  for (size_t i = 0; i < kCachedInodesMax + 100; ++i) {
    made(rig.create(kRoot, std::to_string(i), kRegularMode));
  }
  CHECK(rig.inodes().stats().cached_inodes <= kCachedInodesMax + 2);
  CHECK(rig.inodes().peek(kept) == held);
  CHECK(attr_of(rig, dirty).atime == Timestamp{5, 6});
  const uint64_t loads = rig.inodes().stats().load_count;
  CHECK(made(rig.lookup(kRoot, "0")) > dirty);
  CHECK(rig.inodes().stats().load_count == loads + 1);
  held.reset();
}

}  // namespace
}  // namespace fusefs
