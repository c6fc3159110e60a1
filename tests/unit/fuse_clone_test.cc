// Clones as the kernel asks for them: by descriptor, and over pages that it still has.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <string>

#include "tests/support/clone_rig.h"
#include "tests/support/temp_image.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kPage = kBlockBytes;
constexpr InodeNo kFile{7};

// ---- Where a write of the kernel's is stale ----

TEST_CASE("what the kernel writes is stale where it was replaced, until it has the page anew") {
  ReplacedRanges replaced;
  ReplacedRanges::Stash clone;
  replaced.begin(kFile, 2 * kPage, clone);
  CHECK_FALSE(replaced.any_stale(kFile, 0, 100 * kPage));  // nothing is replaced yet
  replaced.note_kernel_has(kFile, 2 * kPage, kPage);
  replaced.set_replaced(clone, 4 * kPage);
  CHECK(replaced.any_stale(kFile, 2 * kPage, 3 * kPage));  // what it got before counts for nothing
  CHECK_FALSE(replaced.any_stale(InodeNo(8), 0, 100 * kPage));

  replaced.note_kernel_has(kFile, 3 * kPage, kPage);
  replaced.note_kernel_has(kFile, 4 * kPage + 1, 2 * kPage);  // one whole page of it
  const auto expect_parts = [&](std::vector<std::pair<uint64_t, bool>> wanted) {
    uint64_t at = 0;
    for (const auto& [end, stale] : wanted) {
      const ReplacedRanges::Part part = replaced.part_at(kFile, at, 8 * kPage);
      CHECK(part.end == end);
      CHECK(part.stale == stale);
      at = part.end;
    }
    CHECK(at == 8 * kPage);
  };
  expect_parts({{2 * kPage, false},
                {3 * kPage, true},
                {4 * kPage, false},
                {5 * kPage, true},
                {8 * kPage, false}});

  clone.end();
  CHECK_FALSE(replaced.any_stale(kFile, 0, 100 * kPage));
}

TEST_CASE("a page that is replaced in two steps is stale after the second, whatever came between") {
  ReplacedRanges replaced;
  ReplacedRanges::Stash clone;
  replaced.begin(kFile, 100, clone);
  replaced.set_replaced(clone, kPage);  // 96 bytes of the second page
  replaced.note_kernel_has(kFile, 0, 2 * kPage);
  CHECK_FALSE(replaced.any_stale(kFile, 0, 2 * kPage));
  replaced.set_replaced(clone, kPage + 500);
  const ReplacedRanges::Part first = replaced.part_at(kFile, 0, 2 * kPage);
  CHECK(first.end == kPage);
  CHECK_FALSE(first.stale);
  const ReplacedRanges::Part second = replaced.part_at(kFile, kPage, 2 * kPage);
  CHECK(second.end == kPage + 600);
  CHECK(second.stale);
  ReplacedRanges::Stash other;  // of two clones the stricter one counts
  replaced.begin(kFile, 0, other);
  replaced.set_replaced(other, 2 * kPage);
  CHECK(replaced.part_at(kFile, 0, 2 * kPage).end == 2 * kPage);
  CHECK(replaced.part_at(kFile, 0, 2 * kPage).stale);
}

TEST_CASE("stores into old pages do not come back over what a clone has put there") {
  for_each_seed(2, [](const TestSeed& seed) {
    FuseRig rig(seed);
    uint64_t handle = 0;
    const uint64_t node = rig.create("file", &handle).nodeid;
    Message model(8 * kPage, std::byte{'a'});
    REQUIRE(rig.write(node, handle, 0, model).error == 0);
    ReplacedRanges& replaced = rig.server().replaced_ranges();
    ReplacedRanges::Stash clone;
    rig.sim().world().inside([&] {
      replaced.begin(InodeNo(node), 2 * kPage, clone);
      replaced.set_replaced(clone, 3 * kPage);
    });
    // The kernel has pages 1 to 6 from before, then reads page 3 again.
    REQUIRE(rig.read(node, handle, 3 * kPage, kPage).error == 0);
    const Message stored(6 * kPage, std::byte{'s'});
    const FakeReply reply = rig.write(node, handle, kPage, stored, O_RDWR, FUSE_WRITE_CACHE);
    REQUIRE(reply.error == 0);
    CHECK(reply.as<fuse_write_out>().size == stored.size());
    for (const ptrdiff_t page : {1, 3, 5, 6}) {
      std::fill_n(model.begin() + page * ptrdiff_t{kPage}, kPage, std::byte{'s'});
    }
    CHECK(rig.read(node, handle, 0, 8 * kPage).body == model);
    CHECK(rig.sim().files().stats.clone_stale_bytes == 2 * kPage);
    // A write of the program's own is never stale, and makes its pages new.
    REQUIRE(rig.write(node, handle, 4 * kPage, Message(kPage, std::byte{'w'})).error == 0);
    REQUIRE(
        rig.write(node, handle, 4 * kPage, Message(kPage, std::byte{'x'}), O_RDWR, FUSE_WRITE_CACHE)
            .error == 0);
    std::fill_n(model.begin() + 4 * ptrdiff_t{kPage}, kPage, std::byte{'x'});
    CHECK(rig.read(node, handle, 0, 8 * kPage).body == model);
    rig.sim().world().inside([&] { clone.end(); });
  });
}

