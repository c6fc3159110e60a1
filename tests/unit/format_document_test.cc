// docs/FORMAT.md and the structs of core/format say the same: sizes, offsets, names.
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "core/format/item_format.h"
#include "core/format/journal_format.h"
#include "core/format/node_format.h"
#include "core/format/space_format.h"
#include "core/format/superblock_format.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

struct Field {
  std::string name;
  size_t offset = 0;
  size_t bytes = 0;
};
struct Struct {
  size_t bytes = 0;
  std::vector<Field> fields;
};
using Structs = std::map<std::string, Struct>;

// Reads "### Name (N bytes)" and the rows "| offset | bytes | `field` | ..." below it.
Structs documented() {
  std::ifstream file(std::string(FUSEFS_SOURCE_DIR) + "/docs/FORMAT.md");
  REQUIRE(file.good());
  Structs structs;
  Struct* current = nullptr;
  for (std::string line; std::getline(file, line);) {
    char name[64];
    size_t offset = 0;
    size_t bytes = 0;
    if (line.starts_with("#")) current = nullptr;
    if (std::sscanf(line.c_str(), "### %63s (%zu bytes)", name, &bytes) == 2) {
      current = &structs[name];
      current->bytes = bytes;
    } else if (current != nullptr && std::sscanf(line.c_str(), "| %zu | %zu | `%63[a-z0-9_]`",
                                                 &offset, &bytes, name) == 3) {
      current->fields.push_back({name, offset, bytes});
    }
  }
  return structs;
}

