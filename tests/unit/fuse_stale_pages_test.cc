// What the kernel keeps of a file is not older than the file when a call has been answered, also
// when the answer is an error: what had changed by then stays changed.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fusefs/fusefs_ioctl.h"
#include "tests/support/window_rig.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kTargetPages = 8;

enum class Change {
  clone,
  window_io,
  copy_file_range,
  punch_hole,
  zero_range,
  allocate,
  direct_write,
  dsync_write,
  truncate,
  open_truncate,
};
constexpr Change kChanges[] = {
    Change::clone,      Change::window_io,     Change::copy_file_range, Change::punch_hole,
    Change::zero_range, Change::allocate,      Change::direct_write,    Change::dsync_write,
    Change::truncate,   Change::open_truncate,
};

// Linux drops its pages before it asks, and what is read into its cache meanwhile is our business.
bool is_past_cache(Change change) {
  return change == Change::direct_write || change == Change::dsync_write;
}

// A file whose changes are to be durable before they are answered, and what Linux keeps of it.
struct CachedFileRig : WindowRig {
  explicit CachedFileRig(const TestSeed& seed) : WindowRig(seed), random(seed.seed) {
    window = open_window(handle, kPinned | kWrite);
    target = create("target", &target_handle).nodeid;
    read_handle = open(target, O_RDONLY);
    REQUIRE(ioctl(target, target_handle, FS_IOC_SETFLAGS, uint64_t{FS_SYNC_FL}).error == 0);
    REQUIRE(write(target, target_handle, 0, Message(kTargetPages * kPage, std::byte{'t'})).error ==
            0);
    const FakeReply reply = ioctl(node, handle, FUSEFS_IOC_SOURCE_TOKEN, 0);
    REQUIRE(reply.error == 0);
    token = reply.as<fusefs_source_token>(sizeof(fuse_ioctl_out));
    if (random.chance(0.5)) {  // nobody can have it mapped and store into it
      release(target, target_handle);
      target_handle = open(target, O_WRONLY);
    }
    load();
    size = file_size();
  }

  uint64_t send_ioctl(uint32_t command, ConstBytes argument) {
    fuse_ioctl_in in{};
    in.fh = target_handle;
    in.cmd = command;
    in.in_size = in.out_size = static_cast<uint32_t>(argument.size());
    return kernel().send(FUSE_IOCTL, target, Body(in).data(argument));
  }

  // A change of pages [first, first + count).
  uint64_t send_change(Change change, uint64_t first, uint64_t count) {
    const uint64_t pos = first * kPage;
    const uint64_t len = count * kPage;
    fuse_fallocate_in shape{};
    shape.fh = target_handle;
    shape.offset = pos;
    shape.length = len;
    switch (change) {
      case Change::clone: {
        const fusefs_clone_range in{token, 0, len, pos, 0};
        return send_ioctl(FUSEFS_IOC_CLONE_RANGE, bytes_of(in));
      }
      case Change::window_io: {
        fusefs_window_io in{};
        in.version = 1;
        in.flags = FUSEFS_WINDOW_IO_WRITE;
        in.ref = ref_of(window);
        in.file_pos = pos;
        in.len = len;
        return send_ioctl(FUSEFS_IOC_WINDOW_IO, bytes_of(in));
      }
      case Change::copy_file_range: {
        fuse_copy_file_range_in in{};
        in.fh_in = handle;
        in.nodeid_out = target;
        in.fh_out = target_handle;
        in.off_in = random.chance(0.5) ? 0 : 100;  // not aligned: through folios
        in.off_out = pos;
        in.len = len;
        return kernel().send(FUSE_COPY_FILE_RANGE, node, Body(in));
      }
      case Change::punch_hole:
        shape.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        return kernel().send(FUSE_FALLOCATE, target, Body(shape));
      case Change::zero_range:
        shape.mode = FALLOC_FL_ZERO_RANGE;
        return kernel().send(FUSE_FALLOCATE, target, Body(shape));
      case Change::allocate:
        return kernel().send(FUSE_FALLOCATE, target, Body(shape));
      case Change::direct_write:
      case Change::dsync_write: {
        drop(pos, len);  // before it asks
        fuse_write_in in{};
        in.fh = target_handle;
        in.offset = pos;
        in.size = static_cast<uint32_t>(len);
        in.flags = O_RDWR | (change == Change::dsync_write ? O_DSYNC : O_DIRECT);
        in.write_flags = FUSE_WRITE_LOCKOWNER;
        return kernel().send(FUSE_WRITE, target, Body(in).data(Message(len, std::byte{'d'})));
      }
      case Change::truncate: {
        fuse_setattr_in in{};
        in.valid = FATTR_SIZE;
        in.size = pos;
        return kernel().send(FUSE_SETATTR, target, Body(in));
      }
      case Change::open_truncate:
        return kernel().send(FUSE_OPEN, target, Body(fuse_open_in{O_RDWR | O_TRUNC, 0}));
    }
    return 0;
  }

