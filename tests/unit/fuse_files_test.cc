#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "tests/support/fake_kernel.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kRoot = wire::kRootNode;

Message random_bytes(uint64_t seed, size_t len) {
  Random random(seed);
  Message bytes(len);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
  return bytes;
}

TEST_CASE("what is written is read back, buffered, direct and durable, at any position") {
  for_each_seed(2, [](const TestSeed& seed) {
    FuseRig rig(seed);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    Message model(300'000);
    Random random(seed.seed);
    for (const int flags : {O_RDWR, O_RDWR | O_DIRECT, O_RDWR | O_SYNC, O_RDWR | O_DSYNC,
                            O_RDWR | O_DIRECT | O_DSYNC}) {
      for (int i = 0; i < 6; ++i) {
        const bool whole = random.chance(0.5);
        uint64_t pos = random.below(200'000);
        uint64_t len = 1 + random.below(90'000);
        if (whole) {
          pos &= ~uint64_t{4095};
          len = (len + 4095) & ~uint64_t{4095};
        }
        const Message data = random_bytes(random.next(), len);
        const FakeReply wrote = rig.write(node, handle, pos, data, static_cast<uint32_t>(flags));
        REQUIRE(wrote.error == 0);
        CHECK(wrote.as<fuse_write_out>().size == len);
        std::copy(data.begin(), data.end(), model.begin() + static_cast<ptrdiff_t>(pos));
      }
    }
    const FakeReply attr = rig.call(FUSE_GETATTR, node, Body(fuse_getattr_in{}));
    model.resize(attr.as<fuse_attr_out>().attr.size);
    for (const uint64_t pos : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{77'777}}) {
      const FakeReply got = rig.read(node, handle, pos, 1 << 20);
      REQUIRE(got.error == 0);
      CHECK(got.body == Message(model.begin() + static_cast<ptrdiff_t>(pos), model.end()));
    }
    CHECK(rig.read(node, handle, model.size() + 5, 100).body.empty());
  });
}

TEST_CASE("a write with O_DSYNC or O_SYNC is on the device when it is answered") {
  for_each_seed(2, [](const TestSeed& seed) {
    for (const int flags : {O_DSYNC, O_SYNC}) {
      FuseRig rig(seed);
      uint64_t handle = 0;
      const uint64_t node = rig.create("file", &handle).nodeid;
      const Message data = random_bytes(7, 10'000);
      REQUIRE(rig.write(node, handle, 100, data, static_cast<uint32_t>(O_RDWR | flags)).error == 0);

      SimVolume after(seed, {}, rig.sim().device().durable_image());
      const InodeRef inode = after.lookup("file");
      const Message read = after.read_all(*inode);
      REQUIRE(read.size() == 10'100);
      CHECK(Message(read.begin() + 100, read.end()) == data);
    }
  });
}

// Other requests that change contents keep the same promise.
TEST_CASE("copies and zeroed ranges are on the device where writes would be") {
  for_each_seed(2, [](const TestSeed& seed) {
    for (const int flags : {O_DSYNC, O_SYNC, 0}) {
      CAPTURE(flags);
      MountOptions options;
      options.sync = flags == 0;
      FuseRig rig(seed, options);
      uint64_t from_handle = 0;
      const uint64_t from = rig.create("from", &from_handle).nodeid;
      const Message data = random_bytes(7, 10 * kPageBytes);
      REQUIRE(rig.write(from, from_handle, 0, data).error == 0);
      const auto open_flags = static_cast<uint32_t>(O_RDWR | flags);
      uint64_t handle = 0;
      const uint64_t to = rig.create("to", &handle, open_flags).nodeid;
      const auto check_durable = [&](const Message& wanted) {
        SimVolume after(seed, {}, rig.sim().device().durable_image());
        CHECK(after.read_all(*after.lookup("to")) == wanted);
      };
      fuse_copy_file_range_in copy{};
      copy.fh_in = from_handle;
      copy.off_in = 100;  // of bytes, not of blocks
      copy.nodeid_out = to;
      copy.fh_out = handle;
      copy.len = 5000;
      REQUIRE(rig.call(FUSE_COPY_FILE_RANGE, from, Body(copy)).error == 0);
      Message model(data.begin() + 100, data.begin() + 5100);
      check_durable(model);

      copy.off_in = copy.off_out = 0;
      copy.len = data.size();
      REQUIRE(rig.call(FUSE_COPY_FILE_RANGE, from, Body(copy)).error == 0);
      check_durable(data);

      fuse_fallocate_in zero{};
      zero.fh = handle;
      zero.offset = 50;
      zero.length = 2 * kPageBytes;
      zero.mode = FALLOC_FL_ZERO_RANGE;
      REQUIRE(rig.call(FUSE_FALLOCATE, to, Body(zero)).error == 0);
      model = data;
      std::fill_n(model.begin() + 50, 2 * kPageBytes, std::byte{0});
      check_durable(model);
    }
  });
}

TEST_CASE(
    "durable overwrites past the kernel's cache, and its writeback, end with their completion") {
  for_each_seed(4, [](const TestSeed& seed) {
    FuseRig rig(seed);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    Message model = random_bytes(1, 8 * kPageBytes);
    REQUIRE(rig.write(node, handle, 0, model, O_RDWR | O_DSYNC, FUSE_WRITE_LOCKOWNER).error == 0);
    const CompletionStats& stats = rig.sim().files().completions.stats();
    const bool by_issuer = rig.sim().files().completions.policy() == CompletionPolicy::issuer;
    const bool has_fua = rig.sim().device().geometry().has_fua;
    const auto ended = [&] {
      const uint64_t put_off = stats.deferred_count[static_cast<size_t>(DeferReason::policy)];
      return by_issuer ? stats.issuer_count : put_off;
    };
    const auto overwrite = [&](uint64_t page, int flags, uint32_t write_flags) {
      const Message data = random_bytes(page, kPageBytes);
      const uint64_t before = ended();
      const FakeReply reply = rig.write(node, handle, page * kPageBytes, data,
                                        static_cast<uint32_t>(flags), write_flags);
      REQUIRE(reply.error == 0);
      CHECK(reply.as<fuse_write_out>().size == kPageBytes);
      std::copy(data.begin(), data.end(),
                model.begin() + static_cast<ptrdiff_t>(page * kPageBytes));
      return ended() - before;
    };
    CHECK(overwrite(1, O_RDWR | O_DSYNC, FUSE_WRITE_LOCKOWNER) == (has_fua ? 1 : 0));
    CHECK(overwrite(2, O_RDWR, FUSE_WRITE_CACHE) == 1);
    CHECK(rig.read(node, handle, 0, 8 * kPageBytes).body == model);

    // Bits that the write has taken away: the kernel is told before the answer.
    fuse_setattr_in chmod{};
    chmod.valid = FATTR_MODE;
    chmod.mode = S_IFREG | S_ISUID | 0755;
    REQUIRE(rig.call(FUSE_SETATTR, node, Body(chmod)).error == 0);
    const uint64_t before = stats.deferred_count[static_cast<size_t>(DeferReason::invalidation)];
    overwrite(3, O_RDWR, FUSE_WRITE_CACHE | FUSE_WRITE_KILL_SUIDGID);
    CHECK(stats.deferred_count[static_cast<size_t>(DeferReason::invalidation)] == before + 1);
  });
}

TEST_CASE("on a mount with sync nothing is answered before it is on the device") {
  for_each_seed(2, [](const TestSeed& seed) {
    MountOptions options;
    options.sync = true;
    FuseRig rig(seed, options);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    REQUIRE(rig.write(node, handle, 0, bytes_of(std::string_view("safe"))).error == 0);
    rig.mkdir(kRoot, "directory");
    SimVolume after(seed, {}, rig.sim().device().durable_image());
    CHECK(after.lookup("directory")->attr.is_directory());
    CHECK(text_of(after.read_all(*after.lookup("file"))) == "safe");
  });
}

TEST_CASE("files for synchronous or direct writes bypass the kernel's cache, others keep it") {
  FuseRig rig(TestSeed{1});
  const uint64_t node = rig.create("file").nodeid;
  const auto flags_of = [&](int flags) {
    const FakeReply reply =
        rig.call(FUSE_OPEN, node, Body(fuse_open_in{static_cast<uint32_t>(flags), 0}));
    return reply.as<fuse_open_out>().open_flags;
  };
  const uint32_t past = FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  CHECK(flags_of(O_RDWR) == FOPEN_KEEP_CACHE);
  CHECK(flags_of(O_RDONLY | O_SYNC) == FOPEN_KEEP_CACHE);
  CHECK(flags_of(O_WRONLY | O_DSYNC) == past);
  CHECK(flags_of(O_RDONLY | O_DIRECT) == past);
  rig.server().kernel().direct_io_allow_mmap = false;
  CHECK(flags_of(O_WRONLY | O_DSYNC) == FOPEN_KEEP_CACHE);
}

TEST_CASE("a handle that is not open is refused, also one that was") {
  FuseRig rig(TestSeed{1});
  uint64_t handle = 0;
  const uint64_t node = rig.create("file", &handle).nodeid;
  const uint64_t other = rig.create("other").nodeid;
  CHECK(rig.read(other, handle, 0, 10).error == EBADF);
  rig.release(node, handle);
  CHECK(rig.read(node, handle, 0, 10).error == EBADF);
  CHECK(rig.write(node, handle, 0, Message(3)).error == EBADF);
  CHECK(rig.read(node, 0, 0, 10).error == EBADF);
  CHECK(rig.read(node, UINT64_MAX, 0, 10).error == EBADF);
  const uint64_t reading = rig.open(node, O_RDONLY);
  CHECK(reading != handle);
  CHECK(rig.write(node, reading, 0, Message(3)).error == EBADF);
}

TEST_CASE("a write by somebody without CAP_FSETID clears suid and sgid, and so do its relatives") {
  for_each_seed(1, [](const TestSeed& seed) {
    FuseRig rig(seed);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    const auto set_mode = [&] {
      fuse_setattr_in in{};
      in.valid = FATTR_MODE;
      in.mode = 0106755;
      REQUIRE(rig.call(FUSE_SETATTR, node, Body(in)).error == 0);
    };
    const auto mode = [&] {
      return rig.call(FUSE_GETATTR, node, Body(fuse_getattr_in{})).as<fuse_attr_out>().attr.mode;
    };
    set_mode();
    rig.write(node, handle, 0, Message(10));
    CHECK(mode() == 0106755);
    rig.write(node, handle, 0, Message(10), O_RDWR, FUSE_WRITE_KILL_SUIDGID);
    CHECK(mode() == 0100755);
    set_mode();
    rig.write(node, handle, 0, Message(4096), O_RDWR | O_DIRECT, FUSE_WRITE_KILL_SUIDGID);
    CHECK(mode() == 0100755);
    set_mode();
    fuse_setattr_in truncate{};
    truncate.valid = FATTR_SIZE | FATTR_KILL_SUIDGID;
    CHECK(rig.call(FUSE_SETATTR, node, Body(truncate)).error == 0);
    CHECK(mode() == 0100755);
    set_mode();
    rig.call(FUSE_OPEN, node, Body(fuse_open_in{O_RDWR | O_TRUNC, FUSE_OPEN_KILL_SUIDGID}));
    CHECK(mode() == 0100755);
    set_mode();
    fuse_setattr_in chown{};
    chown.valid = FATTR_UID;
    chown.uid = 5;
    CHECK(rig.call(FUSE_SETATTR, node, Body(chown)).error == 0);
    CHECK(mode() == 0100755);
    set_mode();
    fuse_fallocate_in allocate{};
    allocate.fh = handle;
    allocate.length = 8192;
    rig.kernel().set_caller(1000, 1000);
    CHECK(rig.call(FUSE_FALLOCATE, node, Body(allocate)).error == 0);
    CHECK(mode() == 0100755);
  });
}

TEST_CASE("ranges are copied with both requests, the newer one with a 64-bit answer") {
  for_each_seed(1, [](const TestSeed& seed) {
    FuseRig rig(seed);
    uint64_t from_handle = 0;
    const uint64_t from = rig.create("from", &from_handle).nodeid;
    const Message data = random_bytes(3, 40'960);
    REQUIRE(rig.write(from, from_handle, 0, data).error == 0);
    for (const bool wide : {false, true}) {
      uint64_t handle = 0;
      const uint64_t to = rig.create(wide ? "wide" : "narrow", &handle).nodeid;
      fuse_copy_file_range_in in{};
      in.fh_in = from_handle;
      in.nodeid_out = to;
      in.fh_out = handle;
      in.len = data.size();
      const FakeReply reply = rig.call(
          wide ? wire::kOpCopyFileRange64 : uint32_t{FUSE_COPY_FILE_RANGE}, from, Body(in));
      REQUIRE(reply.error == 0);
      CHECK(reply.body.size() == sizeof(uint64_t));
      CHECK((wide ? reply.as<uint64_t>() : reply.as<fuse_write_out>().size) == data.size());
      CHECK(rig.read(to, handle, 0, 1 << 20).body == data);
      in.flags = 1;
      CHECK(rig.call(wire::kOpCopyFileRange64, from, Body(in)).error == EINVAL);
    }
  });
}

TEST_CASE("syncfs makes everything written before it survive a power cut") {
  for_each_seed(2, [](const TestSeed& seed) {
    FuseRig rig(seed);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    const Message data = random_bytes(11, 50'000);
    REQUIRE(rig.write(node, handle, 0, data).error == 0);
    REQUIRE(rig.call(wire::kOpSyncfs, kRoot, Body(fuse_syncfs_in{})).error == 0);
    SimVolume after(seed, {}, rig.sim().device().durable_image());
    CHECK(after.read_all(*after.lookup("file")) == data);
  });
}

TEST_CASE("extended attributes come back with both layouts of the request that sets them") {
  for (const bool long_layout : {true, false}) {
    FuseRig rig(TestSeed{1});
    rig.server().kernel().setxattr_ext = long_layout;
    const uint64_t node = rig.create("file").nodeid;
    fuse_setxattr_in in{};
    in.size = 5;
    const size_t arg_bytes = long_layout ? sizeof(in) : size_t{FUSE_COMPAT_SETXATTR_IN_SIZE};
    Body body;
    body.data(bytes_of(in).first(arg_bytes))
        .name("user.key")
        .data(bytes_of(std::string_view("value")));
    REQUIRE(rig.call(FUSE_SETXATTR, node, body).error == 0);

    const auto get = [&](uint32_t room) {
      return rig.call(FUSE_GETXATTR, node, Body(fuse_getxattr_in{room, 0}).name("user.key"));
    };
    CHECK(get(0).as<fuse_getxattr_out>().size == 5);
    CHECK(get(4).error == ERANGE);
    CHECK(text_of(get(5).body) == "value");
    const FakeReply listed = rig.call(FUSE_LISTXATTR, node, Body(fuse_getxattr_in{100, 0}));
    CHECK(text_of(listed.body) == std::string_view("user.key\0", 9));
    CHECK(rig.call(FUSE_REMOVEXATTR, node, Body().name("user.key")).error == 0);
    CHECK(get(5).error == ENODATA);
    CHECK(rig.call(FUSE_GETXATTR, node, Body(fuse_getxattr_in{9, 0}).name("odd.name")).error ==
          EOPNOTSUPP);
  }
}

TEST_CASE("names of trusted attributes are listed for root alone") {
  FuseRig rig(TestSeed{1});
  const uint64_t node = rig.create("file").nodeid;
  fuse_setxattr_in in{};
  in.size = 1;
  REQUIRE(rig.call(FUSE_SETXATTR, node, Body(in).name("trusted.x").data(Message(1))).error == 0);
  CHECK(rig.call(FUSE_LISTXATTR, node, Body(fuse_getxattr_in{100, 0})).body.size() == 10);
  rig.kernel().set_caller(1000, 1000);
  CHECK(rig.call(FUSE_LISTXATTR, node, Body(fuse_getxattr_in{100, 0})).body.empty());
}

TEST_CASE(
    "a mount that has ended closes the source, and DESTROY is answered when it is asked for") {
  FuseRig rig(TestSeed{1});
  const uint64_t unique = rig.kernel().send(FUSE_DESTROY, 0);
  rig.kernel().send(FUSE_GETATTR, kRoot, Body(fuse_getattr_in{}));
  rig.serve();
  CHECK(rig.source().closed());
  CHECK_FALSE(rig.kernel().reply(unique).came);
  rig.source().answer_destroy();
  CHECK(rig.kernel().reply(unique).came);
  rig.source().answer_destroy();  // answered once
}

}  // namespace
}  // namespace fusefs
