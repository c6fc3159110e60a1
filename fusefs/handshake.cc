#include "fusefs/handshake.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "fusefs/reply.h"
#include "fusefs/server.h"

namespace fusefs {
namespace {

constexpr uint64_t kWishes =
    FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES | FUSE_DONT_MASK |
    FUSE_HAS_IOCTL_DIR | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
    FUSE_PARALLEL_DIROPS | FUSE_POSIX_ACL | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
    FUSE_NO_OPENDIR_SUPPORT | FUSE_EXPLICIT_INVAL_DATA | FUSE_HANDLE_KILLPRIV_V2 |
    FUSE_SETXATTR_EXT | FUSE_INIT_EXT | wire::kInitDirectIoAllowMmap;

uint64_t offered_flags(const fuse_init_in& offer) {
  uint64_t flags = offer.flags;
  if ((flags & FUSE_INIT_EXT) != 0) flags |= uint64_t{offer.flags2} << 32;
  return flags;
}

// fs.fuse.max_pages_limit: a kernel that may be asked for less than 256 pages says so there.
uint32_t pages_per_request() {
  uint32_t limit = kMaxWriteBytes / kBlockBytes;
  std::FILE* file = std::fopen("/proc/sys/fs/fuse/max_pages_limit", "re");
  if (file == nullptr) return limit;
  unsigned value = 0;
  if (std::fscanf(file, "%u", &value) == 1 && value != 0) limit = std::min(limit, value);
  std::fclose(file);
  return limit;
}

KernelFacts facts_of(const fuse_init_in& offer, const fuse_init_out& answer,
                     const HandshakeOptions& options) {
  const uint64_t flags = answer.flags | (uint64_t{answer.flags2} << 32);
  const auto has = [flags](uint64_t flag) { return (flags & flag) == flag; };
  KernelFacts facts;
  facts.protocol_minor = offer.minor;
  facts.libfuse_version = fuse_pkgversion();
  facts.transport = "dev_fuse";
  facts.init_flags = flags;
  facts.handshake_raw = options.patch;
  facts.fuseblk = options.fuseblk;
  facts.max_write_bytes = answer.max_write;
  facts.max_readahead_bytes = answer.max_readahead;
  facts.max_pages = answer.max_pages;
  facts.max_background = answer.max_background;
  facts.congestion_threshold = answer.congestion_threshold;
  facts.async_read = has(FUSE_ASYNC_READ);
  facts.async_dio = has(FUSE_ASYNC_DIO);
  facts.direct_io_allow_mmap = has(wire::kInitDirectIoAllowMmap);
  facts.parallel_direct_writes = facts.direct_io_allow_mmap;  // see ops_open.cc
  facts.killpriv_v2 = has(FUSE_HANDLE_KILLPRIV_V2);
  facts.parallel_dirops = has(FUSE_PARALLEL_DIROPS);
  facts.readdirplus = has(FUSE_DO_READDIRPLUS);
  facts.readdirplus_auto = has(FUSE_READDIRPLUS_AUTO);
  facts.cache_symlinks = has(FUSE_CACHE_SYMLINKS);
  facts.posix_acl = has(FUSE_POSIX_ACL);
  facts.setxattr_ext = has(FUSE_SETXATTR_EXT);
  facts.writeback_cache = has(FUSE_WRITEBACK_CACHE);
  facts.export_support = has(FUSE_EXPORT_SUPPORT);
  facts.passthrough = has(wire::kInitPassthrough);

  facts.syncfs = options.fuseblk;
  facts.statx = offer.minor >= 39;
  facts.tmpfile = offer.minor >= 37;
  facts.copy_file_range = true;
  facts.copy_file_range_64 = offer.minor >= 45;
  return facts;
}

// Waits for the first message.
Result<size_t> read_first(Channel& channel, Bytes into, uint32_t timeout_ms) {
  while (true) {
    const Channel::ReadResult result = channel.read(into);
    if (result.state == Channel::ReadState::message) return result.len;
    if (result.state == Channel::ReadState::closed) return Error::device_gone;
    pollfd waiting{channel.poll_fd(), POLLIN, 0};
    const int ready = poll(&waiting, 1, static_cast<int>(timeout_ms));
    if (ready == 0) return Error::timed_out;
    if (ready < 0 && errno != EINTR) return Error::io_failed;
  }
}

void process(fuse_session* session, void* message, size_t len) {
  fuse_buf decodable{};
  decodable.size = len;
  decodable.mem = message;
  decodable.fd = -1;
  fuse_session_process_buf(session, &decodable);
}

// While it lives, what libfuse writes to its descriptor ends up here.
class Intercepted {
 public:
  explicit Intercepted(int fd) : fd_(fd), saved_(fcntl(fd, F_DUPFD_CLOEXEC, 0)) {
    ok_ = saved_ >= 0 && pipe2(ends_.data(), O_CLOEXEC | O_NONBLOCK) == 0 &&
          dup3(ends_[1], fd_, O_CLOEXEC) >= 0;
  }
  ~Intercepted() {
    if (saved_ >= 0) dup3(saved_, fd_, O_CLOEXEC);
    for (const int end : {saved_, ends_[0], ends_[1]}) {
      if (end >= 0) ::close(end);
    }
  }
  Intercepted(const Intercepted&) = delete;
  Intercepted& operator=(const Intercepted&) = delete;
  bool ok() const { return ok_; }

