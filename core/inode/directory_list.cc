// readdir, with or without attributes.
//
// Entries come in the order of their cookies, that is, of their names' hashes; inodes lie in the
// tree in the order of their numbers. Attributes are therefore fetched in that order, and an
// attempt that lacks one node asks for all others that it lacks too, so that the device reads them
// side by side.
#include <algorithm>

#include "core/inode/namespace.h"

namespace fusefs {
namespace {

constexpr uint64_t kDotCookie = 1;
constexpr uint64_t kDotDotCookie = 2;
constexpr uint8_t kDirectoryType = 4;
constexpr size_t kReserveMax = 256;

}  // namespace

Attempt<std::vector<Namespace::Listed>> Namespace::list(InodeNo directory, uint64_t cookie,
                                                        size_t max, bool attributes,
                                                        NamespaceStash& stash) {
  ATTEMPT(const InodeRef inode, inodes_.get(directory, stash.pins));
  if (!inode->attr.is_directory()) return Error::not_a_directory;
  std::vector<Listed> listed;
  if (inode->attr.link_count == 0) return listed;  // removed: not even "." is in it
  listed.reserve(std::min({max, kReserveMax, static_cast<size_t>(inode->attr.size) + 2}));
  const auto add_dot = [&](uint64_t at, InodeNo ino, const char* name) {
    if (cookie >= at || listed.size() >= max) return;
    listed.push_back({{at, ino, kDirectoryType, name}, std::nullopt});
  };
  add_dot(kDotCookie, directory, ".");
  add_dot(kDotDotCookie, inode->attr.parent, "..");

  Tree& tree = store_.tree();
  while (listed.size() < max) {
    ATTEMPT(std::optional<Dirent> entry, next_entry(tree, directory, cookie, stash.pins));
    if (!entry) break;
    cookie = entry->cookie;
    listed.push_back({std::move(*entry), std::nullopt});
  }
  if (listed.size() == max && cookie >= kFirstCookie) {
    tree.read_ahead(dirent_key(directory, cookie));
  }
  if (attributes) ATTEMPT_OK(load_attributes(listed, stash));
  return listed;
}

Attempt<void> Namespace::load_attributes(std::vector<Listed>& listed, NamespaceStash& stash) {
  std::vector<Listed*> by_number;
  by_number.reserve(listed.size());
  for (Listed& one : listed) {
    if (one.entry.cookie >= kFirstCookie) by_number.push_back(&one);
  }
  std::sort(by_number.begin(), by_number.end(),
            [](const Listed* a, const Listed* b) { return a->entry.ino < b->entry.ino; });
  std::optional<Restart> wait;
  for (Listed* one : by_number) {
    if (const InodeAttr* attr = inodes_.peek_attr(one->entry.ino)) {
      one->attr = *attr;
      continue;
    }
    Attempt<std::optional<ItemView>> found =
        store_.tree().find(inode_key(one->entry.ino), stash.pins);
    if (found.must_restart()) wait = found.restart();
    // One that cannot be read spoils its own lookup, not the list.
    if (!found.ok() || !found.value()) continue;
    const Result<InodeAttr> attr = decode_inode(*found.value());
    if (attr.ok()) one->attr = attr.value();
  }
  if (wait) return *wait;
  return {};
}

}  // namespace fusefs
