// Taking the right to store from whoever maps pages, and what is done when he does not give it
// back.
//
// Nobody waits for a program for longer than kRightsWaitNs. Then its pages are storable, as those
// of a pin for writing are: they may change at any moment, so that what is written is a copy, they
// count as dirty, and own the block that their next write will need. Nothing is lost, and all that
// comes to such a page finds what it finds at a pinned one (docs/PINS.md, "Late rights").
//
//     ordinary, dirty --late--> storable <--bounced-- by fsync, sync, clones, unmount
//           ^                      |
//           +----------------------+  kStorableNs later, when nothing is late any more
//
// Monitor held for every call.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/file/file_context.h"
#include "core/memory/mapped_rights.h"

namespace fusefs {

// So long pages stay storable at least, so that who has met late rights does not meet them again.
inline constexpr uint64_t kStorableNs = kNsPerSecond;

// Waiting for calls under way of a pin's rights. Part of a stash.
class RightsWait {
 public:
  RightsWait() = default;
  RightsWait(const RightsWait&) = delete;
  RightsWait& operator=(const RightsWait&) = delete;
  ~RightsWait() { cancel(); }
  // True when it has lasted long enough, be it that others have been served all the time.
  bool is_over(FileContext& context, const MappedRights& rights);
  // Requires that it is not over.
  Restart restart(FileContext& context, const std::shared_ptr<MappedRights>& rights);
  void reset();

 private:
  void cancel();

  std::optional<uint64_t> began_ns_;
  std::shared_ptr<MappedRights> rights_;  // with a timer
  Scheduler* scheduler_ = nullptr;
  Scheduler::TimerId timer_ = 0;
};

bool are_late(const FileContext& context, const MappedRights& rights);

// Makes a mapped page storable. Requires it dirty, and not under writeback.
void make_storable(FileContext& context, Inode& inode, Folio& folio);
// Ends that; it is dirty. Requires it neither under writeback nor locked.
void make_ordinary(FileContext& context, Inode& inode, Folio& folio);

// The right to store into some pages is asked back from all who map them.
class TakenRights {
 public:
  // Those of `folios` that are mapped; they ascend. Nobody grants a right to store into them until
  // the pages have been dealt with.
  void ask(FileContext& context, const std::vector<FolioRef>& folios);
  // Whether all have been given back, and not only some.
  //   Restarts  rights, for kRightsWaitNs at most
  Attempt<bool> wait(FileContext& context);
  // Whether those to this page, one of them, have.
  bool has(const Folio& folio) const;
  void reset();

 private:
  class Asking;
  // To all pages of one pin. Ends with the operation that asks for it.
  struct Question final : RefCounted {
    std::shared_ptr<MappedRights> rights;
    std::vector<FileRange> ranges;
    MappedRights::Call call = 0;
    bool answered = false;
    void end();
  };

  std::vector<Ref<Question>> questions_;
  RightsWait wait_;
};

}  // namespace fusefs
