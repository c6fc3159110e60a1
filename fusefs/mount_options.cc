#include "fusefs/mount_options.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace fusefs {
namespace {

// One word of the list, split at its first '='.
struct Word {
  std::string_view name;
  std::optional<std::string_view> value;
};

class Parser {
 public:
  Parser(MountOptions& options, std::string* message) : options_(options), message_(message) {}

  Result<void> parse(std::string_view text) {
    Word word{text, std::nullopt};
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos) {
      word.name = text.substr(0, equals);
      word.value = text.substr(equals + 1);
    }
    if (is_ignored(word)) return {};
    if (set_flag(word.name)) {
      return word.value ? refuse(word, "takes no value") : Result<void>();
    }
    return parse_value(word);
  }

 private:
  // For the tools above us, or the default of every FUSE mount of ours.
  static bool is_ignored(const Word& word) {
    static constexpr std::array<std::string_view, 24> kIgnored = {
        "defaults", "auto",   "noauto", "user",       "nouser",     "users",
        "owner",    "group",  "nofail", "_netdev",    "comment",    "default_permissions",
        "uhelper",  "helper", "strict", "iversion",   "silent",     "loud",
        "mand",     "nomand", "acl",    "user_xattr", "nodiratime", "noiversion"};
    if (word.name.empty() || word.name.starts_with("x-") || word.name.starts_with("X-"))
      return true;
    return std::find(kIgnored.begin(), kIgnored.end(), word.name) != kIgnored.end();
  }

  bool set_flag(std::string_view name) {
    MountOptions& o = options_;
    if (name == "ro") return o.read_only = true, true;
    if (name == "rw") return o.read_only = false, true;
    if (name == "suid") return o.suid = true, true;
    if (name == "nosuid") return o.suid = false, true;
    if (name == "dev") return o.dev = true, true;
    if (name == "nodev") return o.dev = false, true;
    if (name == "exec") return o.exec = true, true;
    if (name == "noexec") return o.exec = false, true;
    if (name == "sync") return o.sync = true, true;
    if (name == "async") return o.sync = o.dirsync = false, true;
    if (name == "dirsync") return o.dirsync = true, true;
    if (name == "relatime") return o.atime = AtimePolicy::relatime, true;
    if (name == "strictatime" || name == "atime") return o.atime = AtimePolicy::strict, true;
    if (name == "noatime") return o.atime = AtimePolicy::none, true;
    if (name == "norelatime") return o.atime = AtimePolicy::relatime, true;
    if (name == "lazytime") return o.lazytime = true, true;
    if (name == "nolazytime") return o.lazytime = false, true;
    if (name == "allow_other") return o.allow_other = true, true;
    if (name == "noallow_other") return o.allow_other = false, true;
    if (name == "nonempty") return o.nonempty = true, true;
    if (name == "discard") return o.discard = true, true;
    if (name == "nodiscard") return o.discard = false, true;
    if (name == "norecovery" || name == "noload") return o.skip_recovery = o.read_only = true, true;
    if (name == "iopoll") return o.iopoll = true, true;
    if (name == "fuseblk" || name == "blkdev") return o.fuseblk = true, true;
    if (name == "nofuseblk") return o.fuseblk = false, true;
    if (name == "no_init_patch") return o.init_patch = false, true;
    return false;
  }

  Result<void> parse_value(const Word& word) {
    const std::string_view name = word.name;
    if (name == "remount") {
      return refuse(word, "a mounted volume cannot change its options; unmount and mount again",
                    Error::not_supported);
    }
    if (name == "allow_root") {
      return refuse(word, "not offered; use allow_other", Error::not_supported);
    }
    if (name == "subtype") return {};  // always fusefs
    static constexpr std::array<std::string_view, 21> kWithValue = {
        "fsname",         "cache",      "threads",
        "max_background", "errors",     "uring",
        "writeback",      "direct",     "fault",
        "mmap_reserve",   "readahead",  "context",
        "fscontext",      "selfio",     "sync_writes",
        "volatile_cache", "completion", "lock_delay_ms",
        "pinned",         "pin_limit",  "pin_limit_per_user"};
    if (std::find(kWithValue.begin(), kWithValue.end(), name) == kWithValue.end()) {
      return refuse(word, "unknown mount option; fusefs mount --help lists them");
    }
    if (!word.value || word.value->empty()) return refuse(word, "needs a value");
    return parse_known(word, *word.value);
  }

