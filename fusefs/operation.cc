#include "fusefs/operation.h"

namespace fusefs {

FuseOperation::FuseOperation(Server& in, Request request)
    : server_(in),
      request_(std::move(request)),
      opcode_(request_.header().opcode),
      node_(request_.header().nodeid),
      received_ns_(request_.received_ns()) {
  server_.counters().begin();
}

FuseOperation::~FuseOperation() {
  if (!lost_) return;
  for (const InodeNo ino : promised_lookups_) server_.forget(ino, 1);
  if (promised_handle_ != 0) server_.close_file(promised_handle_);
}

void FuseOperation::promise_lookup(InodeNo ino) {
  server_.add_lookup(ino);
  promised_lookups_.push_back(ino);
}

void FuseOperation::finish(Result<void> outcome) {
  Reply reply(server_.channel(), request_.header().unique);
  if (!has_reply(opcode_)) {
    // Nobody waits.
  } else if (outcome.ok()) {
    answer(reply);
  } else {
    reply.error(error_errno(outcome.error()));
  }
  if (reply.sent() && !reply.delivered()) {
    lost_ = true;
    server_.counters().note_undelivered();
  }
  server_.counters().end(opcode_, reply.error_sent() != 0, bytes_,
                         server_.clock().monotonic_ns() - received_ns_);
  request_.release();  // a large buffer is better given back without the monitor
}

Decoding*& Decoding::current() {
  thread_local Decoding* current = nullptr;
  return current;
}

}  // namespace fusefs
