#include "tests/support/fake_kernel.h"

#include <fcntl.h>

#include <cstring>

#include <doctest/doctest.h>

namespace fusefs {

// ---- FakeKernel ----

uint64_t FakeKernel::send(uint32_t opcode, uint64_t node, const Body& body) {
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + body.bytes().size());
  header.opcode = opcode;
  header.unique = next_unique_;
  header.nodeid = node;
  header.uid = uid_;
  header.gid = gid_;
  next_unique_ += 2;
  requests_.push_back(Body(header).data(body.bytes()).bytes());
  return header.unique;
}

Channel::ReadResult FakeKernel::read(Bytes into) {
  if (requests_.empty()) return {closed_ ? ReadState::closed : ReadState::empty, 0};
  const Message message = std::move(requests_.front());
  requests_.pop_front();
  REQUIRE(message.size() <= into.size());
  std::memcpy(into.data(), message.data(), message.size());
  return {ReadState::message, message.size()};
}

Result<void> FakeKernel::write(std::span<const iovec> message) {
  if (deaf_) return Error::not_found;
  Message bytes;
  for (const iovec& part : message) {
    const auto* first = static_cast<const std::byte*>(part.iov_base);
    bytes.insert(bytes.end(), first, first + part.iov_len);
  }
  fuse_out_header header{};
  REQUIRE(bytes.size() >= sizeof(header));
  std::memcpy(&header, bytes.data(), sizeof(header));
  REQUIRE(header.len == bytes.size());
  if (header.unique == 0) {
    if (header.error == FUSE_NOTIFY_INVAL_ENTRY) {
      fuse_notify_inval_entry_out told{};
      REQUIRE(bytes.size() > sizeof(header) + sizeof(told));
      std::memcpy(&told, bytes.data() + sizeof(header), sizeof(told));
      const auto* name =
          reinterpret_cast<const char*>(bytes.data()) + sizeof(header) + sizeof(told);
      forgotten_.emplace(told.parent, std::string(name, told.namelen));
    }
    if (header.error != FUSE_NOTIFY_INVAL_INODE) return {};
    REQUIRE(bytes.size() == sizeof(header) + sizeof(fuse_notify_inval_inode_out));
    std::memcpy(&drops_.emplace_back(), bytes.data() + sizeof(header), sizeof(drops_.back()));
    arrivals_.push_back(0);
    return {};
  }
  FakeReply& reply = replies_[header.unique];
  REQUIRE_FALSE(reply.came);  // one answer per request
  reply.came = true;
  reply.error = -header.error;
  reply.body.assign(bytes.begin() + sizeof(header), bytes.end());
  ++reply_count_;
  arrivals_.push_back(header.unique);
  return {};
}

Result<uint32_t> FakeKernel::open_backing(int) {
  if (!backs_files_) return Error::not_supported;
  uint32_t id = 1;
  while (!backings_.insert(id).second) ++id;
  return id;
}

void FakeKernel::close_backing(uint32_t id) { REQUIRE(backings_.erase(id) == 1); }

fuse_init_in modern_offer() {
  fuse_init_in offer{};
  offer.major = 7;
  offer.minor = 45;
  offer.max_readahead = 128 << 10;
  offer.flags = 0x73fffffb;
  offer.flags2 = 0x7fd;
  return offer;
}

// ---- FuseRig ----

FuseRig::FuseRig(const TestSeed& seed, const MountOptions& options)
    : options_(options), sim_(std::make_unique<SimVolume>(seed)) {
  std::string message;
  auto session = Session::create("image", options_, false, false, &message);
  REQUIRE_MESSAGE(session.ok(), message);
  session_ = std::move(session).value();
  // Nothing of libfuse's is to be heard.
  REQUIRE(session_->adopt(::open("/dev/null", O_RDWR | O_CLOEXEC)).ok());

  SimWorld& world = sim_->world();
  server_ = std::make_unique<Server>(sim_->volume(), world.monitor(), world.scheduler(), kernel_,
                                     world.clock(), options_,
                                     MountFacts{"image", "/mnt", Timestamp{1, 0}});
  HandshakeOptions handshake;
  const uint64_t unique = kernel_.send(FUSE_INIT, 0, Body(modern_offer()));
  auto facts = shake_hands(kernel_, session_->get(), handshake, &message);
  REQUIRE_MESSAGE(facts.ok(), message);
  REQUIRE(kernel_.reply(unique).came);
  server_->kernel() = facts.value();
  source_ = std::make_unique<FuseSource>(*server_, session_->get(), [] {});
  server_->notifier().start_unthreaded();
  world.set_other_thread([this] { return server_->notifier().send_next(); });
}

