// FuseOperation: one request being served, from its decoding to its answer.
//
//     decoded (a thread of the reactor) --> attempts (monitor held) --> answered (no monitor)
//         --> destroyed (monitor held)
//
// serve() makes one from a stash, what to attempt, and how to answer:
//
//     struct Stash { NodePins pins; NodeView node; };
//     serve<Stash>(
//         req,
//         [ino](FuseOperation& op, Stash& stash) -> Attempt<void> { ... },
//         [](Reply& reply, Stash& stash) { reply.object(wire_attr_out(stash.node)); });
//
// The attempt leaves in the stash what the answer needs, as plain data: the answer is given outside
// the monitor. An Error of the attempt is answered as its errno.
//
// libfuse's request ends with its decoding; from then on the operation owns the bytes.
#pragma once

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>

#include <memory>
#include <vector>

#include "core/engine/operation.h"
#include "fusefs/reply.h"
#include "fusefs/request.h"
#include "fusefs/server.h"

namespace fusefs {

class FuseOperation : public Operation {
 public:
  FuseOperation(Server& in, Request request);
  // Monitor held. Takes back what a lost answer had promised.
  ~FuseOperation() override;

  const char* name() const override { return opcode_name(opcode_); }
  void finish(Result<void> outcome) final;

  Server& server() { return server_; }
  Volume& volume() { return server_.volume(); }
  const Request& request() const { return request_; }
  InodeNo node() const { return node_; }
  Caller caller(uint32_t umask = 0) const {
    return {request_.header().uid, request_.header().gid, umask};
  }
  bool from_root() const { return request_.header().uid == 0; }

  // In the attempt that settles the answer: the kernel will know this inode once more, or this
  // handle.
  void promise_lookup(InodeNo ino);
  void promise_handle(uint64_t handle) { promised_handle_ = handle; }
  // Data moved, for the statistics.
  void set_bytes(uint64_t bytes) { bytes_ = bytes; }

 protected:
  virtual void answer(Reply& reply) = 0;

 private:
  Server& server_;
  Request request_;
  const uint32_t opcode_;
  const InodeNo node_;
  const uint64_t received_ns_;
  uint64_t bytes_ = 0;
  bool lost_ = false;
  std::vector<InodeNo> promised_lookups_;
  uint64_t promised_handle_ = 0;
};

template <class Stash, class AttemptFn, class AnswerFn>
class ServeOperation final : public FuseOperation {
 public:
  ServeOperation(Server& in, Request request, AttemptFn attempt_fn, AnswerFn answer_fn)
      : FuseOperation(in, std::move(request)),
        attempt_(std::move(attempt_fn)),
        answer_(std::move(answer_fn)) {}

  Attempt<void> attempt() override { return attempt_(*this, stash_); }

 protected:
  void answer(Reply& reply) override { answer_(reply, stash_); }

 private:
  AttemptFn attempt_;
  AnswerFn answer_;
  Stash stash_;
};

// The request that this thread is decoding.
struct Decoding {
  Server& server;
  Request request;
  std::vector<std::unique_ptr<Operation>>& fresh;

  static Decoding*& current();
};

// The request being decoded becomes an operation.
template <class Stash, class AttemptFn, class AnswerFn>
void serve(AttemptFn attempt, AnswerFn answer) {
  Decoding& decoding = *Decoding::current();
  decoding.fresh.push_back(std::make_unique<ServeOperation<Stash, AttemptFn, AnswerFn>>(
      decoding.server, std::move(decoding.request), std::move(attempt), std::move(answer)));
}
// The same for what libfuse has decoded.
template <class Stash, class AttemptFn, class AnswerFn>
void serve(fuse_req_t req, AttemptFn attempt, AnswerFn answer) {
  fuse_reply_none(req);
  serve<Stash>(std::move(attempt), std::move(answer));
}
inline const Request& decoded_request() { return Decoding::current()->request; }

}  // namespace fusefs

// COMMIT(decl, expr), COMMIT_OK(expr): as ATTEMPT, for a call that has changed something for good
// when it succeeds: no restart is forced behind it. What follows notes in the stash that it is
// done, before the next ATTEMPT.
#define COMMIT(decl, expr)                                         \
  auto FUSEFS_CONCAT(commit_, __LINE__) = (expr);                  \
  if (!FUSEFS_CONCAT(commit_, __LINE__).ok())                      \
    return ::fusefs::Unfinished(FUSEFS_CONCAT(commit_, __LINE__)); \
  decl = std::move(FUSEFS_CONCAT(commit_, __LINE__)).value()
#define COMMIT_OK(expr)                                                  \
  do {                                                                   \
    auto commit_result = (expr);                                         \
    if (!commit_result.ok()) return ::fusefs::Unfinished(commit_result); \
  } while (false)
