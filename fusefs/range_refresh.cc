#include "fusefs/range_refresh.h"

#include <utility>

#include "fusefs/server.h"

namespace fusefs {

Attempt<void> RangeRefresh::run(Server& server, InodeNo ino, uint64_t pos, uint64_t len) {
  if (!std::exchange(begun_, true)) drops_pages_ = server.has_kernel_pages(ino, pos, len);
  Notifier& notifier = server.notifier();
  if (drops_pages_) return notifier.invalidate(ino, pos, len, notify_);
  return notifier.invalidate_attr(ino, notify_);
}

}  // namespace fusefs
