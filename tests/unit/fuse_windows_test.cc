// Windows, with a kernel that we play: who gets one, what keeps it, and what ends it.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fusefs/fusefs_ioctl.h"
#include "tests/support/window_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

TEST_CASE("a window is refused to who may not, or asks for what is not there") {
  for_each_seed(1, [](const TestSeed& seed) {
    WindowRig rig(seed);
    const uint64_t reader = rig.open(rig.node, O_RDONLY);
    const uint64_t writer = rig.open(rig.node, O_WRONLY);
    const uint64_t appender = rig.open(rig.node, O_RDWR | O_APPEND);
    CHECK(rig.try_open(77, kPinned).error == EBADF);
    CHECK(rig.try_open(writer, kPinned).error == EBADF);
    CHECK(rig.try_open(reader, kPinned | kWrite).error == EBADF);
    CHECK(rig.try_open(appender, kPinned | kWrite).error == EBADF);
    for (const uint32_t flags : {0u, kWrite, kPinned | FUSEFS_WINDOW_MAPPED, kPinned | (1u << 7)}) {
      CHECK(rig.try_open(rig.handle, flags).error == EINVAL);
    }
    CHECK(rig.try_open(reader, FUSEFS_WINDOW_MAPPED).error == EPERM);
    CHECK(rig.try_open(rig.handle, kPinned, 1).error == EINVAL);
    CHECK(rig.try_open(rig.handle, kPinned, 0, 100).error == EINVAL);
    CHECK(rig.try_open(rig.handle, kPinned, 16 * kPage).error == EINVAL);
    CHECK(rig.try_open(rig.handle, kPinned, 0, 17 * kPage).error == EINVAL);
    CHECK(rig.try_open(rig.handle, kPinned, ~uint64_t{0} << 12, kPage).error == EINVAL);
    fusefs_window_open in{};
    in.version = 2;
    in.flags = kPinned;
    CHECK(rig.ioctl(rig.node, rig.handle, FUSEFS_IOC_WINDOW_OPEN, in).error == EINVAL);
    CHECK(rig.holder_count() == 0);
    CHECK(rig.pin_count() == 0);

    const fusefs_window_open window =
        rig.open_window(rig.handle, kPinned | kWrite, 4 * kPage, 8 * kPage);
    CHECK(window.mapped_bytes == 8 * kPage);
    CHECK(window.road == FUSEFS_WINDOW_ROAD_FILE);
    CHECK(rig.try_open(rig.handle, kPinned, 0, 5 * kPage).error == EBUSY);
    CHECK(rig.try_open(rig.handle, kPinned, 11 * kPage, kPage).error == EBUSY);
    rig.kernel().set_caller(1000, 1000);
    CHECK(rig.try_open(rig.handle, kPinned, 4 * kPage, 8 * kPage).error == EBUSY);
    rig.kernel().set_caller(0, 0);
    CHECK(rig.open_window(reader, kPinned, 4 * kPage, 8 * kPage).window == window.window);
    CHECK(rig.open_window(rig.handle, kPinned, 0, 4 * kPage).window != window.window);
    CHECK(rig.holder_count() == 3);
  });
}

TEST_CASE(
    "stores into a window are the file's: in reads past the cache, and after its end in all") {
  for_each_seed(2, [](const TestSeed& seed) {
    WindowRig rig(seed);
    const fusefs_window_open window = rig.open_window(rig.handle, kPinned | kWrite);
    std::byte* const memory = rig.memory(window);
    CHECK(std::equal(rig.model.begin(), rig.model.end(), memory));
    for (const ptrdiff_t page : {0, 5, 15}) {
      std::fill_n(memory + page * ptrdiff_t{kPage} + 7, 100, std::byte{'s'});
      std::fill_n(rig.model.begin() + page * ptrdiff_t{kPage} + 7, 100, std::byte{'s'});
    }
    REQUIRE(rig.fsync(rig.node, rig.handle).error == 0);
    CHECK(rig.read(rig.node, rig.handle, 0, 16 * kPage, O_DIRECT).body == rig.model);
    memory[3] = std::byte{'t'};
    rig.model[3] = std::byte{'t'};
    rig.release(rig.node, rig.handle);  // nobody has come for it
    CHECK(rig.holder_count() == 0);
    CHECK(rig.pin_count() == 0);
    CHECK(rig.read(rig.node, rig.open(rig.node, O_RDONLY), 0, 16 * kPage).body == rig.model);
  });
}

