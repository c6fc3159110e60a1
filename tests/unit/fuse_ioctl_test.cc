#include <fcntl.h>
#include <linux/fs.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "fusefs/fusefs_ioctl.h"
#include "tests/support/clone_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kRoot = wire::kRootNode;

fusefs_stats_piece read_piece(FuseRig& rig, uint64_t snapshot, uint64_t offset, int* error) {
  fusefs_stats_piece piece{};
  piece.snapshot = snapshot;
  piece.offset = offset;
  const FakeReply reply = rig.ioctl(kRoot, 0, FUSEFS_IOC_STATS, piece);
  *error = reply.error;
  return answer_of<fusefs_stats_piece>(reply);
}

TEST_CASE("commands fit what the kernel passes to FUSE, and have no holes in their structures") {
  CHECK(sizeof(fusefs_info) < (1u << _IOC_SIZEBITS));
  CHECK(sizeof(fusefs_info) == 4472);
  CHECK(sizeof(fusefs_stats_piece) == 8192);
  CHECK(sizeof(fusefs_clone_range) == 48);
  CHECK(sizeof(fusefs_clone_from) == sizeof(file_clone_range));
  CHECK(sizeof(fusefs_dedupe_range) == 64);
  CHECK(sizeof(fusefs_unshare_range) == 32);
  CHECK(sizeof(fusefs_window_open) == 192);
  CHECK(sizeof(fusefs_window_ref) == 24);
  CHECK(sizeof(fusefs_window_io) == 64);
  CHECK(sizeof(fusefs_window_hello) == 40);
  CHECK(sizeof(fusefs_window_answer) == 8);
  CHECK(sizeof(fusefs_window_refusal) == 24);
}

