// UringDevice on a temporary file: data, durability calls, refusals, locking, statistics.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "core/io/transfer_helpers.h"
#include "core/io/uring_device.h"
#include "tests/support/death.h"
#include "tests/support/real_device.h"
#include "tests/support/temp_image.h"

#include <doctest/doctest.h>

using namespace fusefs;

namespace {

constexpr uint64_t kMiB = 1 << 20;

AlignedBuffer noise(size_t len, uint64_t seed) {
  AlignedBuffer buffer(len);
  Random random(seed);
  for (size_t at = 0; at < len; at += 8) {
    const uint64_t value = random.next();
    std::memcpy(buffer.data() + at, &value, 8);
  }
  return buffer;
}

bool same(const AlignedBuffer& a, const AlignedBuffer& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

bool all_zero(const AlignedBuffer& buffer) {
  for (size_t i = 0; i < buffer.size(); ++i) {
    if (buffer.data()[i] != std::byte{0}) return false;
  }
  return true;
}

// The same tests on a filesystem with direct I/O to a device, and on tmpfs.
std::vector<std::string> folders() {
  std::vector<std::string> found = {""};
  if (::access("/dev/shm", W_OK) == 0) found.push_back("/dev/shm");
  return found;
}

}  // namespace

TEST_CASE("what is written is read back, from small blocks to requests larger than one command") {
  for (const std::string& folder : folders()) {
    TempImage image(16 * kMiB, folder);
    RealDevice device(image.path());
    CHECK_EQ(device->geometry().size_bytes, 16 * kMiB);
    uint64_t addr = 0;
    for (const size_t len : {size_t{4096}, size_t{65536}, size_t{5 * kMiB + 4096}}) {
      const AlignedBuffer written = noise(len, len);
      AlignedBuffer read(len);
      REQUIRE(device.io(IoRequest::write(addr, written.data(), len)).ok());
      REQUIRE(device.io(IoRequest::read(addr, read.data(), len)).ok());
      CHECK(same(written, read));
      addr += len;
    }
    const DeviceStats& stats = device->stats();
    CHECK_EQ(stats.of(IoKind::write).count, 3);
    CHECK_EQ(stats.of(IoKind::read).bytes, addr);
    CHECK_EQ(stats.of(IoKind::read).latency_ns.count(), 3);
    CHECK_EQ(stats.split_count, 2);
    CHECK_EQ(stats.in_flight, 0);
  }
}

TEST_CASE("a request scattered over more buffers than one command takes is whole") {
  constexpr size_t kPieces = 3000;
  for (const std::string& folder : folders()) {
    TempImage image(16 * kMiB, folder);
    RealDevice device(image.path());
    const AlignedBuffer written = noise(kPieces * 4096, 1);
    REQUIRE(device.io(IoRequest::write(4096, written.data(), written.size())).ok());

    AlignedBuffer read(kPieces * 4096);
    IoRequest scattered;
    scattered.addr = 4096;
    scattered.len = read.size();
    std::vector<size_t> order(kPieces);
    for (size_t i = 0; i < kPieces; ++i) scattered.buffers.push_back({nullptr, 4096});
    for (size_t i = 0; i < kPieces; ++i) {
      order[i] = (i * 7) % kPieces;  // 7 and 3000 share no factor
      scattered.buffers[i].iov_base = read.data() + order[i] * 4096;
    }
    REQUIRE(device.io(std::move(scattered)).ok());
    size_t wrong = 0;
    for (size_t i = 0; i < kPieces; ++i) {
      if (std::memcmp(written.data() + i * 4096, read.data() + order[i] * 4096, 4096) != 0) ++wrong;
    }
    CHECK_EQ(wrong, 0);
  }
}

TEST_CASE("one command takes at most IOV_MAX buffers and the rest follows") {
  constexpr size_t kPieces = 2048;
  TempImage image(4 * kMiB);
  DeviceOptions options;
  options.direct = false;  // blocks of 512 bytes everywhere
  RealDevice device(image.path(), options);
  const AlignedBuffer written = noise(kPieces * 512, 5);
  IoRequest scattered;
  scattered.kind = IoKind::write;
  scattered.len = written.size();
  for (size_t i = 0; i < kPieces; ++i) {
    scattered.buffers.push_back({const_cast<std::byte*>(written.data()) + i * 512, 512});
  }
  REQUIRE(device.io(std::move(scattered)).ok());
  AlignedBuffer read(written.size());
  REQUIRE(device.io(IoRequest::read(0, read.data(), read.size())).ok());
  CHECK(same(written, read));
}

TEST_CASE("thousands of requests in flight all complete") {
  constexpr size_t kRequests = 5000;
  for (const std::string& folder : folders()) {
    TempImage image(8 * kMiB, folder);
    RealDevice device(image.path());
    const AlignedBuffer written = noise(4096, 9);
    AlignedBuffer read(kRequests * 4096);
    REQUIRE(device.io(IoRequest::write(0, written.data(), 4096)).ok());
    Ref<IoTicket> ticket;
    const Result<void> result = device.runner().run("many", [&]() -> Attempt<void> {
      if (!ticket) {
        ticket = make_ref<IoTicket>();
        for (size_t i = 0; i < kRequests; ++i) {
          device->submit(IoRequest::read(0, read.data() + i * 4096, 4096), ticket);
        }
      }
      return ticket->wait();
    });
    REQUIRE(result.ok());
    size_t wrong = 0;
    for (size_t i = 0; i < kRequests; ++i) {
      if (std::memcmp(read.data() + i * 4096, written.data(), 4096) != 0) ++wrong;
    }
    CHECK_EQ(wrong, 0);
    CHECK_EQ(device->stats().in_flight_max, kRequests);
    CHECK_EQ(device->stats().of(IoKind::read).count, kRequests);
  }
}

TEST_CASE("flush and durable writes succeed and are counted") {
  for (const std::string& folder : folders()) {
    TempImage image(kMiB, folder);
    RealDevice device(image.path());
    const AlignedBuffer written = noise(8192, 2);
    REQUIRE(device.io(IoRequest::write(0, written.data(), 8192, true)).ok());
    REQUIRE(device.io(IoRequest::flush()).ok());
    CHECK_EQ(device->stats().fua_count, 1);
    CHECK_EQ(device->stats().of(IoKind::flush).count, 1);
    CHECK_EQ(device->stats().of(IoKind::flush).errors_count, 0);
  }
}

TEST_CASE("what changes the content is counted, also when it is refused") {
  for (const std::string& folder : folders()) {
    TempImage image(kMiB, folder);
    RealDevice device(image.path());
    const AlignedBuffer data = noise(8192, 2);
    const auto submitted = [&device] {
      CHECK_EQ(device->changes().in_flight, 0);
      return device->changes().submitted;
    };
    REQUIRE(device.io(IoRequest::write(0, data.data(), 8192)).ok());
    CHECK_EQ(submitted(), 1);
    REQUIRE(device.io(IoRequest::write(0, data.data(), 8192, true)).ok());
    CHECK_EQ(submitted(), 2);
    AlignedBuffer got(8192);
    REQUIRE(device.io(IoRequest::read(0, got.data(), 8192)).ok());
    REQUIRE(device.io(IoRequest::flush()).ok());
    CHECK_EQ(submitted(), 2);
    CHECK_FALSE(device.io(IoRequest::write(kMiB, data.data(), 8192)).ok());
    CHECK_EQ(submitted(), 3);
  }
}

TEST_CASE("discarding a range of a file makes it zero and gives the space back") {
  for (const std::string& folder : folders()) {
    TempImage image(8 * kMiB, folder);
    RealDevice device(image.path());
    REQUIRE(device->geometry().can_discard);
    const AlignedBuffer written = noise(4 * kMiB, 3);
    REQUIRE(device.io(IoRequest::write(0, written.data(), written.size())).ok());
    REQUIRE(device.io(IoRequest::flush()).ok());
    struct stat before {};
    REQUIRE_EQ(::stat(image.path().c_str(), &before), 0);
    REQUIRE(device.io(IoRequest::discard(kMiB, 2 * kMiB)).ok());
    struct stat after {};
    REQUIRE_EQ(::stat(image.path().c_str(), &after), 0);
    CHECK_LT(after.st_blocks, before.st_blocks);
    CHECK_EQ(after.st_size, before.st_size);

    AlignedBuffer gone(2 * kMiB);
    std::memset(gone.data(), 0xff, gone.size());
    REQUIRE(device.io(IoRequest::read(kMiB, gone.data(), gone.size())).ok());
    CHECK(all_zero(gone));
    AlignedBuffer kept(kMiB);
    REQUIRE(device.io(IoRequest::read(0, kept.data(), kept.size())).ok());
    CHECK_EQ(std::memcmp(kept.data(), written.data(), kept.size()), 0);
  }
}

TEST_CASE("zeroes can be written wherever the file lies") {
  for (const std::string& folder : folders()) {
    TempImage image(8 * kMiB, folder);
    RealDevice device(image.path());
    const AlignedBuffer written = noise(4 * kMiB, 4);
    REQUIRE(device.io(IoRequest::write(0, written.data(), written.size())).ok());
    IoRequest zero;
    zero.kind = IoKind::write_zeroes;
    zero.addr = 4096;
    zero.len = 3 * kMiB;
    REQUIRE(device.io(std::move(zero)).ok());
    AlignedBuffer gone(3 * kMiB);
    std::memset(gone.data(), 0xff, gone.size());
    REQUIRE(device.io(IoRequest::read(4096, gone.data(), gone.size())).ok());
    CHECK(all_zero(gone));
    AlignedBuffer kept(4096);
    REQUIRE(device.io(IoRequest::read(4096 + 3 * kMiB, kept.data(), 4096)).ok());
    CHECK_EQ(std::memcmp(kept.data(), written.data() + 4096 + 3 * kMiB, 4096), 0);
  }
}

TEST_CASE("requests outside the device or off its blocks are refused and touch nothing") {
  TempImage image(kMiB);
  RealDevice device(image.path());
  AlignedBuffer buffer(8192);
  const auto error_of = [&](IoRequest request) {
    const Result<void> result = device.io(std::move(request));
    REQUIRE_FALSE(result.ok());
    return result.error();
  };
  CHECK_EQ(error_of(IoRequest::read(kMiB, buffer.data(), 4096)), Error::invalid_argument);
  CHECK_EQ(error_of(IoRequest::read(kMiB - 4096, buffer.data(), 8192)), Error::invalid_argument);
  CHECK_EQ(error_of(IoRequest::write(UINT64_MAX - 4095, buffer.data(), 4096)),
           Error::invalid_argument);
  CHECK_EQ(error_of(IoRequest::read(100, buffer.data(), 4096)), Error::invalid_argument);
  CHECK_EQ(error_of(IoRequest::read(0, buffer.data(), 100)), Error::invalid_argument);
  CHECK_EQ(error_of(IoRequest::read(0, buffer.data() + 8, 4096)), Error::invalid_argument);
  IoRequest mismatch = IoRequest::read(0, buffer.data(), 8192);
  mismatch.buffers[0].iov_len = 4096;
  CHECK_EQ(error_of(std::move(mismatch)), Error::invalid_argument);
  CHECK_EQ(device->stats().of(IoKind::read).errors_count, 6);
  CHECK_EQ(device->stats().of(IoKind::write).bytes, 0);
  CHECK(device.io(IoRequest::read(0, buffer.data(), 0)).ok());
}

TEST_CASE("a file cut short under us is an I/O error, not stale memory taken for data") {
  for (const std::string& folder : folders()) {
    TempImage image(kMiB, folder);
    RealDevice device(image.path());
    AlignedBuffer buffer(kMiB);
    REQUIRE_EQ(::truncate(image.path().c_str(), 128 * 1024 + 100), 0);
    const Result<void> result = device.io(IoRequest::read(0, buffer.data(), kMiB));
    REQUIRE_FALSE(result.ok());
    CHECK_EQ(result.error(), Error::io_failed);
  }
}

TEST_CASE("an image in use is refused with a message that names it") {
  TempImage image(kMiB);
  RealDevice device(image.path());
  for (const bool read_only : {false, true}) {
    DeviceOptions options;
    options.read_only = read_only;
    std::string message;
    const auto second = UringDevice::open(image.path(), options, &message);
    REQUIRE_FALSE(second.ok());
    CHECK_EQ(second.error(), Error::too_busy);
    CHECK_NE(message.find(image.path()), std::string::npos);
    CHECK_NE(message.find("in use"), std::string::npos);
  }
  DeviceOptions looking;
  looking.read_only = true;
  looking.exclusive = false;
  CHECK(UringDevice::open(image.path(), looking, nullptr).ok());
}

TEST_CASE("an image may be read by many at once, and is free when the last has closed it") {
  TempImage image(kMiB);
  DeviceOptions reading;
  reading.read_only = true;
  {
    const auto first = UringDevice::open(image.path(), reading, nullptr);
    const auto second = UringDevice::open(image.path(), reading, nullptr);
    CHECK(first.ok());
    CHECK(second.ok());
    CHECK_FALSE(UringDevice::open(image.path(), {}, nullptr).ok());
  }
  CHECK(UringDevice::open(image.path(), {}, nullptr).ok());
}

TEST_CASE("a device opened for reading refuses writes and reads on") {
  TempImage image(kMiB);
  REQUIRE_EQ(::chmod(image.path().c_str(), 0400), 0);
  DeviceOptions options;
  options.read_only = true;
  RealDevice device(image.path(), options);
  CHECK(device->geometry().read_only);
  CHECK_FALSE(device->geometry().can_discard);
  AlignedBuffer buffer(4096);
  const Result<void> written = device.io(IoRequest::write(0, buffer.data(), 4096));
  REQUIRE_FALSE(written.ok());
  CHECK_EQ(written.error(), Error::read_only_volume);
  CHECK(device.io(IoRequest::read(0, buffer.data(), 4096)).ok());
}

TEST_CASE("a file in memory is reached without io_uring, and one on a disk with it") {
  TempImage image(kMiB);
  const auto on_disk = UringDevice::open(image.path(), {}, nullptr);
  REQUIRE(on_disk.ok());
  struct statfs status {};
  REQUIRE_EQ(::statfs(image.path().c_str(), &status), 0);
  CHECK_EQ(on_disk.value()->facts().calls_directly, status.f_type == TMPFS_MAGIC);
  if (::access("/dev/shm", W_OK) != 0) return;
  TempImage in_memory_image(kMiB, "/dev/shm");
  const auto in_memory = UringDevice::open(in_memory_image.path(), {}, nullptr);
  REQUIRE(in_memory.ok());
  CHECK(in_memory.value()->facts().calls_directly);
}

TEST_CASE("other processors help with large reads of a file in memory, and with no others") {
  if (::access("/dev/shm", W_OK) != 0 || TransferHelpers::thread_max_here() == 0) {
    MESSAGE("skipped: no /dev/shm, or one processor");
    return;
  }
  constexpr size_t kLen = 4 * kMiB;
  TempImage image(kLen, "/dev/shm");
  RealDevice device(image.path());
  const AlignedBuffer written = noise(kLen, 11);
  AlignedBuffer read(kLen);
  REQUIRE(device.io(IoRequest::write(0, written.data(), kLen)).ok());
  for (uint64_t addr = 0; addr < kLen; addr += TransferHelpers::kBytesMin / 2) {
    REQUIRE(device.io(IoRequest::read(addr, read.data(), TransferHelpers::kBytesMin / 2)).ok());
  }
  CHECK_EQ(device->stats().helped_count, 0);
  // A helper that wakes up when all is done has helped nobody; so the machine has time.
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (device->stats().helped_count == 0 && std::chrono::steady_clock::now() < give_up) {
    std::memset(read.data(), 0, kLen);
    REQUIRE(device.io(IoRequest::read(0, read.data(), kLen)).ok());
    REQUIRE(same(written, read));
  }
  CHECK_GT(device->stats().helped_count, 0);
}

TEST_CASE("what cannot be a volume is refused with one line that says why") {
  TempImage empty(0);
  const auto refused = [](const std::string& path, Error error, const char* words) {
    std::string message;
    const auto opened = UringDevice::open(path, {}, &message);
    REQUIRE_FALSE(opened.ok());
    CHECK_EQ(opened.error(), error);
    CHECK_NE(message.find(path), std::string::npos);
    CHECK_NE(message.find(words), std::string::npos);
    CHECK_EQ(message.find('\n'), std::string::npos);
  };
  refused("/no/such/image", Error::not_found, "No such file");
  refused("/", Error::not_supported, "directory");
  refused("/dev/null", Error::not_supported, "special");
  refused(empty.path(), Error::truncated_volume, "empty");
}

TEST_CASE("polled completions are refused where there are no polled queues") {
  TempImage image(kMiB, ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "");
  DeviceOptions options;
  options.iopoll = true;
  std::string message;
  const auto opened = UringDevice::open(image.path(), options, &message);
  if (opened.ok()) {
    MESSAGE("skipped: this machine has polled queues");
    return;
  }
  CHECK_EQ(opened.error(), Error::not_supported);
  CHECK_NE(message.find("iopoll"), std::string::npos);
}

TEST_CASE("requests from registered memory work, and so do those beside it") {
  TempImage image(8 * kMiB);
  AlignedBuffer arena(2 * kMiB);
  AlignedBuffer other(kMiB);
  const std::vector<iovec> regions = {{arena.data(), kMiB}, {arena.data() + kMiB, kMiB}};
  RealDevice device(image.path(), {}, regions);
  const AlignedBuffer written = noise(2 * kMiB, 6);
  REQUIRE(device.io(IoRequest::write(0, written.data(), 2 * kMiB)).ok());

  REQUIRE(device.io(IoRequest::read(4096, arena.data() + kMiB + 4096, 65536)).ok());
  CHECK_EQ(std::memcmp(arena.data() + kMiB + 4096, written.data() + 4096, 65536), 0);
  REQUIRE(device.io(IoRequest::read(0, other.data(), kMiB)).ok());
  CHECK_EQ(std::memcmp(other.data(), written.data(), kMiB), 0);
  // Over the seam of two regions.
  REQUIRE(device.io(IoRequest::read(0, arena.data() + kMiB / 2, kMiB)).ok());
  CHECK_EQ(std::memcmp(arena.data() + kMiB / 2, written.data(), kMiB), 0);

  CHECK_EQ(device->facts().registered_bytes, 2 * kMiB);
  if (device->facts().registered_buffers) {
    CHECK_EQ(device->stats().fixed_count, 1);
  } else {
    MESSAGE("the kernel registered no memory here; only the ordinary way was tested");
  }
}

#ifndef NDEBUG
TEST_CASE("two writes in flight to one block stop a program that was built to look") {
  TempImage image(kMiB);
  const auto second_write = [&](uint64_t addr) {
    return last_words([&] {
      RealDevice device(image.path());
      const AlignedBuffer data = noise(2 * kBlockBytes, 1);
      const auto ticket = make_ref<IoTicket>();
      bool begun = false;
      (void)device.runner().run("test I/O", [&]() -> Attempt<void> {
        if (!std::exchange(begun, true)) {
          device->submit(IoRequest::write(8 * kBlockBytes, data.data(), data.size()), ticket);
          device->submit(IoRequest::write(addr, data.data(), data.size()), ticket);
        }
        return ticket->wait();
      });
      std::abort();  // got through
    });
  };
  const std::string words = "two writes in flight to one block";
  CHECK(second_write(9 * kBlockBytes).find(words) != std::string::npos);
  CHECK(second_write(7 * kBlockBytes).find(words) != std::string::npos);
  CHECK(second_write(10 * kBlockBytes).find(words) == std::string::npos);
}
#endif
