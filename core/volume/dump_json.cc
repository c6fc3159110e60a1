#include "core/volume/dump_json.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "core/volume/stats_collector.h"

namespace fusefs {
namespace {

std::string hex(ConstBytes bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

std::string hex_number(uint64_t value) {
  std::string text = "0x0000000000000000";
  static constexpr char kDigits[] = "0123456789abcdef";
  for (size_t i = text.size(); i-- > 2; value >>= 4) text[i] = kDigits[value & 15];
  return text;
}

std::string octal(uint32_t value) {
  std::string text;
  for (int shift = 15; shift >= 0; shift -= 3) {
    text += static_cast<char>('0' + ((value >> shift) & 7));
  }
  return text;
}

std::string_view block_kind_name(uint16_t kind) {
  switch (static_cast<BlockKind>(kind)) {
    case BlockKind::superblock:
      return "superblock";
    case BlockKind::journal:
      return "journal";
    case BlockKind::node:
      return "node";
    case BlockKind::bitmap:
      return "bitmap";
    case BlockKind::summary:
      return "summary";
  }
  return "unknown";
}

std::string_view file_type_name(uint32_t type) {
  switch (type << 12) {
    case S_IFREG:
      return "file";
    case S_IFDIR:
      return "directory";
    case S_IFLNK:
      return "symlink";
    case S_IFCHR:
      return "character_device";
    case S_IFBLK:
      return "block_device";
    case S_IFIFO:
      return "fifo";
    case S_IFSOCK:
      return "socket";
    default:
      return "unknown";
  }
}

Json dump_time(const TimeValue& time) { return unix_ns(time.timestamp()); }

Json dump_inode(const InodeValue& inode) {
  Json json;
  json["file_type"] = std::string(file_type_name((inode.mode & S_IFMT) >> 12));
  json["mode"] = octal(inode.mode);
  json["uid"] = inode.uid.get();
  json["gid"] = inode.gid.get();
  json["link_count"] = inode.link_count.get();
  const bool directory = (inode.mode & S_IFMT) == S_IFDIR;
  json[directory ? "entry_count" : "size_bytes"] = inode.size.get();
  json["mapped_bytes"] = inode.block_count * kBlockBytes;
  json["parent"] = directory ? json_id(inode.parent) : Json(nullptr);
  json["atime_unix_ns"] = dump_time(inode.atime);
  json["mtime_unix_ns"] = dump_time(inode.mtime);
  json["ctime_unix_ns"] = dump_time(inode.ctime);
  json["btime_unix_ns"] = dump_time(inode.btime);
  json["device_major"] = inode.device >> 32;
  json["device_minor"] = inode.device & 0xffffffff;
  json["flags"] = inode.flags.get();
  json["xattr_count"] = inode.xattr_count.get();
  json["change_count"] = inode.change_count.get();
  json["generation"] = json_id(inode.generation);
  return json;
}

// Null when the value does not have the shape of its type.
Json dump_dirent(ConstBytes value) {
  if (value.size() < sizeof(DirentValue)) return nullptr;
  const auto& entry = view_as<DirentValue>(value);
  const ConstBytes name = value.subspan(sizeof(DirentValue));
  if (name.size() != entry.name_len) return nullptr;
  Json json;
  json["name"] = json_text(text_of(name));
  json["ino"] = json_id(entry.ino);
  json["file_type"] = std::string(file_type_name(entry.type));
  return json;
}

Json dump_xattr(const Key& key, ConstBytes value) {
  const uint64_t chunk = key.offset & ((1u << kXattrChunkBits) - 1);
  Json json;
  json["chunk"] = chunk;
  if (chunk != 0) {
    json["chunk_bytes"] = value.size();
    return json;
  }
  if (value.size() < sizeof(XattrValue)) return nullptr;
  const auto& xattr = view_as<XattrValue>(value);
  const ConstBytes rest = value.subspan(sizeof(XattrValue));
  if (rest.size() < xattr.name_len) return nullptr;
  json["name"] = json_text(text_of(rest.first(xattr.name_len)));
  json["value_bytes"] = xattr.value_len.get();
  json["value_start"] = json_text(text_of(rest.subspan(xattr.name_len)));
  return json;
}

Json dump_extent(const Key& key, const ExtentValue& extent) {
  Json json;
  json["file_block"] = key.offset;
  json["block"] = extent.start.get();
  json["block_count"] = extent.length.get();
  json["unwritten"] = (extent.flags & kExtentUnwritten) != 0;
  return json;
}

Json dump_shared(const Key& key, const SharedValue& shared) {
  Json json;
  json["block"] = key.offset;
  json["block_count"] = shared.length.get();
  json["owner_count"] = shared.count.get();
  return json;
}

Json dump_orphan(const Key& key, const OrphanValue& orphan) {
  Json json;
  json["ino"] = json_id(key.offset);
  json["kind"] = orphan.kind == static_cast<unsigned char>(OrphanKind::unlinked)   ? "unlinked"
                 : orphan.kind == static_cast<unsigned char>(OrphanKind::truncate) ? "truncate"
                                                                                   : "unknown";
  return json;
}

template <class Value, class Dump>
Json sized(ConstBytes value, Dump&& dump) {
  return value.size() == sizeof(Value) ? dump(view_as<Value>(value)) : Json(nullptr);
}

Json dump_value(const Key& key, ConstBytes value) {
  switch (key.type) {
    case KeyType::inode:
      return sized<InodeValue>(value, [](const auto& inode) { return dump_inode(inode); });
    case KeyType::symlink:
      return {{"target", json_text(text_of(value))}};
    case KeyType::xattr:
      return dump_xattr(key, value);
    case KeyType::dirent:
      return dump_dirent(value);
    case KeyType::extent:
      return sized<ExtentValue>(value, [&](const auto& v) { return dump_extent(key, v); });
    case KeyType::shared:
      return sized<SharedValue>(value, [&](const auto& v) { return dump_shared(key, v); });
    case KeyType::orphan:
      return sized<OrphanValue>(value, [&](const auto& v) { return dump_orphan(key, v); });
  }
  return nullptr;
}

Json dump_key(const Key& key) {
  Json json;
  json["object"] = json_id(key.object);
  json["type"] = std::string(key_type_name(key.type));
  json["offset"] = json_id(key.offset);
  return json;
}

Json dump_change(const Change& change) {
  Json json;
  switch (change.kind) {
    case ChangeKind::put:
      json = dump_item(change.key, change.value);
      break;
    case ChangeKind::erase:
      json = dump_key(change.key);
      break;
    case ChangeKind::allocate:
    case ChangeKind::release:
      json["block"] = change.blocks.first.value();
      json["block_count"] = change.blocks.count().value();
      break;
  }
  static constexpr const char* kNames[] = {"", "put", "erase", "allocate", "release"};
  Json named;
  named["change"] = kNames[static_cast<size_t>(change.kind)];
  named.update(json);
  return named;
}

}  // namespace

Json dump_header(ConstBytes block, BlockKind kind, BlockNo at, uint64_t checksum_seed) {
  const auto& header = view_as<BlockHeader>(block);
  Json json;
  json["at_block"] = at.value();
  json["checksum_ok"] = block_verifies(block, kind, at, checksum_seed);
  json["checksum"] = hex_number(header.checksum);
  json["magic_ok"] = header.magic == kBlockMagic;
  json["kind"] = std::string(block_kind_name(header.kind));
  json["block"] = json_id(header.block);
  json["generation"] = json_id(header.generation);
  return json;
}

Json dump_superblock(const Superblock& superblock) {
  const auto* label = reinterpret_cast<const char*>(superblock.label);
  Json json;
  json["signature_ok"] = superblock.signature == kSuperblockSignature;
  json["format_version"] = superblock.format_version.get();
  json["clean"] = (superblock.flags & kVolumeClean) != 0;
  json["has_errors"] = (superblock.flags & kVolumeHasErrors) != 0;
  json["flags"] = superblock.flags.get();
  json["incompatible_features"] = json_id(superblock.incompatible_features);
  json["read_only_features"] = json_id(superblock.read_only_features);
  json["compatible_features"] = json_id(superblock.compatible_features);
  json["uuid"] = uuid_text(superblock.uuid);
  json["label"] = json_text({label, strnlen(label, kLabelBytesMax)});
  json["checksum_seed"] = hex_number(superblock.checksum_seed);
  json["name_hash_seed"] = hex_number(superblock.name_hash_seed);
  json["block_count"] = superblock.block_count.get();
  json["journal_first"] = superblock.journal_first.get();
  json["journal_blocks"] = superblock.journal_blocks.get();
  json["summary_first"] = superblock.summary_first.get();
  json["summary_pages"] = superblock.summary_pages.get();
  json["bitmap_first"] = superblock.bitmap_first.get();
  json["group_count"] = superblock.group_count.get();
  json["data_first"] = superblock.data_first.get();
  json["created_sec"] = superblock.created_sec.get();
  json["mounted_sec"] = superblock.mounted_sec.get();
  json["mount_count"] = superblock.mount_count.get();
  json["checkpoint_no"] = superblock.checkpoint_no.get();
  json["tree_root"] = superblock.tree_root.get();
  json["tree_root_generation"] = superblock.tree_root_generation.get();
  json["tree_node_count"] = superblock.tree_node_count.get();
  json["committed_seq"] = superblock.committed_seq.get();
  json["journal_tail_block"] = superblock.journal_tail_block.get();
  json["journal_tail_batch"] = superblock.journal_tail_batch.get();
  json["next_inode"] = json_id(superblock.next_inode);
  json["free_blocks"] = superblock.free_blocks.get();
  json["shared_blocks"] = superblock.shared_blocks.get();
  return json;
}

Json dump_item(const Key& key, ConstBytes value) {
  Json json = dump_key(key);
  Json decoded = dump_value(key, value);
  if (decoded.is_null()) {
    json["value_hex"] = hex(value);
  } else {
    json["value"] = std::move(decoded);
  }
  return json;
}

Json dump_node(ConstBytes node, BlockNo at, uint64_t checksum_seed) {
  const auto& header = view_as<NodeHeader>(node);
  Json json = dump_header(node, BlockKind::node, at, checksum_seed);
  json["verifies"] = node_verifies(node, at, header.header.generation, checksum_seed);
  json["level"] = header.level.get();
  json["count"] = header.count.get();
  json["values_first"] = header.values_first.get();
  json["garbage_bytes"] = header.garbage_bytes.get();
  Json& items = json[header.level == 0 ? "items" : "children"] = Json::array();
  const auto* slots = reinterpret_cast<const NodeSlot*>(node.data() + sizeof(NodeHeader));
  const size_t fitting = (node.size() - sizeof(NodeHeader)) / sizeof(NodeSlot);
  for (size_t i = 0; i < std::min<size_t>(header.count, fitting); ++i) {
    const Key key = slots[i].key.key();
    const size_t first = slots[i].value_first;
    const bool inside = first + slots[i].value_len <= node.size();
    const ConstBytes value = inside ? node.subspan(first, slots[i].value_len) : ConstBytes();
    if (header.level == 0) {
      items.push_back(dump_item(key, value));
    } else {
      Json child = dump_key(key);
      if (value.size() == sizeof(ChildPointer)) {
        child["child_block"] = json_id(view_as<ChildPointer>(value).block);
        child["child_generation"] = json_id(view_as<ChildPointer>(value).generation);
      }
      items.push_back(std::move(child));
    }
    if (!inside) items.back()["outside_of_node"] = true;
  }
  return json;
}

Json dump_transaction(const LoggedTransaction& transaction) {
  Json json;
  json["seq"] = transaction.seq.value();
  json["changes"] = Json::array();
  for (const Change& change : transaction.changes) json["changes"].push_back(dump_change(change));
  return json;
}

Json dump_summary(const GroupSummary& summary) {
  Json json;
  json["free_count"] = summary.free_count.get();
  json["free_run_max"] = summary.free_run_max.get();
  json["free_chunks"] = summary.free_chunks.get();
  json["initialized"] = (summary.flags & kGroupInitialized) != 0;
  json["bitmap_slot"] = (summary.flags & kGroupSlot) != 0 ? 1 : 0;
  return json;
}

Json dump_free_runs(const BitmapPage& page, BlockNo group_first) {
  Json runs = Json::array();
  uint32_t bit = 0;
  const auto used = [&](uint32_t i) { return ((page.bits[i / 8] >> (i % 8)) & 1) != 0; };
  while (bit < kGroupBlocks) {
    if (used(bit)) {
      ++bit;
      continue;
    }
    const uint32_t first = bit;
    while (bit < kGroupBlocks && !used(bit)) ++bit;
    runs.push_back({{"block", group_first.value() + first}, {"block_count", bit - first}});
  }
  return runs;
}

}  // namespace fusefs
