// Pins: ranges of files whose pages stay where they are, for somebody who reads or stores into them
// without asking: windows, and whoever else has memory that is a file.
//
//     begin_pin() --> pinned: frame(index) is the file's page --> end_pin() --> ended
//                     mapped: is, as soon as fault_pinned() has brought it there
//
// What pins do and who meets them: docs/PINS.md. Here is who has which, and what that may amount
// to.
//
// Monitor held for every call.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "core/inode/inode.h"
#include "core/memory/mapping.h"

namespace fusefs {

enum class PinKind : uint8_t {
  read,
  write,   // may be stored into at any moment
  mapped,  // loads and stores fault (fault_pinned()); pages are pinned one by one
};

// What becomes of a storable page's dirtiness when it has been bounced.
enum class PinnedPolicy : uint8_t {
  redirty,  // clean, and dirty again at once
  keep,     // never clean where the block stays where it is; else as redirty
  unpin,    // clean until the pin ends or a bounce finds that it has changed
};

// Bytes that may be pinned, on one mount and by one user of it. A range that is pinned twice counts
// twice.
inline constexpr uint64_t kPinLimitBytes = 1ull << 30;
inline constexpr uint64_t kPinLimitBytesPerUser = 512ull << 20;
// So many pages are compared and copied by a bounce within the monitor, in about 3 microseconds:
// leaving and entering it costs more.
inline constexpr size_t kBounceInlinePages = 16;
// Of the frames of the page cache so many may be promised to pins: a half. Others need memory to go
// on, and who waits for memory must not wait for a pin.
inline constexpr uint64_t kPinnedCacheShare = 2;

struct PinStats {
  uint64_t pinned_pages = 0;  // now
  uint64_t pins = 0;
  uint64_t windows = 0;                   // of these, in memory that the core was given
  uint64_t skipped_count = 0;             // writebacks that passed storable pages by
  uint64_t bounced_count = 0;             // runs of copies written together
  uint64_t bounced_bytes = 0;             // of these
  uint64_t compared_count = 0;            // pages that were looked at for it
  uint64_t redirtied_count = 0;           // times a page was clean and dirty again
  uint64_t protected_pages = 0;           // times the right to store into a mapped page was taken
  uint64_t late_pages = 0;                // times a mapped page became storable: it could not be
  uint64_t reservation_failed_count = 0;  // blocks for the next write that were not to be had
};

class Pins;

// One pinned range. Lives in Pins until it has ended; the caller's references keep only the object.
class Pin final : public RefCounted {
 public:
  const uint64_t id;  // never used twice
  const FileRange range;
  const PinKind kind;
  const uint32_t uid;
  const Timestamp since;
  const bool external;  // in memory that the core was given

  // Null when it has ended.
  Inode* inode() const { return inode_.get(); }
  // The memory of page `index`, which has been pinned. Stays the same until the pin ends.
  std::byte* frame(FileBlock index) const {
    if (is_mapped()) return frames_ + block_bytes(index - range.first);
    return folios_[(index - range.first).value()]->frame;
  }
  // Pages from range.first up to here are pinned; of a mapped range any may be.
  FileBlock pinned_end() const { return range.first + BlockCount(folios_.size()); }
  bool is_mapped() const { return kind == PinKind::mapped; }

 private:
  friend class Pins;
  friend class Pinning;  // pin.cc
  template <class T, class... Args>
  friend Ref<T> make_ref(Args&&... args);
  Pin(uint64_t an_id, InodeRef inode, FileRange a_range, PinKind a_kind, uint32_t a_uid,
      Timestamp a_since, bool is_external)
      : id(an_id),
        range(a_range),
        kind(a_kind),
        uid(a_uid),
        since(a_since),
        external(is_external),
        inode_(std::move(inode)) {}

  InodeRef inode_;
  uint64_t bytes_ = 0;            // that it counts for
  std::vector<FolioRef> folios_;  // in a row, from range.first on
  bool ending_ = false;
  // Of a mapped range.
  std::map<FileBlock, FolioRef> mapped_;
  std::byte* frames_ = nullptr;
  std::shared_ptr<void> frames_owner_;
  std::shared_ptr<MappedRights> rights_;
  bool stores_ = false;
};

class Pins {
 public:
  explicit Pins(PageCache& cache) : cache_(cache) {}
  // Ends what is left, without writing it: everything else has ended.
  ~Pins();
  Pins(const Pins&) = delete;
  Pins& operator=(const Pins&) = delete;

  uint64_t bytes_max = kPinLimitBytes;
  uint64_t bytes_max_per_user = kPinLimitBytesPerUser;
  PinnedPolicy policy = PinnedPolicy::redirty;
  size_t bounce_inline_pages = kBounceInlinePages;
  // How long rights may be waited for, of mapped pins that begin from now on; kNeverNs: as long as
  // it takes, for tests.
  uint64_t rights_wait_ns = kRightsWaitNs;
  // Told when a pin has ended: the inode may be one that waits to be removed. May be empty.
  std::function<void(InodeNo)> on_end;

  // All of them, oldest first.
  const std::map<uint64_t, Ref<Pin>>& all() const { return pins_; }
  // Appends the inodes that have storable pages and are not in the list.
  void add_storable_inodes(std::vector<InodeRef>& inodes) const;
  const PinStats& stats();
  PinStats& counters() { return stats_; }

  // Of pin.cc. A pin with nothing pinned yet; it counts as an opener of the inode. What is mapped
  // overlaps no other pin, and counts by charge().
  //   Errors  too_busy, pin_limit, pin_limit_per_user, no_memory
  Result<Ref<Pin>> start(Inode& inode, FileRange range, PinKind kind, uint32_t uid, Timestamp since,
                         bool external);
  // Another page of a mapped range.
  //   Errors  pin_limit, pin_limit_per_user
  Result<void> charge(Pin& pin);
  // Requires that none of its pages is pinned any more.
  void finish(Pin& pin);

 private:
  Result<void> check_limits(uint32_t uid, uint64_t bytes) const;
  void count(Pin& pin, uint64_t bytes);

  PageCache& cache_;
  std::map<uint64_t, Ref<Pin>> pins_;
  std::map<uint32_t, uint64_t> user_bytes_;
  uint64_t bytes_ = 0;
  uint64_t cache_bytes_ = 0;  // of these, in frames of the cache
  uint64_t last_id_ = 0;
  PinStats stats_;
};

}  // namespace fusefs
