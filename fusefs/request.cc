#include "fusefs/request.h"

#include <array>
#include <cstring>

namespace fusefs {
namespace {

// What each request must contain: a structure, then names with a zero byte each, then, where the
// structure has a size for it, that much data.
struct OpcodeRow {
  const char* name = "unknown";
  bool served = false;
  uint16_t arg_bytes = 0;
  uint8_t names = 0;
};

constexpr std::array<OpcodeRow, wire::kOpcodeEnd> make_rows() {
  std::array<OpcodeRow, wire::kOpcodeEnd> rows{};
  rows[FUSE_LOOKUP] = {"lookup", true, 0, 1};
  rows[FUSE_FORGET] = {"forget", true, sizeof(fuse_forget_in), 0};
  rows[FUSE_GETATTR] = {"getattr", true, sizeof(fuse_getattr_in), 0};
  rows[FUSE_SETATTR] = {"setattr", true, sizeof(fuse_setattr_in), 0};
  rows[FUSE_READLINK] = {"readlink", true, 0, 0};
  rows[FUSE_SYMLINK] = {"symlink", true, 0, 2};
  rows[FUSE_MKNOD] = {"mknod", true, sizeof(fuse_mknod_in), 1};
  rows[FUSE_MKDIR] = {"mkdir", true, sizeof(fuse_mkdir_in), 1};
  rows[FUSE_UNLINK] = {"unlink", true, 0, 1};
  rows[FUSE_RMDIR] = {"rmdir", true, 0, 1};
  rows[FUSE_RENAME] = {"rename", true, sizeof(fuse_rename_in), 2};
  rows[FUSE_LINK] = {"link", true, sizeof(fuse_link_in), 1};
  rows[FUSE_OPEN] = {"open", true, sizeof(fuse_open_in), 0};
  rows[FUSE_READ] = {"read", true, sizeof(fuse_read_in), 0};
  rows[FUSE_WRITE] = {"write", true, sizeof(fuse_write_in), 0};
  rows[FUSE_STATFS] = {"statfs", true, 0, 0};
  rows[FUSE_RELEASE] = {"release", true, sizeof(fuse_release_in), 0};
  rows[FUSE_FSYNC] = {"fsync", true, sizeof(fuse_fsync_in), 0};
  rows[FUSE_SETXATTR] = {"setxattr", true, FUSE_COMPAT_SETXATTR_IN_SIZE, 1};
  rows[FUSE_GETXATTR] = {"getxattr", true, sizeof(fuse_getxattr_in), 1};
  rows[FUSE_LISTXATTR] = {"listxattr", true, sizeof(fuse_getxattr_in), 0};
  rows[FUSE_REMOVEXATTR] = {"removexattr", true, 0, 1};
  // close(2) of a local filesystem waits for nothing and reports nothing: with ENOSYS once, the
  // kernel writes its mapped pages at close and does not ask any more.
  rows[FUSE_FLUSH] = {"flush", false, sizeof(fuse_flush_in), 0};
  rows[FUSE_INIT] = {"init", false, 8, 0};  // the handshake's (handshake.h)
  // Directories need no state per opener: with ENOSYS once, the kernel opens and closes them by
  // itself and caches what readdir returned.
  rows[FUSE_OPENDIR] = {"opendir", false, sizeof(fuse_open_in), 0};
  rows[FUSE_READDIR] = {"readdir", true, sizeof(fuse_read_in), 0};
  rows[FUSE_RELEASEDIR] = {"releasedir", true, sizeof(fuse_release_in), 0};
  rows[FUSE_FSYNCDIR] = {"fsyncdir", true, sizeof(fuse_fsync_in), 0};
  // Locks stay in the kernel: one machine owns the volume, and a blocking lock must not occupy us.
  rows[FUSE_GETLK] = {"getlk", false, 0, 0};
  rows[FUSE_SETLK] = {"setlk", false, 0, 0};
  rows[FUSE_SETLKW] = {"setlkw", false, 0, 0};
  rows[FUSE_ACCESS] = {"access", false, sizeof(fuse_access_in), 0};  // default_permissions
  rows[FUSE_CREATE] = {"create", true, sizeof(fuse_create_in), 1};
  rows[FUSE_INTERRUPT] = {"interrupt", true, sizeof(fuse_interrupt_in), 0};
  rows[FUSE_BMAP] = {"bmap", false, sizeof(fuse_bmap_in), 0};
  rows[FUSE_DESTROY] = {"destroy", true, 0, 0};
  rows[FUSE_IOCTL] = {"ioctl", true, sizeof(fuse_ioctl_in), 0};
  rows[FUSE_POLL] = {"poll", false, sizeof(fuse_poll_in), 0};
  rows[FUSE_NOTIFY_REPLY] = {"notify_reply", false, 0, 0};
  rows[FUSE_BATCH_FORGET] = {"batch_forget", true, sizeof(fuse_batch_forget_in), 0};
  rows[FUSE_FALLOCATE] = {"fallocate", true, sizeof(fuse_fallocate_in), 0};
  rows[FUSE_READDIRPLUS] = {"readdirplus", true, sizeof(fuse_read_in), 0};
  rows[FUSE_RENAME2] = {"rename2", true, sizeof(fuse_rename2_in), 2};
  rows[FUSE_LSEEK] = {"lseek", true, sizeof(fuse_lseek_in), 0};
  rows[FUSE_COPY_FILE_RANGE] = {"copy_file_range", true, sizeof(fuse_copy_file_range_in), 0};
  rows[wire::kOpSyncfs] = {"syncfs", true, 0, 0};
  rows[wire::kOpTmpfile] = {"tmpfile", true, sizeof(fuse_create_in), 1};
  rows[wire::kOpStatx] = {"statx", true, sizeof(wire::StatxIn), 0};
  rows[wire::kOpCopyFileRange64] = {"copy_file_range_64", true, sizeof(fuse_copy_file_range_in), 0};
  return rows;
}
constexpr std::array<OpcodeRow, wire::kOpcodeEnd> kRows = make_rows();

// Cuts `names` names off the front; false if one has no end.
bool skip_names(ConstBytes& rest, unsigned names) {
  for (; names > 0; --names) {
    const void* end = rest.empty() ? nullptr : std::memchr(rest.data(), 0, rest.size());
    if (end == nullptr) return false;
    rest = rest.subspan(static_cast<size_t>(static_cast<const std::byte*>(end) - rest.data()) + 1);
  }
  return true;
}

// The bytes of data that the structure announces behind structure and names.
uint64_t announced_bytes(uint32_t opcode, const std::byte* arg) {
  switch (opcode) {
    case FUSE_WRITE:
      return reinterpret_cast<const fuse_write_in*>(arg)->size;
    case FUSE_SETXATTR:
      return reinterpret_cast<const fuse_setxattr_in*>(arg)->size;
    case FUSE_IOCTL:
      return reinterpret_cast<const fuse_ioctl_in*>(arg)->in_size;
    case FUSE_BATCH_FORGET:
      return uint64_t{reinterpret_cast<const fuse_batch_forget_in*>(arg)->count} *
             sizeof(fuse_forget_one);
    default:
      return 0;
  }
}

}  // namespace

RequestCheck check_request(ConstBytes message, const RequestLayout& layout) {
  if (message.size() < sizeof(fuse_in_header)) return RequestCheck::malformed;
  const auto& header = *reinterpret_cast<const fuse_in_header*>(message.data());
  if (header.len != message.size()) return RequestCheck::malformed;
  if (header.opcode >= wire::kOpcodeEnd || !kRows[header.opcode].served) {
    return RequestCheck::not_served;
  }
  const OpcodeRow& row = kRows[header.opcode];
  size_t arg_bytes = row.arg_bytes;
  if (header.opcode == FUSE_SETXATTR && layout.setxattr_ext) arg_bytes = sizeof(fuse_setxattr_in);

  ConstBytes rest = message.subspan(sizeof(fuse_in_header));
  if (rest.size() < arg_bytes) return RequestCheck::malformed;
  const std::byte* arg = rest.data();
  rest = rest.subspan(arg_bytes);
  if (!skip_names(rest, row.names)) return RequestCheck::malformed;
  if (rest.size() < announced_bytes(header.opcode, arg)) return RequestCheck::malformed;
  return RequestCheck::good;
}

const char* opcode_name(uint32_t opcode) {
  return opcode < wire::kOpcodeEnd ? kRows[opcode].name : "unknown";
}

bool has_reply(uint32_t opcode) {
  return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT;
}

}  // namespace fusefs
