// What goes on around a window besides requests: its holders' ends, and what the kernel has cached
// of its range.
#pragma once

#include <memory>
#include <vector>

#include "core/engine/operation.h"
#include "fusefs/notifier.h"
#include "fusefs/windows.h"

namespace fusefs {

class Server;

// Ends a holder that has gone: its pin, then what the kernel has cached of the range, then, with
// the last holder, the memory.
class EndWindowOperation final : public Operation {
 public:
  EndWindowOperation(Server& in, std::shared_ptr<WindowHolder> holder)
      : server_(in), holder_(std::move(holder)) {}

  const char* name() const override { return "end_window"; }
  Attempt<void> attempt() override;

 private:
  enum class Phase : uint8_t { unpin, refresh, remove, done };

  void leave_mapped();

  Server& server_;
  const std::shared_ptr<WindowHolder> holder_;
  Phase phase_ = Phase::unpin;
  bool ends_mapped_ = false;  // the pin that all had
  Notifier::Stash notify_;
};

struct RefreshStash {
  bool begun = false;
  bool attr_only = false;
  std::vector<Windows::ByteRange> ranges;  // still to do
  Notifier::Stash notify;
};

// Has the kernel drop what it has cached of the ranges of the inode that windows may have stored
// into, and its attributes if there are such; for a request that has not been answered.
//   Restarts  until that has happened
Attempt<void> refresh_windows(Server& server, InodeNo ino, RefreshStash& stash);
// The same for one window.
Attempt<void> refresh_window(Server& server, const Window& window, RefreshStash& stash);

}  // namespace fusefs
