// Handshake: the first request of a mount, FUSE_INIT, and what is negotiated with it.
//
//     patched (the rule)                        by libfuse (-o no_init_patch)
//     ------------------                        -----------------------------
//     read INIT from the channel                read INIT from the channel
//     answer with our own fuse_init_out         libfuse answers, choose_library_features() chooses
//     give libfuse an INIT of our making,
//     so that it decodes; its answer to that
//     goes nowhere
//
// libfuse 3.14 cannot ask for what saves the most: FUSE_HANDLE_KILLPRIV_V2 (no GETXATTR before each
// write), FUSE_DIRECT_IO_ALLOW_MMAP (files opened with O_SYNC or O_DIRECT bypass the page cache and
// still can be mapped), FUSE_SETXATTR_EXT (the setgid bit and ACLs). Only what the kernel offers is
// answered, and KernelFacts says what that was.
//
// Not asked for, and why:
//   FUSE_AUTO_INVAL_DATA   one owner: mtime changes by our own writes would drop the page cache
//   FUSE_WRITEBACK_CACHE   hides O_SYNC from us and limits dirty memory to 1 % of it; asked for
//                          with -o writeback=kernel
//   FUSE_FLOCK_LOCKS, FUSE_POSIX_LOCKS   the kernel's own are right on a single machine
//   FUSE_SPLICE_*          the bytes are in our memory already
//   FUSE_SECURITY_CTX      no security module's labels at creation
//   FUSE_ALLOW_IDMAP       requests that create nothing then come without the caller's uid, which
//                          ioctl, listxattr and fallocate need (seen on Linux 6.18)
//
// FUSE_PASSTHROUGH, with which the memory of a window is opened as a file of the mount (windows.h),
// is asked for by root's daemon: others may not use it. The kernel refuses it together with its
// writeback cache. The mount then counts as a stacked filesystem of depth 1 of 2: an overlay over
// it works, an overlay over that does not.
//
// FUSE_ASYNC_DIO is asked for: without it libaio runs one request at a time. What it leaves stale
// in Linux before 7.2 is repaired write by write (ops_data.cc).
#pragma once

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>

#include <string>

#include "core/stats/fuse_stats.h"
#include "fusefs/channel.h"
#include "fusefs/protocol.h"

namespace fusefs {

struct HandshakeOptions {
  bool patch = true;
  bool fuseblk = false;  // SYNCFS will be sent
  bool kernel_writeback = false;
  bool passthrough = false;  // asked for by root's daemons; not with kernel_writeback
  uint32_t max_background = 64;
  uint32_t timeout_ms = 10'000;
};

// Answers INIT and prepares `session` for decoding. Nothing else reads from the channel meanwhile.
//   Errors  device_gone (unmounted before it began), timed_out, newer_version (a protocol that we
//           do not speak), io_failed
//   `message` then is one line for people
Result<KernelFacts> shake_hands(Channel& channel, fuse_session* session,
                                const HandshakeOptions& options, std::string* message);

// libfuse's callback while it handles an INIT, the kernel's or ours. `userdata`: MountOptions, or
// null.
void choose_library_features(void* userdata, fuse_conn_info* connection);

// What to answer to `offer`: our wishes as far as the kernel has them.
fuse_init_out make_init_answer(const fuse_init_in& offer, const HandshakeOptions& options);

}  // namespace fusefs
