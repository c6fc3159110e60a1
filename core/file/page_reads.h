// PageReads: folios that one operation fills from the device, in as few requests as their blocks
// allow.
//
//     add() ... submit() --> device --> wait() --> uptodate, free for everybody
//                                         |
//                                         +--> on an error: as they were
//
// Part of a stash. From add() on each folio is marked as being read: others wait for it or remove
// it, nobody else fills it. Who removes it does not wait: the frame belongs to the references, and
// the blocks to the guard, until the read is done.
//
// Who has pages here waits for nothing else before wait() has given them back: others may wait
// for them.
//
// Monitor held for every call.
#pragma once

#include <vector>

#include "core/file/file_context.h"

namespace fusefs {

class PageReads {
 public:
  PageReads() = default;
  PageReads(const PageReads&) = delete;
  PageReads& operator=(const PageReads&) = delete;
  ~PageReads() { end(false); }

  // Requires that `folio` is neither uptodate nor locked.
  void add(FileContext& context, FolioRef folio, BlockNo block);
  // Hands everything added to the device. Requires that there is something.
  void submit(FileContext& context);
  bool empty() const { return pages_.empty(); }

  // Whether the device is done with all of them; then end() is due.
  //   Restarts  data_io
  //   Errors    io_failed, device_gone: the first of any of them
  Attempt<void> wait() const { return ticket_->wait(); }
  // Gives the pages back, uptodate or not, and forgets them.
  void end(bool uptodate);

  const std::vector<FolioRef>& folios() const { return pages_; }

 private:
  PageCache* cache_ = nullptr;
  std::vector<FolioRef> pages_;
  std::vector<BlockNo> blocks_;
  Ref<IoTicket> ticket_;
  IoGuard guard_;
};

}  // namespace fusefs
