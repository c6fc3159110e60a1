#include "fusefs/reply.h"

#include <sys/stat.h>

#include <array>

#include "core/base/check.h"

namespace fusefs {
namespace {

constexpr uint64_t kSectorsPerBlock = kBlockBytes / 512;

uint64_t sectors(const NodeView& node) {
  return (node.attr.block_count + node.delayed_blocks).value() * kSectorsPerBlock;
}

wire::StatxTime statx_time(Timestamp time) { return {time.sec, time.nsec, 0}; }

}  // namespace

uint32_t wire_device(uint64_t device) {
  const uint32_t major = static_cast<uint32_t>(device >> 32) & 0xfff;
  const uint32_t minor = static_cast<uint32_t>(device) & 0xfffff;
  return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

uint64_t core_device(uint32_t device) {
  const uint64_t major = (device & 0xfff00) >> 8;
  const uint64_t minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  return (major << 32) | minor;
}

fuse_attr wire_attr(const NodeView& node) {
  const InodeAttr& attr = node.attr;
  fuse_attr out{};
  out.ino = attr.ino.value();
  out.size = stat_size(attr);
  out.blocks = sectors(node);
  out.atime = static_cast<uint64_t>(attr.atime.sec);
  out.mtime = static_cast<uint64_t>(attr.mtime.sec);
  out.ctime = static_cast<uint64_t>(attr.ctime.sec);
  out.atimensec = attr.atime.nsec;
  out.mtimensec = attr.mtime.nsec;
  out.ctimensec = attr.ctime.nsec;
  out.mode = attr.mode;
  out.nlink = attr.link_count;
  out.uid = attr.uid;
  out.gid = attr.gid;
  out.rdev = wire_device(attr.device);
  out.blksize = kBlockBytes;
  return out;
}

fuse_attr_out wire_attr_out(const NodeView& node) {
  fuse_attr_out out{};
  out.attr_valid = kValidSeconds;
  out.attr = wire_attr(node);
  return out;
}

fuse_entry_out wire_entry(const NodeView& node) {
  fuse_entry_out out{};
  out.nodeid = node.attr.ino.value();
  out.generation = node.attr.generation;
  out.entry_valid = kValidSeconds;
  out.attr_valid = kValidSeconds;
  out.attr = wire_attr(node);
  return out;
}

fuse_entry_out wire_no_entry() {
  fuse_entry_out out{};
  out.entry_valid = kValidSeconds;
  return out;
}

wire::StatxOut wire_statx(const NodeView& node) {
  const InodeAttr& attr = node.attr;
  wire::StatxOut out{};
  out.attr_valid = kValidSeconds;
  wire::Statx& stat = out.stat;
  stat.mask = STATX_BASIC_STATS | STATX_BTIME;
  stat.blksize = kBlockBytes;
  stat.attributes_mask = STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP;
  if ((attr.flags & kInodeImmutable) != 0) stat.attributes |= STATX_ATTR_IMMUTABLE;
  if ((attr.flags & kInodeAppendOnly) != 0) stat.attributes |= STATX_ATTR_APPEND;
  if ((attr.flags & kInodeNoDump) != 0) stat.attributes |= STATX_ATTR_NODUMP;
  stat.nlink = attr.link_count;
  stat.uid = attr.uid;
  stat.gid = attr.gid;
  stat.mode = static_cast<uint16_t>(attr.mode);
  stat.ino = attr.ino.value();
  stat.size = stat_size(attr);
  stat.blocks = sectors(node);
  stat.atime = statx_time(attr.atime);
  stat.btime = statx_time(attr.btime);
  stat.ctime = statx_time(attr.ctime);
  stat.mtime = statx_time(attr.mtime);
  stat.rdev_major = static_cast<uint32_t>(attr.device >> 32);
  stat.rdev_minor = static_cast<uint32_t>(attr.device);
  return out;
}

void Reply::data(ConstBytes bytes) { send(0, std::span(&bytes, 1)); }

void Reply::data(ConstBytes first, ConstBytes second) {
  const std::array<ConstBytes, 2> parts = {first, second};
  send(0, parts);
}

void Reply::send(int error, std::span<const ConstBytes> parts) {
  CHECK(!sent_);
  sent_ = true;
  error_ = error;
  std::array<iovec, 3> message;
  CHECK(parts.size() < message.size());
  fuse_out_header header{};
  size_t count = 0;
  message[count++] = {&header, sizeof(header)};
  for (const ConstBytes& part : parts) {
    message[count++] = {const_cast<std::byte*>(part.data()), part.size()};
    bytes_ += part.size();
  }
  header.len = static_cast<uint32_t>(sizeof(header) + bytes_);
  header.error = error;
  header.unique = unique_;
  delivered_ = channel_.write(std::span(message).first(count)).ok();
}

}  // namespace fusefs
