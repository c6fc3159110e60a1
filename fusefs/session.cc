#include "fusefs/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "fusefs/fuse_source.h"

extern char** environ;

namespace fusefs {
namespace {

// libfuse and fusermount3 explain failures on stderr; the first line is kept for our message.
thread_local std::string* t_log_line = nullptr;

void keep_log_line(fuse_log_level, const char* format, va_list arguments) {
  char text[512];
  std::vsnprintf(text, sizeof(text), format, arguments);
  if (t_log_line == nullptr) {
    std::fputs(text, stderr);
    return;
  }
  if (!t_log_line->empty()) return;
  *t_log_line = text;
  while (!t_log_line->empty() && t_log_line->back() == '\n') t_log_line->pop_back();
}

class KeptLog {
 public:
  KeptLog() {
    t_log_line = &line_;
    fuse_set_log_func(keep_log_line);
  }
  ~KeptLog() { t_log_line = nullptr; }
  const std::string& line() const { return line_; }

 private:
  std::string line_;
};

// A comma or a backslash in a value would end it.
std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) {
    if (c == ',' || c == '\\') text += '\\';
    text += c;
  }
  return text;
}

std::string library_options(const std::string& source, const MountOptions& options, bool fuseblk) {
  const bool root = geteuid() == 0;
  const std::string& name = options.fsname.empty() || fuseblk ? source : options.fsname;
  std::string text = "fsname=" + escaped(name) + ",default_permissions";
  text += ",subtype=fusefs";
  if (fuseblk) text += ",blkdev,blksize=4096";
  if (options.allow_other.value_or(root)) text += ",allow_other";
  text += options.read_only ? ",ro" : ",rw";
  // libfuse adds nosuid and nodev unless told otherwise.
  text += options.suid.value_or(root) ? ",suid" : ",nosuid";
  text += options.dev.value_or(root) ? ",dev" : ",nodev";
  if (options.exec) text += *options.exec ? ",exec" : ",noexec";
  if (options.sync) text += ",sync";
  if (options.dirsync) text += ",dirsync";
  if (options.atime == AtimePolicy::none) text += ",noatime";
  return text;
}

std::string find_fusermount() {
  for (const char* path :
       {"/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3"}) {
    if (access(path, X_OK) == 0) return path;
  }
  return {};
}

Result<void> run_fusermount(const std::string& mount_point, bool lazy) {
  const std::string path = find_fusermount();
  if (path.empty()) return Error::not_supported;
  const char* plain[] = {"fusermount3", "-u", "-q", "--", mount_point.c_str(), nullptr};
  const char* detach[] = {"fusermount3", "-u", "-q", "-z", "--", mount_point.c_str(), nullptr};
  pid_t child = 0;
  const int failure = posix_spawn(&child, path.c_str(), nullptr, nullptr,
                                  const_cast<char**>(lazy ? detach : plain), environ);
  if (failure != 0) return error_from_errno(failure);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  // It does not say why; in use is by far the most frequent reason.
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? Result<void>() : Error::too_busy;
}

// fusermount3's own rule for allow_other, which it would tell in a line of its own.
bool users_may_allow_other() {
  std::ifstream file("/etc/fuse.conf");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find_first_not_of(" \t");
    if (first != std::string::npos && line.compare(first, 16, "user_allow_other") == 0) return true;
  }
  return false;
}

// What keeps everybody from mounting here, found before libfuse would say it in several lines.
Result<void> check_system(bool allow_other, std::string* message) {
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    const int reason = errno;
    *message =
        reason == EACCES || reason == EPERM
            ? "/dev/fuse: permission denied; users need read and write access to it (mode 0666), a "
              "container needs --device /dev/fuse"
            : "/dev/fuse: not available; load the fuse module (modprobe fuse), or in a "
              "container pass --device /dev/fuse";
    return reason == EACCES || reason == EPERM ? Error::not_permitted : Error::not_supported;
  }
  close(fd);
  if (geteuid() != 0 && find_fusermount().empty()) {
    *message = "fusermount3: not found; users other than root need it (package fuse3)";
    return Error::not_supported;
  }
  if (geteuid() != 0 && allow_other && !users_may_allow_other()) {
    *message =
        "mount option 'allow_other': users other than root may ask for it only if "
        "/etc/fuse.conf has the line user_allow_other";
    return Error::not_permitted;
  }
  return {};
}

