#include "core/volume/dump.h"

#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/inode/directory.h"
#include "core/tree/superblock_io.h"
#include "core/volume/dump_json.h"
#include "core/volume/node_walk.h"

namespace fusefs {
namespace {

// Keeps the memory of a read for as long as the device may use it.
class PageRead final : public IoTicket {
 public:
  explicit PageRead(size_t bytes) : image(bytes) {}
  AlignedBuffer image;
};

KeyRange object_range(uint64_t object) {
  return {{object, KeyType{}, 0}, {object, static_cast<KeyType>(0xff), ~uint64_t{0}}};
}

// The next name of a path, taken off its front; empty at the end.
std::string_view next_name(std::string_view& path) {
  while (path.starts_with('/')) path.remove_prefix(1);
  const std::string_view name = path.substr(0, path.find('/'));
  path.remove_prefix(name.size());
  return name;
}

}  // namespace

class Dump::Impl {
 public:
  Impl(BlockDevice& device, const DumpRequest& request, DumpSink& sink)
      : device_(device), request_(request), sink_(sink), path_left_(request_.path) {}

  Attempt<void> run();

 private:
  Attempt<void> find_superblock();
  void show_superblocks();
  Json superblock_slot(size_t slot);
  Attempt<void> subject();
  Attempt<void> overview();
  Attempt<void> journal();
  Attempt<void> tree();
  Attempt<void> items(const KeyRange& keys, const char* list);
  Attempt<void> inode(uint64_t ino);
  Attempt<void> path();
  Attempt<std::optional<InodeNo>> find_name(std::string_view name);
  Attempt<void> group();
  Attempt<void> node();

  Attempt<ConstBytes> read(uint64_t block, size_t bytes);
  Attempt<ConstBytes> read_summary(uint64_t page);
  uint64_t summary_block(uint64_t page) const {
    return sb_.summary_first + 2 * page + (summary_slot(sb_, page) ? 1 : 0);
  }

  BlockDevice& device_;
  const DumpRequest request_;
  DumpSink& sink_;

  SuperblockStash superblocks_;
  Superblock sb_{};
  bool has_superblock_ = false;
  bool began_ = false;  // the subject's list has begun
  std::unique_ptr<JournalReader> journal_;
  std::unique_ptr<NodeWalk> walk_;
  uint64_t item_count_ = 0;

  // One block being read, or read.
  uint64_t read_block_ = 0;
  Ref<PageRead> read_;

