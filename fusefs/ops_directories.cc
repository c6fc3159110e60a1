#include <algorithm>

#include "fusefs/ops.h"

namespace fusefs {
namespace {

// Entries asked from the core at a time: a page of the kernel's buffer holds fewer.
constexpr size_t kListEntriesMax = 1024;

struct ListStash {
  NamespaceStash names;
  std::vector<std::byte> packed;
};

// The kernel's two forms of an entry, padded to 8 bytes.
//
//     readdirplus only              both
//   +----------------------------+-----+--------+---------+------+------+---------+
//   | entry_out                  | ino | cookie | namelen | type | name | padding |
//   +----------------------------+-----+--------+---------+------+------+---------+
size_t packed_bytes(const Dirent& entry, bool plus) {
  const size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET;
  return FUSE_DIRENT_ALIGN(head + entry.name.size());
}

template <class T>
void append(std::vector<std::byte>& to, const T& object) {
  const ConstBytes bytes = bytes_of(object);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

void pack(std::vector<std::byte>& packed, const Dirent& entry, const fuse_entry_out* plus) {
  const size_t end = packed.size() + packed_bytes(entry, plus != nullptr);
  if (plus != nullptr) append(packed, *plus);
  fuse_dirent head{};
  head.ino = entry.ino.value();
  head.off = entry.cookie;
  head.namelen = static_cast<uint32_t>(entry.name.size());
  head.type = entry.type;
  const ConstBytes head_bytes(reinterpret_cast<const std::byte*>(&head), FUSE_NAME_OFFSET);
  packed.insert(packed.end(), head_bytes.begin(), head_bytes.end());
  const ConstBytes name = bytes_of(std::string_view(entry.name));
  packed.insert(packed.end(), name.begin(), name.end());
  packed.resize(end);
}

// With attributes an entry is a lookup, which the kernel will forget; "." and ".." are not.
void pack_plus(FuseOperation& op, std::vector<std::byte>& packed, const Namespace::Listed& listed) {
  fuse_entry_out out{};
  const bool dots = listed.entry.name == "." || listed.entry.name == "..";
  if (listed.attr && !dots) {
    // What is in memory may be ahead of what the tree says.
    const InodeRef inode = op.volume().inodes().peek(listed.entry.ino);
    out = wire_entry(inode ? NodeView(*inode) : NodeView(*listed.attr));
    op.promise_lookup(listed.entry.ino);
  }
  pack(packed, listed.entry, &out);
}

void serve_list(fuse_req_t req, size_t size, uint64_t cookie, bool plus) {
  const size_t entry_bytes_min = plus ? FUSE_NAME_OFFSET_DIRENTPLUS + 8 : FUSE_NAME_OFFSET + 8;
  const size_t entries_max = std::clamp<size_t>(size / entry_bytes_min, 1, kListEntriesMax);
  serve<ListStash>(
      req,
      [size, cookie, plus, entries_max](FuseOperation& op, ListStash& stash) -> Attempt<void> {
        ATTEMPT(const std::vector<Namespace::Listed> list,
                op.volume().names().list(op.node(), cookie, entries_max, plus, stash.names));
        for (const Namespace::Listed& listed : list) {
          if (stash.packed.size() + packed_bytes(listed.entry, plus) > size) break;
          if (plus) {
            pack_plus(op, stash.packed, listed);
          } else {
            pack(stash.packed, listed.entry, nullptr);
          }
        }
        return {};
      },
      [](Reply& reply, ListStash& stash) { reply.data(stash.packed); });
}

void readdir(fuse_req_t req, fuse_ino_t, size_t size, off_t cookie, fuse_file_info*) {
  serve_list(req, size, static_cast<uint64_t>(cookie), false);
}

void readdirplus(fuse_req_t req, fuse_ino_t, size_t size, off_t cookie, fuse_file_info*) {
  serve_list(req, size, static_cast<uint64_t>(cookie), true);
}

void releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info*) {
  struct Stash {};
  serve<Stash>(
      req, [](FuseOperation&, Stash&) -> Attempt<void> { return {}; },
      [](Reply& reply, Stash&) { reply.empty(); });
}

void fsyncdir(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) {
  struct Stash {
    NodePins pins;
    FsyncStash fsync;
  };
  serve<Stash>(
      req,
      [](FuseOperation& op, Stash& stash) -> Attempt<void> {
        ATTEMPT(const InodeRef inode, op.volume().inodes().get(op.node(), stash.pins));
        return fsync_inode(op.volume().files(), *inode, stash.fsync);
      },
      [](Reply& reply, Stash&) { reply.empty(); });
}

}  // namespace

void add_directory_ops(fuse_lowlevel_ops& ops) {
  ops.readdir = readdir;
  ops.readdirplus = readdirplus;
  ops.releasedir = releasedir;
  ops.fsyncdir = fsyncdir;
}

}  // namespace fusefs