#define FIELD(type, member) \
  { #member, offsetof(type, member), sizeof(type::member) }

Structs declared() {
  Structs s;
  s["BlockHeader"] = {
      sizeof(BlockHeader),
      {FIELD(BlockHeader, checksum), FIELD(BlockHeader, magic), FIELD(BlockHeader, kind),
       FIELD(BlockHeader, zero), FIELD(BlockHeader, block), FIELD(BlockHeader, generation)}};
  s["Superblock"] = {sizeof(Superblock),
                     {FIELD(Superblock, header),
                      FIELD(Superblock, signature),
                      FIELD(Superblock, format_version),
                      FIELD(Superblock, flags),
                      FIELD(Superblock, incompatible_features),
                      FIELD(Superblock, read_only_features),
                      FIELD(Superblock, compatible_features),
                      FIELD(Superblock, uuid),
                      FIELD(Superblock, label),
                      FIELD(Superblock, checksum_seed),
                      FIELD(Superblock, name_hash_seed),
                      FIELD(Superblock, block_count),
                      FIELD(Superblock, journal_first),
                      FIELD(Superblock, journal_blocks),
                      FIELD(Superblock, summary_first),
                      FIELD(Superblock, summary_pages),
                      FIELD(Superblock, bitmap_first),
                      FIELD(Superblock, group_count),
                      FIELD(Superblock, data_first),
                      FIELD(Superblock, created_sec),
                      FIELD(Superblock, mounted_sec),
                      FIELD(Superblock, mount_count),
                      FIELD(Superblock, checkpoint_no),
                      FIELD(Superblock, tree_root),
                      FIELD(Superblock, tree_root_generation),
                      FIELD(Superblock, tree_node_count),
                      FIELD(Superblock, committed_seq),
                      FIELD(Superblock, journal_tail_block),
                      FIELD(Superblock, journal_tail_batch),
                      FIELD(Superblock, next_inode),
                      FIELD(Superblock, free_blocks),
                      FIELD(Superblock, shared_blocks),
                      FIELD(Superblock, reserved),
                      FIELD(Superblock, summary_slots),
                      FIELD(Superblock, zero)}};
  s["BitmapPage"] = {
      sizeof(BitmapPage),
      {FIELD(BitmapPage, header), FIELD(BitmapPage, group), FIELD(BitmapPage, free_count),
       FIELD(BitmapPage, zero), FIELD(BitmapPage, bits)}};
  s["GroupSummary"] = {sizeof(GroupSummary),
                       {FIELD(GroupSummary, free_count), FIELD(GroupSummary, free_run_max),
                        FIELD(GroupSummary, free_chunks), FIELD(GroupSummary, flags)}};
  s["SummaryPage"] = {sizeof(SummaryPage),
                      {FIELD(SummaryPage, header), FIELD(SummaryPage, groups)}};
  s["NodeHeader"] = {
      sizeof(NodeHeader),
      {FIELD(NodeHeader, header), FIELD(NodeHeader, level), FIELD(NodeHeader, count),
       FIELD(NodeHeader, values_first), FIELD(NodeHeader, garbage_bytes), FIELD(NodeHeader, zero)}};
  s["NodeSlot"] = {sizeof(NodeSlot),
                   {FIELD(NodeSlot, key), FIELD(NodeSlot, zero), FIELD(NodeSlot, value_first),
                    FIELD(NodeSlot, value_len), FIELD(NodeSlot, zero2)}};
  s["ChildPointer"] = {sizeof(ChildPointer),
                       {FIELD(ChildPointer, block), FIELD(ChildPointer, generation)}};
  s["KeyFormat"] = {sizeof(KeyFormat),
                    {FIELD(KeyFormat, object), FIELD(KeyFormat, offset), FIELD(KeyFormat, type)}};
  s["TimeValue"] = {sizeof(TimeValue), {FIELD(TimeValue, sec), FIELD(TimeValue, nsec)}};
  s["InodeValue"] = {
      sizeof(InodeValue),
      {FIELD(InodeValue, mode), FIELD(InodeValue, uid), FIELD(InodeValue, gid),
       FIELD(InodeValue, link_count), FIELD(InodeValue, size), FIELD(InodeValue, block_count),
       FIELD(InodeValue, parent), FIELD(InodeValue, atime), FIELD(InodeValue, mtime),
       FIELD(InodeValue, ctime), FIELD(InodeValue, btime), FIELD(InodeValue, device),
       FIELD(InodeValue, flags), FIELD(InodeValue, xattr_count), FIELD(InodeValue, change_count),
       FIELD(InodeValue, generation), FIELD(InodeValue, zero)}};
  s["DirentValue"] = {
      sizeof(DirentValue),
      {FIELD(DirentValue, ino), FIELD(DirentValue, type), FIELD(DirentValue, name_len)}};
  s["XattrValue"] = {
      sizeof(XattrValue),
      {FIELD(XattrValue, value_len), FIELD(XattrValue, name_len), FIELD(XattrValue, zero)}};
  s["ExtentValue"] = {sizeof(ExtentValue),
                      {FIELD(ExtentValue, start), FIELD(ExtentValue, length),
                       FIELD(ExtentValue, flags), FIELD(ExtentValue, zero)}};
  s["SharedValue"] = {
      sizeof(SharedValue),
      {FIELD(SharedValue, length), FIELD(SharedValue, count), FIELD(SharedValue, zero)}};
  s["OrphanValue"] = {sizeof(OrphanValue), {FIELD(OrphanValue, kind), FIELD(OrphanValue, zero)}};
  s["BatchHeader"] = {sizeof(BatchHeader),
                      {FIELD(BatchHeader, header), FIELD(BatchHeader, batch_blocks),
                       FIELD(BatchHeader, transaction_count), FIELD(BatchHeader, first_seq),
                       FIELD(BatchHeader, payload_bytes), FIELD(BatchHeader, zero)}};
  s["TransactionHeader"] = {sizeof(TransactionHeader),
                            {FIELD(TransactionHeader, seq), FIELD(TransactionHeader, bytes),
                             FIELD(TransactionHeader, change_count)}};
  s["ChangeHeader"] = {sizeof(ChangeHeader),
                       {FIELD(ChangeHeader, kind), FIELD(ChangeHeader, zero),
                        FIELD(ChangeHeader, value_len), FIELD(ChangeHeader, key)}};
  s["BlockChange"] = {sizeof(BlockChange), {FIELD(BlockChange, first), FIELD(BlockChange, count)}};
  return s;
}

TEST_CASE("docs/FORMAT.md describes every struct on the device, field by field") {
  const Structs document = documented();
  const Structs code = declared();
  for (const auto& entry : code) {
    CAPTURE(entry.first);
    const Struct& expected = entry.second;
    const auto found = document.find(entry.first);
    REQUIRE(found != document.end());
    CHECK_EQ(found->second.bytes, expected.bytes);
    REQUIRE_EQ(found->second.fields.size(), expected.fields.size());
    for (size_t i = 0; i < expected.fields.size(); ++i) {
      CAPTURE(expected.fields[i].name);
      CHECK_EQ(found->second.fields[i].name, expected.fields[i].name);
      CHECK_EQ(found->second.fields[i].offset, expected.fields[i].offset);
      CHECK_EQ(found->second.fields[i].bytes, expected.fields[i].bytes);
    }
  }
  for (const auto& entry : document) {
    CAPTURE(entry.first);
    CHECK(code.contains(entry.first));
  }
}

TEST_CASE("the fields in docs/FORMAT.md fill their struct without a gap") {
  for (const auto& entry : documented()) {
    CAPTURE(entry.first);
    size_t end = 0;
    for (const Field& field : entry.second.fields) {
      CHECK_EQ(field.offset, end);
      end = field.offset + field.bytes;
    }
    CHECK_EQ(end, entry.second.bytes);
  }
}

}  // namespace
}  // namespace fusefs
