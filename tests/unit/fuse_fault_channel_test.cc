// FaultChannel on a real userfaultfd: this process is the program as well.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "core/base/units.h"
#include "fusefs/fault_channel.h"
#include "fusefs/fusefs_ioctl.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using Change = FaultChannel::Change;

constexpr uint64_t kPages = 16;
constexpr uint64_t kBytes = kPages * kBlockBytes;

// For loads and stores of the program itself only: nobody needs a privilege for that.
int new_userfaultfd() { return static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | 1)); }

bool can_fault() {
  const OwnedFd fd(new_userfaultfd());
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
  return fd && ioctl(fd.get(), UFFDIO_API, &api) == 0;
}

// The memory of a window, as the daemon and as the program sees it, and a channel between them.
struct Program {
  Program() {
    memory = OwnedFd(memfd_create("window", MFD_CLOEXEC));
    REQUIRE(ftruncate(memory.get(), kBytes) == 0);
    daemon = map();
    program = map();
    OwnedFd faults(new_userfaultfd());
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
                   UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
    REQUIRE(ioctl(faults.get(), UFFDIO_API, &api) == 0);
    uffdio_register range{};
    range.range = {reinterpret_cast<uint64_t>(program), kBytes};
    range.mode =
        UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP;
    REQUIRE(ioctl(faults.get(), UFFDIO_REGISTER, &range) == 0);
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    hears = OwnedFd(ends[0]);
    gate = std::make_shared<FaultGate>(monitor, [this] { ++kicks; });
    auto started =
        FaultChannel::start(gate, 0, std::move(faults), range.range.start, kBytes, OwnedFd(ends[1]),
                            [this](const auto&, const FaultChannel::Fault& fault) { note(fault); });
    REQUIRE(started.ok());
    channel = started.value();
  }
  ~Program() {
    {
      const MonitorHold hold(monitor);
      channel->end();
    }
    gate->close();
    munmap(daemon, kBytes);
    munmap(program, kBytes);
  }

  std::byte* map() const {
    void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
    REQUIRE(at != MAP_FAILED);
    return static_cast<std::byte*>(at);
  }
  std::byte* daemon_page(uint64_t page) const { return daemon + block_bytes(BlockCount(page)); }
  std::byte* program_page(uint64_t page) const { return program + block_bytes(BlockCount(page)); }

  void note(const FaultChannel::Fault& fault) {
    const std::lock_guard<std::mutex> lock(mutex);
    faults_seen.push_back(fault);
    changed.notify_all();
  }
  // The next fault.
  FaultChannel::Fault wait_for_fault() {
    std::unique_lock<std::mutex> lock(mutex);
    REQUIRE(
        changed.wait_for(lock, std::chrono::seconds(20), [this] { return !faults_seen.empty(); }));
    const FaultChannel::Fault fault = faults_seen.front();
    faults_seen.erase(faults_seen.begin());
    return fault;
  }
  bool has_fault() {
    const std::lock_guard<std::mutex> lock(mutex);
    return !faults_seen.empty();
  }
  // Has it carried out, and waits for that.
  void order(Change change, uint64_t first, uint64_t count) {
    std::atomic<bool> done = false;
    REQUIRE(channel->give({change, first, count, 0, [&] { done = true; }}));
    while (!done) std::this_thread::yield();
  }
  void serve(Change change, const FaultChannel::Fault& fault) {
    order(change, fault.page, 1);
    channel->note_served();
  }

  SystemClock clock;
  Monitor monitor{clock};
  OwnedFd memory;
  OwnedFd hears;
  std::byte* daemon = nullptr;
  std::byte* program = nullptr;
  std::shared_ptr<FaultGate> gate;
  std::shared_ptr<FaultChannel> channel;
  std::atomic<int> kicks = 0;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<FaultChannel::Fault> faults_seen;
};

TEST_CASE("a load and a store fault once each, and see what the daemon has put there") {
  if (!can_fault()) return;
  Program rig;
  std::thread program([&] {
    auto* at = reinterpret_cast<volatile char*>(rig.program_page(3));
    CHECK(at[5] == 'd');
    CHECK(at[6] == 'd');
    at[6] = 'p';
    at[7] = 'p';
    reinterpret_cast<volatile char*>(rig.program_page(4))[0] = 'q';
  });
  FaultChannel::Fault fault = rig.wait_for_fault();
  CHECK(fault.page == 3);
  CHECK_FALSE(fault.store);
  std::memset(rig.daemon_page(3), 'd', kBlockBytes);
  rig.serve(Change::load, fault);
  fault = rig.wait_for_fault();
  CHECK((fault.page == 3 && fault.store && fault.was_there));
  CHECK(rig.daemon_page(3)[6] == std::byte{'d'});
  rig.serve(Change::upgrade, fault);
  fault = rig.wait_for_fault();
  CHECK((fault.page == 4 && fault.store && !fault.was_there));
  std::memset(rig.daemon_page(4), 'd', kBlockBytes);
  rig.serve(Change::store, fault);
  program.join();
  CHECK_FALSE(rig.has_fault());
  CHECK(rig.daemon_page(3)[7] == std::byte{'p'});
  CHECK(rig.daemon_page(4)[0] == std::byte{'q'});
}

