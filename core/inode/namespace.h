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
// Sizes: a directory's attr.size counts its entries (stat_size() is for stat(2)), its block_count
// is 0. attr.size of a regular file may be ahead of the tree: what is stored here is disk_size.
//
// Monitor held for every call.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/inode/acl.h"
#include "core/inode/directory.h"
#include "core/inode/inode.h"
#include "core/inode/inode_edit.h"
#include "core/inode/xattr_items.h"

namespace fusefs {

struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t umask = 0;
};

struct NamespaceStash {
  NodePins pins;
  JournalSeq seq;  // of the commit; 0: nothing was committed

  // Before a call as a part of something larger that has committed before.
  void begin_next() { seq = JournalSeq(); }
};

// What to create.
struct CreateRequest {
  uint32_t mode = 0;    // type and permissions, before umask and default ACL
  uint64_t device = 0;  // character and block devices
  std::string symlink_target;
};

enum class RenameMode : uint8_t { replace, no_replace, exchange, whiteout, whiteout_no_replace };

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
  // The times are the present ones (utimensat(2) with UTIME_NOW): allowed on append-only inodes.
  bool times_are_now = false;
};

class Namespace {
 public:
  Namespace(InodeTable& inodes, Store& store, Space& space, NameHash hash);

  // "." and ".." are understood too, for NFS handles.
  //   Errors not_found
  Attempt<InodeRef> lookup(InodeNo parent, std::string_view name, NamespaceStash& stash);
  // Everything except hard links. Handles setgid directories, umask, default ACLs and inherited
  // flags.
  //   Errors exists, not_found (the directory has been removed), too_many_links (subdirectories)
  Attempt<InodeRef> create(InodeNo parent, std::string_view name, const CreateRequest& request,
                           const Caller& caller, NamespaceStash& stash);
  // An inode without a name (O_TMPFILE), an orphan until it is linked.
  Attempt<InodeRef> create_unnamed(InodeNo parent, const CreateRequest& request,
                                   const Caller& caller, NamespaceStash& stash);
  //   Errors exists, too_many_links, not_permitted (a directory), not_found (removed already)
  Attempt<InodeRef> link(InodeNo ino, InodeNo parent, std::string_view name, NamespaceStash& stash);
  // The removed inode is returned; with no link left it is an orphan, removed when the last
  // opener and the kernel let go (reap()).
  //   Errors not_found, is_a_directory
  Attempt<InodeRef> unlink(InodeNo parent, std::string_view name, NamespaceStash& stash);
  //   Errors not_found, not_a_directory, directory_not_empty
  Attempt<InodeRef> rmdir(InodeNo parent, std::string_view name, NamespaceStash& stash);
  // The inode that was replaced, if any. Two names of one inode: nothing happens, as POSIX has it.
  // With `whiteout` a character device 0:0 stays behind under the old name.
  //   Errors not_found, exists, directory_not_empty, is_a_directory, not_a_directory,
  //          invalid_argument (into itself)
  Attempt<InodeRef> rename(InodeNo from, std::string_view from_name, InodeNo to,
                           std::string_view to_name, RenameMode mode, const Caller& caller,
                           NamespaceStash& stash);
  Attempt<std::string> read_symlink(InodeNo ino, NamespaceStash& stash);

  // Everything but size (core/file/truncate.h). Keeps the ACL and the mode bits in step. A change
  // of owner clears suid, sgid and security.capability, except of directories.
  Attempt<InodeRef> set_attr(InodeNo ino, const AttrChange& change, NamespaceStash& stash);
  // Immutable, append-only and so on; `flags` of kInode...
  //   Errors not_supported (unknown flags, or not for this type)
  Attempt<InodeRef> set_flags(InodeNo ino, uint32_t flags, NamespaceStash& stash);
  // Clears suid, sgid and security.capability if the inode has any: before a write by somebody
  // without CAP_FSETID (`suid_too`), and the capability before any write.
  Attempt<void> kill_privileges(InodeNo ino, bool suid_too, NamespaceStash& stash);

  // Up to `max` entries after `cookie`, "." and ".." first. With `attributes`, each entry's inode
  // attributes are loaded too, except those of "." and "..", and of entries whose inode is not
  // readable. Empty at the end.
  struct Listed {
    Dirent entry;
    std::optional<InodeAttr> attr;
  };
  Attempt<std::vector<Listed>> list(InodeNo directory, uint64_t cookie, size_t max, bool attributes,
                                    NamespaceStash& stash);

