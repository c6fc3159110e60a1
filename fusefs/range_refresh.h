// RangeRefresh: bytes of a file have changed, or may have, by a call that the kernel does not
// follow in its own cache: its pages of the range go, and its attributes of the file.
//
// Linux follows a write(2) also when it fails. It does nothing after an ioctl, and after fallocate
// and copy_file_range it drops its pages if they succeed. But what had changed before an error
// stays changed, all of it when only making it durable has failed:
//
//     program                kernel                   clone with O_DSYNC
//                                                     shares the blocks
//                                                     flush: EIO
//     EIO
//     read                   its old pages            new bytes, shown to who comes later or
//                                                     reads with O_DIRECT
//
// So an operation keeps its error (keep_error()), has the kernel drop what it has, and then tells
// it. Best before it makes anything durable.
//
// Whoever waits for this holds nothing of the file: a dirty page is written to us before it is
// dropped. That excludes requests during which Linux writes none: those that set the size
// (Notifier::invalidate_soon()).
//
// Part of a stash. Monitor held for every call.
#pragma once

#include <cstdint>
#include <optional>

#include "core/engine/attempt.h"
#include "fusefs/notifier.h"

namespace fusefs {

class Server;

class RangeRefresh {
 public:
  // For a request that has not been answered yet. `len` 0: to the end.
  //   Restarts  until it has happened
  Attempt<void> run(Server& server, InodeNo ino, uint64_t pos, uint64_t len);

 private:
  bool begun_ = false;
  bool drops_pages_ = false;  // the kernel may have some
  Notifier::Stash notify_;
};

// An error goes to `kept`; a restart is returned. To be used with COMMIT_OK: it has happened.
template <class T>
Attempt<void> keep_error(const Attempt<T>& attempt, std::optional<Error>& kept) {
  if (attempt.must_restart()) return attempt.restart();
  if (attempt.failed()) kept = attempt.error();
  return {};
}

}  // namespace fusefs