  // What Linux does by itself when the change has been answered.
  void note_answered(Change change, uint64_t first, uint64_t count, int error) {
    if (is_past_cache(change)) size.reset();
    if (error != 0 || change == Change::clone || change == Change::window_io) return;
    size.reset();
    if (change == Change::allocate || is_past_cache(change)) return;
    const bool cuts = change == Change::truncate || change == Change::open_truncate;
    if (change == Change::open_truncate) first = 0;
    drop(first * kPage, cuts ? 0 : count * kPage);
  }

  // The change, with reads into the kernel's cache beside it; its error.
  int run(Change change, uint64_t first, uint64_t count) {
    uint64_t unique = 0;
    const auto read_some = [&] {
      for (uint64_t reads = random.below(3); reads != 0; --reads) send_read(random.below(10));
    };
    if (!is_past_cache(change)) read_some();
    unique = send_change(change, first, count);
    read_some();
    serve();
    while (server().notifier().send_next()) {
    }
    int error = -1;
    size_t drops = kernel().drops().size() -
                   static_cast<size_t>(std::count(kernel().arrivals().begin() + seen,
                                                  kernel().arrivals().end(), uint64_t{0}));
    for (; seen < std::ssize(kernel().arrivals()); ++seen) {
      const uint64_t arrived = kernel().arrivals()[static_cast<size_t>(seen)];
      if (arrived == 0) {
        const fuse_notify_inval_inode_out& told = kernel().drops()[drops++];
        if (told.ino != target) continue;
        size.reset();
        if (told.off >= 0) {
          drop(static_cast<uint64_t>(told.off), static_cast<uint64_t>(told.len));
        }
      } else if (arrived == unique) {
        error = kernel().reply(arrived).error;
        note_answered(change, first, count, error);
      } else if (const auto read = reading.find(arrived); read != reading.end()) {
        keep(read->second, kernel().reply(arrived));
        reading.erase(read);
      }
    }
    REQUIRE(error >= 0);
    return error;
  }

  // ---- The kernel's page cache ----

  struct Reading {
    uint64_t page = 0;
    bool dropped = false;  // meanwhile: Linux waits for the page, and drops it
  };

  void send_read(uint64_t page) {
    fuse_read_in in{};
    in.fh = read_handle;
    in.offset = page * kPage;
    in.size = kPage;
    reading[kernel().send(FUSE_READ, target, Body(in))] = {page, false};
  }
  void keep(const Reading& read, const FakeReply& reply) {
    REQUIRE(reply.error == 0);
    Message bytes = reply.body;
    bytes.resize(kPage);
    if (!read.dropped && !reply.body.empty()) pages[read.page] = bytes;
  }
  void drop(uint64_t pos, uint64_t len) {
    const uint64_t first = pos / kPage;
    const uint64_t end = len == 0 ? UINT64_MAX : (pos + len + kPage - 1) / kPage;
    std::erase_if(pages, [&](const auto& kept) { return kept.first >= first && kept.first < end; });
    for (auto& [unique, read] : reading) read.dropped |= read.page >= first && read.page < end;
  }
  void load() {
    for (uint64_t page = 0; page < kTargetPages; ++page) send_read(page);
    serve();
    for (const auto& [unique, read] : reading) keep(read, kernel().reply(unique));
    reading.clear();
    seen = std::ssize(kernel().arrivals());
  }

  // As it is.
  Message contents() {
    fuse_read_in in{};
    in.fh = read_handle;
    in.size = 16 * kPage;
    in.read_flags = FUSE_READ_LOCKOWNER;
    const FakeReply reply = call(FUSE_READ, target, Body(in));
    REQUIRE(reply.error == 0);
    return reply.body;
  }
  uint64_t file_size() {
    return call(FUSE_GETATTR, target, Body(fuse_getattr_in{})).as<fuse_attr_out>().attr.size;
  }

