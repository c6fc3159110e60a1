// Mount options: what `-o a,b=c,d` asks for.
//
// Takes everything that mount(8), fstab and systemd may hand over: options of the kernel are kept
// for the mount, options of the tools above us (defaults, _netdev, x-...) are ignored, ours are
// parsed and checked. Anything else is refused with one line that names it.
//
// It opens nothing and knows no FUSE.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/file/file_context.h"
#include "core/file/read_streams.h"
#include "core/inode/namespace.h"

namespace fusefs {

enum class UringMode : uint8_t { automatic, on, off };

// How what must be durable before it is answered gets to the device: at once (write_through.h), or,
// to measure the difference, as dirty pages that are written back and flushed.
enum class SyncWrites : uint8_t { through, dirty };

inline constexpr uint64_t kCacheBytesMin = 4ull << 20;
inline constexpr uint64_t kCacheBytesMax = 1ull << 42;
inline constexpr uint64_t kMmapReserveBytes = 16ull << 20;
inline constexpr uint64_t kMmapReserveBytesMax = 1ull << 40;
inline constexpr uint64_t kReadaheadOptionMax = 64ull << 20;
inline constexpr uint64_t kLockDelayMsMax = 1'000'000;
inline constexpr uint64_t kPinLimitBytesMax = 1ull << 42;
inline constexpr uint32_t kThreadsMax = 64;
inline constexpr uint32_t kBackgroundMax = 4096;

struct MountOptions {
  // Of the kernel.
  bool read_only = false;
  bool sync = false;        // every change is durable before it is answered
  bool dirsync = false;     // every change of a directory is
  std::optional<bool> dev;  // unset: as mount(8) and fusermount3 have it
  std::optional<bool> exec;
  std::optional<bool> suid;
  std::optional<bool> allow_other;  // unset: yes for root, no for others
  bool nonempty = false;            // mount over a directory with files in it
  std::string fsname;               // unset: the source

  // Of the volume.
  uint64_t cache_bytes = 256ull << 20;
  // Unset: kMmapReserveBytes where the kernel's limit can be set, else what that limit asks for.
  std::optional<uint64_t> mmap_reserve_bytes;
  uint64_t readahead_bytes = kReadaheadBytesMax;  // the largest window; 0: none
  bool discard = false;
  bool skip_recovery = false;
  bool lazytime = false;
  AtimePolicy atime = AtimePolicy::relatime;
  FaultPolicy fault_policy = FaultPolicy::restart;
  uint64_t pin_limit_bytes = kPinLimitBytes;
  uint64_t pin_limit_bytes_per_user = kPinLimitBytesPerUser;
  PinnedPolicy pinned_policy = PinnedPolicy::redirty;
  SyncWrites sync_writes = SyncWrites::through;
  bool kernel_writeback = false;  // the kernel keeps what is written, as it does of mappings
  CompletionPolicy completion = CompletionPolicy::issuer;
  SelfIoPolicy self_io = SelfIoPolicy::buffered;
  uint64_t lock_delay_ns = kLockDelayNs;

  // Of the daemon.
  uint32_t threads = 0;  // 0: one per CPU
  bool iopoll = false;
  bool direct = true;            // O_DIRECT to the image or device
  std::optional<bool> fuseblk;   // unset: on a block device as root
  uint32_t max_background = 64;  // requests of readahead and writeback that the kernel sends ahead
  bool init_patch = true;        // handshake by hand; false: libfuse's own, with fewer features
  UringMode uring = UringMode::automatic;
  // For tests: a kill of the daemon loses what was not flushed (core/io/volatile_cache.h).
  std::optional<uint64_t> volatile_cache_seed;
};

// Adds what `list` asks for to `options`; later words win. Commas separate, as in fstab.
//   Errors  invalid_argument, not_supported; `message` is one line that names the option
Result<void> parse_mount_options(std::string_view list, MountOptions& options,
                                 std::string* message);

// "64k", "256M", "1G", "2T" (1024-based, upper or lower case, "iB" allowed) or plain bytes.
//   Errors  invalid_argument
Result<uint64_t> parse_size(std::string_view text);

// Milliseconds as a decimal number ("0", "4", "0.25"), or "inf": in ns, or kLockDelayInfinite.
//   Errors  invalid_argument: also more than kLockDelayMsMax, and parts of a nanosecond
Result<uint64_t> parse_lock_delay(std::string_view text);

}  // namespace fusefs
