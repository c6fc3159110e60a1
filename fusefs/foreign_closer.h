// ForeignCloser: closes descriptors of files that others have made, which may take for ever.
//
// close(2), and the end of the last reference to an open file, call what that file is of: one on a
// FUSE mount waits for its server, a socket may linger. The server may be the one who has sent it.
// A connection on which such a descriptor may lie unread is the same: its end closes that too.
//
// Each user has a thread while there is something to be closed; what he has sent keeps nobody else
// waiting, nor the end of the mount. It counts until it is closed, so that he cannot send more and
// more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "core/io/device_probe.h"

namespace fusefs {

class ForeignCloser {
 public:
  ForeignCloser() : state_(std::make_shared<State>()) {}
  ForeignCloser(const ForeignCloser&) = delete;
  ForeignCloser& operator=(const ForeignCloser&) = delete;

  // Some time. Any thread; waits for nothing.
  void close(uint32_t uid, OwnedFd fd);
  // What has not been closed yet.
  size_t count() const;
  size_t count_of(uint32_t uid) const;

 private:
  struct User {
    std::deque<OwnedFd> waiting;
    size_t count = 0;  // with the one that is being closed
    bool has_thread = false;
  };
  struct State {
    std::mutex mutex;
    std::map<uint32_t, User> users;
    size_t count = 0;
  };
  static void run(State& state, uint32_t uid);

  const std::shared_ptr<State> state_;  // the threads' too
};

}  // namespace fusefs