  // Extended attributes, names with their prefix. POSIX ACLs are the attributes
  // system.posix_acl_access and _default: setting the first changes the mode, and it is kept only
  // if the mode does not say it all. Names of other kinds are refused: not_supported. Who may see
  // trusted.* is the caller's to decide.
  enum class XattrMode : uint8_t { create_or_replace, create, replace };
  //   Errors no_attribute
  Attempt<std::vector<std::byte>> get_xattr(InodeNo ino, std::string_view name,
                                            NamespaceStash& stash);
  // `kill_sgid`: setting the access ACL clears sgid too (FUSE_SETXATTR_ACL_KILL_SGID).
  //   Errors exists, no_attribute, value_too_large, invalid_argument (not an ACL), no_space (also
  //          when the list of names would be longer than kXattrListBytesMax), access_denied
  //          (default ACL of something that is no directory)
  Attempt<void> set_xattr(InodeNo ino, std::string_view name, ConstBytes value, XattrMode mode,
                          NamespaceStash& stash, bool kill_sgid = false);
  Attempt<void> remove_xattr(InodeNo ino, std::string_view name, NamespaceStash& stash);
  Attempt<std::vector<std::string>> list_xattrs(InodeNo ino, NamespaceStash& stash);

  // True when the inode has no link, no opener and is unknown to the kernel.
  bool is_reapable(const Inode& inode) const;
  // Removes such an inode and its blocks, as many transactions as it takes. Also for what a crash
  // left. Does nothing to others. Requires that no page of it is dirty or under writeback. Unlike
  // the rest it is called again after it has committed, and may be when it has ended.
  //   Restarts also between its transactions
  Attempt<void> reap(InodeNo ino, NamespaceStash& stash);
  // The first orphan after `after`, in order of inode numbers.
  Attempt<std::optional<InodeNo>> next_orphan(InodeNo after, OrphanKind& kind, NodePins& pins);

 private:
  // The directory, for a change of its entries: not removed.
  Attempt<InodeRef> get_directory(InodeNo ino, NamespaceStash& stash);
  // The inode of an entry: that it is missing means a corrupt volume.
  Attempt<InodeRef> get_entry_inode(const Dirent& entry, NamespaceStash& stash);

  // namespace_create.cc
  Attempt<InodeAttr> stage_new_inode(Transaction& txn, Inode& directory,
                                     const CreateRequest& request, const Caller& caller);
  InodeRef adopt_new_inode(const InodeAttr& attr, JournalSeq seq);

  // namespace_remove.cc
  Attempt<InodeRef> remove_name(InodeNo parent, std::string_view name, bool directory,
                                NamespaceStash& stash);

  // namespace_rename.cc
  struct RenamePlan;
  Attempt<void> find_renamed(RenamePlan& plan, std::string_view from_name, std::string_view to_name,
                             NamespaceStash& stash);
  Attempt<void> check_rename(RenamePlan& plan, NamespaceStash& stash);
  Attempt<void> check_not_inside(const Inode& directory, InodeNo ancestor, NamespaceStash& stash);
  void stage_exchange(RenamePlan& plan);
  Attempt<void> stage_move(RenamePlan& plan, std::string_view to_name, const Caller& caller);

  // xattr.cc
  static bool lacks_special(const Inode& inode, SpecialXattr which);
  Attempt<XattrPlace> find_special(Transaction& txn, Inode& inode, SpecialXattr which);
  Attempt<std::optional<Acl>> read_acl(Transaction& txn, Inode& inode, SpecialXattr which);
  Attempt<void> stage_access_acl_of_mode(Transaction& txn, Inode& inode, uint32_t mode);
  Attempt<void> stage_capability_removal(Transaction& txn, InodeEdit& edit);
  Attempt<void> check_xattr_list_room(Transaction& txn, const Inode& inode, std::string_view name);
  Attempt<void> check_xattr_room(Transaction& txn, const InodeEdit& edit, std::string_view name,
                                 const XattrPlace& place, ConstBytes value);
  Attempt<void> set_acl(Transaction& txn, InodeEdit& edit, std::string_view name,
                        const XattrPlace& place, ConstBytes value, bool kill_sgid,
                        NamespaceStash& stash);
  Attempt<void> commit_xattr(Transaction& txn, InodeEdit& edit, std::string_view name,
                             const XattrPlace& place, std::optional<ConstBytes> value,
                             NamespaceStash& stash);

  // directory_list.cc
  Attempt<void> load_attributes(std::vector<Listed>& listed, NamespaceStash& stash);

  InodeTable& inodes_;
  Store& store_;
  Space& space_;
  NameHash hash_;
};

}  // namespace fusefs