  Random random;
  fusefs_window_open window{};
  fusefs_source_token token{};
  uint64_t target = 0;
  uint64_t target_handle = 0;
  uint64_t read_handle = 0;
  std::map<uint64_t, Message> pages;
  std::map<uint64_t, Reading> reading;
  std::optional<uint64_t> size;  // as Linux knows it without asking
  ptrdiff_t seen = 0;            // arrivals
};

void check_kernel_is_up_to_date(CachedFileRig& rig) {
  Message now = rig.contents();
  const uint64_t size = rig.file_size();
  CHECK(now.size() == size);
  if (rig.size) CHECK(*rig.size == size);
  now.resize(64 * kPage);
  for (const auto& kept : rig.pages) {
    const uint64_t page = kept.first;
    CAPTURE(page);
    CHECK(page * kPage < size);
    const auto first = now.begin() + static_cast<ptrdiff_t>(page * kPage);
    CHECK(std::equal(kept.second.begin(), kept.second.end(), first));
  }
}

// Nothing becomes durable any more.
void break_journal(SimVolume& sim) {
  SimFault fault;
  fault.kind = IoKind::flush;
  fault.error = Error::io_failed;
  sim.device().add_fault(fault);
  const Superblock& superblock = sim.volume().store().superblock();
  fault.kind = IoKind::write;
  fault.addr_first = superblock.journal_first * kBlockBytes;
  fault.addr_end = fault.addr_first + superblock.journal_blocks * kBlockBytes;
  sim.device().add_fault(fault);
}

TEST_CASE("a change that cannot be made durable is an error, and the kernel keeps nothing older") {
  for_each_seed(2, [](const TestSeed& seed) {
    for (const Change change : kChanges) {
      CAPTURE(static_cast<int>(change));
      CachedFileRig rig(seed);
      const Message before = rig.contents();
      const uint64_t first = rig.random.below(kTargetPages);
      const uint64_t count = rig.random.between(1, 6);
      break_journal(rig.sim());
      const int error = rig.run(change, first, count);
      rig.sim().device().clear_faults();
      // Or the journal has failed by itself, before.
      CHECK((error == EIO || error == EROFS));
      if (error == EIO && change != Change::allocate) CHECK(rig.contents() != before);
      check_kernel_is_up_to_date(rig);
    }
  });
}

TEST_CASE("the kernel keeps nothing older than a file, wherever a change of it fails") {
  for_each_seed(12, [](const TestSeed& seed) {
    for (const Change change : kChanges) {
      CAPTURE(static_cast<int>(change));
      CachedFileRig rig(seed);
      SimFault fault;
      fault.kind = IoKind::write;
      fault.skip = rig.random.below(4);
      fault.count = rig.random.chance(0.5) ? 1 : UINT64_MAX;
      fault.error = rig.random.chance(0.5) ? Error::io_failed : Error::no_space;
      rig.sim().device().add_fault(fault);
      rig.run(change, rig.random.below(kTargetPages), rig.random.between(1, 6));
      rig.sim().device().clear_faults();
      check_kernel_is_up_to_date(rig);
    }
  });
}

// Its pages of the range are from before, until it has been told to drop them.
TEST_CASE("what the kernel writes back while a window is written to a file does not land on that") {
  for_each_seed(20, [](const TestSeed& seed) {
    for (const Change change : {Change::clone, Change::window_io}) {
      CAPTURE(static_cast<int>(change));
      CachedFileRig rig(seed);
      const auto write_back = [&](uint64_t page) {
        fuse_write_in in{};
        in.fh = rig.target_handle;
        in.offset = page * kPage;
        in.size = kPage;
        in.write_flags = FUSE_WRITE_CACHE;
        return rig.kernel().send(FUSE_WRITE, rig.target,
                                 Body(in).data(Message(kPage, std::byte{'s'})));
      };
      std::map<uint64_t, uint64_t> sent;  // pages, by request
      const uint64_t changed = rig.send_change(change, 0, kTargetPages);
      for (uint64_t page = 0; page < kTargetPages; ++page) {
        if (rig.random.chance(0.7)) sent[write_back(page)] = page;
      }
      do {
        rig.serve();
      } while (rig.server().notifier().send_next());
      REQUIRE(rig.kernel().reply(changed).came);
      REQUIRE(rig.kernel().reply(changed).error == 0);
      const Message now = rig.contents();
      std::set<uint64_t> right;
      for (uint64_t page = 0; page < kTargetPages; ++page) right.insert(page);
      // Linux waits for these before it drops the range.
      const auto& arrivals = rig.kernel().arrivals();
      auto dropped = std::find(arrivals.begin() + rig.seen, arrivals.end(), uint64_t{0});
      for (; dropped != arrivals.end(); ++dropped) {
        if (const auto late = sent.find(*dropped); late != sent.end()) right.erase(late->second);
      }
      for (const uint64_t page : right) {
        CAPTURE(page);
        CHECK(now[page * kPage] == std::byte{'a'});
      }
    }
  });
}