FuseRig::~FuseRig() {
  source_.reset();
  server_->window_socket().stop();
  // The memory of windows is the kernel's business too.
  sim_->world().inside([&] { server_->windows().end_all(); });
  sim_->world().run_until_idle();
  while (server_->notifier().send_next()) {
  }
  sim_->world().abandon();
  server_.reset();
}

void FuseRig::serve() {
  std::vector<std::unique_ptr<Operation>> fresh;
  do {
    fresh.clear();
    const bool open = source_->receive(fresh, 16);
    for (auto& operation : fresh) sim_->world().start(std::move(operation));
    REQUIRE(sim_->world().run_until_idle());
    if (!open) return;
  } while (kernel_.has_requests());
}

FakeReply FuseRig::call(uint32_t opcode, uint64_t node, const Body& body) {
  const uint64_t unique = kernel_.send(opcode, node, body);
  serve();
  return kernel_.reply(unique);
}

fuse_entry_out FuseRig::create(std::string_view name, uint64_t* handle, uint32_t flags) {
  fuse_create_in in{};
  in.flags = flags;
  in.mode = 0100644;
  const FakeReply reply = call(FUSE_CREATE, wire::kRootNode, Body(in).name(name));
  REQUIRE(reply.came);
  REQUIRE(reply.error == 0);
  REQUIRE(reply.body.size() == sizeof(fuse_entry_out) + sizeof(fuse_open_out));
  const auto entry = reply.as<fuse_entry_out>();
  const uint64_t opened = reply.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  if (handle != nullptr) {
    *handle = opened;
  } else {
    release(entry.nodeid, opened);
  }
  return entry;
}

fuse_entry_out FuseRig::mkdir(uint64_t parent, std::string_view name) {
  fuse_mkdir_in in{};
  in.mode = 0755;
  const FakeReply reply = call(FUSE_MKDIR, parent, Body(in).name(name));
  REQUIRE(reply.error == 0);
  return reply.as<fuse_entry_out>();
}

fuse_entry_out FuseRig::lookup(uint64_t parent, std::string_view name) {
  const FakeReply reply = call(FUSE_LOOKUP, parent, Body().name(name));
  REQUIRE(reply.error == 0);
  return reply.as<fuse_entry_out>();
}

uint64_t FuseRig::open(uint64_t node, uint32_t flags) {
  const FakeReply reply = call(FUSE_OPEN, node, Body(fuse_open_in{flags, 0}));
  REQUIRE(reply.error == 0);
  return reply.as<fuse_open_out>().fh;
}

void FuseRig::forget(uint64_t node, uint64_t count) {
  kernel_.send(FUSE_FORGET, node, Body(fuse_forget_in{count}));
  serve();
}

void FuseRig::release(uint64_t node, uint64_t handle) {
  fuse_release_in in{};
  in.fh = handle;
  REQUIRE(call(FUSE_RELEASE, node, Body(in)).error == 0);
}

FakeReply FuseRig::write(uint64_t node, uint64_t handle, uint64_t pos, ConstBytes data,
                         uint32_t flags, uint32_t write_flags) {
  fuse_write_in in{};
  in.fh = handle;
  in.offset = pos;
  in.size = static_cast<uint32_t>(data.size());
  in.flags = flags;
  in.write_flags = write_flags;
  return call(FUSE_WRITE, node, Body(in).data(data));
}

FakeReply FuseRig::read(uint64_t node, uint64_t handle, uint64_t pos, uint32_t len,
                        uint32_t flags) {
  fuse_read_in in{};
  in.fh = handle;
  in.offset = pos;
  in.size = len;
  in.flags = flags;
  return call(FUSE_READ, node, Body(in));
}

uint64_t FuseRig::lookup_count(uint64_t node) {
  return sim_->world().inside(
      [&] { return sim_->volume().inodes().lookups().count(InodeNo(node)); });
}

bool FuseRig::exists(uint64_t node) {
  REQUIRE(sim_->world().run_until_idle());
  NodePins pins;
  return sim_->world()
      .run([&]() -> Attempt<bool> {
        Attempt<InodeRef> got = sim_->volume().inodes().get(InodeNo(node), pins);
        if (got.failed() && got.error() == Error::not_found) return false;
        ATTEMPT(const InodeRef inode, std::move(got));
        return true;
      })
      .value();
}

}  // namespace fusefs
