#include "core/volume/format_volume.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "core/base/random.h"
#include "core/format/item_format.h"
#include "core/format/journal_format.h"
#include "core/space/bitmap.h"
#include "core/tree/node_edit.h"

namespace fusefs {
namespace {

// Nodes and large extents lie well on devices with large pages.
constexpr uint64_t kDataAlignBlocks = 64;
constexpr uint64_t kDiscardBytes = 1ull << 30;
// The part of the volume that the journal gets, within its bounds.
constexpr uint64_t kJournalFraction = 64;
constexpr CheckpointNo kFirstCheckpoint{1};

constexpr uint64_t divide_up(uint64_t value, uint64_t by) { return (value + by - 1) / by; }

// The layout with so many groups, whatever there is room for.
VolumeLayout with_groups(uint64_t block_count, uint64_t group_count) {
  VolumeLayout layout;
  layout.block_count = block_count;
  layout.journal_first = kFirstUsableBlock;
  layout.journal_blocks =
      std::clamp(block_count * kBlockBytes / kJournalFraction, kJournalBytesMin, kJournalBytesMax) /
      kBlockBytes;
  layout.group_count = group_count;
  layout.summary_first = layout.journal_first + layout.journal_blocks;
  layout.summary_pages = divide_up(group_count, kGroupsPerSummary);
  layout.bitmap_first = layout.summary_first + 2 * layout.summary_pages;
  layout.data_first =
      divide_up(layout.bitmap_first + 2 * group_count, kDataAlignBlocks) * kDataAlignBlocks;
  return layout;
}

}  // namespace

Result<VolumeLayout> plan_layout(uint64_t device_bytes) {
  if (device_bytes < kVolumeBytesMin) return Error::invalid_argument;
  const uint64_t blocks = device_bytes / kBlockBytes;
  // The most groups of which the last one is not empty, with the pages that describe them.
  uint64_t groups = divide_up(blocks, kGroupBlocks);
  VolumeLayout layout = with_groups(blocks, groups);
  while (layout.data_first + (groups - 1) * kGroupBlocks >= blocks) {
    layout = with_groups(blocks, --groups);
  }
  // Where one more group's pages leave nothing for its data, a few blocks are left over.
  layout.block_count = std::min(blocks, layout.data_first + groups * kGroupBlocks);
  if (layout.summary_pages > kSummarySlotBytes * 8) return Error::invalid_argument;
  return layout;
}

Attempt<void> VolumeFormatter::run() {
  if (phase_ == Phase::start) {
    const Result<void> prepared = prepare();
    if (!prepared.ok()) return prepared.error();
    ATTEMPT_OK(plan_erasures());
    phase_ = Phase::erase;
  }
  if (phase_ == Phase::erase) {
    ATTEMPT_OK(erase());
    phase_ = Phase::discard;
  }
  if (phase_ == Phase::discard) {
    ATTEMPT_OK(discard());
    pages_.clear();
    build_root();
    build_summaries();
    write(false);
    phase_ = Phase::contents;
  }
  if (phase_ == Phase::contents) {
    ATTEMPT_OK(ticket_->wait());
    ticket_ = make_ref<IoTicket>();
    device_.submit(IoRequest::flush(), ticket_);
    phase_ = Phase::flush;
  }
  if (phase_ == Phase::flush) {
    ATTEMPT_OK(ticket_->wait());
    write_superblock(1, 1);
    phase_ = Phase::slot1;
  }
  if (phase_ == Phase::slot1) {
    ATTEMPT_OK(ticket_->wait());
    write_superblock(0, 2);
    phase_ = Phase::slot0;
  }
  if (phase_ == Phase::slot0) {
    ATTEMPT_OK(ticket_->wait());
    phase_ = Phase::done;
  }
  return {};
}

Result<void> VolumeFormatter::prepare() {
  const DeviceGeometry& geometry = device_.geometry();
  if (geometry.read_only) return Error::read_only_volume;
  if (options_.size_bytes > geometry.size_bytes) return Error::invalid_argument;
  if (options_.label.size() > kLabelBytesMax) return Error::invalid_argument;
  const uint64_t size = options_.size_bytes != 0 ? options_.size_bytes : geometry.size_bytes;
  TRY(const VolumeLayout layout, plan_layout(size));
  describe(layout);
  return {};
}

Attempt<void> VolumeFormatter::plan_erasures() {
  const Attempt<FoundSuperblock> found = read_superblocks(device_, older_);
  if (found.must_restart()) return found.restart();
  // Everything before the journal, where signatures of all kinds lie, and its first block.
  erasures_ = {{BlockNo(0), superblock_.journal_first + 1}};
  if (found.ok()) {
    const auto newer = static_cast<size_t>(Attempt<FoundSuperblock>(found).value().slot);
    erasures_.push_back({BlockNo(kSuperblockBlocks[newer]), 1});
    erasures_.push_back({BlockNo(kSuperblockBlocks[1 - newer]), 1});
  }
  return {};
}

Attempt<void> VolumeFormatter::erase() {
  while (!erasures_.empty()) {
    const Erasure& next = erasures_.back();
    if (!ticket_) {
      pages_.clear();
      pages_.push_back({next.first, AlignedBuffer(next.blocks * kBlockBytes)});
      write(true);
    }
    const Attempt<void> written = ticket_->wait();
    if (!written.ok()) return written;
    ticket_.reset();
    erasures_.pop_back();
  }
  return {};
}

void VolumeFormatter::describe(const VolumeLayout& layout) {
  Random random(options_.seed ? *options_.seed : entropy());
  const auto draw = [&] { return options_.seed ? random.next() : entropy(); };
  Superblock& sb = superblock_;
  sb.signature = kSuperblockSignature;
  sb.format_version = kFormatVersion;
  sb.flags = kVolumeClean;
  sb.checksum_seed = draw();
  sb.name_hash_seed = draw();
  if (options_.uuid) {
    std::copy(options_.uuid->begin(), options_.uuid->end(), sb.uuid);
  } else {
    const uint64_t halves[2] = {draw(), draw()};
    std::memcpy(sb.uuid, halves, sizeof(halves));
    sb.uuid[6] = static_cast<unsigned char>((sb.uuid[6] & 0x0f) | 0x40);  // RFC 4122, version 4
    sb.uuid[8] = static_cast<unsigned char>((sb.uuid[8] & 0x3f) | 0x80);
  }
  std::copy(options_.label.begin(), options_.label.end(), sb.label);
  sb.block_count = layout.block_count;
  sb.journal_first = layout.journal_first;
  sb.journal_blocks = layout.journal_blocks;
  sb.summary_first = layout.summary_first;
  sb.summary_pages = layout.summary_pages;
  sb.bitmap_first = layout.bitmap_first;
  sb.group_count = layout.group_count;
  sb.data_first = layout.data_first;
  sb.created_sec = static_cast<uint64_t>(options_.created.sec);
  sb.checkpoint_no = kFirstCheckpoint.value();
  sb.tree_root = layout.data_first;
  sb.tree_root_generation = kFirstCheckpoint.value();
  sb.tree_node_count = uint64_t{1};
  sb.journal_tail_block = layout.journal_first;
  sb.journal_tail_batch = uint64_t{1};
  sb.next_inode = kRootInode.next().value();
  sb.free_blocks = layout.block_count - layout.data_first - kNodeBlocks;
}

// The root directory, as the only item of the only node, in the first blocks of the data area.
void VolumeFormatter::build_root() {
  InodeValue root{};
  root.mode = uint32_t{S_IFDIR | 0755};
  root.uid = options_.root_uid;
  root.gid = options_.root_gid;
  root.link_count = uint32_t{2};
  root.parent = kRootInode.value();
  root.atime = root.mtime = root.ctime = root.btime = TimeValue::of(options_.created);
  root.generation = Random(superblock_.checksum_seed).next();

  Page node{BlockNo(superblock_.tree_root), AlignedBuffer(kNodeBytes)};
  NodePage page(node.image.data());
  page.init(0);
  CHECK(page.insert(0, inode_key(kRootInode), bytes_of(root)));
  set_block_header(node.image.bytes(), BlockKind::node, node.at, kFirstCheckpoint.value());
  pages_.push_back(std::move(node));
}

// All summary pages; of the bitmap pages only the one that has the root node in it: groups without
// one are free.
void VolumeFormatter::build_summaries() {
  const Superblock& sb = superblock_;
  for (uint64_t page_no = 0; page_no < sb.summary_pages; ++page_no) {
    Page page{BlockNo(sb.summary_first + 2 * page_no), AlignedBuffer(kBlockBytes)};
    set_block_header(page.image.bytes(), BlockKind::summary, page.at, kFirstCheckpoint.value());
    SummaryPage& summary = view_as<SummaryPage>(page.image.bytes());
    for (uint64_t i = 0; i < kGroupsPerSummary; ++i) {
      const uint64_t group = page_no * kGroupsPerSummary + i;
      if (group >= sb.group_count) break;
      const uint64_t left = sb.block_count - sb.data_first - group * kGroupBlocks;
      const auto blocks = static_cast<uint16_t>(std::min<uint64_t>(left, kGroupBlocks));
      const auto chunks = static_cast<uint16_t>(blocks / kNodeBlocks);
      summary.groups[i] = {blocks, blocks, chunks, uint16_t{0}};
    }
    pages_.push_back(std::move(page));
  }
  const size_t first_summary = pages_.size() - sb.summary_pages;
  GroupSummary& first = view_as<SummaryPage>(pages_[first_summary].image.bytes()).groups[0];

  Bitmap bits;
  bits.set({0, kNodeBlocks});
  bits.set({first.free_count, kGroupBlocks});
  Page bitmap{BlockNo(sb.bitmap_first), AlignedBuffer(kBlockBytes)};
  set_block_header(bitmap.image.bytes(), BlockKind::bitmap, bitmap.at, kFirstCheckpoint.value());
  BitmapPage& image = view_as<BitmapPage>(bitmap.image.bytes());
  image.free_count = bits.free_count();
  bits.store(image.bits);
  pages_.push_back(std::move(bitmap));
  first = {static_cast<uint16_t>(bits.free_count()),
           static_cast<uint16_t>(bits.longest_run().count()),
           static_cast<uint16_t>(bits.whole_chunks({0, kGroupBlocks})), kGroupInitialized};
}

// Writes pages_; those that are metadata blocks are sealed.
void VolumeFormatter::write(bool fua) {
  ticket_ = make_ref<IoTicket>();
  for (Page& page : pages_) {
    const bool has_header = view_as<BlockHeader>(page.image.bytes()).magic == kBlockMagic;
    if (has_header) seal_block(page.image.bytes(), superblock_.checksum_seed);
    device_.submit(IoRequest::write(block_addr(page.at), page.image.data(), page.image.size(), fua),
                   ticket_);
  }
}

Attempt<void> VolumeFormatter::discard() {
  const uint64_t end = superblock_.block_count * kBlockBytes;
  const uint64_t first = (superblock_.journal_first + 1) * uint64_t{kBlockBytes};
  while (options_.discard && device_.geometry().can_discard && first + discarded_bytes_ < end) {
    const uint64_t at = first + discarded_bytes_;
    const uint64_t len = std::min(kDiscardBytes, end - at);
    if (!ticket_) {
      ticket_ = make_ref<IoTicket>();
      device_.submit(IoRequest::discard(at, len), ticket_);
    }
    if (ticket_->pending()) return ticket_->wait();
    // It is a favour to the device: one that cannot do it is formatted all the same.
    const Result<void> result = ticket_->result();
    ticket_.reset();
    if (!result.ok()) break;
    discarded_bytes_ += len;
  }
  discarded_bytes_ = end;
  return {};
}

void VolumeFormatter::write_superblock(int slot, uint64_t generation) {
  const BlockNo at(kSuperblockBlocks[static_cast<size_t>(slot)]);
  pages_.clear();
  pages_.push_back({at, AlignedBuffer(kBlockBytes)});
  const Bytes image = pages_.front().image.bytes();
  view_as<Superblock>(image) = superblock_;
  set_block_header(image, BlockKind::superblock, at, generation);
  seal_block(image, kSuperblockChecksumSeed);
  superblock_ = view_as<Superblock>(image);
  ticket_ = make_ref<IoTicket>();
  device_.submit(IoRequest::write(block_addr(at), image.data(), image.size(), true), ticket_);
}

}  // namespace fusefs
