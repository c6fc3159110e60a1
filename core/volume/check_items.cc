// The checker's view of single items: does each make sense, alone and beside its neighbours?
#include <sys/stat.h>

#include "core/volume/check_impl.h"

namespace fusefs {
namespace {

constexpr uint64_t kXattrChunkMask = (uint64_t{1} << kXattrChunkBits) - 1;

std::string inode_text(uint64_t ino) { return "inode " + std::to_string(ino); }

bool known_type(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      return true;
    default:
      return false;
  }
}

}  // namespace

ItemChecker::ItemChecker(const Superblock& superblock, CheckedTree& tree, CheckReport& report,
                         CheckFindings& findings)
    : superblock_(superblock), tree_(tree), report_(report), findings_(findings) {}

void ItemChecker::damaged(const Key& key, const char* what) {
  findings_.add(FindingKind::item_damaged, std::string(key_type_name(key.type)) +
                                               " item of object " + std::to_string(key.object) +
                                               " at " + std::to_string(key.offset) + ": " + what);
}

bool ItemChecker::in_data_area(BlockRange blocks) const {
  return blocks.first.value() >= superblock_.data_first && blocks.first < blocks.end &&
         blocks.end.value() <= superblock_.block_count;
}

void ItemChecker::item(const Key& key, ConstBytes value) {
  ++report_.counts.item_count;
  if (key.object != object_) {
    end_object();
    begin_object(key.object);
  }
  if (key.type != KeyType::xattr) end_xattr();
  const bool special = key.object == kSharedObject || key.object == kOrphanObject;
  if (!special && key.type != KeyType::inode && !has_inode_ && !tree_.damaged) {
    damaged(key, "its inode is missing");
  }
  switch (key.type) {
    case KeyType::inode:
      return inode(key, value);
    case KeyType::symlink:
      symlink_ = true;
      if (value.empty() || value.size() > kSymlinkBytesMax) damaged(key, "target length");
      return;
    case KeyType::xattr:
      return xattr(key, value);
    case KeyType::dirent:
      return dirent(key, value);
    case KeyType::extent:
      return extent(key, value);
    case KeyType::shared:
      return shared(key, value);
    case KeyType::orphan:
      return orphan(key, value);
  }
  damaged(key, "unknown type");
}

void ItemChecker::end() { end_object(); }

void ItemChecker::begin_object(uint64_t object) {
  object_ = object;
  has_inode_ = false;
  extents_end_ = FileBlock(0);
  mapped_blocks_ = xattr_count_ = 0;
  symlink_ = false;
}

void ItemChecker::end_object() {
  end_xattr();
  if (!has_inode_) return;
  has_inode_ = false;
  if (tree_.damaged) return;  // some of its items may have been lost with a node
  if (mapped_blocks_ != inode_.block_count) {
    Finding& finding = findings_.add(FindingKind::block_count_wrong,
                                     inode_text(object_) + ": block count is " +
                                         std::to_string(inode_.block_count.get()) + ", " +
                                         std::to_string(mapped_blocks_) + " are mapped");
    finding.ino = object_;
    finding.other = mapped_blocks_;
  }
  if (xattr_count_ != inode_.xattr_count) {
    Finding& finding = findings_.add(FindingKind::xattr_count_wrong,
                                     inode_text(object_) + ": attribute count is " +
                                         std::to_string(inode_.xattr_count.get()) + ", " +
                                         std::to_string(xattr_count_) + " are there");
    finding.ino = object_;
    finding.other = xattr_count_;
  }
  if (((inode_.mode & S_IFMT) == S_IFLNK) != symlink_) {
    findings_.add(FindingKind::item_damaged,
                  inode_text(object_) + (symlink_ ? ": has a symlink target and is none"
                                                  : ": symlink without a target"));
  }
}

void ItemChecker::inode(const Key& key, ConstBytes value) {
  if (value.size() != sizeof(InodeValue)) return damaged(key, "length");
  inode_ = view_as<InodeValue>(value);
  has_inode_ = true;
  if (key.offset != 0 || key.object == 0 || key.object > kInodeNoMax) damaged(key, "key");
  if (!known_type(inode_.mode)) damaged(key, "file type");
  if (inode_.size > kFileBytesMax) damaged(key, "size");
  for (const TimeValue* time : {&inode_.atime, &inode_.mtime, &inode_.ctime, &inode_.btime}) {
    if (time->nsec >= kNsPerSecond) damaged(key, "nanoseconds");
  }
  CheckedInode checked;
  checked.ino = key.object;
  checked.parent = inode_.parent;
  checked.size = inode_.size;
  checked.mode = inode_.mode;
  checked.link_count = inode_.link_count;
  ++report_.counts.inode_count;
  if (checked.directory()) ++report_.counts.directory_count;
  tree_.max_inode = std::max(tree_.max_inode, key.object);
  tree_.inodes.push_back(checked);
}

