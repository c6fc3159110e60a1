#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "fusefs/ops.h"

namespace fusefs {
namespace {

// Names that Linux filesystems keep; what else the kernel lets through is not for us.
bool is_kept(std::string_view name) {
  return name.starts_with("user.") || name.starts_with("trusted.") ||
         name.starts_with("security.") || name == "system.posix_acl_access" ||
         name == "system.posix_acl_default";
}

// The answer of getxattr and listxattr: the value, or with room for nothing its size.
struct ValueStash {
  NamespaceStash names;
  std::vector<std::byte> value;
};

void answer_value(Reply& reply, ConstBytes value, size_t room) {
  if (room == 0) {
    fuse_getxattr_out out{};
    out.size = static_cast<uint32_t>(value.size());
    reply.object(out);
  } else if (value.size() > room) {
    reply.error(error_errno(Error::range_too_small));
  } else {
    reply.data(value);
  }
}

void getxattr(fuse_req_t req, fuse_ino_t, const char* name, size_t room) {
  serve<ValueStash>(
      req,
      [name = std::string_view(name)](FuseOperation& op, ValueStash& stash) -> Attempt<void> {
        if (!is_kept(name)) return Error::not_supported;
        ATTEMPT_INTO(stash.value, op.volume().names().get_xattr(op.node(), name, stash.names));
        return {};
      },
      [room](Reply& reply, ValueStash& stash) { answer_value(reply, stash.value, room); });
}

void listxattr(fuse_req_t req, fuse_ino_t, size_t room) {
  serve<ValueStash>(
      req,
      [](FuseOperation& op, ValueStash& stash) -> Attempt<void> {
        ATTEMPT(const std::vector<std::string> names,
                op.volume().names().list_xattrs(op.node(), stash.names));
        for (const std::string& name : names) {
          if (name.starts_with("trusted.") && !op.from_root()) continue;
          const ConstBytes text = bytes_of(std::string_view(name.c_str(), name.size() + 1));
          stash.value.insert(stash.value.end(), text.begin(), text.end());
        }
        return {};
      },
      [room](Reply& reply, ValueStash& stash) { answer_value(reply, stash.value, room); });
}

struct ChangeStash {
  enum class Phase : uint8_t { change, sgid, settle };
  Phase phase = Phase::change;
  NamespaceStash names;
  NamespaceStash sgid_names;
  Notifier::Stash notify;
};

// Linux looks at times and ACLs again when the answer is no error.
Attempt<void> settle_change(FuseOperation& op, JournalSeq seq, const Inode& inode,
                            ChangeStash& stash) {
  const Attempt<void> settled = op.server().settle(seq, inode);
  if (!settled.failed()) return settled;
  COMMIT_OK(op.server().notifier().invalidate_attr(inode.ino, stash.notify));
  return settled;
}

void removexattr(fuse_req_t req, fuse_ino_t, const char* name) {
  serve<ChangeStash>(
      req,
      [name = std::string_view(name)](FuseOperation& op, ChangeStash& stash) -> Attempt<void> {
        using Phase = ChangeStash::Phase;
        if (!is_kept(name)) return Error::not_supported;
        if (stash.phase == Phase::change) {
          COMMIT_OK(op.volume().names().remove_xattr(op.node(), name, stash.names));
          stash.phase = Phase::settle;
        }
        ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), stash.names.pins));
        return settle_change(op, stash.names.seq, *inode, stash);
      },
      [](Reply& reply, ChangeStash&) { reply.empty(); });
}

std::optional<Namespace::XattrMode> xattr_mode(uint32_t flags) {
  switch (flags) {
    case 0:
      return Namespace::XattrMode::create_or_replace;
    case XATTR_CREATE:
      return Namespace::XattrMode::create;
    case XATTR_REPLACE:
      return Namespace::XattrMode::replace;
    default:
      return std::nullopt;
  }
}

// Setting an access ACL clears the setgid bit unless the caller is in the group or capable; the
// kernel knows and says so.
Attempt<void> clear_sgid(FuseOperation& op, ChangeStash& stash) {
  ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), stash.sgid_names.pins));
  if ((inode->attr.mode & S_ISGID) == 0) return {};
  AttrChange change;
  change.permissions = inode->attr.mode & 07777 & ~uint32_t{S_ISGID};
  COMMIT_OK(op.volume().names().set_attr(op.node(), change, stash.sgid_names));
  return {};
}

Attempt<void> change_xattr(FuseOperation& op, size_t arg_bytes, ChangeStash& stash) {
  using Phase = ChangeStash::Phase;
  const auto& in = op.request().arg<fuse_setxattr_in>();
  const bool acl_kills_sgid = arg_bytes == sizeof(fuse_setxattr_in) &&
                              (in.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) != 0;
  const std::string_view name = op.request().name_after(arg_bytes);
  const ConstBytes value = op.request().after(arg_bytes + name.size() + 1).first(in.size);
  const std::optional<Namespace::XattrMode> mode = xattr_mode(in.flags);
  if (!mode) return Error::invalid_argument;
  if (!is_kept(name)) return Error::not_supported;
  if (stash.phase == Phase::change) {
    COMMIT_OK(op.volume().names().set_xattr(op.node(), name, value, *mode, stash.names));
    stash.phase = Phase::sgid;
  }
  if (stash.phase == Phase::sgid) {
    if (acl_kills_sgid && name == "system.posix_acl_access") COMMIT_OK(clear_sgid(op, stash));
    stash.phase = Phase::settle;
  }
  ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), stash.names.pins));
  return settle_change(op, inode->changed_seq, *inode, stash);
}

}  // namespace

void serve_setxattr(const RequestLayout& layout) {
  const size_t arg_bytes =
      layout.setxattr_ext ? sizeof(fuse_setxattr_in) : size_t{FUSE_COMPAT_SETXATTR_IN_SIZE};
  serve<ChangeStash>([arg_bytes](FuseOperation& op,
                                 ChangeStash& stash) { return change_xattr(op, arg_bytes, stash); },
                     [](Reply& reply, ChangeStash&) { reply.empty(); });
}

void add_xattr_ops(fuse_lowlevel_ops& ops) {
  ops.getxattr = getxattr;
  ops.listxattr = listxattr;
  ops.removexattr = removexattr;
}

}  // namespace fusefs