TEST_CASE("an fsync that fails shows what has been stored into a window all the same") {
  for_each_seed(2, [](const TestSeed& seed) {
    for (const bool by_control_file : {false, true}) {
      WindowRig rig(seed);
      const auto window = rig.open_window(rig.handle, kPinned | kWrite);
      const uint64_t control = rig.lookup(kRoot, window.file).nodeid;
      REQUIRE(rig.read(rig.node, rig.handle, 3 * kPage, kPage).error == 0);
      rig.memory(window)[3 * kPage] = std::byte{'s'};
      SimFault fault;
      fault.kind = IoKind::flush;
      fault.error = Error::io_failed;
      rig.sim().device().add_fault(fault);
      const uint64_t at = by_control_file ? control : rig.node;
      CHECK(rig.fsync(at, by_control_file ? 0 : rig.handle).error == EIO);
      const auto has_pages = [&] {
        return rig.server().has_kernel_pages(InodeNo(rig.node), 3 * kPage, kPage);
      };
      CHECK_FALSE(rig.sim().world().inside(has_pages));
    }
  });
}

TEST_CASE("flags that cannot be made durable are shown as they are") {
  for_each_seed(2, [](const TestSeed& seed) {
    CachedFileRig rig(seed);
    break_journal(rig.sim());
    const size_t told = rig.kernel().drops().size();
    const uint64_t flags = FS_SYNC_FL | FS_NODUMP_FL;
    CHECK(rig.ioctl(rig.target, rig.target_handle, FS_IOC_SETFLAGS, flags).error == EIO);
    REQUIRE(rig.kernel().drops().size() == told + 1);
    CHECK(rig.kernel().drops().back().ino == rig.target);
  });
}

TEST_CASE("names and attributes whose change cannot be made durable are looked up again") {
  for_each_seed(4, [](const TestSeed& seed) {
    MountOptions options;
    options.sync = true;
    FuseRig rig(seed, options);
    const uint64_t node = rig.create("file").nodeid;
    const uint64_t other = rig.mkdir(kRoot, "other").nodeid;
    break_journal(rig.sim());
    const auto send = [&](uint32_t opcode, const Body& body) {
      const uint64_t unique = rig.kernel().send(opcode, kRoot, body);
      do {
        rig.serve();
      } while (rig.server().notifier().send_next());
      return rig.kernel().reply(unique).error;
    };
    using Names = std::set<std::pair<uint64_t, std::string>>;
    switch (seed.seed % 4) {
      case 0:
        CHECK(send(FUSE_UNLINK, Body().name("file")) == EIO);
        CHECK(rig.kernel().forgotten() == Names{{kRoot, "file"}});
        break;
      case 1:
        CHECK(send(FUSE_MKDIR, Body(fuse_mkdir_in{0755, 0}).name("new")) == EIO);
        CHECK(rig.kernel().forgotten() == Names{{kRoot, "new"}});
        break;
      case 2:
        CHECK(send(FUSE_RENAME, Body(fuse_rename_in{other}).name("file").name("new")) == EIO);
        CHECK(rig.kernel().forgotten() == Names{{kRoot, "file"}, {other, "new"}});
        break;
      case 3: {
        const size_t told = rig.kernel().drops().size();
        fuse_setxattr_in in{};
        in.size = 1;
        const Body body = Body(in).name("user.a").data(Message(1, std::byte{'x'}));
        const FakeReply reply = rig.call(FUSE_SETXATTR, node, body);
        CHECK(reply.error == EIO);
        REQUIRE(rig.kernel().drops().size() == told + 1);
        CHECK(rig.kernel().drops().back().ino == node);
        break;
      }
    }
  });
}

}  // namespace
}  // namespace fusefs