void ItemChecker::xattr(const Key& key, ConstBytes value) {
  const uint64_t first = key.offset & ~kXattrChunkMask;
  const uint64_t chunk = key.offset & kXattrChunkMask;
  if (chunk != 0) {
    if (first != xattr_first_ || chunk != xattr_chunk_ + 1 || value.size() > xattr_bytes_left_) {
      return damaged(key, "a piece of a value out of place");
    }
    xattr_chunk_ = chunk;
    xattr_bytes_left_ -= value.size();
    return;
  }
  end_xattr();
  if (value.size() < sizeof(XattrValue)) return damaged(key, "length");
  const XattrValue& header = view_as<XattrValue>(value);
  const size_t fixed = sizeof(XattrValue) + header.name_len;
  if (header.name_len == 0 || value.size() < fixed || header.value_len > kXattrValueBytesMax ||
      value.size() - fixed > header.value_len) {
    return damaged(key, "lengths");
  }
  ++xattr_count_;
  xattr_first_ = first;
  xattr_chunk_ = 0;
  xattr_bytes_left_ = header.value_len - (value.size() - fixed);
}

void ItemChecker::end_xattr() {
  if (xattr_bytes_left_ != 0 && !tree_.damaged) {
    findings_.add(FindingKind::item_damaged,
                  inode_text(object_) + ": the end of an attribute's value is missing");
  }
  xattr_bytes_left_ = 0;
}

void ItemChecker::dirent(const Key& key, ConstBytes value) {
  if (value.size() < sizeof(DirentValue)) return damaged(key, "length");
  const DirentValue& entry = view_as<DirentValue>(value);
  if (entry.name_len == 0 || value.size() != sizeof(DirentValue) + entry.name_len) {
    return damaged(key, "name length");
  }
  const std::string_view name = text_of(value.subspan(sizeof(DirentValue)));
  if (name == "." || name == ".." || name.find('/') != name.npos || name.find('\0') != name.npos) {
    damaged(key, "name");
  }
  if (has_inode_ && (inode_.mode & S_IFMT) != S_IFDIR) damaged(key, "not in a directory");
  ++report_.counts.entry_count;
  tree_.entries.push_back({entry.ino, key.object, key.offset, entry.type});
}

void ItemChecker::extent(const Key& key, ConstBytes value) {
  if (value.size() != sizeof(ExtentValue)) return damaged(key, "length");
  const ExtentValue& extent = view_as<ExtentValue>(value);
  if (extent.length == 0 || extent.length > kExtentBlocksMax || extent.zero != 0 ||
      (extent.flags & ~kExtentUnwritten) != 0) {
    return damaged(key, "fields");
  }
  ++report_.counts.extent_count;
  const FileRange range = file_range(FileBlock(key.offset), BlockCount(extent.length));
  const BlockRange blocks = block_range(BlockNo(extent.start), range.count());
  if (range.first < extents_end_ || !in_data_area(blocks)) {
    findings_.add(
        FindingKind::extent_outside,
        inode_text(key.object) + ": extent at file block " + std::to_string(key.offset) +
            (range.first < extents_end_ ? " overlaps the one before" : " leaves the data area"));
    if (!in_data_area(blocks)) return;
  }
  extents_end_ = range.end;
  mapped_blocks_ += extent.length;
  tree_.extents.push_back(blocks);
}

void ItemChecker::shared(const Key& key, ConstBytes value) {
  if (key.object != kSharedObject || value.size() != sizeof(SharedValue)) {
    return damaged(key, "length");
  }
  const SharedValue& shared = view_as<SharedValue>(value);
  if (shared.length == 0 || shared.length > superblock_.block_count || shared.count < 2 ||
      shared.zero != 0) {
    return damaged(key, "fields");
  }
  const BlockRange blocks = block_range(BlockNo(key.offset), BlockCount(shared.length));
  if (!in_data_area(blocks) || blocks.first < shared_end_) return damaged(key, "range");
  shared_end_ = blocks.end;
  tree_.shared.push_back({blocks, shared.count});
}

void ItemChecker::orphan(const Key& key, ConstBytes value) {
  if (key.object != kOrphanObject || value.size() != sizeof(OrphanValue)) {
    return damaged(key, "length");
  }
  const auto kind = static_cast<OrphanKind>(view_as<OrphanValue>(value).kind);
  if (kind != OrphanKind::unlinked && kind != OrphanKind::truncate) return damaged(key, "kind");
  ++report_.counts.orphan_count;
  tree_.orphans.emplace_back(key.offset, kind);
}

}  // namespace fusefs
