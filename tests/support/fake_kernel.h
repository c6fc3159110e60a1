// FakeKernel: the other end of a FUSE channel, in memory. Queues requests in the raw protocol,
// keeps the answers, and can be deaf to some: as the kernel is when a caller has gone.
//
// FuseRig: a simulated volume with everything of fusefs/ between it and a FakeKernel. One call is
// one request, served to its end with all restarts the seed draws.
#pragma once

#include <linux/ioctl.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fusefs/fuse_source.h"
#include "fusefs/handshake.h"
#include "fusefs/session.h"
#include "tests/support/sim_volume.h"

namespace fusefs {

using Message = std::vector<std::byte>;

// The body of a request: structures, names with their zero byte, bytes.
class Body {
 public:
  Body() = default;
  template <class T>
  explicit Body(const T& arg) {
    add(bytes_of(arg));
  }
  Body& name(std::string_view text) {
    add(bytes_of(text));
    bytes_.push_back(std::byte{0});
    return *this;
  }
  Body& data(ConstBytes bytes) {
    add(bytes);
    return *this;
  }
  const Message& bytes() const { return bytes_; }

 private:
  void add(ConstBytes bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  Message bytes_;
};

struct FakeReply {
  int error = 0;  // positive
  Message body;
  bool came = false;

  template <class T>
  T as(size_t offset = 0) const {
    T object{};
    if (body.size() >= offset + sizeof(T)) std::memcpy(&object, body.data() + offset, sizeof(T));
    return object;
  }
};

class FakeKernel final : public Channel {
 public:
  // Returns the request's unique number.
  uint64_t send(uint32_t opcode, uint64_t node, const Body& body = {});
  // As it is, whatever it is.
  void send_raw(Message message) { requests_.push_back(std::move(message)); }
  void close() { closed_ = true; }
  // The next answers are sent to nobody: not_found.
  void set_deaf(bool deaf) { deaf_ = deaf; }
  void set_caller(uint32_t uid, uint32_t gid) { uid_ = uid, gid_ = gid; }

  const FakeReply& reply(uint64_t unique) { return replies_[unique]; }
  // What has come, in order: the numbers of answered requests, and 0 for each of drops().
  const std::vector<uint64_t>& arrivals() const { return arrivals_; }
  // What it has been told to drop (FUSE_NOTIFY_INVAL_INODE).
  const std::vector<fuse_notify_inval_inode_out>& drops() const { return drops_; }
  // The names that it has been told to forget (FUSE_NOTIFY_INVAL_ENTRY).
  const std::set<std::pair<uint64_t, std::string>>& forgotten() const { return forgotten_; }
  size_t reply_count() const { return reply_count_; }
  bool has_requests() const { return !requests_.empty(); }

  ReadResult read(Bytes into) override;
  Result<void> write(std::span<const iovec> message) override;
  Result<uint32_t> open_backing(int fd) override;
  void close_backing(uint32_t id) override;
  // Whether it takes files as ways to others (FUSE_PASSTHROUGH), and how many it has.
  void set_backs_files(bool backs) { backs_files_ = backs; }
  size_t backing_count() const { return backings_.size(); }
  int poll_fd() const override { return -1; }

 private:
  std::deque<Message> requests_;
  std::map<uint64_t, FakeReply> replies_;
  std::vector<uint64_t> arrivals_;
  std::vector<fuse_notify_inval_inode_out> drops_;
  std::set<std::pair<uint64_t, std::string>> forgotten_;
  size_t reply_count_ = 0;
  uint64_t next_unique_ = 2;
  uint32_t uid_ = 0;
  uint32_t gid_ = 0;
  bool closed_ = false;
  bool deaf_ = false;
  bool backs_files_ = false;
  std::set<uint32_t> backings_;
};

// What Linux 6.18 offers.
fuse_init_in modern_offer();

class FuseRig {
 public:
  explicit FuseRig(const TestSeed& seed, const MountOptions& options = {});
  ~FuseRig();

  FakeKernel& kernel() { return kernel_; }
  Server& server() { return *server_; }
  SimVolume& sim() { return *sim_; }
  FuseSource& source() { return *source_; }

  // One request and its answer.
  FakeReply call(uint32_t opcode, uint64_t node, const Body& body = {});
  // What has been sent by kernel().send...().
  void serve();

  // Shortcuts, which require success.
  fuse_entry_out create(std::string_view name, uint64_t* handle = nullptr, uint32_t flags = 2);
  fuse_entry_out mkdir(uint64_t parent, std::string_view name);
  fuse_entry_out lookup(uint64_t parent, std::string_view name);
  uint64_t open(uint64_t node, uint32_t flags);
  void forget(uint64_t node, uint64_t count);
  void release(uint64_t node, uint64_t handle);
  FakeReply write(uint64_t node, uint64_t handle, uint64_t pos, ConstBytes data, uint32_t flags = 2,
                  uint32_t write_flags = 0);
  FakeReply read(uint64_t node, uint64_t handle, uint64_t pos, uint32_t len, uint32_t flags = 0);

  // An ioctl as the kernel sends it: sizes and directions from the command.
  template <class T>
  FakeReply ioctl(uint64_t node, uint64_t handle, uint32_t command, const T& argument) {
    const uint64_t unique = send_ioctl(node, handle, command, argument);
    serve();
    return kernel_.reply(unique);
  }
  // The number of the request, which is not served yet.
  template <class T>
  uint64_t send_ioctl(uint64_t node, uint64_t handle, uint32_t command, const T& argument) {
    fuse_ioctl_in in{};
    in.fh = handle;
    in.cmd = command;
    if ((_IOC_DIR(command) & _IOC_WRITE) != 0) in.in_size = _IOC_SIZE(command);
    if ((_IOC_DIR(command) & _IOC_READ) != 0) in.out_size = _IOC_SIZE(command);
    const ConstBytes bytes = bytes_of(argument).first(std::min<size_t>(in.in_size, sizeof(T)));
    return kernel_.send(FUSE_IOCTL, node, Body(in).data(bytes));
  }

  uint64_t lookup_count(uint64_t node);
  // Whether the inode is still on the volume, after everything that goes on has ended.
  bool exists(uint64_t node);

 private:
  const MountOptions options_;
  std::unique_ptr<SimVolume> sim_;
  FakeKernel kernel_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<FuseSource> source_;
};

}  // namespace fusefs