TEST_CASE("a holder is kept by descriptor, control file and connection, and ends with the last") {
  for_each_seed(3, [](const TestSeed& seed) {
    WindowRig rig(seed);
    Random random(seed.seed);
    const fusefs_window_open window = rig.open_window(rig.handle, kPinned | kWrite);
    const fuse_entry_out entry = rig.lookup(kRoot, window.file);
    CHECK(is_window_node(entry.nodeid));
    CHECK(entry.entry_valid == 0);
    CHECK(entry.attr.size == 16 * kPage);
    CHECK(entry.attr.mode == (S_IFREG | 0600));
    CHECK(rig.lookup(kRoot, window.file).nodeid == entry.nodeid);
    const bool opened = random.chance(0.5);
    if (opened) {
      const FakeReply reply = rig.call(FUSE_OPEN, entry.nodeid, Body(fuse_open_in{O_RDWR, 0}));
      REQUIRE(reply.error == 0);
      const auto out = reply.as<fuse_open_out>();
      CHECK(out.open_flags == wire::kOpenPassthrough);
      CHECK(out.padding == 1);  // the number of the backing file
      rig.release(entry.nodeid, out.fh);
    }
    std::vector<int> ends = {0, 1, 2};
    if (random.chance(0.5)) std::swap(ends[0], ends[1]);
    if (random.chance(0.5)) std::swap(ends[1], ends[2]);
    int lookups = 2;
    bool descriptor_open = true;
    for (const int end : ends) {
      if (end == 0) {
        rig.release(rig.node, rig.handle);
        descriptor_open = false;
      } else if (end == 1) {
        rig.forget(entry.nodeid, 1);
      } else {
        fuse_batch_forget_in head{};
        head.count = 1;
        rig.kernel().send(FUSE_BATCH_FORGET, 0,
                          Body(head).data(bytes_of(fuse_forget_one{entry.nodeid, 1})));
        rig.serve();
      }
      if (end != 0) --lookups;
      const bool kept = lookups != 0 || (descriptor_open && !opened);
      CHECK(rig.holder_count() == (kept ? 1 : 0));
    }
    CHECK(rig.holder_count() == 0);
    CHECK(rig.pin_count() == 0);
    CHECK(rig.kernel().backing_count() == 0);
    // The name is nobody's any more.
    CHECK(rig.call(FUSE_LOOKUP, kRoot, Body().name(window.file)).as<fuse_entry_out>().nodeid == 0);
    CHECK(rig.call(FUSE_GETATTR, entry.nodeid, Body(fuse_getattr_in{})).error == ENOENT);
  });
}

TEST_CASE("who gives a window back before anybody has come for it has none") {
  WindowRig rig(TestSeed{1});
  const auto window = rig.open_window(rig.handle, kPinned | kWrite);
  const auto taken = rig.open_window(rig.handle, kPinned);
  const uint64_t node = rig.lookup(kRoot, taken.file).nodeid;
  uint64_t other_handle = 0;
  const uint64_t other = rig.create("other", &other_handle).nodeid;
  const auto give_back = [&](uint64_t at, uint64_t handle, const fusefs_window_ref& ref) {
    return rig.ioctl(at, handle, FUSEFS_IOC_WINDOW_GIVE_BACK, ref).error;
  };
  fusefs_window_ref wrong = ref_of(window);
  wrong.secret[0] ^= 1;
  CHECK(give_back(rig.node, rig.handle, wrong) == ESTALE);
  CHECK(give_back(other, other_handle, ref_of(window)) == ESTALE);
  rig.kernel().set_caller(1000, 1000);
  CHECK(give_back(rig.node, rig.handle, ref_of(window)) == ESTALE);
  rig.kernel().set_caller(0, 0);
  CHECK(rig.holder_count() == 2);
  CHECK(give_back(rig.node, rig.handle, ref_of(window)) == 0);
  CHECK(rig.holder_count() == 1);
  CHECK(give_back(rig.node, rig.handle, ref_of(window)) == ESTALE);
  CHECK(give_back(rig.node, rig.handle, ref_of(taken)) == 0);
  CHECK(rig.holder_count() == 1);  // by its file
  rig.forget(node, 1);
  CHECK(rig.holder_count() == 0);
}

