// Session: the mount itself, through libfuse.
//
//   root                    mount(2)       type fuse.fusefs; fuseblk on a block device
//   others                  fusermount3    the image and the directory must be the user's
//
// fuseblk is the only type for which the kernel passes syncfs(2) on and lets umount(2) wait until
// DESTROY has been answered; the kernel claims the device for it.
//
// Always: fsname (systemd unmounts what has /dev/fuse as its source), subtype=fusefs,
// default_permissions: the kernel checks modes and ACLs. As a kernel filesystem does, a mount by
// root is for everybody (allow_other) and keeps dev and suid unless told otherwise.
#pragma once

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>

#include <memory>
#include <string>

#include "fusefs/mount_options.h"

namespace fusefs {

class Session {
 public:
  // Makes the session that will decode requests. `options` must outlive it.
  //   Errors  invalid_argument
  static Result<std::unique_ptr<Session>> create(const std::string& source,
                                                 const MountOptions& options, bool fuseblk,
                                                 bool debug, std::string* message);
  // A mount that is still there is taken out of the tree; who uses it gets ENOTCONN.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Mounts on `mount_point`, an absolute path.
  //   Errors  not_permitted, not_found, not_supported (no FUSE here), too_busy, io_failed
  //   `message` then is one line for people
  Result<void> mount(const std::string& mount_point, std::string* message);
  // Uses an open descriptor where requests come from already; becomes the session's.
  Result<void> adopt(int fd);

  // Somebody takes the mount out of the tree; the destructor need not.
  void note_unmounted() { mount_point_.clear(); }

  fuse_session* get() { return session_; }
  int fd() const { return fuse_session_fd(session_); }

 private:
  Session(fuse_session* session, bool allow_other) : session_(session), allow_other_(allow_other) {}
  fuse_session* const session_;
  const bool allow_other_;
  std::string mount_point_;  // empty: not mounted by us, or not any more
};

// Takes a mount out of the tree, while its requests are being served: if nobody uses it, or, with
// `lazy`, at once for new users, and for good when the last old one leaves. Any thread.
//   Errors  too_busy, not_permitted, io_failed
Result<void> unmount_path(const std::string& mount_point, bool lazy);

// Whether `path` can be mounted on; an absolute path without links if so.
//   Errors  not_found, not_a_directory, directory_not_empty, access_denied, ...
//   `message` then is one line for people
Result<std::string> check_mount_point(const std::string& path, bool nonempty_allowed,
                                      std::string* message);

}  // namespace fusefs
