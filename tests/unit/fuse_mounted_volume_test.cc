// The whole daemon but mount(2): threads, rings, a real file, and a kernel at the other end of a
// socket.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "core/volume/format_volume.h"
#include "fusefs/fusefs_ioctl.h"
#include "fusefs/mounted_volume.h"
#include "tests/support/fake_kernel.h"
#include "tests/support/temp_image.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kRoot = wire::kRootNode;

void format(const TempImage& image) {
  std::string message;
  SystemClock clock;
  Monitor monitor(clock);
  Scheduler scheduler(clock);
  auto device = UringDevice::open(image.path(), {}, &message);
  REQUIRE_MESSAGE(device.ok(), message);
  auto runner = SyncRunner::create(monitor, scheduler, *device.value());
  REQUIRE(runner.ok());
  FormatOptions options;
  VolumeFormatter formatter(*device.value(), options);
  REQUIRE(runner.value()->run("mkfs", [&] { return formatter.run(); }).ok());
}

// A file in the root directory, open for reading and writing.
struct MadeFile {
  uint64_t node = 0;
  uint64_t handle = 0;
};

// A kernel at one end of a socket pair; the daemon at the other.
class SocketKernel {
 public:
  explicit SocketKernel(const TempImage& image, uint32_t threads = 2,
                        CompletionPolicy completion = CompletionPolicy::issuer) {
    std::array<int, 2> ends{};
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0);
    fd_ = ends[0];
    MountOptions options;
    options.threads = threads;
    options.completion = completion;
    options.cache_bytes = 8 << 20;
    mounted_ = std::make_unique<MountedVolume>(options, [](const std::string&) {});
    std::string message;
    const Result<void> opened = mounted_->open(image.path(), &message);
    REQUIRE_MESSAGE(opened.ok(), message);
    post(FUSE_INIT, 0, Body(modern_offer()));
    const Result<void> attached = mounted_->attach_descriptor(ends[1], &message);
    REQUIRE_MESSAGE(attached.ok(), message);
    CHECK(take().error == 0);
  }
  ~SocketKernel() {
    if (fd_ >= 0) ::close(fd_);
  }

  uint64_t post(uint32_t opcode, uint64_t node, const Body& body = {}) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.bytes().size());
    header.opcode = opcode;
    header.unique = next_unique_ += 2;
    header.nodeid = node;
    const Message message = Body(header).data(body.bytes()).bytes();
    REQUIRE(::send(fd_, message.data(), message.size(), 0) == static_cast<ssize_t>(message.size()));
    return header.unique;
  }

  // The next answer, to whatever.
  FakeReply take(uint64_t* unique = nullptr) {
    Message message(256 << 10);
    pollfd waiting{fd_, POLLIN, 0};
    REQUIRE(poll(&waiting, 1, 20'000) == 1);
    const ssize_t len = ::recv(fd_, message.data(), message.size(), 0);
    REQUIRE(len >= static_cast<ssize_t>(sizeof(fuse_out_header)));
    const auto header = *reinterpret_cast<const fuse_out_header*>(message.data());
    if (unique != nullptr) *unique = header.unique;
    return {-header.error,
            Message(message.begin() + sizeof(fuse_out_header), message.begin() + len), true};
  }

  FakeReply call(uint32_t opcode, uint64_t node, const Body& body = {}) {
    const uint64_t unique = post(opcode, node, body);
    uint64_t answered = 0;
    const FakeReply reply = take(&answered);
    CHECK(answered == unique);
    return reply;
  }

  MadeFile make_file(std::string_view name) {
    fuse_create_in in{};
    in.flags = O_RDWR;
    in.mode = 0100644;
    const FakeReply created = call(FUSE_CREATE, kRoot, Body(in).name(name));
    REQUIRE(created.error == 0);
    return {created.as<fuse_entry_out>().nodeid,
            created.as<fuse_open_out>(sizeof(fuse_entry_out)).fh};
  }

  MountedVolume& mounted() { return *mounted_; }
  // As umount(2) of a plain FUSE mount.
  void hang_up() {
    ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
  uint64_t next_unique_ = 0;
  std::unique_ptr<MountedVolume> mounted_;
};

bool wait_finished(MountedVolume& mounted) {
  pollfd waiting{mounted.finished(), POLLIN, 0};
  return poll(&waiting, 1, 20'000) == 1;
}

TEST_CASE("requests of a burst are each answered once, by several threads, and survive a remount") {
  const TempImage image(128 << 20);
  format(image);
  constexpr int kFiles = 200;
  std::map<std::string, uint64_t> made;
  {
    SocketKernel kernel(image);
    std::map<uint64_t, std::string> waiting;
    for (int i = 0; i < kFiles; ++i) {
      fuse_mkdir_in in{};
      in.mode = 0700;
      const std::string name = "directory-" + std::to_string(i);
      waiting[kernel.post(FUSE_MKDIR, kRoot, Body(in).name(name))] = name;
    }
    for (int i = 0; i < kFiles; ++i) {
      uint64_t unique = 0;
      const FakeReply reply = kernel.take(&unique);
      REQUIRE(reply.error == 0);
      REQUIRE(waiting.contains(unique));
      made[waiting[unique]] = reply.as<fuse_entry_out>().nodeid;
      waiting.erase(unique);
    }
    kernel.hang_up();
    CHECK(wait_finished(kernel.mounted()));
    std::string message;
    const Result<void> closed = kernel.mounted().close(&message);
    CHECK_MESSAGE(closed.ok(), message);
  }
  SocketKernel kernel(image, 1);
  for (const auto& [name, node] : made) {
    const FakeReply reply = kernel.call(FUSE_LOOKUP, kRoot, Body().name(name));
    CHECK(reply.as<fuse_entry_out>().nodeid == node);
  }
}

TEST_CASE("DESTROY is answered when everything is on the device and the volume is clean") {
  const TempImage image(128 << 20);
  format(image);
  SocketKernel kernel(image);
  const auto [node, handle] = kernel.make_file("file");
  fuse_write_in write{};
  write.fh = handle;
  write.size = 5;
  write.flags = 2;
  const Body body = Body(write).data(bytes_of(std::string_view("bytes")));
  CHECK(kernel.call(FUSE_WRITE, node, body).error == 0);
  const uint64_t destroy = kernel.post(FUSE_DESTROY, 0);
  CHECK(wait_finished(kernel.mounted()));
  std::string message;
  CHECK(kernel.mounted().close(&message).ok());
  uint64_t answered = 0;
  CHECK(kernel.take(&answered).error == 0);
  CHECK(answered == destroy);
}

TEST_CASE("stop() ends serving although the other end is still there") {
  const TempImage image(128 << 20);
  format(image);
  SocketKernel kernel(image);
  CHECK(kernel.call(FUSE_STATFS, kRoot).error == 0);
  kernel.mounted().stop();
  CHECK(wait_finished(kernel.mounted()));
  std::string message;
  CHECK(kernel.mounted().close(&message).ok());
}

void check_direct_write_drops(uint32_t flag) {
  const TempImage image(128 << 20);
  format(image);
  SocketKernel kernel(image);
  const auto [node, handle] = kernel.make_file("file");
  fuse_write_in write{};
  write.fh = handle;
  write.offset = 8192;
  write.size = 4096;
  write.flags = 2 | flag;
  write.write_flags = FUSE_WRITE_LOCKOWNER;
  const Body direct = Body(write).data(Message(4096, std::byte{9}));
  // Nothing has been read: the answer comes at once.
  CHECK(kernel.call(FUSE_WRITE, node, direct).error == 0);

  fuse_read_in read{};
  read.fh = handle;
  read.size = 4096;
  read.read_flags = FUSE_READ_LOCKOWNER;
  CHECK(kernel.call(FUSE_READ, node, Body(read)).error == 0);  // past the kernel's cache
  CHECK(kernel.call(FUSE_WRITE, node, direct).error == 0);

  read.read_flags = 0;
  CHECK(kernel.call(FUSE_READ, node, Body(read)).error == 0);
  CHECK(kernel.call(FUSE_WRITE, node, direct).error == 0);  // of other pages

  read.offset = write.offset;
  CHECK(kernel.call(FUSE_READ, node, Body(read)).error == 0);
  const uint64_t unique = kernel.post(FUSE_WRITE, node, direct);
  uint64_t first = 1;
  const FakeReply notification = kernel.take(&first);
  CHECK(first == 0);
  CHECK(-notification.error == FUSE_NOTIFY_INVAL_INODE);
  const auto invalidated = notification.as<fuse_notify_inval_inode_out>();
  CHECK(invalidated.ino == node);
  CHECK(invalidated.off == 8192);
  CHECK(invalidated.len == 4096);
  uint64_t second = 0;
  CHECK(kernel.take(&second).error == 0);
  CHECK(second == unique);
  CHECK(kernel.call(FUSE_WRITE, node, direct).error == 0);  // it has none any more
}

TEST_CASE("a direct write drops the kernel's pages before it is answered, if it may have any") {
  check_direct_write_drops(O_DIRECT);
}
TEST_CASE("an O_DSYNC write past the kernel's cache drops its pages as a direct one does") {
  check_direct_write_drops(O_DSYNC);
}

void write_file(SocketKernel& kernel, const MadeFile& file, uint32_t pages, uint32_t write_flags) {
  fuse_write_in in{};
  in.fh = file.handle;
  in.size = pages * static_cast<uint32_t>(kBlockBytes);
  in.write_flags = write_flags;
  REQUIRE(
      kernel.call(FUSE_WRITE, file.node, Body(in).data(Message(in.size, std::byte{'a'}))).error ==
      0);
}
template <class T>
Body ioctl_body(const MadeFile& file, unsigned command, const T& in) {
  fuse_ioctl_in head{};
  head.fh = file.handle;
  head.cmd = command;
  head.in_size = head.out_size = sizeof(in);
  return Body(head).data(bytes_of(in));
}

TEST_CASE(
    "direct I/O of a window has the kernel drop only pages that it may have, and those once") {
  const TempImage image(128 << 20);
  format(image);
  SocketKernel kernel(image);
  const MadeFile source = kernel.make_file("source");
  const MadeFile target = kernel.make_file("target");
  write_file(kernel, source, 4, FUSE_WRITE_LOCKOWNER);  // past the kernel's cache
  write_file(kernel, target, 6, 0);                     // the kernel keeps these pages
  fusefs_window_open open{};
  open.version = 1;
  open.flags = FUSEFS_WINDOW_PINNED | FUSEFS_WINDOW_WRITE;
  const FakeReply opened =
      kernel.call(FUSE_IOCTL, source.node, ioctl_body(source, FUSEFS_IOC_WINDOW_OPEN, open));
  REQUIRE(opened.error == 0);
  open = opened.as<fusefs_window_open>(sizeof(fuse_ioctl_out));

  fusefs_window_io io{};
  io.version = 1;
  io.ref = {open.window, {open.secret[0], open.secret[1]}};
  io.len = 4 * kBlockBytes;
  // Returns the ranges that are to be dropped before the answer; -1: attributes only.
  const auto drops_of = [&](uint64_t pos, uint32_t flags) {
    io.file_pos = pos;
    io.flags = flags;
    const uint64_t unique =
        kernel.post(FUSE_IOCTL, target.node, ioctl_body(target, FUSEFS_IOC_WINDOW_IO, io));
    std::vector<int64_t> drops;
    for (uint64_t answered = 0;;) {
      const FakeReply reply = kernel.take(&answered);
      if (answered == unique) {
        CHECK(reply.error == 0);
        CHECK(reply.as<fusefs_window_io>(sizeof(fuse_ioctl_out)).done == io.len);
        return drops;
      }
      REQUIRE(answered == 0);
      CHECK(-reply.error == FUSE_NOTIFY_INVAL_INODE);
      const auto dropped = reply.as<fuse_notify_inval_inode_out>();
      CHECK(dropped.ino == target.node);
      if (dropped.off >= 0) CHECK(dropped.len == static_cast<int64_t>(io.len));
      drops.push_back(dropped.off);
    }
  };
  using Drops = std::vector<int64_t>;
  constexpr uint32_t kWrites = FUSEFS_WINDOW_IO_WRITE;
  // To read it, what may have been stored into the kernel's pages must come.
  CHECK(drops_of(0, 0) == Drops{0});
  CHECK(drops_of(0, 0).empty());
  // The size and the times are told each time.
  CHECK(drops_of(0, kWrites) == Drops{-1});
  CHECK(drops_of(4 * kBlockBytes, kWrites) == Drops{4 * kBlockBytes});
  CHECK(drops_of(4 * kBlockBytes, kWrites) == Drops{-1});

  fuse_read_in read{};
  read.fh = target.handle;
  read.offset = 3 * kBlockBytes;
  read.size = kBlockBytes;
  REQUIRE(kernel.call(FUSE_READ, target.node, Body(read)).error == 0);
  CHECK(drops_of(4 * kBlockBytes, kWrites) == Drops{-1});
  CHECK(drops_of(0, kWrites) == Drops{0});
  CHECK(drops_of(0, kWrites) == Drops{-1});
}

TEST_CASE(
    "direct overwrites are all answered, by who reaps them or by the thread for completions") {
  for (const CompletionPolicy policy : {CompletionPolicy::issuer, CompletionPolicy::deferred}) {
    const TempImage image(128 << 20);
    format(image);
    SocketKernel kernel(image, 2, policy);
    const MadeFile file = kernel.make_file("file");
    fuse_write_in write{};
    write.fh = file.handle;
    write.size = 4096;
    write.flags = 2 | O_DIRECT;
    write.write_flags = FUSE_WRITE_LOCKOWNER;
    constexpr uint64_t kBlocks = 64;
    const auto post = [&](uint64_t block, int value) {
      write.offset = block * 4096;
      return kernel.post(FUSE_WRITE, file.node,
                         Body(write).data(Message(4096, static_cast<std::byte>(value))));
    };
    for (int turn = 1; turn <= 3; ++turn) {
      std::map<uint64_t, bool> waiting;
      for (uint64_t i = 0; i < kBlocks; ++i) waiting[post(i, turn)] = true;
      for (uint64_t i = 0; i < kBlocks; ++i) {
        uint64_t unique = 0;
        const FakeReply reply = kernel.take(&unique);
        REQUIRE(reply.error == 0);
        CHECK(reply.as<fuse_write_out>().size == 4096);
        CHECK(waiting.erase(unique) == 1);
      }
    }
    {
      Server& server = kernel.mounted().server();
      const MonitorHold hold(server.monitor());
      const CompletionStats& stats = server.volume().files().completions.stats();
      const bool defers = policy == CompletionPolicy::deferred;
      const auto by_policy = stats.deferred_count[static_cast<size_t>(DeferReason::policy)];
      CHECK(stats.issuer_count == (defers ? 0 : 2 * kBlocks));
      CHECK(by_policy == (defers ? 2 * kBlocks : 0));
    }
    fuse_read_in read{};
    read.fh = write.fh;
    read.offset = (kBlocks - 1) * 4096;
    read.size = 4096;
    const FakeReply got = kernel.call(FUSE_READ, file.node, Body(read));
    CHECK(got.body == Message(4096, std::byte{3}));
    kernel.hang_up();
    CHECK(wait_finished(kernel.mounted()));
    std::string message;
    CHECK(kernel.mounted().close(&message).ok());
  }
}

}  // namespace
}  // namespace fusefs