TEST_CASE("answers that do not arrive leave no window and no lookup behind") {
  for_each_seed(1, [](const TestSeed& seed) {
    WindowRig rig(seed);
    const fusefs_window_open window = rig.open_window(rig.handle, kPinned);
    rig.kernel().set_deaf(true);
    rig.call(FUSE_LOOKUP, kRoot, Body().name(window.file));
    rig.try_open(rig.handle, kPinned);
    rig.kernel().set_deaf(false);
    CHECK(rig.holder_count() == 2);
    rig.release(rig.node, rig.handle);
    CHECK(rig.holder_count() == 0);
  });
}

TEST_CASE("windows last as long as their last holder, in whatever order they come and go") {
  for_each_seed(4, [](const TestSeed& seed) {
    WindowRig rig(seed);
    Random random(seed.seed);
    std::vector<uint64_t> descriptors;
    std::byte stored{'0'};
    for (int step = 0; step < 40; ++step) {
      if (descriptors.size() < 5 && random.chance(0.6)) {
        const bool writes = random.chance(0.7);
        const uint64_t descriptor = rig.open(rig.node, writes ? O_RDWR : O_RDONLY);
        const auto window = rig.open_window(descriptor, kPinned | (writes ? kWrite : 0));
        std::byte* const memory = rig.memory(window);
        CHECK(std::equal(rig.model.begin(), rig.model.end(), memory));
        if (writes) {
          const size_t at = random.below(16 * kPage);
          memory[at] = rig.model[at] = stored;
          stored = std::byte{static_cast<unsigned char>('0' + step)};
        }
        descriptors.push_back(descriptor);
      } else if (!descriptors.empty()) {
        const size_t which = random.below(descriptors.size());
        rig.release(rig.node, descriptors[which]);
        descriptors.erase(descriptors.begin() + static_cast<ptrdiff_t>(which));
      }
      CHECK(rig.holder_count() == descriptors.size());
      if (random.chance(0.3)) REQUIRE(rig.fsync(rig.node, rig.handle).error == 0);
    }
    for (const uint64_t descriptor : descriptors) rig.release(rig.node, descriptor);
    CHECK(rig.pin_count() == 0);
    CHECK(rig.read(rig.node, rig.handle, 0, 16 * kPage).body == rig.model);
  });
}

TEST_CASE(
    "who joins a mapped window while its last holder goes has a pin and faults that are served") {
  for_each_seed(4, [](const TestSeed& seed) {
    WindowRig rig(seed);
    constexpr uint32_t kFlags = FUSEFS_WINDOW_MAPPED | kWrite;
    uint64_t held = rig.open(rig.node, O_RDWR);
    rig.open_window(held, kFlags);
    CHECK(rig.pin_count() == 1);
    for (int i = 0; i < 10; ++i) {
      const uint64_t next = rig.open(rig.node, O_RDWR);
      fuse_release_in release{};
      release.fh = held;
      rig.kernel().send(FUSE_RELEASE, rig.node, Body(release));
      const FakeReply reply = rig.try_open(next, kFlags);
      REQUIRE(reply.error == 0);
      REQUIRE(rig.sim().world().run_until_idle());
      CHECK(rig.holder_count() == 1);
      CHECK(rig.pin_count() == 1);
      const auto faults = rig.sim().world().inside([&] {
        const Window& window = *rig.server().windows().holders().begin()->second->window;
        REQUIRE(window.pin);
        CHECK(window.pin->inode() != nullptr);
        CHECK_FALSE(window.being_pinned);
        return window.faults;
      });
      REQUIRE(faults);
      // Not ended: only what it is given is wrong.
      CHECK(faults->attach(1, OwnedFd(), 0, OwnedFd()).error() == Error::invalid_argument);
      held = next;
    }
    rig.release(rig.node, held);
    CHECK(rig.pin_count() == 0);
  });
}