TEST_CASE("a page that is protected does not change, however fast it is stored into") {
  if (!can_fault()) return;
  Program rig;
  std::atomic<bool> stop = false;
  std::thread program([&] {
    for (uint64_t i = 0; !stop; ++i) {
      reinterpret_cast<volatile uint64_t*>(rig.program_page(0))[i % 512] = i;
    }
  });
  FaultChannel::Fault fault = rig.wait_for_fault();
  std::memset(rig.daemon_page(0), 0, kBlockBytes);
  rig.serve(Change::store, fault);
  std::vector<std::byte> copy(kBlockBytes);
  for (int round = 0; round < 200; ++round) {
    rig.order(Change::protect, 0, kPages);
    std::memcpy(copy.data(), rig.daemon_page(0), kBlockBytes);
    std::this_thread::yield();
    CHECK(std::memcmp(copy.data(), rig.daemon_page(0), kBlockBytes) == 0);
    fault = rig.wait_for_fault();
    CHECK((fault.page == 0 && fault.was_there));
    if (round == 199) stop = true;
    rig.serve(Change::upgrade, fault);
  }
  program.join();
}

TEST_CASE("an order for what can be reached already wakes whoever waits") {
  if (!can_fault()) return;
  Program rig;
  std::atomic<int> finished = 0;
  std::vector<std::thread> programs;
  for (int i = 0; i < 3; ++i) {
    programs.emplace_back([&, i] {
      reinterpret_cast<volatile char*>(rig.program_page(7))[i] = 'p';
      ++finished;
    });
  }
  std::vector<FaultChannel::Fault> faults;
  for (int i = 0; i < 3; ++i) faults.push_back(rig.wait_for_fault());
  std::memset(rig.daemon_page(7), 0, kBlockBytes);
  rig.serve(Change::load, faults[0]);  // they come again, for the store
  rig.serve(Change::load, faults[1]);
  rig.serve(Change::store, faults[2]);
  while (finished < 3) {
    if (rig.has_fault()) rig.serve(Change::upgrade, rig.wait_for_fault());
  }
  for (std::thread& program : programs) program.join();
  while (rig.has_fault()) rig.serve(Change::store, rig.wait_for_fault());
}

TEST_CASE("orders are done when the channel has ended, and none is taken any more") {
  if (!can_fault()) return;
  Program rig;
  int done = 0;
  {
    const MonitorHold hold(rig.monitor);
    for (uint64_t i = 0; i < 5; ++i) {
      CHECK(rig.channel->give({Change::protect, i, 1, 0, [&] { ++done; }}));
    }
    rig.channel->end();
    CHECK(done == 5);
    CHECK_FALSE(rig.channel->give({Change::protect, 0, 1, 0, [&] { ++done; }}));
  }
  CHECK(done == 5);
}

TEST_CASE("a refusal is told on the connection") {
  if (!can_fault()) return;
  Program rig;
  REQUIRE(rig.channel->give({Change::refuse, 9, 1, ENOSPC, nullptr}));
  fusefs_window_refusal refusal{};
  REQUIRE(recv(rig.hears.get(), &refusal, sizeof(refusal), 0) == sizeof(refusal));
  CHECK(refusal.pos == 9 * kBlockBytes);
  CHECK(refusal.len == kBlockBytes);
  CHECK(refusal.error == ENOSPC);
}

TEST_CASE("only a userfaultfd is taken, at an address of a page") {
  SystemClock clock;
  Monitor monitor(clock);
  auto gate = std::make_shared<FaultGate>(monitor, [] {});
  auto ignore = [](const auto&, const FaultChannel::Fault&) {};
  auto start = [&](int fd, uint64_t address) {
    return FaultChannel::start(gate, 0, OwnedFd(fd), address, kBytes, OwnedFd(), ignore).error();
  };
  CHECK(start(open("/dev/null", O_RDWR | O_CLOEXEC), 0) == Error::invalid_argument);
  CHECK(start(memfd_create("anon_inode:[userfaultfd]", MFD_CLOEXEC), 0) == Error::invalid_argument);
  CHECK(start(-1, 0) == Error::invalid_argument);
  if (!can_fault()) return;
  CHECK(start(new_userfaultfd(), 1) == Error::invalid_argument);
  CHECK(start(new_userfaultfd(), UINT64_MAX - kBlockBytes + 1) == Error::invalid_argument);
}

TEST_CASE("a user has so many channels, and all together so many") {
  SystemClock clock;
  Monitor monitor(clock);
  FaultGate gate(monitor, [] {});
  size_t count = 0;
  for (uint32_t uid = 0; uid < 5; ++uid) {
    for (size_t i = 0; i < kFaultChannelsMaxPerUser + 1; ++i)
      count += gate.add_channel(uid) ? 1 : 0;
  }
  CHECK(count == kFaultChannelsMax);
  CHECK_FALSE(gate.add_channel(4));
  gate.drop_channel(0);
  CHECK(gate.add_channel(4));
}

TEST_CASE("a userfaultfd of nothing does no harm") {
  if (!can_fault()) return;
  SystemClock clock;
  Monitor monitor(clock);
  auto gate = std::make_shared<FaultGate>(monitor, [] {});
  auto started = FaultChannel::start(gate, 0, OwnedFd(new_userfaultfd()), 1 << 20, kBytes,
                                     OwnedFd(), [](const auto&, const FaultChannel::Fault&) {});
  REQUIRE(started.ok());
  std::atomic<int> done = 0;
  for (const Change change : {Change::load, Change::store, Change::upgrade, Change::protect}) {
    REQUIRE(started.value()->give({change, 0, kPages, 0, [&] { ++done; }}));
  }
  while (done < 4) std::this_thread::yield();
  const MonitorHold hold(monitor);
  started.value()->end();
}

}  // namespace
}  // namespace fusefs
