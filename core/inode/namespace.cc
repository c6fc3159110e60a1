// Finding things by name.
#include "core/inode/namespace.h"

namespace fusefs {

Namespace::Namespace(InodeTable& inodes, Store& store, Space& space, NameHash hash)
    : inodes_(inodes), store_(store), space_(space), hash_(hash) {}

Attempt<InodeRef> Namespace::get_directory(InodeNo ino, NamespaceStash& stash) {
  ATTEMPT(InodeRef directory, inodes_.get(ino, stash.pins));
  if (!directory->attr.is_directory()) return Error::not_a_directory;
  if (directory->attr.link_count == 0) return Error::not_found;
  return directory;
}

Attempt<InodeRef> Namespace::get_entry_inode(const Dirent& entry, NamespaceStash& stash) {
  Attempt<InodeRef> found = inodes_.get(entry.ino, stash.pins);
  if (found.failed() && found.error() == Error::not_found) return Error::corrupt;
  return found;
}

Attempt<InodeRef> Namespace::lookup(InodeNo parent, std::string_view name, NamespaceStash& stash) {
  ATTEMPT(InodeRef directory, inodes_.get(parent, stash.pins));
  if (!directory->attr.is_directory()) return Error::not_a_directory;
  if (directory->life != Inode::Life::live) return Error::not_found;
  if (name == ".") return directory;
  if (name == "..") return inodes_.get(directory->attr.parent, stash.pins);
  TRY_OK(check_name(name));
  Transaction txn(store_, stash.pins);
  ATTEMPT(const std::optional<Dirent> entry, find_entry(txn, hash_, parent, name));
  if (!entry) return Error::not_found;
  return get_entry_inode(*entry, stash);
}

Attempt<std::string> Namespace::read_symlink(InodeNo ino, NamespaceStash& stash) {
  ATTEMPT(const InodeRef inode, inodes_.get(ino, stash.pins));
  if (!inode->attr.is_symlink()) return Error::invalid_argument;
  ATTEMPT(const std::optional<ItemView> item, store_.tree().find(symlink_key(ino), stash.pins));
  if (!item || item->value.empty() || item->value.size() > kSymlinkBytesMax) return Error::corrupt;
  return std::string(text_of(item->value));
}

}  // namespace fusefs