TEST_CASE("a control file is nothing but memory") {
  WindowRig rig(TestSeed{1});
  const auto window = rig.open_window(rig.handle, kPinned | kWrite);
  const auto view = rig.open_window(rig.handle, kPinned);
  const uint64_t node = rig.lookup(kRoot, window.file).nodeid;
  const fuse_entry_out view_entry = rig.lookup(kRoot, view.file);
  CHECK(view_entry.attr.mode == (S_IFREG | 0400));
  CHECK(rig.call(FUSE_OPEN, view_entry.nodeid, Body(fuse_open_in{O_RDWR, 0})).error == EACCES);
  CHECK(rig.call(FUSE_OPEN, node, Body(fuse_open_in{O_RDWR | O_TRUNC, 0})).error == EACCES);
  CHECK(rig.call(FUSE_GETATTR, node, Body(fuse_getattr_in{})).as<fuse_attr_out>().attr.size ==
        16 * kPage);
  CHECK(rig.call(wire::kOpStatx, node, Body(wire::StatxIn{})).as<wire::StatxOut>().stat.size ==
        16 * kPage);
  CHECK(rig.call(FUSE_SETATTR, node, Body(fuse_setattr_in{})).error == EPERM);
  CHECK(rig.call(FUSE_FALLOCATE, node, Body(fuse_fallocate_in{})).error == EPERM);
  CHECK(rig.call(FUSE_READ, node, Body(fuse_read_in{})).error == EPERM);
  CHECK(rig.call(FUSE_GETXATTR, node, Body(fuse_getxattr_in{}).name("user.a")).error == ENODATA);
  CHECK(rig.call(FUSE_LSEEK, node, Body(fuse_lseek_in{})).error == EOPNOTSUPP);
  CHECK(rig.ioctl(node, 0, FUSEFS_IOC_INFO, fusefs_info{}).error == ENOTTY);
  CHECK(rig.ioctl(node, 0, FUSEFS_IOC_WINDOW_FLUSH, ref_of(window)).error == 0);
  CHECK(rig.call(FUSE_STATFS, node).error == 0);
  CHECK(rig.call(FUSE_LINK, kRoot, Body(fuse_link_in{node}).name("link")).error == ENOENT);
  CHECK(rig.call(FUSE_LOOKUP, node, Body().name(".")).error == EPERM);
  CHECK(rig.call(FUSE_UNLINK, kRoot, Body().name(window.file)).error == ENOENT);
  CHECK(rig.call(FUSE_RENAME, kRoot, Body(fuse_rename_in{node}).name("file").name("other")).error !=
        0);
  fuse_copy_file_range_in copy{};
  copy.fh_in = rig.handle;
  copy.nodeid_out = node;
  copy.len = kPage;
  CHECK(rig.call(FUSE_COPY_FILE_RANGE, rig.node, Body(copy)).error == EBADF);
  rig.memory(window)[0] = std::byte{'x'};
  CHECK(rig.fsync(node, 0).error == 0);
  CHECK(rig.read(rig.node, rig.handle, 0, 1, O_DIRECT).body == Message{std::byte{'x'}});
  CHECK(
      rig.call(FUSE_LOOKUP, kRoot, Body().name(".fusefs-window-zz")).as<fuse_entry_out>().nodeid ==
      0);
}