// ---- By descriptor ----

// What the callers have open, as a test says.
class ToldCallerFiles final : public CallerFiles {
 public:
  struct File {
    uint64_t ino = 0;
    bool readable = true;
    bool is_ours = true;
  };
  std::map<int64_t, File> files;
  bool visible = true;

  Result<InodeNo> find(uint32_t, int64_t descriptor) const override {
    if (!visible) return Error::not_supported;
    const auto found = files.find(descriptor);
    if (found == files.end() || !found->second.readable) return Error::bad_descriptor;
    if (!found->second.is_ours) return Error::cross_device;
    return InodeNo(found->second.ino);
  }
};

TEST_CASE("a clone by descriptor is for who has the source open for reading, on this mount") {
  for_each_seed(1, [](const TestSeed& seed) {
    CloneRig rig(seed);
    uint64_t closed_handle = 0;
    const uint64_t closed = rig.create("closed", &closed_handle).nodeid;
    rig.release(closed, closed_handle);
    fusefs_clone_from range{};
    const auto clone = [&](int64_t descriptor, uint64_t handle) {
      range.source_fd = descriptor;
      return rig.ioctl(rig.target_node, handle, FUSEFS_IOC_CLONE_FROM, range).error;
    };
    CHECK(clone(3, rig.target_handle) == EOPNOTSUPP);  // nothing is known of callers

    auto own = std::make_unique<ToldCallerFiles>();
    ToldCallerFiles& told = *own;
    rig.sim().world().inside([&] { rig.server().set_caller_files(std::move(own)); });
    told.files[3] = {rig.source_node};
    told.files[4] = {rig.source_node, false};
    // The number of our inode, on another filesystem.
    told.files[5] = {rig.source_node, true, false};
    told.files[6] = {closed};
    CHECK(clone(2, rig.target_handle) == EBADF);
    CHECK(clone(4, rig.target_handle) == EBADF);
    CHECK(clone(5, rig.target_handle) == EXDEV);
    CHECK(clone(6, rig.target_handle) == EBADF);  // closed meanwhile
    const uint64_t read_only = rig.open(rig.target_node, O_RDONLY);
    CHECK(clone(3, read_only) == EBADF);
    CHECK(clone(3, rig.open(rig.target_node, O_RDWR | O_APPEND)) == EBADF);
    CHECK(clone(3, rig.target_handle) == 0);
    CHECK(rig.target_content() == rig.data);
    // The last block is copied, and the rest is shared.
    CHECK(clone(3, rig.open(rig.target_node, O_RDWR | O_DSYNC)) == 0);
    {
      SimVolume after(seed, {}, rig.sim().device().durable_image());
      CHECK(after.read_all(*after.lookup("target")) == rig.data);
    }
    range.len = 4096;
    range.target_pos = 8192;
    CHECK(clone(3, rig.target_handle) == 0);
    range.target_pos = 1;
    CHECK(clone(3, rig.target_handle) == EINVAL);
    told.visible = false;
    CHECK(clone(3, rig.target_handle) == EOPNOTSUPP);
  });
}

TEST_CASE("what a caller has open is seen in /proc: for reading, which file, on which device") {
  const TempImage image(1 << 20);
  const OwnedFd file(open(image.path().c_str(), O_RDONLY | O_CLOEXEC));
  const OwnedFd write_only(open(image.path().c_str(), O_WRONLY | O_CLOEXEC));
  const OwnedFd path_only(open(image.path().c_str(), O_PATH | O_CLOEXEC));
  struct stat status {};
  REQUIRE(fstat(file.get(), &status) == 0);
  const std::unique_ptr<CallerFiles> files = open_caller_files(status.st_dev);
  if (!files) return;  // no /proc, or that of others
  const auto self = static_cast<uint32_t>(gettid());
  const Result<InodeNo> found = files->find(self, file.get());
  REQUIRE(found.ok());
  CHECK(found.value() == InodeNo(status.st_ino));
  CHECK(open_caller_files(status.st_dev + 1)->find(self, file.get()).error() ==
        Error::cross_device);
  CHECK(files->find(self, write_only.get()).error() == Error::bad_descriptor);
  CHECK(files->find(self, path_only.get()).error() == Error::bad_descriptor);
  CHECK(files->find(self, -1).error() == Error::bad_descriptor);
  CHECK(files->find(self, 1 << 20).error() == Error::bad_descriptor);
  CHECK(files->find(0, file.get()).error() == Error::not_supported);  // of another PID namespace
}

}  // namespace
}  // namespace fusefs
