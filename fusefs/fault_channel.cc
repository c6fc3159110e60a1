#include "fusefs/fault_channel.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/units.h"
#include "fusefs/fusefs_ioctl.h"

namespace fusefs {
namespace {

// Newer than the headers that this must build with.
constexpr uint64_t kContinueProtected = 1u << 1;

constexpr size_t kMessagesPerRead = 16;

uffdio_range range_of(uint64_t address, uint64_t first, uint64_t count) {
  return {address + first * kBlockBytes, count * kBlockBytes};
}

// While a page or the address space changes the kernel asks to try again. A program that we did not
// write can make that last for ever.
constexpr int kTriesMax = 1000;

template <class Argument>
int call(int fd, unsigned long request, Argument& argument) {
  for (int tries = 0; ioctl(fd, request, &argument) != 0; ++tries) {
    if ((errno != EAGAIN && errno != EINTR) || tries == kTriesMax) return errno;
  }
  return 0;
}

int let_reach(int fd, uffdio_range range, bool protected_) {
  uffdio_continue argument{};
  argument.range = range;
  argument.mode = protected_ ? kContinueProtected : 0;
  return call(fd, UFFDIO_CONTINUE, argument);
}

int set_protection(int fd, uffdio_range range, bool on) {
  uffdio_writeprotect argument{};
  argument.range = range;
  argument.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  return call(fd, UFFDIO_WRITEPROTECT, argument);
}

void wake_up(int fd, uffdio_range range) { (void)call(fd, UFFDIO_WAKE, range); }

}  // namespace

bool is_userfaultfd(int fd) {
  std::array<char, 64> target{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t len = readlink(link.c_str(), target.data(), target.size());
  return len > 0 &&
         std::string_view(target.data(), static_cast<size_t>(len)) == "anon_inode:[userfaultfd]";
}

void FaultGate::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
}

bool FaultGate::add_channel(uint32_t uid) {
  const std::lock_guard<std::mutex> lock(count_mutex_);
  size_t& of_user = channels_of_user_[uid];
  if (channels_ >= kFaultChannelsMax || of_user >= kFaultChannelsMaxPerUser) return false;
  ++channels_;
  ++of_user;
  return true;
}

void FaultGate::drop_channel(uint32_t uid) {
  const std::lock_guard<std::mutex> lock(count_mutex_);
  --channels_;
  const auto of_user = channels_of_user_.find(uid);
  if (--of_user->second == 0) channels_of_user_.erase(of_user);
}

namespace {

// A channel with its thread.
class ProgramChannel final : public FaultChannel,
                             public std::enable_shared_from_this<ProgramChannel> {
 public:
  ProgramChannel(std::shared_ptr<FaultGate> gate, OwnedFd faults, uint64_t address, uint64_t bytes,
                 OwnedFd connection, OwnedFd wake, OnFault on_fault);

  bool give(Order order) override;
  void note_served() override;
  void end() override;
  void run();

 private:
  void wait();
  bool read_faults();
  void take_message(const void* message);
  void carry_out_orders();
  void carry_out(const Order& order);
  void refuse(const Order& order);
  bool wants_faults();
  bool ended();

  const std::shared_ptr<FaultGate> gate_;
  // The thread's, which closes them: that may wait for the program's address space, and for what
  // has been sent on the connection.
  OwnedFd faults_;
  OwnedFd connection_;
  const uint64_t address_;
  const uint64_t bytes_;
  const OwnedFd wake_;
  const OnFault on_fault_;

  std::mutex mutex_;          // below the monitor
  std::deque<Order> orders_;  // until they are done
  size_t in_flight_ = 0;
  bool ended_ = false;
};

ProgramChannel::ProgramChannel(std::shared_ptr<FaultGate> gate, OwnedFd faults, uint64_t address,
                               uint64_t bytes, OwnedFd connection, OwnedFd wake, OnFault on_fault)
    : gate_(std::move(gate)),
      faults_(std::move(faults)),
      connection_(std::move(connection)),
      address_(address),
      bytes_(bytes),
      wake_(std::move(wake)),
      on_fault_(std::move(on_fault)) {}

}  // namespace

Result<std::shared_ptr<FaultChannel>> FaultChannel::start(std::shared_ptr<FaultGate> gate,
                                                          uint32_t uid, OwnedFd faults,
                                                          uint64_t address, uint64_t bytes,
                                                          OwnedFd connection, OnFault on_fault) {
  if (!faults || !is_userfaultfd(faults.get())) return Error::invalid_argument;
  if (address % kBlockBytes != 0 || bytes > std::numeric_limits<uint64_t>::max() - address) {
    return Error::invalid_argument;
  }
  const int flags = fcntl(faults.get(), F_GETFL);
  if (flags < 0 || fcntl(faults.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return Error::invalid_argument;
  }
  OwnedFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return Error::no_memory;
  if (!gate->add_channel(uid)) return Error::no_memory;
  const auto channel =
      std::make_shared<ProgramChannel>(gate, std::move(faults), address, bytes,
                                       std::move(connection), std::move(wake), std::move(on_fault));
  try {
    // It keeps the channel until it ends, which nobody waits for.
    std::thread([channel, gate, uid] {
      channel->run();
      gate->drop_channel(uid);
    }).detach();
  } catch (const std::system_error&) {
    gate->drop_channel(uid);
    return Error::no_memory;
  }
  return std::shared_ptr<FaultChannel>(channel);
}

namespace {

// ---- For operations ----

bool ProgramChannel::give(Order order) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return false;
    orders_.push_back(std::move(order));
  }
  (void)eventfd_write(wake_.get(), 1);
  return true;
}

void ProgramChannel::note_served() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (in_flight_-- + kMessagesPerRead <= kFaultsInFlightMax) return;
  }
  (void)eventfd_write(wake_.get(), 1);
}