TEST_CASE("windows do not take more addresses than a user, and all, may have") {
  WindowRig rig(TestSeed{1});
  fuse_setattr_in larger{};
  larger.valid = FATTR_SIZE;
  larger.size = kWindowBytesMax + kWindowBytesMaxPerUser;
  REQUIRE(rig.call(FUSE_SETATTR, rig.node, Body(larger)).error == 0);
  constexpr uint32_t kMapped = FUSEFS_WINDOW_MAPPED | kWrite;
  constexpr auto kUsers = static_cast<uint32_t>(kWindowBytesMax / kWindowBytesMaxPerUser);
  std::vector<uint64_t> descriptors;
  const auto try_window = [&](uint64_t pos, uint64_t len) {
    descriptors.push_back(rig.open(rig.node, O_RDWR));
    return rig.try_open(descriptors.back(), kMapped, pos, len).error;
  };
  for (uint32_t user = 0; user < kUsers; ++user) {
    rig.kernel().set_caller(1000 + user, 1000);
    const uint64_t pos = user * kWindowBytesMaxPerUser;
    CHECK(try_window(pos, kWindowBytesMaxPerUser / 2) == 0);
    CHECK(try_window(pos, kWindowBytesMaxPerUser / 2) == 0);  // the same
    CHECK(try_window(pos + kWindowBytesMaxPerUser / 2, kWindowBytesMaxPerUser / 2 + kPage) ==
          ENOMEM);
    CHECK(try_window(pos + kWindowBytesMaxPerUser / 2, kWindowBytesMaxPerUser / 2) == 0);
    CHECK(try_window(kWindowBytesMax, kPage) == ENOMEM);
  }
  rig.kernel().set_caller(999, 999);
  CHECK(try_window(kWindowBytesMax, kPage) == ENOMEM);
  for (const uint64_t descriptor : descriptors) rig.release(rig.node, descriptor);
  CHECK(rig.holder_count() == 0);
  CHECK(try_window(kWindowBytesMax, kWindowBytesMaxPerUser) == 0);
}

TEST_CASE("flush and direct I/O take who has the secret, and is the user") {
  WindowRig rig(TestSeed{1});
  const auto window = rig.open_window(rig.handle, kPinned | kWrite);
  uint64_t other_handle = 0;
  const uint64_t other = rig.create("other", &other_handle).nodeid;
  fusefs_window_ref ref = ref_of(window);
  CHECK(rig.ioctl(rig.node, rig.handle, FUSEFS_IOC_WINDOW_FLUSH, ref).error == 0);
  CHECK(rig.ioctl(other, other_handle, FUSEFS_IOC_WINDOW_FLUSH, ref).error == ESTALE);
  ref.secret[1] ^= 1;
  CHECK(rig.ioctl(rig.node, rig.handle, FUSEFS_IOC_WINDOW_FLUSH, ref).error == ESTALE);
  ref.secret[1] ^= 1;
  rig.kernel().set_caller(1000, 1000);
  CHECK(rig.ioctl(rig.node, rig.handle, FUSEFS_IOC_WINDOW_FLUSH, ref).error == ESTALE);
  rig.kernel().set_caller(0, 0);

  const auto move = [&](uint64_t node, uint64_t handle, fusefs_window_io io) {
    io.version = 1;
    io.ref = ref;
    const FakeReply reply = rig.ioctl(node, handle, FUSEFS_IOC_WINDOW_IO, io);
    if (reply.error != 0) return -static_cast<int64_t>(reply.error);
    return static_cast<int64_t>(reply.as<fusefs_window_io>(sizeof(fuse_ioctl_out)).done);
  };
  fusefs_window_io io{};
  io.flags = FUSEFS_WINDOW_IO_WRITE;
  io.len = 4 * kPage;
  io.file_pos = kPage;
  rig.memory(window)[0] = std::byte{'w'};
  CHECK(move(other, other_handle, io) == 4 * kPage);
  Message expected(5 * kPage, std::byte{'a'});
  std::fill_n(expected.begin(), kPage, std::byte{0});
  expected[kPage] = std::byte{'w'};
  CHECK(rig.read(other, other_handle, 0, 8 * kPage).body == expected);
  REQUIRE(rig.write(other, other_handle, 0, Message(2 * kPage + 100, std::byte{'o'})).error == 0);
  io.flags = 0;
  io.file_pos = 2 * kPage;
  io.window_pos = 15 * kPage;
  io.len = kPage;
  CHECK(move(other, other_handle, io) == kPage);
  CHECK(rig.memory(window)[15 * kPage + 99] == std::byte{'o'});
  CHECK(rig.memory(window)[15 * kPage + 100] == std::byte{'a'});
  io.len = 2 * kPage;
  CHECK(move(other, other_handle, io) == -EINVAL);
  io.len = 100;
  CHECK(move(other, other_handle, io) == -EINVAL);
  io.len = 0;
  CHECK(move(other, other_handle, io) == -EINVAL);
  io.len = kPage;
  CHECK(move(other, rig.open(other, O_WRONLY), io) == -EBADF);
  io.flags = FUSEFS_WINDOW_IO_WRITE;
  CHECK(move(other, rig.open(other, O_RDONLY), io) == -EBADF);
  CHECK(move(other, rig.open(other, O_RDWR | O_APPEND), io) == -EBADF);
  ref = ref_of(rig.open_window(rig.handle, kPinned));
  CHECK(move(other, other_handle, io) == kPage);
  io.flags = 0;
  CHECK(move(other, other_handle, io) == -EBADF);  // into a window for reading
}

