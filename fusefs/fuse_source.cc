#include "fusefs/fuse_source.h"

#include <cerrno>
#include <cstring>

#include "fusefs/handshake.h"
#include "fusefs/ops.h"

namespace fusefs {

FuseSource::FuseSource(Server& server, fuse_session* session, std::function<void()> on_closed)
    : server_(server), session_(session), on_closed_(std::move(on_closed)) {}

bool FuseSource::receive(std::vector<std::unique_ptr<Operation>>& fresh, size_t count_max) {
  if (closed()) return false;
  PooledBuffer buffer = server_.buffers().take_large();
  for (size_t count = 0; count < count_max; ++count) {
    const Channel::ReadResult result = server_.channel().read(buffer.message());
    if (result.state == Channel::ReadState::empty) return true;
    if (result.state == Channel::ReadState::closed) {
      close();
      return false;
    }
    const uint64_t now_ns = server_.clock().monotonic_ns();
    const ConstBytes message = buffer.message().first(result.len);
    const RequestCheck check = check_request(message, server_.layout());
    if (check != RequestCheck::good) {
      if (check == RequestCheck::malformed) server_.counters().note_malformed();
      if (check == RequestCheck::not_served) server_.counters().note_not_served();
      if (message.size() >= sizeof(fuse_in_header)) {
        const auto& header = *reinterpret_cast<const fuse_in_header*>(message.data());
        refuse(header, check == RequestCheck::malformed ? EIO : ENOSYS);
      }
      continue;
    }
    if (message.size() <= kSmallMessageBytesMax) {
      PooledBuffer small = server_.buffers().take_small();
      std::memcpy(small.message().data(), message.data(), message.size());
      accept(Request(std::move(small), message.size(), now_ns), fresh);
    } else {
      accept(Request(std::move(buffer), message.size(), now_ns), fresh);
      buffer = server_.buffers().take_large();
    }
    if (closed()) return false;
  }
  return true;
}

void FuseSource::accept(Request request, std::vector<std::unique_ptr<Operation>>& fresh) {
  const fuse_in_header& header = request.header();
  if (header.opcode == FUSE_INTERRUPT) return;  // requests always complete
  if (header.opcode == FUSE_DESTROY) {
    destroy_unique_.store(header.unique);
    close();
    return;
  }
  fuse_buf decodable{};
  decodable.size = request.size();
  decodable.mem = request.data();
  decodable.fd = -1;

  Decoding decoding{server_, std::move(request), fresh};
  Decoding::current() = &decoding;
  if (!accept_raw(header)) fuse_session_process_buf(session_, &decodable);
  Decoding::current() = nullptr;
}

// What libfuse 3.14 does not know, or cannot decode as we have negotiated it.
bool FuseSource::accept_raw(const fuse_in_header& header) {
  if (serve_window_node(header)) return true;
  switch (header.opcode) {
    case FUSE_SETXATTR:
      return serve_setxattr(server_.layout()), true;
    case wire::kOpSyncfs:
      return serve_syncfs(), true;
    case wire::kOpTmpfile:
      return serve_tmpfile(), true;
    case wire::kOpStatx:
      return serve_statx(), true;
    case wire::kOpCopyFileRange64:
      return serve_copy_file_range(true), true;
    default:
      return false;
  }
}

void FuseSource::refuse(const fuse_in_header& header, int errno_value) {
  if (has_reply(header.opcode)) Reply(server_.channel(), header.unique).error(errno_value);
}

void FuseSource::close() {
  if (!closed_.exchange(true, std::memory_order_acq_rel)) on_closed_();
}

void FuseSource::answer_destroy() {
  const uint64_t unique = destroy_unique_.exchange(0);
  if (unique != 0) Reply(server_.channel(), unique).empty();
}

const fuse_lowlevel_ops& lowlevel_ops() {
  static const fuse_lowlevel_ops ops = [] {
    fuse_lowlevel_ops table{};
    table.init = choose_library_features;
    add_node_ops(table);
    add_name_ops(table);
    add_directory_ops(table);
    add_open_ops(table);
    add_data_ops(table);
    add_xattr_ops(table);
    add_ioctl_ops(table);
    add_volume_ops(table);
    return table;
  }();
  return ops;
}

}  // namespace fusefs