bool is_empty_directory(const char* path) {
  DIR* directory = opendir(path);
  if (directory == nullptr) return true;  // mounting needs no right to read it
  int entries = 0;
  while (entries <= 2 && readdir(directory) != nullptr) ++entries;  // with "." and ".."
  closedir(directory);
  return entries <= 2;
}

}  // namespace

Result<std::unique_ptr<Session>> Session::create(const std::string& source,
                                                 const MountOptions& options, bool fuseblk,
                                                 bool debug, std::string* message) {
  KeptLog log;
  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&arguments, "fusefs");
  const std::string list = library_options(source, options, fuseblk);
  fuse_opt_add_arg(&arguments, "-o");
  fuse_opt_add_arg(&arguments, list.c_str());
  if (debug) fuse_opt_add_arg(&arguments, "-d");
  fuse_session* session = fuse_session_new(&arguments, &lowlevel_ops(), sizeof(fuse_lowlevel_ops),
                                           const_cast<MountOptions*>(&options));
  fuse_opt_free_args(&arguments);
  if (session == nullptr) {
    *message = "libfuse refuses the mount options '" + list + "'" +
               (log.line().empty() ? "" : ": " + log.line());
    return Error::invalid_argument;
  }
  return std::unique_ptr<Session>(new Session(session, options.allow_other == true));
}

Session::~Session() {
  // It looks first whether the mount has gone already, and closes the descriptor.
  if (!mount_point_.empty()) fuse_session_unmount(session_);
  fuse_session_destroy(session_);
}

Result<void> Session::mount(const std::string& mount_point, std::string* message) {
  TRY_OK(check_system(allow_other_, message));
  KeptLog log;
  errno = 0;
  if (fuse_session_mount(session_, mount_point.c_str()) != 0) {
    const int reason = errno;
    *message = mount_point + ": cannot be mounted on";
    if (!log.line().empty()) *message += " (" + log.line() + ")";
    if (reason == EPERM && geteuid() == 0) {
      *message += "; the capability SYS_ADMIN is needed, in a container --cap-add SYS_ADMIN";
    }
    return reason == EPERM ? Error::not_permitted : Error::io_failed;
  }
  mount_point_ = mount_point;
  return {};
}

Result<void> Session::adopt(int fd) {
  const std::string name = "/dev/fd/" + std::to_string(fd);
  if (fuse_session_mount(session_, name.c_str()) != 0) return Error::io_failed;
  return {};
}

Result<void> unmount_path(const std::string& mount_point, bool lazy) {
  if (geteuid() != 0) return run_fusermount(mount_point, lazy);
  if (umount2(mount_point.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0) return {};
  if (errno == EINVAL || errno == ENOENT) return {};  // not mounted any more
  return error_from_errno(errno);
}

Result<std::string> check_mount_point(const std::string& path, bool nonempty_allowed,
                                      std::string* message) {
  std::unique_ptr<char, decltype(&std::free)> resolved(realpath(path.c_str(), nullptr), &std::free);
  if (!resolved) {
    const int reason = errno;
    *message = path + ": ";
    if (reason == ENOENT) {
      *message += "no such directory; create the mount point first";
    } else if (reason == ENOTCONN) {
      *message += "a dead mount is there; unmount it first (umount or fusermount3 -u)";
    } else {
      *message += std::strerror(reason);
    }
    return error_from_errno(reason);
  }
  struct stat status;
  if (stat(resolved.get(), &status) != 0) {
    *message = path + ": " + std::strerror(errno);
    return error_from_errno(errno);
  }
  if (!S_ISDIR(status.st_mode)) {
    *message = path + ": not a directory; a mount point must be one";
    return Error::not_a_directory;
  }
  if (geteuid() != 0 && access(resolved.get(), W_OK) != 0) {
    *message = path +
               ": not permitted; users other than root can mount only on directories that "
               "they may write to";
    return Error::not_permitted;
  }
  if (nonempty_allowed) return std::string(resolved.get());
  if (!is_empty_directory(resolved.get())) {
    *message = path +
               ": not empty; the files in it would be hidden (use an empty directory, or "
               "-o nonempty)";
    return Error::directory_not_empty;
  }
  return std::string(resolved.get());
}

}  // namespace fusefs