TEST_CASE("direct I/O of a window is on the device where a write by the descriptor would be") {
  for_each_seed(2, [](const TestSeed& seed) {
    WindowRig rig(seed);
    uint64_t handle = 0;
    const uint64_t other = rig.create("other", &handle).nodeid;
    REQUIRE(rig.write(other, handle, 0, Message(8 * kPage, std::byte{'o'})).error == 0);
    const auto window = rig.open_window(rig.handle, kPinned | kWrite);
    for (const int flags : {O_DSYNC, O_SYNC}) {
      const std::byte mark{static_cast<unsigned char>(flags >> 8)};
      rig.memory(window)[0] = mark;
      fusefs_window_io io{};
      io.version = 1;
      io.ref = ref_of(window);
      io.flags = FUSEFS_WINDOW_IO_WRITE;
      io.len = 8 * kPage;
      const uint64_t durable = rig.open(other, static_cast<uint32_t>(O_RDWR | flags));
      REQUIRE(rig.ioctl(other, durable, FUSEFS_IOC_WINDOW_IO, io).error == 0);
      SimVolume after(seed, {}, rig.sim().device().durable_image());
      const Message found = after.read_all(*after.lookup("other"));
      REQUIRE(found.size() == 8 * kPage);
      CHECK(found[0] == mark);
      CHECK(std::count(found.begin() + 1, found.end(), std::byte{'a'}) == 8 * kPage - 1);
    }
  });
}

TEST_CASE("who holds what is told to root, and to others what is theirs") {
  WindowRig rig(TestSeed{1});
  rig.open_window(rig.handle, kPinned | kWrite, 0, 4 * kPage);
  rig.kernel().set_caller(1000, 1000);
  rig.open_window(rig.handle, kPinned, 4 * kPage, 4 * kPage);
  const auto told = [&] {
    const FakeReply reply = rig.ioctl(kRoot, 0, FUSEFS_IOC_PINS, fusefs_stats_piece{});
    REQUIRE(reply.error == 0);
    const auto piece = reply.as<fusefs_stats_piece>(sizeof(fuse_ioctl_out));
    return nlohmann::json::parse(std::string(piece.data, piece.len));
  };
  CHECK(told()["windows"].size() == 1);
  CHECK(told()["pins"].size() == 1);
  CHECK(told()["windows"][0]["pos"] == 4 * kPage);
  CHECK(told()["windows"][0]["writable"] == false);
  rig.kernel().set_caller(0, 0);
  CHECK(told()["windows"].size() == 2);
  // Not what another user has asked for.
  const FakeReply reply = rig.ioctl(kRoot, 0, FUSEFS_IOC_PINS, fusefs_stats_piece{});
  auto piece = reply.as<fusefs_stats_piece>(sizeof(fuse_ioctl_out));
  CHECK(rig.ioctl(kRoot, 0, FUSEFS_IOC_PINS, piece).error == 0);
  CHECK(rig.ioctl(kRoot, 0, FUSEFS_IOC_STATS, piece).error == ESTALE);
  rig.kernel().set_caller(1000, 1000);
  CHECK(rig.ioctl(kRoot, 0, FUSEFS_IOC_PINS, piece).error == ESTALE);
}

}  // namespace
}  // namespace fusefs
