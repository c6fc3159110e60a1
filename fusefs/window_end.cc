#include "fusefs/window_end.h"

#include <utility>

#include "fusefs/server.h"

namespace fusefs {

Attempt<void> EndWindowOperation::attempt() {
  Window& window = *holder_->window;
  if (phase_ == Phase::unpin) {
    if (std::exchange(holder_->shares_pin, false)) leave_mapped();
    if (holder_->pin) {
      const Attempt<void> ended = end_pin(server_.volume().files(), *holder_->pin);
      if (ended.must_restart()) return ended;
      holder_->pin.reset();
    }
    if (std::exchange(ends_mapped_, false)) {
      window.being_pinned = false;
      window.changed.wake_all();
    }
    phase_ = Phase::refresh;
  }
  if (phase_ == Phase::refresh) {
    // By the notifier's thread: nobody keeps the mount from going away.
    if (holder_->writable) {
      ATTEMPT_OK(
          server_.notifier().invalidate(window.inode->ino, window.pos(), window.len(), notify_));
    }
    phase_ = Phase::remove;
  }
  if (phase_ == Phase::remove) {
    std::shared_ptr<WindowMemory> memory = server_.windows().remove(holder_);
    phase_ = Phase::done;
    if (memory) {
      return restart_after_outside([memory = std::move(memory)]() mutable { memory.reset(); });
    }
  }
  return {};
}

// Of a mapped window. The last takes the pin with it; who joins meanwhile waits until it has ended.
void EndWindowOperation::leave_mapped() {
  Window& window = *holder_->window;
  window.faults->detach(holder_->number);
  if (--window.pin_user_count != 0) return;
  window.faults->end();
  window.faults.reset();
  holder_->pin = std::move(window.pin);
  window.being_pinned = ends_mapped_ = true;
}

namespace {

// Without pages in the kernel there are still times, which have changed if anything has.
void begin(Server& server, InodeNo ino, const std::vector<Windows::ByteRange>& ranges,
           RefreshStash& stash) {
  if (std::exchange(stash.begun, true)) return;
  for (const Windows::ByteRange& range : ranges) {
    if (server.has_kernel_pages(ino, range.pos, range.len)) stash.ranges.push_back(range);
  }
  stash.attr_only = stash.ranges.empty();
  if (stash.attr_only && !ranges.empty()) stash.ranges.push_back(ranges.front());
}

Attempt<void> refresh(Server& server, InodeNo ino, RefreshStash& stash) {
  Notifier& notifier = server.notifier();
  while (!stash.ranges.empty()) {
    const Windows::ByteRange range = stash.ranges.back();
    if (stash.attr_only) {
      ATTEMPT_OK(notifier.invalidate_attr(ino, stash.notify));
    } else {
      ATTEMPT_OK(notifier.invalidate(ino, range.pos, range.len, stash.notify));
    }
    stash.ranges.pop_back();
    stash.notify.reset();
    ++server.windows().counters().refreshed_count;
  }
  return {};
}

}  // namespace

Attempt<void> refresh_windows(Server& server, InodeNo ino, RefreshStash& stash) {
  if (!server.windows().has_any() && !stash.begun) return {};
  begin(server, ino, server.windows().stored_ranges(ino), stash);
  return refresh(server, ino, stash);
}

Attempt<void> refresh_window(Server& server, const Window& window, RefreshStash& stash) {
  begin(server, window.inode->ino, {{window.pos(), window.len()}}, stash);
  return refresh(server, window.inode->ino, stash);
}

}  // namespace fusefs
