// UringDevice on real block devices: a loop device with blocks of 512 bytes. Needs root; says so
// and passes where it may not.
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <string>

#include "core/io/aligned_buffer.h"
#include "core/io/device_probe.h"
#include "tests/support/real_device.h"
#include "tests/support/temp_image.h"

#include <doctest/doctest.h>

using namespace fusefs;

namespace {

// A loop device over `image`, detached with the object.
class LoopDevice {
 public:
  static std::optional<LoopDevice> attach(const TempImage& image, uint32_t block_bytes) {
    const OwnedFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control) return std::nullopt;
    const OwnedFd backing(::open(image.path().c_str(), O_RDWR | O_CLOEXEC));
    // Somebody else may take the free device first.
    for (int tries = 0; tries < 10; ++tries) {
      const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) return std::nullopt;
      LoopDevice device("/dev/loop" + std::to_string(number));
      if (!device.fd_) return std::nullopt;
      loop_config config = {};
      config.fd = static_cast<uint32_t>(backing.get());
      config.block_size = block_bytes;
      if (::ioctl(device.fd_.get(), LOOP_CONFIGURE, &config) == 0) {
        device.attached_ = true;
        return device;
      }
      if (errno != EBUSY) return std::nullopt;
    }
    return std::nullopt;
  }
  LoopDevice(LoopDevice&& other) noexcept = default;
  ~LoopDevice() {
    if (fd_ && attached_) ::ioctl(fd_.get(), LOOP_CLR_FD);
  }
  const std::string& path() const { return path_; }

 private:
  explicit LoopDevice(std::string path)
      : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDWR | O_CLOEXEC)) {}
  std::string path_;
  OwnedFd fd_;
  bool attached_ = false;
};

}  // namespace

TEST_CASE("a loop device with blocks of 512 bytes is read, written, flushed and discarded") {
  TempImage image(4 << 20);
  const std::optional<LoopDevice> loop = LoopDevice::attach(image, 512);
  if (!loop) {
    MESSAGE("skipped: no loop device may be attached here");
    return;
  }
  RealDevice device(loop->path());
  const DeviceGeometry& geometry = device->geometry();
  CHECK(geometry.is_block_device);
  CHECK_EQ(geometry.logical_block_bytes, 512);
  CHECK_EQ(geometry.size_bytes, 4u << 20);
  CHECK(device->facts().direct_io);

  AlignedBuffer written(8192);
  std::memset(written.data(), 0x5a, written.size());
  REQUIRE(device.io(IoRequest::write(512, written.data() + 512, 1536, true)).ok());
  REQUIRE(device.io(IoRequest::flush()).ok());
  AlignedBuffer read(4096);
  REQUIRE(device.io(IoRequest::read(0, read.data(), 4096)).ok());
  CHECK_EQ(read.data()[511], std::byte{0});
  CHECK_EQ(read.data()[512], std::byte{0x5a});
  CHECK_EQ(read.data()[2047], std::byte{0x5a});
  CHECK_EQ(read.data()[2048], std::byte{0});

  IoRequest zero;
  zero.kind = IoKind::write_zeroes;
  zero.addr = 512;
  zero.len = 512;
  REQUIRE(device.io(std::move(zero)).ok());
  REQUIRE(device.io(IoRequest::read(0, read.data(), 4096)).ok());
  CHECK_EQ(read.data()[512], std::byte{0});
  CHECK_EQ(read.data()[1024], std::byte{0x5a});

  const Result<void> discarded = device.io(IoRequest::discard(0, 1 << 20));
  if (geometry.can_discard) {
    REQUIRE(discarded.ok());
    REQUIRE(device.io(IoRequest::read(0, read.data(), 4096)).ok());
    CHECK_EQ(read.data()[1024], std::byte{0});  // a loop device punches holes
  } else {
    REQUIRE_FALSE(discarded.ok());
    CHECK_EQ(discarded.error(), Error::not_supported);
  }
}

TEST_CASE("a block device in use is refused, by lock and by claim") {
  TempImage image(4 << 20);
  const std::optional<LoopDevice> loop = LoopDevice::attach(image, 4096);
  if (!loop) {
    MESSAGE("skipped: no loop device may be attached here");
    return;
  }
  const auto refusal = [&](const DeviceOptions& options) {
    std::string message;
    const auto second = UringDevice::open(loop->path(), options, &message);
    REQUIRE_FALSE(second.ok());
    CHECK_EQ(second.error(), Error::too_busy);
    CHECK_NE(message.find(loop->path()), std::string::npos);
    return message;
  };
  DeviceOptions unclaimed;
  unclaimed.claim = false;
  {
    RealDevice device(loop->path());
    CHECK_EQ(device->geometry().logical_block_bytes, 4096);
    CHECK_NE(refusal({}).find("in use by the kernel"), std::string::npos);
    CHECK_NE(refusal(unclaimed).find("in use by another program"), std::string::npos);
  }
  // mount(2) claims the device for itself: then only the lock keeps others out.
  RealDevice device(loop->path(), unclaimed);
  const OwnedFd as_mount_does(::open(loop->path().c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
  CHECK(as_mount_does);
  CHECK_NE(refusal(unclaimed).find("in use by another program"), std::string::npos);
}