  // The one message that has been written.
  std::vector<std::byte> message() {
    std::vector<std::byte> bytes(512);
    const ssize_t len = ::read(ends_[0], bytes.data(), bytes.size());
    bytes.resize(len > 0 ? static_cast<size_t>(len) : 0);
    return bytes;
  }

 private:
  const int fd_;
  const int saved_;
  std::array<int, 2> ends_ = {-1, -1};
  bool ok_ = false;
};

struct Offer {
  fuse_in_header header;
  fuse_init_in init;
};

// libfuse handles an INIT; its answer goes nowhere but here. Empty: it gave none.
std::vector<std::byte> init_library(fuse_session* session, void* message, size_t len) {
  Intercepted intercepted(fuse_session_fd(session));
  if (!intercepted.ok()) return {};
  process(session, message, len);
  return intercepted.message();
}

// libfuse decodes nothing before it has seen an INIT. This one offers only what changes its
// decoding; in its answer nobody is interested.
Result<void> init_library_for_decoding(fuse_session* session) {
  Offer offer{};
  offer.header.len = sizeof(offer);
  offer.header.opcode = FUSE_INIT;
  offer.init.major = FUSE_KERNEL_VERSION;
  offer.init.minor = wire::kMinorMin;
  offer.init.max_readahead = kMaxWriteBytes;
  offer.init.flags = FUSE_HAS_IOCTL_DIR | FUSE_MAX_PAGES;
  if (init_library(session, &offer, sizeof(offer)).empty()) return Error::io_failed;
  return {};
}

// libfuse answers the kernel's INIT; what it says is looked at on the way.
Result<fuse_init_out> answer_by_library(Channel& channel, fuse_session* session, Bytes request) {
  const std::vector<std::byte> message = init_library(session, request.data(), request.size());
  if (message.size() < sizeof(fuse_out_header)) return Error::io_failed;
  fuse_init_out answer{};
  const ConstBytes body = ConstBytes(message).subspan(sizeof(fuse_out_header));
  std::memcpy(&answer, body.data(), std::min(body.size(), sizeof(answer)));
  const iovec whole{const_cast<std::byte*>(message.data()), message.size()};
  TRY_OK(channel.write(std::span(&whole, 1)));
  return answer;
}

// The INIT request, as long as this kernel has it.
Result<Offer> parse_offer(ConstBytes message) {
  constexpr size_t kShortest = sizeof(fuse_in_header) + 16;  // up to and with `flags`
  Offer offer{};
  if (message.size() < kShortest) return Error::io_failed;
  std::memcpy(&offer, message.data(), std::min(message.size(), sizeof(offer)));
  if (offer.header.opcode != FUSE_INIT) return Error::io_failed;
  const bool spoken =
      offer.init.major == FUSE_KERNEL_VERSION && offer.init.minor >= wire::kMinorMin;
  if (!spoken) return Error::newer_version;
  return offer;
}

}  // namespace

fuse_init_out make_init_answer(const fuse_init_in& offer, const HandshakeOptions& options) {
  uint64_t wishes = kWishes;
  if (options.kernel_writeback) wishes |= FUSE_WRITEBACK_CACHE;
  if (options.passthrough && !options.kernel_writeback) wishes |= wire::kInitPassthrough;
  const uint64_t flags = offered_flags(offer) & wishes;
  fuse_init_out answer{};
  answer.major = FUSE_KERNEL_VERSION;
  answer.minor = std::min<uint32_t>(offer.minor, wire::kMinorMax);
  answer.max_readahead = offer.max_readahead;
  answer.flags = static_cast<uint32_t>(flags);
  answer.flags2 = static_cast<uint32_t>(flags >> 32);
  answer.max_background = static_cast<uint16_t>(options.max_background);
  answer.congestion_threshold = static_cast<uint16_t>(options.max_background * 3 / 4);
  answer.max_pages = static_cast<uint16_t>(pages_per_request());
  answer.max_write = answer.max_pages * kBlockBytes;
  answer.time_gran = 1;
  if ((flags & wire::kInitPassthrough) != 0) {
    const uint32_t max_stack_depth = 1;
    std::memcpy(reinterpret_cast<std::byte*>(&answer) + wire::kInitMaxStackDepthOffset,
                &max_stack_depth, sizeof(max_stack_depth));
  }
  return answer;
}

void choose_library_features(void* userdata, fuse_conn_info* connection) {
  const auto* options = static_cast<const MountOptions*>(userdata);
  constexpr unsigned kWanted =
      FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_DONT_MASK |
      FUSE_CAP_IOCTL_DIR | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_DIO |
      FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_POSIX_ACL | FUSE_CAP_CACHE_SYMLINKS |
      FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_EXPLICIT_INVAL_DATA;
  unsigned wanted = kWanted;
  if (options != nullptr && options->kernel_writeback) wanted |= FUSE_CAP_WRITEBACK_CACHE;
  connection->want = connection->capable & wanted;
  connection->max_write = kMaxWriteBytes;
  connection->time_gran = 1;
  if (options == nullptr) return;
  connection->max_background = options->max_background;
  connection->congestion_threshold = options->max_background * 3 / 4;
}

Result<KernelFacts> shake_hands(Channel& channel, fuse_session* session,
                                const HandshakeOptions& options, std::string* message) {
  AlignedBuffer buffer(kBlockBytes + kMaxWriteBytes);
  const Result<size_t> len = read_first(channel, buffer.bytes(), options.timeout_ms);
  if (!len.ok()) {
    *message = "the kernel does not begin to talk FUSE: " + std::string(error_text(len.error()));
    return len.error();
  }
  const Result<Offer> offer = parse_offer(buffer.bytes().first(len.value()));
  if (!offer.ok()) {
    *message = "the kernel's FUSE protocol is not one that fusefs speaks (7.31 or later)";
    return offer.error();
  }
  if (!options.patch) {
    const Result<fuse_init_out> answer =
        answer_by_library(channel, session, buffer.bytes().first(len.value()));
    if (answer.ok()) return facts_of(offer.value().init, answer.value(), options);
    *message = "libfuse and the kernel do not agree on FUSE_INIT";
    return answer.error();
  }
  const fuse_init_out answer = make_init_answer(offer.value().init, options);
  Reply reply(channel, offer.value().header.unique);
  reply.object(answer);
  if (!reply.delivered() || !init_library_for_decoding(session).ok()) {
    *message = "the kernel did not take the answer to FUSE_INIT; try -o no_init_patch";
    return Error::io_failed;
  }
  return facts_of(offer.value().init, answer, options);
}

}  // namespace fusefs