  Result<void> parse_known(const Word& word, std::string_view value) {
    const std::string_view name = word.name;
    if (name == "fsname") {
      options_.fsname = value;
      return {};
    }
    if (name == "cache") return parse_cache(word, value);
    if (name == "mmap_reserve") return parse_mmap_reserve(word, value);
    if (name == "readahead") return parse_readahead(word, value);
    if (name == "threads") return parse_number(word, value, 1, kThreadsMax, options_.threads);
    if (name == "max_background") {
      return parse_number(word, value, 1, kBackgroundMax, options_.max_background);
    }
    if (name == "errors") return parse_errors(word, value);
    if (name == "uring") return parse_uring(word, value);
    if (name == "writeback") return parse_writeback(word, value);
    if (name == "fault") return parse_fault(word, value);
    if (name == "volatile_cache") {
      uint32_t seed = 0;
      TRY_OK(parse_number(word, value, 0, UINT32_MAX, seed));
      options_.volatile_cache_seed = seed;
      return {};
    }
    if (name == "pin_limit") return parse_pin_limit(word, value, options_.pin_limit_bytes);
    if (name == "pin_limit_per_user") {
      return parse_pin_limit(word, value, options_.pin_limit_bytes_per_user);
    }
    if (name == "pinned") return parse_pinned(word, value);
    if (name == "sync_writes") return parse_sync_writes(word, value);
    if (name == "completion") return parse_completion(word, value);
    if (name == "selfio") return parse_selfio(word, value);
    if (name == "lock_delay_ms") return parse_delay(word, value);
    if (name == "direct") {
      if (value != "on" && value != "off") return refuse(word, "direct is on or off");
      options_.direct = value == "on";
      return {};
    }
    return refuse(word, "SELinux contexts of a whole mount are not offered", Error::not_supported);
  }

  Result<void> parse_cache(const Word& word, std::string_view value) {
    const Result<uint64_t> bytes = parse_size(value);
    if (!bytes.ok()) return refuse(word, "a size such as 256M or 4G is needed");
    if (bytes.value() < kCacheBytesMin) return refuse(word, "at least 4M are needed");
    if (bytes.value() > kCacheBytesMax) return refuse(word, "at most 4T are possible");
    options_.cache_bytes = bytes.value() & ~uint64_t{kBlockBytes - 1};
    return {};
  }

  Result<void> parse_mmap_reserve(const Word& word, std::string_view value) {
    const Result<uint64_t> bytes = parse_size(value);
    if (!bytes.ok()) return refuse(word, "a size such as 16M, or 0, is needed");
    if (bytes.value() > kMmapReserveBytesMax) return refuse(word, "at most 1T is possible");
    options_.mmap_reserve_bytes = bytes.value() & ~uint64_t{kBlockBytes - 1};
    return {};
  }

  Result<void> parse_readahead(const Word& word, std::string_view value) {
    const Result<uint64_t> bytes = parse_size(value);
    if (!bytes.ok()) return refuse(word, "a size such as 1M, or 0, is needed");
    if (bytes.value() > kReadaheadOptionMax) return refuse(word, "at most 64M are possible");
    options_.readahead_bytes = bytes.value() & ~uint64_t{kBlockBytes - 1};
    return {};
  }

  Result<void> parse_pin_limit(const Word& word, std::string_view value, uint64_t& limit) {
    const Result<uint64_t> bytes = parse_size(value);
    if (!bytes.ok()) return refuse(word, "a size such as 64M, or 0, is needed");
    if (bytes.value() > kPinLimitBytesMax) return refuse(word, "at most 4T are possible");
    limit = bytes.value() & ~uint64_t{kBlockBytes - 1};
    return {};
  }

  Result<void> parse_pinned(const Word& word, std::string_view value) {
    if (value == "redirty") {
      options_.pinned_policy = PinnedPolicy::redirty;
    } else if (value == "keep") {
      options_.pinned_policy = PinnedPolicy::keep;
    } else if (value == "unpin") {
      options_.pinned_policy = PinnedPolicy::unpin;
    } else {
      return refuse(word, "pinned is redirty, keep or unpin");
    }
    return {};
  }

  Result<void> parse_number(const Word& word, std::string_view value, uint32_t min, uint32_t max,
                            uint32_t& number) {
    uint32_t parsed = 0;
    const char* end = value.data() + value.size();
    const auto [stopped, failure] = std::from_chars(value.data(), end, parsed);
    if (failure != std::errc() || stopped != end || parsed < min || parsed > max) {
      return refuse(word, "a number from " + std::to_string(min) + " to " + std::to_string(max) +
                              " is needed");
    }
    number = parsed;
    return {};
  }