  std::string_view path_left_;
  InodeNo directory_ = kRootInode;
  uint64_t next_ = 0;  // summary page of the overview, bitmap slot of the group
};

Attempt<void> Dump::Impl::run() {
  if (!has_superblock_) {
    ATTEMPT_OK(find_superblock());
    has_superblock_ = true;
  }
  return subject();
}

Attempt<void> Dump::Impl::find_superblock() {
  const Attempt<FoundSuperblock> found = read_superblocks(device_, superblocks_);
  if (found.must_restart()) return Unfinished(found);
  const bool shown =
      request_.subject == DumpSubject::superblock || request_.subject == DumpSubject::overview;
  if (shown && !began_) {
    show_superblocks();
    sink_.member("active_slot", found.ok() ? Json(found.value().slot) : Json(nullptr));
    began_ = true;
  }
  if (found.failed()) return found.error();
  sb_ = found.value().superblock;
  return {};
}

void Dump::Impl::show_superblocks() {
  sink_.begin_list("superblocks");
  for (size_t slot = 0; slot < kSuperblockBlocks.size(); ++slot) sink_.item(superblock_slot(slot));
  sink_.end_list();
}

Json Dump::Impl::superblock_slot(size_t slot) {
  const BlockNo at(kSuperblockBlocks[slot]);
  Json json;
  json["slot"] = slot;
  const Ref<IoTicket>& ticket = superblocks_.tickets[slot];
  if (!ticket || !ticket->result().ok()) {
    json["at_block"] = at.value();
    json["verdict"] =
        std::string(error_name(ticket ? ticket->result().error() : Error::truncated_volume));
    return json;
  }
  const ConstBytes block = superblocks_.slots[slot].bytes();
  const Result<void> verified = verify_superblock(block, at, device_.geometry().size_bytes);
  json["verdict"] = verified.ok() ? "good" : std::string(error_name(verified.error()));
  json.update(dump_header(block, BlockKind::superblock, at, kSuperblockChecksumSeed));
  json.update(dump_superblock(view_as<Superblock>(block)));
  return json;
}

Attempt<void> Dump::Impl::subject() {
  switch (request_.subject) {
    case DumpSubject::superblock:
      return {};
    case DumpSubject::overview:
      return overview();
    case DumpSubject::journal:
      return journal();
    case DumpSubject::tree:
      return tree();
    case DumpSubject::inode:
      return inode(request_.number);
    case DumpSubject::path:
      return path();
    case DumpSubject::group:
      return group();
    case DumpSubject::node:
      return node();
    case DumpSubject::orphans:
      return items(object_range(kOrphanObject), "orphans");
    case DumpSubject::shared:
      return items(object_range(kSharedObject), "shared");
  }
  return Error::invalid_argument;
}

// Reads once per place: asked again for the same block it has the bytes at once.
Attempt<ConstBytes> Dump::Impl::read(uint64_t block, size_t bytes) {
  if (!read_ || read_block_ != block) {
    read_ = make_ref<PageRead>(bytes);
    read_block_ = block;
    device_.submit(IoRequest::read(block_addr(BlockNo(block)), read_->image.data(), bytes), read_);
  }
  ATTEMPT_OK(read_->wait());
  return ConstBytes(read_->image.bytes());
}

Attempt<void> Dump::Impl::overview() {
  if (next_ == 0) {
    const auto area = [](const char* name, uint64_t first, uint64_t end) {
      return Json{{"area", name}, {"first_block", first}, {"end_block", end}};
    };
    Json areas = Json::array();
    areas.push_back(area("superblocks", 0, kFirstUsableBlock));
    areas.push_back(area("journal", sb_.journal_first, sb_.journal_first + sb_.journal_blocks));
    areas.push_back(
        area("summaries", sb_.summary_first, sb_.summary_first + 2 * sb_.summary_pages));
    areas.push_back(area("bitmaps", sb_.bitmap_first, sb_.bitmap_first + 2 * sb_.group_count));
    areas.push_back(area("data", sb_.data_first, sb_.block_count));
    sink_.member("areas", std::move(areas));
    sink_.begin_list("summary_pages");
    next_ = 1;
  }
  while (next_ <= sb_.summary_pages) {
    const uint64_t page = next_ - 1;
    const BlockNo at(summary_block(page));
    ATTEMPT(const ConstBytes bytes, read(at.value(), kBlockBytes));
    const uint64_t first = page * kGroupsPerSummary;
    const uint64_t count = std::min<uint64_t>(kGroupsPerSummary, sb_.group_count - first);
    uint64_t free_blocks = 0;
    uint64_t initialized = 0;
    for (uint64_t i = 0; i < count; ++i) {
      const GroupSummary& group = view_as<SummaryPage>(bytes).groups[i];
      free_blocks += group.free_count;
      initialized += (group.flags & kGroupInitialized) != 0 ? 1 : 0;
    }
    Json json = dump_header(bytes, BlockKind::summary, at, sb_.checksum_seed);
    json["first_group"] = first;
    json["group_count"] = count;
    json["initialized_group_count"] = initialized;
    json["free_blocks"] = free_blocks;
    sink_.item(std::move(json));
    ++next_;
  }
  sink_.end_list();
  return {};
}

Attempt<void> Dump::Impl::journal() {
  if (!journal_) {
    const JournalLayout layout{BlockNo(sb_.journal_first), BlockCount(sb_.journal_blocks),
                               sb_.checksum_seed};
    journal_ = std::make_unique<JournalReader>(
        device_, layout, JournalMark{BlockNo(sb_.journal_tail_block), sb_.journal_tail_batch});
    sink_.member("clean", (sb_.flags & kVolumeClean) != 0);
    sink_.member(
        "tail", {{"block", sb_.journal_tail_block.get()}, {"batch", sb_.journal_tail_batch.get()}});
    sink_.begin_list("transactions");
  }
  bool damaged = false;
  while (true) {
    const Attempt<const LoggedTransaction*> current = journal_->current();
    if (current.must_restart()) return Unfinished(current);
    if (current.failed() && current.error() != Error::corrupt) return current.error();
    damaged = current.failed();
    if (damaged || current.value() == nullptr) break;
    sink_.item(dump_transaction(*current.value()));
    journal_->advance();
  }
  sink_.end_list();
  sink_.member("head",
               {{"block", journal_->head().block.value()}, {"batch", journal_->head().batch}});
  sink_.member("batch_count", journal_->batch_count());
  sink_.member("transaction_count", journal_->transaction_count());
  sink_.member("log_bytes", journal_->log_bytes());
  // A batch whose checksum is right and whose contents are not; the log ends before it.
  sink_.member("damaged_at_head", damaged);
  return {};
}

Attempt<void> Dump::Impl::tree() {
  if (!walk_) {
    walk_ = std::make_unique<NodeWalk>(device_, sb_);
    sink_.begin_list("nodes");
  }
  while (true) {
    const Attempt<const WalkedNode*> current = walk_->current();
    if (!current.ok()) return Unfinished(current);
    const WalkedNode* node = current.value();
    if (node == nullptr) break;
    Json json;
    json["damage"] = node->damage == nullptr ? Json(nullptr) : Json(node->damage);
    if (node->image.size() != 0) {
      json.update(dump_node(node->image_bytes(), BlockNo(node->pointer.block), sb_.checksum_seed));
    } else {
      json["at_block"] = node->pointer.block.get();
    }
    sink_.item(std::move(json));
    walk_->advance();
  }
  sink_.end_list();
  return {};
}

Attempt<void> Dump::Impl::items(const KeyRange& keys, const char* list) {
  if (!walk_) {
    walk_ = std::make_unique<NodeWalk>(device_, sb_, keys);
    sink_.begin_list(list);
  }
  while (true) {
    const Attempt<const WalkedNode*> current = walk_->current();
    if (!current.ok()) return Unfinished(current);
    const WalkedNode* node = current.value();
    if (node == nullptr) break;
    if (node->damage != nullptr) {
      sink_.item({{"at_block", node->pointer.block.get()}, {"damage", node->damage}});
    } else if (node->header().level == 0) {
      for (uint32_t i = 0; i < node->header().count; ++i) {
        const Key key = node->slot(i).key.key();
        if (!keys.contains(key)) continue;
        sink_.item(dump_item(key, node->value(i)));
        ++item_count_;
      }
    }
    walk_->advance();
  }
  sink_.end_list();
  return {};
}

Attempt<void> Dump::Impl::inode(uint64_t ino) {
  // Not an ATTEMPT: once the list has ended there is no restart any more.
  const Attempt<void> listed = items(object_range(ino), "items");
  if (listed.ok() && item_count_ == 0) return Error::not_found;
  return listed;
}

Attempt<void> Dump::Impl::path() {
  if (!began_) {
    sink_.begin_list("path");
    began_ = true;
  }
  while (next_ == 0) {
    std::string_view left = path_left_;
    const std::string_view name = next_name(left);
    if (name.empty()) {
      sink_.end_list();
      next_ = 1;
      break;
    }
    ATTEMPT(const std::optional<InodeNo> found, find_name(name));
    walk_.reset();
    if (!found) {
      sink_.end_list();
      return Error::not_found;
    }
    sink_.item({{"name", json_text(name)}, {"ino", json_id(found->value())}});
    directory_ = *found;
    path_left_ = left;
  }
  return inode(directory_.value());
}

// The entry is where its name's hash says, among at most 256.
Attempt<std::optional<InodeNo>> Dump::Impl::find_name(std::string_view name) {
  const uint64_t cookie = NameHash(sb_.name_hash_seed).first_cookie(name);
  const uint64_t slots = uint64_t{1} << kCookieSlotBits;
  const KeyRange keys{dirent_key(directory_, cookie), dirent_key(directory_, cookie + slots - 1)};
  if (!walk_) walk_ = std::make_unique<NodeWalk>(device_, sb_, keys);
  while (true) {
    const Attempt<const WalkedNode*> current = walk_->current();
    if (!current.ok()) return Unfinished(current);
    const WalkedNode* node = current.value();
    if (node == nullptr) return std::optional<InodeNo>();
    if (node->damage != nullptr) return Error::corrupt;
    for (uint32_t i = 0; node->header().level == 0 && i < node->header().count; ++i) {
      const ConstBytes value = node->value(i);
      if (!keys.contains(node->slot(i).key.key()) || value.size() < sizeof(DirentValue)) continue;
      if (text_of(value.subspan(sizeof(DirentValue))) == name) {
        return std::optional<InodeNo>(InodeNo(view_as<DirentValue>(value).ino));
      }
    }
    walk_->advance();
  }
}

Attempt<void> Dump::Impl::group() {
  const uint64_t group = request_.number;
  if (group >= sb_.group_count) return Error::invalid_argument;
  const uint64_t page = group / kGroupsPerSummary;
  const BlockNo group_first(sb_.data_first + group * kGroupBlocks);
  if (!began_) {
    ATTEMPT(const ConstBytes bytes, read(summary_block(page), kBlockBytes));
    Json json =
        dump_header(bytes, BlockKind::summary, BlockNo(summary_block(page)), sb_.checksum_seed);
    json.update(dump_summary(view_as<SummaryPage>(bytes).groups[group % kGroupsPerSummary]));
    sink_.member("group", group);
    sink_.member("first_block", group_first.value());
    sink_.member("summary", std::move(json));
    sink_.begin_list("bitmap_slots");
    began_ = true;
  }
  while (next_ < 2) {
    const BlockNo at(sb_.bitmap_first + 2 * group + next_);
    ATTEMPT(const ConstBytes bytes, read(at.value(), kBlockBytes));
    const auto& bitmap = view_as<BitmapPage>(bytes);
    Json json = dump_header(bytes, BlockKind::bitmap, at, sb_.checksum_seed);
    // What was never written has nothing to say.
    if (json["checksum_ok"].get<bool>()) {
      json["group"] = bitmap.group.get();
      json["free_count"] = bitmap.free_count.get();
      json["free_runs"] = dump_free_runs(bitmap, group_first);
    }
    sink_.item(std::move(json));
    ++next_;
  }
  sink_.end_list();
  return {};
}

Attempt<void> Dump::Impl::node() {
  const uint64_t block = request_.number;
  if (block >= sb_.block_count || sb_.block_count - block < kNodeBlocks) {
    return Error::invalid_argument;
  }
  ATTEMPT(const ConstBytes bytes, read(block, kNodeBytes));
  sink_.member("node", dump_node(bytes, BlockNo(block), sb_.checksum_seed));
  return {};
}

Dump::Dump(BlockDevice& device, const DumpRequest& request, DumpSink& sink)
    : impl_(std::make_unique<Impl>(device, request, sink)) {}
Dump::~Dump() = default;
Attempt<void> Dump::run() { return impl_->run(); }

}  // namespace fusefs
