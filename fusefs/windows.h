// Windows: ranges of files as memory of programs, and who holds them.
//
//     opening --> open --> ending --> (gone)        a holder
//        |                   ^
//        +--- error ---------+
//
// A window is a range of a file and its memory; a holder is a program's right to it, for reading or
// for writing too, and has a pin of its own on the range, in that memory; holders of a mapped
// window share one. The window lasts as long as it has holders. How a holder comes to its memory,
// and how it is known that it has gone:
//
//     descriptor   the one that it was opened on, until somebody came for the memory
//     control file looked up in the root of the mount by the holder's secret; opened, it is a way
//                  to the memory (FUSE_PASSTHROUGH). The kernel forgets it when it is closed and
//                  unmapped
//     connection   to the daemon's socket (window_socket.h), which sends a descriptor of the memory
//
// When the last of these is gone the holder ends, by an operation (window_end.h).
//
// Invariants:
//   (1) Two windows do not overlap. A window whose holders are ending counts.
//   (2) A secret is never used twice, and only holders in `open` are found by it.
//   (3) What a holder's pin refers to, its window's memory, outlives the pin.
//
// What the kernel has cached of a window's range: docs/WINDOWS.md, "One rule".
//
// Monitor held for every call.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/file/pin.h"
#include "core/stats/window_stats.h"
#include "fusefs/window_faults.h"
#include "fusefs/window_memory.h"

namespace fusefs {

// Each window costs two or three descriptors of the daemon.
inline constexpr size_t kWindowsMax = 1024;
inline constexpr size_t kWindowHoldersMax = 4096;
inline constexpr size_t kWindowHoldersMaxPerUser = 1024;

// Of the daemon's addresses, of which there are 128 TiB: the whole of a window is mapped, however
// few of its pages are there.
inline constexpr uint64_t kWindowBytesMax = 16ull << 40;
inline constexpr uint64_t kWindowBytesMaxPerUser = 1ull << 40;

// Numbers of control files as inodes: never those of inodes of the volume.
inline constexpr uint64_t kWindowNodeBit = 1ull << 63;
inline bool is_window_node(uint64_t node) { return (node & kWindowNodeBit) != 0; }

// Names of control files: this and the secret, 32 hexadecimal digits.
inline constexpr std::string_view kWindowNamePrefix = ".fusefs-window-";

enum class WindowKind : uint8_t { pinned, mapped };

using WindowSecret = std::array<uint64_t, 2>;

struct Window {
  const uint64_t id;
  const InodeRef inode;
  const FileRange range;
  const WindowKind kind;
  const uint32_t uid;
  const Timestamp since;
  std::shared_ptr<WindowMemory> memory = nullptr;  // null until it has been made
  bool being_made = false;
  uint32_t holder_count = 0;
  uint32_t writer_count = 0;  // of these, for writing

  // Of a mapped one: its holders share one pin, which ends with the last of them.
  std::shared_ptr<WindowFaults> faults{};
  Ref<Pin> pin{};
  bool being_pinned = false;
  uint32_t pin_user_count = 0;

  Waitable changed{};  // the memory has been made, or could not be; the window has gone

  uint64_t pos() const { return file_pos(range.first); }
  uint64_t len() const { return block_bytes(range.count()); }
};

struct WindowHolder {
  enum class Phase : uint8_t { opening, open, ending };

  const uint64_t number;  // never used twice
  const std::shared_ptr<Window> window;
  const WindowSecret secret;
  const bool writable;
  const uint32_t gid;
  const uint32_t pid;  // who opened it; 0: not to be seen
  const Timestamp since;
  Phase phase = Phase::opening;
  bool by_file = false;     // there is a control file
  OpenFile file{};          // for fsync
  Ref<Pin> pin{};           // once it is open; of a pinned window
  bool shares_pin = false;  // of a mapped one: counted by it
  // Who keeps it.
  uint64_t descriptor = 0;  // handle of OpenFiles; 0: closed, or somebody came for the memory
  uint64_t lookups = 0;     // of its control file
  uint32_t connections = 0;