  // What happens anyway is accepted; what would not happen is not promised.
  Result<void> parse_errors(const Word& word, std::string_view value) {
    if (value == "remount-ro") return {};
    if (value == "continue" || value == "panic") {
      return refuse(word, "not offered; after a metadata error the volume turns read-only",
                    Error::not_supported);
    }
    return refuse(word, "errors is remount-ro");
  }

  Result<void> parse_uring(const Word& word, std::string_view value) {
    if (value == "auto") {
      options_.uring = UringMode::automatic;
    } else if (value == "off") {
      options_.uring = UringMode::off;
    } else if (value == "on") {
      return refuse(word, "FUSE over io_uring is not available in this version; use uring=auto",
                    Error::not_supported);
    } else {
      return refuse(word, "uring is auto or off");
    }
    return {};
  }

  Result<void> parse_writeback(const Word& word, std::string_view value) {
    if (value != "core" && value != "kernel") return refuse(word, "writeback is core or kernel");
    options_.kernel_writeback = value == "kernel";
    return {};
  }

  Result<void> parse_sync_writes(const Word& word, std::string_view value) {
    if (value != "through" && value != "dirty") {
      return refuse(word, "sync_writes is through or dirty");
    }
    options_.sync_writes = value == "dirty" ? SyncWrites::dirty : SyncWrites::through;
    return {};
  }

  Result<void> parse_fault(const Word& word, std::string_view value) {
    if (value != "restart" && value != "hold") return refuse(word, "fault is restart or hold");
    options_.fault_policy = value == "hold" ? FaultPolicy::hold : FaultPolicy::restart;
    return {};
  }

  Result<void> parse_completion(const Word& word, std::string_view value) {
    if (value != "issuer" && value != "deferred") {
      return refuse(word, "completion is issuer or deferred");
    }
    options_.completion =
        value == "deferred" ? CompletionPolicy::deferred : CompletionPolicy::issuer;
    return {};
  }

  Result<void> parse_selfio(const Word& word, std::string_view value) {
    if (value != "buffered" && value != "error") return refuse(word, "selfio is buffered or error");
    options_.self_io = value == "error" ? SelfIoPolicy::error : SelfIoPolicy::buffered;
    return {};
  }

  Result<void> parse_delay(const Word& word, std::string_view value) {
    const Result<uint64_t> delay = parse_lock_delay(value);
    if (!delay.ok()) return refuse(word, "milliseconds such as 4 or 0.5, or inf, are needed");
    options_.lock_delay_ns = delay.value();
    return {};
  }

  Result<void> refuse(const Word& word, std::string_view why,
                      Error error = Error::invalid_argument) {
    std::string text(word.name);
    if (word.value) text.append("=").append(*word.value);
    *message_ = "mount option '" + text + "': " + std::string(why);
    return error;
  }

  MountOptions& options_;
  std::string* message_;
};

}  // namespace

Result<void> parse_mount_options(std::string_view list, MountOptions& options,
                                 std::string* message) {
  Parser parser(options, message);
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    TRY_OK(parser.parse(list.substr(0, comma)));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return {};
}

Result<uint64_t> parse_lock_delay(std::string_view text) {
  if (text == "inf") return kLockDelayInfinite;
  uint64_t delay_ms = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, delay_ms);
  if (failure != std::errc() || delay_ms > kLockDelayMsMax) return Error::invalid_argument;
  uint64_t delay_ns = delay_ms * kNsPerMs;
  if (stopped == end) return delay_ns;
  if (*stopped != '.' || stopped + 1 == end) return Error::invalid_argument;
  uint64_t digit_ns = kNsPerMs / 10;
  for (const char* at = stopped + 1; at != end; ++at, digit_ns /= 10) {
    if (*at < '0' || *at > '9' || digit_ns == 0) return Error::invalid_argument;
    delay_ns += static_cast<uint64_t>(*at - '0') * digit_ns;
  }
  return delay_ns;
}

Result<uint64_t> parse_size(std::string_view text) {
  uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, number);
  if (failure != std::errc()) return Error::invalid_argument;
  std::string_view unit(stopped, static_cast<size_t>(end - stopped));
  if (unit.empty()) return number;

  static constexpr std::string_view kUnits = "kmgtpe";
  const size_t power = kUnits.find(static_cast<char>(unit.front() | 0x20));
  unit.remove_prefix(1);
  if (power == std::string_view::npos) return Error::invalid_argument;
  if (!unit.empty() && unit != "iB" && unit != "B" && unit != "i") return Error::invalid_argument;
  const unsigned shift = 10 * (static_cast<unsigned>(power) + 1);
  if (number > (UINT64_MAX >> shift)) return Error::invalid_argument;
  return number << shift;
}

}  // namespace fusefs
