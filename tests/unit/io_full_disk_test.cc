// UringDevice on a sparse file whose disk fills up. Needs root to make the disk; says so and
// passes where it may not.
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "core/io/aligned_buffer.h"
#include "tests/support/real_device.h"
#include "tests/support/temp_image.h"

#include <doctest/doctest.h>

using namespace fusefs;

namespace {

// A tmpfs of 1 MiB, unmounted with the object.
class SmallDisk {
 public:
  SmallDisk() {
    if (::mkdtemp(path_.data()) == nullptr) return;
    made_ = true;
    mounted_ = ::mount("fusefs-test", path_.c_str(), "tmpfs", 0, "size=1m") == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    if (made_) ::rmdir(path_.c_str());
  }
  bool mounted() const { return mounted_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/fusefs-disk-XXXXXX";
  bool made_ = false;
  bool mounted_ = false;
};

}  // namespace

TEST_CASE("a write to a sparse image on a full disk says so and leaves the rest usable") {
  const SmallDisk disk;
  if (!disk.mounted()) {
    MESSAGE("skipped: nothing may be mounted here");
    return;
  }
  const TempImage image(8 << 20, disk.path());
  RealDevice device(image.path());
  AlignedBuffer buffer(2 << 20);
  const Result<void> result = device.io(IoRequest::write(0, buffer.data(), buffer.size()));
  REQUIRE_FALSE(result.ok());
  CHECK_EQ(result.error(), Error::no_space);
  CHECK(device.io(IoRequest::read(0, buffer.data(), buffer.size())).ok());
  REQUIRE(device.io(IoRequest::discard(0, buffer.size())).ok());
  CHECK(device.io(IoRequest::write(4 << 20, buffer.data(), 64 << 10)).ok());
}