TEST_CASE(
    "a file that chattr +S finds open, through the kernel's cache, is synchronous from then on") {
  for_each_seed(4, [](const TestSeed& seed) {
    FuseRig rig(seed);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    const auto durable = [&] {
      SimVolume after(seed, {}, rig.sim().device().durable_image());
      const Message bytes = after.read_all(*after.lookup("file"));
      return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    const auto write = [&](uint64_t pos, std::string_view text) {
      REQUIRE(rig.write(node, handle, pos, bytes_of(text), O_RDWR).error == 0);
    };
    write(0, "before");
    const uint64_t flags = FS_SYNC_FL;
    REQUIRE(rig.ioctl(node, handle, FS_IOC_SETFLAGS, flags).error == 0);
    write(2, "SYNC");
    // The file was made durable to its end: what it had before the flag went along in its page.
    CHECK(durable() == "beSYNC");
    write(6, "more");
    CHECK(durable() == "beSYNCmore");
    // A second page, and nothing but the answered writes.
    write(4096, "far");
    CHECK(durable().substr(4096) == "far");
    CHECK(rig.sim().files().stats.through_count == 3);
  });
}

TEST_CASE("statistics are read in pieces of one snapshot, whatever happens in between") {
  for_each_seed(1, [](const TestSeed& seed) {
    FuseRig rig(seed);
    rig.create("file");
    int error = 0;
    fusefs_stats_piece piece = read_piece(rig, 0, 0, &error);
    REQUIRE(error == 0);
    REQUIRE(piece.snapshot != 0);
    const uint64_t snapshot = piece.snapshot;
    std::string text(piece.data, piece.len);
    while (text.size() < piece.total) {
      rig.lookup(kRoot, "file");
      piece = read_piece(rig, snapshot, text.size(), &error);
      REQUIRE(error == 0);
      REQUIRE(piece.len > 0);
      text.append(piece.data, piece.len);
    }
    const nlohmann::json model = nlohmann::json::parse(text);
    CHECK(model["fuse"]["create"]["count"] == 1);
    CHECK_FALSE(model["fuse"].contains("lookup"));  // came after the snapshot
    CHECK(model["kernel"]["killpriv_v2"] == true);
    CHECK(read_piece(rig, snapshot, piece.total, &error).len == 0);
    read_piece(rig, snapshot, piece.total + 1, &error);
    CHECK(error == EINVAL);
  });
}

TEST_CASE("a snapshot that newer ones have pushed out is stale") {
  FuseRig rig(TestSeed{1});
  int error = 0;
  const uint64_t first = read_piece(rig, 0, 0, &error).snapshot;
  for (size_t i = 1; i < kSnapshotsKept; ++i) read_piece(rig, 0, 0, &error);
  read_piece(rig, first, 0, &error);
  CHECK(error == 0);
  read_piece(rig, 0, 0, &error);
  read_piece(rig, first, 0, &error);
  CHECK(error == ESTALE);
  read_piece(rig, 4711, 0, &error);
  CHECK(error == ESTALE);
}

TEST_CASE("inode flags are set and read by both of Linux's ioctls, and unknown ones refused") {
  for_each_seed(1, [](const TestSeed& seed) {
    FuseRig rig(seed);
    const uint64_t node = rig.create("file").nodeid;
    const auto set = [&](uint64_t flags) {
      return rig.ioctl(node, 0, FS_IOC_SETFLAGS, flags).error;
    };
    CHECK(set(FS_IMMUTABLE_FL | FS_NOATIME_FL) == 0);
    CHECK(answer_of<uint32_t>(rig.ioctl(node, 0, FS_IOC_GETFLAGS, 0)) ==
          (FS_IMMUTABLE_FL | FS_NOATIME_FL));
    CHECK(answer_of<fsxattr>(rig.ioctl(node, 0, FS_IOC_FSGETXATTR, 0)).fsx_xflags ==
          (FS_XFLAG_IMMUTABLE | FS_XFLAG_NOATIME));
    const auto statx = rig.call(wire::kOpStatx, node, Body(wire::StatxIn{})).as<wire::StatxOut>();
    CHECK(statx.stat.attributes == STATX_ATTR_IMMUTABLE);
    CHECK(set(FS_COMPR_FL) == EOPNOTSUPP);

    // Nobody opens it for writing now, root neither.
    CHECK(rig.call(FUSE_OPEN, node, Body(fuse_open_in{O_RDWR, 0})).error == EPERM);
    CHECK(set(FS_APPEND_FL) == 0);
    CHECK(rig.call(FUSE_OPEN, node, Body(fuse_open_in{O_RDWR, 0})).error == EPERM);
    CHECK(rig.call(FUSE_OPEN, node, Body(fuse_open_in{O_RDWR | O_APPEND | O_TRUNC, 0})).error ==
          EPERM);
    CHECK(rig.call(FUSE_OPEN, node, Body(fuse_open_in{O_RDWR | O_APPEND, 0})).error == 0);
    fsxattr xflags{};
    CHECK(rig.ioctl(node, 0, FS_IOC_FSSETXATTR, xflags).error == 0);
    CHECK(rig.call(FUSE_OPEN, node, Body(fuse_open_in{O_RDWR, 0})).error == 0);
  });
}

TEST_CASE("the label is set by root alone and read by everybody") {
  FuseRig rig(TestSeed{1});
  std::array<char, FSLABEL_MAX> label{"a label"};
  CHECK(rig.ioctl(kRoot, 0, FS_IOC_SETFSLABEL, label).error == 0);
  rig.kernel().set_caller(1000, 1000);
  CHECK(rig.ioctl(kRoot, 0, FS_IOC_SETFSLABEL, label).error == EPERM);
  CHECK(answer_of<decltype(label)>(rig.ioctl(kRoot, 0, FS_IOC_GETFSLABEL, 0)) == label);
  const auto info = answer_of<fusefs_info>(rig.ioctl(kRoot, 0, FUSEFS_IOC_INFO, 0));
  CHECK(std::string(info.label) == "a label");
  CHECK(std::string(info.source) == "image");
  rig.kernel().set_caller(0, 0);
  label.fill('x');
  CHECK(rig.ioctl(kRoot, 0, FS_IOC_SETFSLABEL, label).error == EINVAL);
}

TEST_CASE("trimming is for root, and tells how much was trimmed") {
  FuseRig rig(TestSeed{1});
  const fstrim_range all{0, UINT64_MAX, 0};
  const FakeReply reply = rig.ioctl(kRoot, 0, FITRIM, all);
  REQUIRE(reply.error == 0);
  CHECK(answer_of<fstrim_range>(reply).len > 0);
  rig.kernel().set_caller(1000, 1000);
  CHECK(rig.ioctl(kRoot, 0, FITRIM, all).error == EPERM);
}

TEST_CASE("a clone needs a token that only an opener for reading can have") {
  for_each_seed(1, [](const TestSeed& seed) {
    CloneRig rig(seed);
    const uint64_t blind = rig.open(rig.source_node, O_WRONLY);
    CHECK(rig.ioctl(rig.source_node, blind, FUSEFS_IOC_SOURCE_TOKEN, 0).error == EBADF);

    fusefs_clone_range range{};
    range.source = rig.token();
    CHECK(range.source.secret != 0);
    const auto clone = [&] {
      return rig.ioctl(rig.target_node, rig.target_handle, FUSEFS_IOC_CLONE_RANGE, range).error;
    };
    CHECK(clone() == 0);
    CHECK(rig.target_content() == rig.data);

    range.target_pos = 5;
    CHECK(clone() == EINVAL);
    range.target_pos = 0;
    range.len = 4096;
    range.source_pos = 4096;
    CHECK(clone() == 0);
    range.len = 1 << 20;
    CHECK(clone() == EINVAL);
    range.len = 0;
    range.source.secret ^= 1;
    CHECK(clone() == ESTALE);
    range.source.secret ^= 1;
    rig.release(rig.source_node, rig.source_handle);
    CHECK(clone() == ESTALE);
  });
}

TEST_CASE("a file is not cloned into one that is open for appending") {
  CloneRig rig(TestSeed{1});
  const uint64_t appending = rig.open(rig.target_node, O_RDWR | O_APPEND);
  fusefs_clone_range range{};
  range.source = rig.token();
  CHECK(rig.ioctl(rig.target_node, appending, FUSEFS_IOC_CLONE_RANGE, range).error == EBADF);
}

TEST_CASE("dedupe is for who may write the target or owns it, and tells what it found") {
  for_each_seed(1, [](const TestSeed& seed) {
    CloneRig rig(seed);
    REQUIRE(rig.write(rig.target_node, rig.target_handle, 0, rig.data).error == 0);
    fusefs_dedupe_range range{};
    range.version = 1;
    range.source = rig.token();
    const auto dedupe = [&](uint64_t handle) {
      return rig.ioctl(rig.target_node, handle, FUSEFS_IOC_DEDUPE_RANGE, range);
    };
    FakeReply reply = dedupe(rig.target_handle);
    REQUIRE(reply.error == 0);
    auto answer = answer_of<fusefs_dedupe_range>(reply);
    CHECK(answer.flags == 0);
    CHECK(answer.same_bytes == 20'000);
    CHECK(answer.shared_bytes == 20'480);
    answer = answer_of<fusefs_dedupe_range>(dedupe(rig.target_handle));
    CHECK(answer.same_bytes == 20'000);
    CHECK(answer.shared_bytes == 0);
    CHECK(rig.target_content() == rig.data);

    Message other(100, std::byte{8});
    REQUIRE(rig.write(rig.target_node, rig.target_handle, 5000, other).error == 0);
    answer = answer_of<fusefs_dedupe_range>(dedupe(rig.target_handle));
    CHECK(answer.flags == FUSEFS_DEDUPE_DIFFERS);
    CHECK(answer.same_bytes == 0);

    const uint64_t read_only = rig.open(rig.target_node, O_RDONLY);
    CHECK(dedupe(read_only).error == 0);  // root's
    rig.kernel().set_caller(1000, 1000);
    CHECK(dedupe(read_only).error == EPERM);
    CHECK(dedupe(rig.target_handle).error == 0);
    uint64_t own_handle = 0;
    const uint64_t own = rig.create("own", &own_handle).nodeid;  // by this user
    REQUIRE(rig.write(own, own_handle, 0, rig.data).error == 0);
    const uint64_t own_read_only = rig.open(own, O_RDONLY);
    const auto dedupe_own = [&] {
      return rig.ioctl(own, own_read_only, FUSEFS_IOC_DEDUPE_RANGE, range).error;
    };
    CHECK(dedupe_own() == 0);
    rig.kernel().set_caller(1001, 1000);
    CHECK(dedupe_own() == EPERM);
    rig.kernel().set_caller(0, 0);

    range.version = 2;
    CHECK(dedupe(rig.target_handle).error == EINVAL);
    range.version = 1;
    range.target_pos = 4096;
    CHECK(dedupe(rig.target_handle).error == EINVAL);  // beyond the target's end
    range.target_pos = 0;
    range.source.secret ^= 1;
    CHECK(dedupe(rig.target_handle).error == ESTALE);
  });
}

TEST_CASE("unshare gives a file its own blocks, and needs it open for writing") {
  for_each_seed(1, [](const TestSeed& seed) {
    CloneRig rig(seed);
    fusefs_clone_range cloned{};
    cloned.source = rig.token();
    REQUIRE(rig.ioctl(rig.target_node, rig.target_handle, FUSEFS_IOC_CLONE_RANGE, cloned).error ==
            0);

    fusefs_unshare_range range{};
    range.version = 1;
    const auto unshare = [&](uint64_t handle) {
      return rig.ioctl(rig.target_node, handle, FUSEFS_IOC_UNSHARE_RANGE, range);
    };
    CHECK(unshare(rig.open(rig.target_node, O_RDONLY)).error == EBADF);
    range.len = 4096;
    CHECK(answer_of<fusefs_unshare_range>(unshare(rig.target_handle)).copied_bytes == 4096);
    range.len = 0;
    CHECK(answer_of<fusefs_unshare_range>(unshare(rig.target_handle)).copied_bytes == 16'384);
    CHECK(answer_of<fusefs_unshare_range>(unshare(rig.target_handle)).copied_bytes == 0);
    CHECK(rig.target_content() == rig.data);
    range.flags = 4;
    CHECK(unshare(rig.target_handle).error == EINVAL);
    range.flags = 0;
    range.version = 0;
    CHECK(unshare(rig.target_handle).error == EINVAL);
  });
}

TEST_CASE("an ioctl that we do not have is answered with ENOTTY") {
  FuseRig rig(TestSeed{1});
  CHECK(rig.ioctl(kRoot, 0, _IO('x', 7), 0).error == ENOTTY);
}

}  // namespace
}  // namespace fusefs
