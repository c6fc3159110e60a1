// FuseSource: requests from the channel become operations, on the thread that will serve them.
//
//     read --> check --> (raw request, or libfuse decodes) --> operation into `fresh`
//
// A request that is malformed or not served is answered here. FUSE_DESTROY, and the end of the
// mount, close the source: no request comes any more, and the reactors end when what is under way
// has finished. DESTROY is answered when everything is on the device: umount(2) waits for it.
//
// Any thread.
#pragma once

#include <atomic>
#include <functional>

#include "fusefs/operation.h"

namespace fusefs {

class FuseSource final : public RequestSource {
 public:
  // `on_closed` is called once.
  FuseSource(Server& server, fuse_session* session, std::function<void()> on_closed);

  int poll_fd() const override { return server_.channel().poll_fd(); }
  bool receive(std::vector<std::unique_ptr<Operation>>& fresh, size_t count_max) override;

  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // Answers the DESTROY that closed the source, if one did.
  void answer_destroy();

 private:
  void accept(Request request, std::vector<std::unique_ptr<Operation>>& fresh);
  bool accept_raw(const fuse_in_header& header);
  void refuse(const fuse_in_header& header, int errno_value);
  void close();

  Server& server_;
  fuse_session* const session_;
  const std::function<void()> on_closed_;
  std::atomic<bool> closed_{false};
  std::atomic<uint64_t> destroy_unique_{0};
};

// libfuse's table of operations: what it calls with a decoded request.
const fuse_lowlevel_ops& lowlevel_ops();

}  // namespace fusefs
