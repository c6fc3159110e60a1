// Values of the tree's items. Keys: key_format.h. Spec: docs/FORMAT.md, "Items".
#pragma once

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/format/key_format.h"

namespace fusefs {

inline constexpr size_t kNameBytesMax = 255;
inline constexpr size_t kSymlinkBytesMax = 4095;
inline constexpr size_t kXattrValueBytesMax = 65536;
inline constexpr uint32_t kLinkCountMax = 0x7fffffff;
inline constexpr uint64_t kFileBytesMax = 0x7fffffffffffffff;  // 8 EiB - 1, as loff_t has it

struct TimeValue {
  Le64 sec;  // two's complement
  Le32 nsec;
  static TimeValue of(Timestamp t) { return {static_cast<uint64_t>(t.sec), t.nsec}; }
  Timestamp timestamp() const { return {static_cast<int64_t>(sec.get()), nsec}; }
};
static_assert(sizeof(TimeValue) == 12 && alignof(TimeValue) == 1);

// Inode flags: the FS_..._FL that are kept.
inline constexpr uint32_t kInodeImmutable = 1u << 0;
inline constexpr uint32_t kInodeAppendOnly = 1u << 1;
inline constexpr uint32_t kInodeNoAtime = 1u << 2;
inline constexpr uint32_t kInodeNoDump = 1u << 3;
inline constexpr uint32_t kInodeSync = 1u << 4;
inline constexpr uint32_t kInodeDirSync = 1u << 5;
inline constexpr uint32_t kInodeFlagsKnown = (1u << 6) - 1;

struct InodeValue {
  Le32 mode;          // 0    type and permission bits, as st_mode
  Le32 uid;           // 4
  Le32 gid;           // 8
  Le32 link_count;    // 12   directories: 2 + subdirectories
  Le64 size;          // 16   bytes; directories: number of entries
  Le64 block_count;   // 24   mapped blocks, for st_blocks
  Le64 parent;        // 32   directories: the inode of ".."; else 0
  TimeValue atime;    // 40
  TimeValue mtime;    // 52
  TimeValue ctime;    // 64
  TimeValue btime;    // 76
  Le64 device;        // 88   character and block devices: (major << 32) | minor
  Le32 flags;         // 96   kInode...
  Le32 xattr_count;   // 100
  Le64 change_count;  // 104  grows with every change of the inode
  Le64 generation;    // 112  chosen at creation, for NFS handles
  Le64 zero;          // 120
};
static_assert(sizeof(InodeValue) == 128 && alignof(InodeValue) == 1);
static_assert(std::has_unique_object_representations_v<InodeValue>);

// A directory entry's key offset is its readdir cookie: 55 bits of the name's hash, then 8 bits
// that tell names of the same hash apart. It never changes while the entry exists.
// Cookies below kFirstCookie stand for the start, "." and "..".
inline constexpr uint64_t kFirstCookie = 256;
inline constexpr unsigned kCookieSlotBits = 8;

struct DirentValue {
  Le64 ino;
  unsigned char type;      // S_IFMT >> 12, as in readdir
  unsigned char name_len;  // 1 to 255; the name follows
};
static_assert(sizeof(DirentValue) == 10 && alignof(DirentValue) == 1);

// An extended attribute's key offset: 52 bits of the name's hash, 6 bits that tell names of the
// same hash apart, 6 bits chunk number. Chunk 0 has name and start of the value; the rest of the
// value follows in chunks 1, 2, ... of raw bytes.
inline constexpr unsigned kXattrChunkBits = 6;
inline constexpr unsigned kXattrSlotBits = 6;
inline constexpr size_t kXattrChunkBytesMax = 3072;

struct XattrValue {
  Le32 value_len;          // of the whole value
  unsigned char name_len;  // 1 to 255; name with its "user." prefix, then value bytes follow
  unsigned char zero;
};
static_assert(sizeof(XattrValue) == 6 && alignof(XattrValue) == 1);

// Extent: value of an extent key. Extents of one file do not overlap; neighbours that continue
// each other are merged up to kExtentBlocksMax.
//
//   byte 0          8         12     14     16
//        +----------+---------+------+------+
//        | start    | length  | flags| zero |
//        +----------+---------+------+------+
inline constexpr uint16_t kExtentUnwritten = 1u << 0;  // allocated; reads as zeroes
inline constexpr uint32_t kExtentBlocksMax = 1u << 30;

struct ExtentValue {
  Le64 start;   // first block of the volume
  Le32 length;  // blocks, at least 1
  Le16 flags;   // kExtentUnwritten
  Le16 zero;    // checked, so that a later version may give it a meaning
};
static_assert(sizeof(ExtentValue) == 16 && alignof(ExtentValue) == 1);
static_assert(std::has_unique_object_representations_v<ExtentValue>, "no padding to leak");

// Blocks with more than one owner. Blocks that are allocated and in no such range have one.
struct SharedValue {
  Le64 length;  // blocks
  Le32 count;   // owners, at least 2
  Le32 zero;
};
static_assert(sizeof(SharedValue) == 16 && alignof(SharedValue) == 1);

// Inodes to be finished at mount after a crash.
enum class OrphanKind : uint8_t {
  unlinked = 1,  // no name and no opener left: remove it
  truncate = 2,  // extents beyond the size are to be removed
};
struct OrphanValue {
  unsigned char kind;
  unsigned char zero[7];
};
static_assert(sizeof(OrphanValue) == 8 && alignof(OrphanValue) == 1);

}  // namespace fusefs
