#include <string>

#include "fusefs/mount_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

struct Parsed {
  MountOptions options;
  std::string message;
  Result<void> result;
};

Parsed parse(std::string_view list) {
  Parsed parsed;
  parsed.result = parse_mount_options(list, parsed.options, &parsed.message);
  return parsed;
}

TEST_CASE("what fstab and systemd put into the options of any mount is accepted") {
  const Parsed parsed = parse(
      "rw,defaults,_netdev,nofail,x-systemd.automount,x-gvfs-show,user,noauto,nosuid,nodev,noexec,"
      "default_permissions,comment=abc,uhelper=udisks2,subtype=fusefs,,");
  REQUIRE(parsed.result.ok());
  CHECK_FALSE(parsed.options.read_only);
  CHECK(parsed.options.suid == false);
  CHECK(parsed.options.dev == false);
  CHECK(parsed.options.exec == false);
  CHECK_FALSE(parsed.options.allow_other.has_value());
}

TEST_CASE("of contradicting mount options the last one wins") {
  const Parsed parsed =
      parse("ro,noatime,noexec,sync,lazytime,rw,strictatime,exec,async,nolazytime");
  REQUIRE(parsed.result.ok());
  CHECK_FALSE(parsed.options.read_only);
  CHECK(parsed.options.atime == AtimePolicy::strict);
  CHECK(parsed.options.exec == true);
  CHECK_FALSE(parsed.options.sync);
  CHECK_FALSE(parsed.options.lazytime);
}

TEST_CASE("mount options of the volume and the daemon are parsed with their units") {
  const Parsed parsed = parse(
      "cache=64M,mmap_reserve=8M,readahead=0,threads=3,max_background=128,iopoll,discard,"
      "norecovery,noatime,"
      "allow_other,"
      "fsname=/dev/x "
      "y,direct=off,no_init_patch,uring=off,errors=remount-ro,writeback=kernel,dirsync,fault=hold,"
      "sync_writes=dirty,volatile_cache=7,completion=deferred,selfio=error,lock_delay_ms=0.25,"
      "pin_limit=64M,pin_limit_per_user=1M,pinned=keep");
  REQUIRE(parsed.result.ok());
  const MountOptions& options = parsed.options;
  CHECK(options.cache_bytes == 64ull << 20);
  CHECK(options.threads == 3);
  CHECK(options.max_background == 128);
  CHECK(options.iopoll);
  CHECK(options.discard);
  CHECK(options.mmap_reserve_bytes == uint64_t{8} << 20);
  CHECK(options.readahead_bytes == 0);
  CHECK(MountOptions{}.readahead_bytes == 1 << 20);
  CHECK(options.skip_recovery);
  CHECK(options.read_only);  // without recovery nothing may be written
  CHECK(options.atime == AtimePolicy::none);
  CHECK(options.allow_other == true);
  CHECK(options.fsname == "/dev/x y");
  CHECK_FALSE(options.direct);
  CHECK_FALSE(options.init_patch);
  CHECK(options.uring == UringMode::off);
  CHECK(options.dirsync);
  CHECK(options.fault_policy == FaultPolicy::hold);
  CHECK(options.lock_delay_ns == 250'000);
  CHECK(options.volatile_cache_seed == 7);
  CHECK(options.pin_limit_bytes == 64ull << 20);
  CHECK(options.pin_limit_bytes_per_user == 1ull << 20);
  CHECK(options.pinned_policy == PinnedPolicy::keep);
  CHECK(options.kernel_writeback);
  CHECK(options.sync_writes == SyncWrites::dirty);
  CHECK_FALSE(parse("writeback=kernel,writeback=core").options.kernel_writeback);
  CHECK(options.completion == CompletionPolicy::deferred);
  CHECK(options.self_io == SelfIoPolicy::error);
}

TEST_CASE("a mount option that is wrong or not offered is refused with a line that names it") {
  for (const char* list : {"unknown_thing",    "cache",
                           "cache=",           "cache=12Q",
                           "cache=1k",         "threads=0",
                           "mmap_reserve=x",   "mmap_reserve",
                           "mmap_reserve=2T",  "threads=65",
                           "threads=2x",       "max_background=5000",
                           "errors=continue",  "errors=panic",
                           "errors=later",     "uring=on",
                           "uring=maybe",      "sync_writes=often",
                           "writeback=x",      "ro=1",
                           "remount",          "direct=2",
                           "allow_root",       "fault=wait",
                           "volatile_cache=x", "readahead=65M",
                           "readahead=",       "readahead=x",
                           "completion=x",     "selfio=no",
                           "lock_delay_ms",    "lock_delay_ms=never",
                           "pin_limit=x",      "pin_limit_per_user=5T",
                           "pinned=maybe"}) {
    const Parsed parsed = parse(std::string("noatime,") + list + ",rw");
    INFO(list);
    REQUIRE_FALSE(parsed.result.ok());
    CHECK(parsed.message.find("'" + std::string(list) + "'") != std::string::npos);
    CHECK(parsed.message.find('\n') == std::string::npos);
  }
}

TEST_CASE("the delay of the lock is in milliseconds, to the nanosecond, or infinite") {
  CHECK(MountOptions().lock_delay_ns == 4 * kNsPerMs);
  CHECK(parse_lock_delay("0").value() == 0);
  CHECK(parse_lock_delay("4").value() == 4'000'000);
  CHECK(parse_lock_delay("0.000001").value() == 1);
  CHECK(parse_lock_delay("1000000").value() == 1000 * kNsPerSecond);
  CHECK(parse_lock_delay("inf").value() == kLockDelayInfinite);
  for (const char* text :
       {"", "-1", ".5", "4.", "1e3", "4ms", "0.0000001", "1000001", "infinite"}) {
    INFO(text);
    CHECK_FALSE(parse_lock_delay(text).ok());
  }
}

TEST_CASE("sizes are 1024-based and refused when they do not fit 64 bits") {
  CHECK(parse_size("4096").value() == 4096);
  CHECK(parse_size("64k").value() == 65536);
  CHECK(parse_size("10GiB").value() == 10ull << 30);
  CHECK(parse_size("15E").value() == 15ull << 60);
  CHECK_FALSE(parse_size("16E").ok());
  CHECK_FALSE(parse_size("").ok());
  CHECK_FALSE(parse_size("-1").ok());
  CHECK_FALSE(parse_size("1kk").ok());
}

}  // namespace
}  // namespace fusefs
