// Namespace: everything that changes names, links and attributes.
//
// Each function is one transaction: it happens completely or not at all. The kernel has checked
// permissions (default_permissions) and types of the parents where VFS does; what another
// operation may have changed meanwhile is checked here again.
//
// Every function takes the operation's stash. When it has committed, `stash.seq` names the
// transaction and the result is final: the caller must not call again (for -o sync and dirsync it
// waits for `seq` itself).
//
// Common errors: read_only_volume, no_space, io_failed, corrupt, not_permitted (immutable or
// append-only inode). Restarts: on tree nodes, journal space, dirty nodes.
//
// Monitor held for every call.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/inode/directory.h"
#include "core/inode/inode.h"

namespace fusefs {

struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t umask = 0;
};

struct NamespaceStash {
  NodePins pins;
  JournalSeq seq;  // of the commit; 0: nothing was committed
};

// What to create.
struct CreateRequest {
  uint32_t mode = 0;    // type and permissions, before umask and default ACL
  uint64_t device = 0;  // character and block devices
  std::string symlink_target;
};

enum class RenameMode : uint8_t { replace, no_replace, exchange, whiteout };

enum class AtimePolicy : uint8_t { relatime, strict, none };

// Which attributes setattr changes.
struct AttrChange {
  std::optional<uint32_t> permissions;  // 07777
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<Timestamp> atime;
  std::optional<Timestamp> mtime;
  std::optional<Timestamp> ctime;
  bool kill_privileges = false;  // clear suid, sgid and security.capability
};

class Namespace {
 public:
  Namespace(InodeTable& inodes, Store& store, Space& space, NameHash hash);

  //   Errors not_found
  Attempt<InodeRef> lookup(InodeNo parent, std::string_view name, NamespaceStash& stash);
  // Everything except hard links. Handles setgid directories, umask and default ACLs.
  //   Errors exists
  Attempt<InodeRef> create(InodeNo parent, std::string_view name, const CreateRequest& request,
                           const Caller& caller, NamespaceStash& stash);
  // An inode without a name (O_TMPFILE), an orphan until it is linked.
  Attempt<InodeRef> create_unnamed(InodeNo parent, const CreateRequest& request,
                                   const Caller& caller, NamespaceStash& stash);
  //   Errors exists, too_many_links, not_permitted (a directory)
  Attempt<InodeRef> link(InodeNo ino, InodeNo parent, std::string_view name, NamespaceStash& stash);
  // The removed inode is returned; with no link left it is an orphan, removed when the last
  // opener and the kernel let go (reap()).
  //   Errors not_found, is_a_directory
  Attempt<InodeRef> unlink(InodeNo parent, std::string_view name, NamespaceStash& stash);
  //   Errors not_found, not_a_directory, directory_not_empty
  Attempt<InodeRef> rmdir(InodeNo parent, std::string_view name, NamespaceStash& stash);
  // The inode that was replaced, if any.
  //   Errors not_found, exists, directory_not_empty, is_a_directory, not_a_directory,
  //          invalid_argument (into itself)
  Attempt<InodeRef> rename(InodeNo from, std::string_view from_name, InodeNo to,
                           std::string_view to_name, RenameMode mode, const Caller& caller,
                           NamespaceStash& stash);
  Attempt<std::string> read_symlink(InodeNo ino, NamespaceStash& stash);

  // Everything but size (core/file/truncate.h). Keeps the ACL and the mode bits in step.
  Attempt<InodeRef> set_attr(InodeNo ino, const AttrChange& change, NamespaceStash& stash);
  // Immutable, append-only and so on; `flags` of kInode...
  Attempt<InodeRef> set_flags(InodeNo ino, uint32_t flags, NamespaceStash& stash);
  // Clears suid, sgid and security.capability if the inode has any: before a write by somebody
  // without CAP_FSETID (`suid_too`), and the capability before any write.
  Attempt<void> kill_privileges(InodeNo ino, bool suid_too, NamespaceStash& stash);

  // Up to `max` entries after `cookie`, "." and ".." first. With `attributes`, each entry's inode
  // attributes are loaded too.
  struct Listed {
    Dirent entry;
    std::optional<InodeAttr> attr;
  };
  Attempt<std::vector<Listed>> list(InodeNo directory, uint64_t cookie, size_t max, bool attributes,
                                    NamespaceStash& stash);

  // Extended attributes, names with their prefix. POSIX ACLs are the attributes
  // system.posix_acl_access and _default: setting the first changes the mode.
  enum class XattrMode : uint8_t { create_or_replace, create, replace };
  //   Errors no_attribute
  Attempt<std::vector<std::byte>> get_xattr(InodeNo ino, std::string_view name,
                                            NamespaceStash& stash);
  //   Errors exists, no_attribute, value_too_large, no_space
  Attempt<void> set_xattr(InodeNo ino, std::string_view name, ConstBytes value, XattrMode mode,
                          NamespaceStash& stash);
  Attempt<void> remove_xattr(InodeNo ino, std::string_view name, NamespaceStash& stash);
  Attempt<std::vector<std::string>> list_xattrs(InodeNo ino, NamespaceStash& stash);

  // True when the inode has no link, no opener and is unknown to the kernel.
  bool is_reapable(const Inode& inode) const;
  // Removes such an inode and its blocks, as many transactions as it takes. Also for what a crash
  // left. Requires that no page of it is dirty or under writeback.
  Attempt<void> reap(InodeNo ino, NamespaceStash& stash);
  // Orphans left by a crash, in order; after `after`.
  Attempt<std::optional<InodeNo>> next_orphan(InodeNo after, OrphanKind& kind, NodePins& pins);

 private:
  InodeTable& inodes_;
  Store& store_;
  Space& space_;
  NameHash hash_;
};

}  // namespace fusefs