void ProgramChannel::end() {
  std::deque<Order> orders;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return;
    ended_ = true;
    orders.swap(orders_);
  }
  for (const Order& order : orders) {
    if (order.done) order.done();
  }
  (void)eventfd_write(wake_.get(), 1);
}

bool ProgramChannel::ended() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ended_;
}

// ---- The thread ----

void ProgramChannel::run() {
  while (!ended()) {
    wait();
    carry_out_orders();
    while (wants_faults() && read_faults()) {
    }
  }
  faults_ = OwnedFd();
  connection_ = OwnedFd();
}

bool ProgramChannel::wants_faults() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !ended_ && in_flight_ + kMessagesPerRead <= kFaultsInFlightMax;
}

void ProgramChannel::wait() {
  std::array<pollfd, 2> fds{};
  fds[0] = {wake_.get(), POLLIN, 0};
  fds[1] = {faults_.get(), POLLIN, 0};
  const nfds_t count = wants_faults() ? 2 : 1;
  if (poll(fds.data(), count, -1) < 0) return;
  eventfd_t ignored = 0;
  if (fds[0].revents != 0) (void)eventfd_read(wake_.get(), &ignored);
  if (count == 2 && (fds[1].revents & POLLERR) != 0) {
    // The program has made it blocking again. If it goes on so, this costs a little.
    (void)fcntl(faults_.get(), F_SETFL, fcntl(faults_.get(), F_GETFL) | O_NONBLOCK);
    usleep(1000);
  }
}

// Whether there may be more.
bool ProgramChannel::read_faults() {
  std::array<uffd_msg, kMessagesPerRead> messages;
  iovec part{messages.data(), sizeof(messages)};
  // O_NONBLOCK is the program's to change.
  ssize_t len = preadv2(faults_.get(), &part, 1, -1, RWF_NOWAIT);
  if (len < 0 && errno == EOPNOTSUPP) len = read(faults_.get(), messages.data(), sizeof(messages));
  if (len <= 0) return false;
  const size_t count = static_cast<size_t>(len) / sizeof(uffd_msg);
  for (size_t i = 0; i < count; ++i) {
    // Reading this has made a descriptor of ours. Only a program that we did not write asks for it.
    if (messages[i].event == UFFD_EVENT_FORK) {
      ::close(static_cast<int>(messages[i].arg.fork.ufd));
    }
  }
  gate_->enter([&] {
    for (size_t i = 0; i < count; ++i) take_message(&messages[i]);
  });
  return count == kMessagesPerRead;
}

// Monitor held.
void ProgramChannel::take_message(const void* bytes) {
  const uffd_msg& message = *static_cast<const uffd_msg*>(bytes);
  if (message.event != UFFD_EVENT_PAGEFAULT) return;
  const uint64_t at = message.arg.pagefault.address;
  if (at < address_ || at - address_ >= bytes_) return;
  Fault fault;
  fault.page = (at - address_) / kBlockBytes;
  fault.was_there = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
  fault.store = fault.was_there || (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return;
    ++in_flight_;
  }
  on_fault_(shared_from_this(), fault);
}

void ProgramChannel::carry_out_orders() {
  std::vector<Order> taken;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    taken.assign(orders_.begin(), orders_.end());
  }
  if (taken.empty()) return;
  for (const Order& order : taken) carry_out(order);
  gate_->enter([&] {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (ended_) return;  // they have been told
      orders_.erase(orders_.begin(), orders_.begin() + static_cast<ptrdiff_t>(taken.size()));
    }
    for (const Order& order : taken) {
      if (order.done) order.done();
    }
  });
}

// What fails: the program has unmapped it, or has gone.
void ProgramChannel::carry_out(const Order& order) {
  const int fd = faults_.get();
  const uffdio_range all = range_of(address_, order.first, order.count);
  switch (order.change) {
    case Change::refuse:
      refuse(order);
      return;
    case Change::upgrade:
      if (set_protection(fd, all, false) != 0) wake_up(fd, all);
      return;
    case Change::protect:
      if (set_protection(fd, all, true) == 0) return;
      // Something else is mapped in between, and the rest has not been looked at.
      for (uint64_t i = 0; order.count > 1 && i < order.count; ++i) {
        (void)set_protection(fd, range_of(address_, order.first + i, 1), true);
      }
      return;
    case Change::load:
    case Change::store:
      break;
  }
  const bool store = order.change == Change::store;
  if (let_reach(fd, all, !store) == 0) return;
  for (uint64_t i = 0; i < order.count; ++i) {
    const uffdio_range page = range_of(address_, order.first + i, 1);
    const int error = let_reach(fd, page, !store);
    if (error == 0) continue;
    // It can be reached already. With anything else who waits faults again.
    if (error == EEXIST && store) (void)set_protection(fd, page, false);
    wake_up(fd, page);
  }
}

void ProgramChannel::refuse(const Order& order) {
  fusefs_window_refusal refusal{};
  refusal.pos = order.first * kBlockBytes;
  refusal.len = order.count * kBlockBytes;
  refusal.error = order.errno_value;
  // No room: the program does not listen, and its fault waits until it ends.
  (void)send(connection_.get(), &refusal, sizeof(refusal), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

}  // namespace fusefs
