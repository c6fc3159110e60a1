// Inode: the item's encoding, and the object's end.
#include "core/inode/inode.h"

namespace fusefs {
namespace {

constexpr uint32_t kTypeMask = 0170000;

bool is_known_type(uint32_t mode) {
  switch (mode & kTypeMask) {
    case 0010000:  // fifo
    case 0020000:  // character device
    case 0040000:  // directory
    case 0060000:  // block device
    case 0100000:  // regular file
    case 0120000:  // symlink
    case 0140000:  // socket
      return (mode & ~(kTypeMask | 07777u)) == 0;
    default:
      return false;
  }
}

}  // namespace

InodeAttr InodeAttr::from_value(InodeNo ino, const InodeValue& value) {
  InodeAttr attr;
  attr.ino = ino;
  attr.mode = value.mode;
  attr.uid = value.uid;
  attr.gid = value.gid;
  attr.link_count = value.link_count;
  attr.size = value.size;
  attr.block_count = BlockCount(value.block_count);
  attr.parent = InodeNo(value.parent);
  attr.atime = value.atime.timestamp();
  attr.mtime = value.mtime.timestamp();
  attr.ctime = value.ctime.timestamp();
  attr.btime = value.btime.timestamp();
  attr.device = value.device;
  attr.flags = value.flags;
  attr.xattr_count = value.xattr_count;
  attr.change_count = value.change_count;
  attr.generation = value.generation;
  return attr;
}

InodeValue InodeAttr::to_value() const {
  InodeValue value{};
  value.mode = mode;
  value.uid = uid;
  value.gid = gid;
  value.link_count = link_count;
  value.size = size;
  value.block_count = block_count.value();
  value.parent = parent.value();
  value.atime = TimeValue::of(atime);
  value.mtime = TimeValue::of(mtime);
  value.ctime = TimeValue::of(ctime);
  value.btime = TimeValue::of(btime);
  value.device = device;
  value.flags = flags;
  value.xattr_count = xattr_count;
  value.change_count = change_count;
  value.generation = generation;
  return value;
}

Result<InodeAttr> decode_inode(const ItemView& item) {
  if (item.key.type != KeyType::inode || item.value.size() != sizeof(InodeValue)) {
    return Error::corrupt;
  }
  const InodeValue& value = view_as<InodeValue>(item.value);
  for (const TimeValue& time : {value.atime, value.mtime, value.ctime, value.btime}) {
    if (time.nsec >= kNsPerSecond) return Error::corrupt;
  }
  if (!is_known_type(value.mode) || value.zero != 0 || (value.flags & ~kInodeFlagsKnown) != 0 ||
      value.link_count > kLinkCountMax || value.size > kFileBytesMax) {
    return Error::corrupt;
  }
  return InodeAttr::from_value(InodeNo(item.key.object), value);
}

Inode::Inode(InodeTable& table, const InodeAttr& loaded)
    : ino(loaded.ino),
      attr(loaded),
      disk_size(loaded.size),
      tail_unknown(loaded.is_regular() && loaded.size % kBlockBytes != 0),
      pages_lock(table.pages_locks(), loaded.ino.value()),
      table_(table) {}

Inode::~Inode() = default;

void Inode::last_reference_dropped() { table_.unreferenced(*this); }

}  // namespace fusefs