  uint64_t node() const { return kWindowNodeBit | number; }
  bool is_kept() const { return descriptor != 0 || lookups != 0 || connections != 0; }
};

struct WindowRequest {
  InodeRef inode;
  FileRange range{};
  WindowKind kind = WindowKind::pinned;
  bool writable = false;
  bool by_file = false;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t pid = 0;
  uint64_t descriptor = 0;
  Timestamp now;
};

class Windows {
 public:
  Windows() = default;
  Windows(const Windows&) = delete;
  Windows& operator=(const Windows&) = delete;

  // Called with a holder that nobody keeps any more and that is in `ending`: somebody ends its pin,
  // then remove()s it.
  std::function<void(std::shared_ptr<WindowHolder>)> on_gone;

  // A new holder, in `opening`, of a new window or of the one that is there already.
  //   Restarts  on a window in the way that is going
  //   Errors    too_busy (overlaps another window), no_memory (a limit)
  Attempt<std::shared_ptr<WindowHolder>> add(const WindowRequest& request);
  // It is complete.
  void set_open(const std::shared_ptr<WindowHolder>& holder, Ref<Pin> pin);
  // It failed, or is not wanted. Nothing to do for one that is ending.
  void end(const std::shared_ptr<WindowHolder>& holder);
  // It has ended: no pin any more. Returns the window's memory if it was its last holder, to be
  // destroyed without the monitor.
  std::shared_ptr<WindowMemory> remove(const std::shared_ptr<WindowHolder>& holder);
  // All holders: the mount ends.
  void end_all();
  // No fault is served any more, so that no operation waits for a program. Before end_all().
  void end_faults();

  // Null unless there is such a holder, and it is open.
  std::shared_ptr<WindowHolder> find(uint64_t window, const WindowSecret& secret) const;
  std::shared_ptr<WindowHolder> find_name(std::string_view name) const;
  // Of a control file, in whatever phase.
  std::shared_ptr<WindowHolder> find_node(uint64_t node) const {
    return find_number(node & ~kWindowNodeBit);
  }
  std::shared_ptr<WindowHolder> find_number(uint64_t number) const;

  // What keeps holders.
  void add_lookup(uint64_t node);
  void forget(uint64_t node, uint64_t count);
  void close_descriptor(uint64_t handle);
  // Nobody will come for the memory.
  void give_back(const std::shared_ptr<WindowHolder>& holder);
  // Somebody has come for the memory: from now on its descriptor does not keep it.
  void note_taken(const std::shared_ptr<WindowHolder>& holder);
  void add_connection(WindowHolder& holder) { ++holder.connections; }
  // By its number: connections know no more, since they are no business of the monitor's.
  void drop_connection(uint64_t number);

  // Ranges of open windows of the inode that somebody may store into, in bytes.
  struct ByteRange {
    uint64_t pos = 0;
    uint64_t len = 0;
  };
  std::vector<ByteRange> stored_ranges(InodeNo ino) const;
  bool has_any() const { return !holders_.empty(); }
  // Woken when the last holder has gone.
  Waitable& emptied() { return emptied_; }
  const std::map<uint64_t, std::shared_ptr<WindowHolder>>& holders() const { return holders_; }

  const WindowStats& stats();
  WindowStats& counters() { return stats_; }

 private:
  std::shared_ptr<Window> find_window(const WindowRequest& request, Window** in_the_way) const;
  void look_after(const std::shared_ptr<WindowHolder>& holder);

  std::multimap<InodeNo, std::shared_ptr<Window>> windows_;
  std::map<uint64_t, std::shared_ptr<WindowHolder>> holders_;  // by number
  std::map<WindowSecret, std::shared_ptr<WindowHolder>> by_secret_;
  std::unordered_multimap<uint64_t, uint64_t> by_descriptor_;  // handle -> number
  struct OfUser {
    size_t holders = 0;
    uint64_t bytes = 0;  // of his windows
  };
  std::unordered_map<uint32_t, OfUser> of_user_;
  uint64_t bytes_ = 0;  // of all windows
  uint64_t last_window_ = 0;
  uint64_t last_holder_ = 0;
  Waitable emptied_;
  WindowStats stats_;
};

// ".fusefs-window-0123456789abcdef0123456789abcdef".
std::string window_name(const WindowSecret& secret);

}  // namespace fusefs
