// Folio: one cached page of one file.
//
//      absent --read--> reading --> clean <-------------------+
//                         |           | write                  | written, not changed meanwhile
//                         v           v                        |
//                      absent       dirty ----> writeback -----+
//                    (read error)     ^            |
//                                     +--redirtied-+
//
// `locked` means that somebody copies into it or fills it without the monitor; others wait for
// `changed`. A folio under writeback is stable: who wants to write it waits.
//
// Invariants:
//   (1) A dirty folio over a hole, an unwritten or a shared extent owns one reserved block:
//       writing it cannot meet ENOSPC.
//   (2) Only clean, unlocked, unreferenced folios are reclaimed.
//
// Monitor held for every call.
#pragma once

#include "core/base/ref.h"
#include "core/engine/waitable.h"
#include "core/memory/frame_arena.h"
#include "core/space/space.h"

namespace fusefs {

class Mapping;
class PageCache;

class Folio : public RefCounted {
 public:
  Folio(Mapping& in, FileBlock at, std::byte* memory) : mapping(&in), index(at), frame(memory) {}

  Mapping* mapping;  // null once it has been removed (truncated, replaced)
  FileBlock index;
  std::byte* frame;
  bool uptodate = false;  // the whole page is valid
  bool dirty = false;
  bool writeback = false;
  bool locked = false;
  Reservation reservation;  // the block a dirty page will need; may be empty
  Waitable changed;         // woken when locked, writeback or uptodate change

  Bytes bytes() const { return {frame, kPageBytes}; }

 protected:
  void last_reference_dropped() override;

 private:
  friend class PageCache;
  PageCache* cache_ = nullptr;
  Folio* lru_previous_ = nullptr;
  Folio* lru_next_ = nullptr;
};

using FolioRef = Ref<Folio>;

}  // namespace fusefs
