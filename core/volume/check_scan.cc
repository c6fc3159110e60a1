// The scan itself: superblock, journal, tree nodes, then the pages of the allocator with reads
// ahead.
#include <deque>

#include "core/base/check.h"
#include "core/journal/journal_reader.h"
#include "core/tree/superblock_io.h"
#include "core/volume/check_impl.h"
#include "core/volume/node_walk.h"

namespace fusefs {
namespace {

struct FindingKindRow {
  std::string_view name;
  bool repairable;
};

constexpr FindingKindRow kKinds[] = {
    {"node_damaged", false},     {"item_damaged", false},      {"extent_outside", false},
    {"block_conflict", false},   {"superblock_damaged", true}, {"bitmap_damaged", true},
    {"bitmap_wrong", true},      {"free_count_wrong", true},   {"shared_count_wrong", true},
    {"shared_wrong", true},      {"block_count_wrong", true},  {"link_count_wrong", true},
    {"entry_count_wrong", true}, {"parent_wrong", true},       {"xattr_count_wrong", true},
    {"entry_dangling", true},    {"inode_unreachable", true},  {"orphan_missing", true},
    {"orphan_wrong", true},      {"journal_damaged", false},
};

// Reads under way ahead of the page that is being checked.
constexpr size_t kReadAhead = 32;

// One read with its buffer.
struct Reading {
  AlignedBuffer buffer;
  Ref<IoTicket> ticket;
};

Reading start_read(BlockDevice& device, uint64_t block, uint64_t bytes) {
  Reading reading{AlignedBuffer(bytes), make_ref<IoTicket>()};
  device.submit(IoRequest::read(block_addr(BlockNo(block)), reading.buffer.data(), bytes),
                reading.ticket);
  return reading;
}

}  // namespace

std::string_view finding_kind_name(FindingKind kind) {
  return kKinds[static_cast<size_t>(kind)].name;
}
bool finding_repairable(FindingKind kind) { return kKinds[static_cast<size_t>(kind)].repairable; }

class CheckScan::Impl {
 public:
  Impl(BlockDevice& device, std::function<void(const CheckProgress&)> progress)
      : device_(device), progress_(std::move(progress)), findings_(report_) {}

  Attempt<void> run();
  Attempt<void> repair_space();
  Attempt<void> clear_error_mark();
  CheckReport report_;

 private:
  enum class Phase : uint8_t { superblock, journal, tree, names, space, done };
  enum class RepairPhase : uint8_t { plan, pages, superblock, done };

  const Superblock& sb() const { return report_.superblock; }
  Attempt<void> read_superblock();
  Attempt<void> read_journal();
  Attempt<void> read_tree();
  void check_node(const WalkedNode& node);
  Attempt<void> read_space();
  void check_summary(uint64_t page, ConstBytes bytes);
  void check_group(uint64_t group, const GroupSummary& summary, ConstBytes page);
  GroupSummary right_summary(uint64_t group, uint16_t flags) const;
  uint32_t group_end(uint64_t group) const;
  void plan_repairs();
  void advance(uint64_t done, uint64_t total) {
    if (progress_) progress_({done, total});
  }

  BlockDevice& device_;
  const std::function<void(const CheckProgress&)> progress_;
  CheckFindings findings_;
  Phase phase_ = Phase::superblock;
  SuperblockStash superblocks_;
  int slot_ = 0;
  std::unique_ptr<JournalReader> journal_;
  CheckedTree tree_;
  std::unique_ptr<ItemChecker> items_;
  std::optional<NodeWalk> walk_;
  // Space.
  std::vector<std::unique_ptr<Bitmap>> groups_;
  std::vector<GroupSummary> summaries_;
  std::vector<bool> group_wrong_;
  std::vector<bool> summary_wrong_;
  uint64_t free_blocks_ = 0;
  uint64_t next_page_ = 0;  // summary pages, then groups
  std::deque<std::pair<uint64_t, Reading>> pages_;
  uint64_t pages_started_ = 0;
  // Repair.
  RepairPhase repair_phase_ = RepairPhase::plan;
  std::vector<std::pair<uint64_t, AlignedBuffer>> writes_;
  Ref<IoTicket> writing_;
  std::optional<SuperblockWriter> writer_;
};

Attempt<void> CheckScan::Impl::run() {
  if (phase_ == Phase::superblock) {
    ATTEMPT_OK(read_superblock());
    phase_ = Phase::journal;
  }
  if (phase_ == Phase::journal) {
    ATTEMPT_OK(read_journal());
    phase_ = Phase::tree;
  }
  if (phase_ == Phase::tree) {
    ATTEMPT_OK(read_tree());
    phase_ = Phase::names;
  }
  if (phase_ == Phase::names) {
    check_names(tree_, findings_);
    check_owners(tree_, sb(), report_, findings_, groups_);
    summaries_.resize(sb().group_count);
    group_wrong_.resize(sb().group_count);
    summary_wrong_.resize(sb().summary_pages);
    phase_ = Phase::space;
  }
  if (phase_ == Phase::space) {
    ATTEMPT_OK(read_space());
    phase_ = Phase::done;
  }
  return {};
}

Attempt<void> CheckScan::Impl::read_superblock() {
  ATTEMPT(const FoundSuperblock found, read_superblocks(device_, superblocks_));
  report_.superblock = found.superblock;
  slot_ = found.slot;
  report_.clean = (found.superblock.flags & kVolumeClean) != 0;
  report_.has_errors = (found.superblock.flags & kVolumeHasErrors) != 0;
  const size_t other = 1 - static_cast<size_t>(slot_);
  if (!verify_superblock(superblocks_.slots[other].bytes(), BlockNo(kSuperblockBlocks[other]),
                         device_.geometry().size_bytes)
           .ok()) {
    findings_.add(FindingKind::superblock_damaged,
                  "superblock slot " + std::to_string(other) + " does not verify");
  }
  const JournalLayout layout{BlockNo(sb().journal_first), BlockCount(sb().journal_blocks),
                             sb().checksum_seed};
  journal_ = std::make_unique<JournalReader>(
      device_, layout, JournalMark{BlockNo(sb().journal_tail_block), sb().journal_tail_batch});
  items_ = std::make_unique<ItemChecker>(report_.superblock, tree_, report_, findings_);
  return {};
}

Attempt<void> CheckScan::Impl::read_journal() {
  while (true) {
    const Attempt<const LoggedTransaction*> current = journal_->current();
    if (current.failed() && current.error() == Error::corrupt) {
      findings_.add(FindingKind::journal_damaged,
                    "journal batch at block " + std::to_string(journal_->head().block.value()) +
                        " makes no sense");
      return {};
    }
    if (!current.ok()) return Unfinished(current);
    if (current.value() == nullptr) break;
    journal_->advance();
  }
  report_.counts.journal_transactions = journal_->transaction_count();
  return {};
}

Attempt<void> CheckScan::Impl::read_tree() {
  if (!walk_) walk_.emplace(device_, sb());
  while (true) {
    const Attempt<const WalkedNode*> node = walk_->current();
    if (!node.ok()) return Unfinished(node);
    if (node.value() == nullptr) break;
    check_node(*node.value());
    walk_->advance();
    advance(++report_.counts.node_count, sb().tree_node_count);
  }
  items_->end();
  return {};
}

void CheckScan::Impl::check_node(const WalkedNode& node) {
  const BlockNo at(node.pointer.block);
  if (node.damage != nullptr) {
    tree_.damaged = true;
    findings_.add(FindingKind::node_damaged,
                  "tree node at block " + std::to_string(at.value()) + " " + node.damage);
    return;
  }
  tree_.nodes.push_back(block_range(at, BlockCount(kNodeBlocks)));
  if (node.header().level != 0) return;
  for (uint32_t i = 0; i < node.header().count; ++i) {
    items_->item(node.slot(i).key.key(), node.value(i));
  }
}

// ---- the allocator's pages ----

uint32_t CheckScan::Impl::group_end(uint64_t group) const {
  const uint64_t data_blocks = sb().block_count - sb().data_first;
  return static_cast<uint32_t>(
      std::min<uint64_t>(kGroupBlocks, data_blocks - group * kGroupBlocks));
}

Attempt<void> CheckScan::Impl::read_space() {
  const uint64_t summary_pages = sb().summary_pages;
  const uint64_t total = summary_pages + sb().group_count;
  while (next_page_ < total) {
    // Groups are known only when all summaries are.
    const uint64_t limit = next_page_ < summary_pages ? summary_pages : total;
    while (pages_.size() < kReadAhead && pages_started_ < limit) {
      const uint64_t page = pages_started_++;
      if (page < summary_pages) {
        const uint64_t at = sb().summary_first + 2 * page + (summary_slot(sb(), page) ? 1 : 0);
        pages_.emplace_back(page, start_read(device_, at, kBlockBytes));
      } else {
        const uint64_t group = page - summary_pages;
        const uint16_t flags = summaries_[group].flags;
        if ((flags & kGroupInitialized) == 0) {
          pages_.emplace_back(page, Reading{});
        } else {
          const uint64_t at = sb().bitmap_first + 2 * group + ((flags & kGroupSlot) != 0 ? 1 : 0);
          pages_.emplace_back(page, start_read(device_, at, kBlockBytes));
        }
      }
    }
    auto& [page, reading] = pages_.front();
    ConstBytes bytes;
    if (reading.ticket) {
      const Attempt<void> read = reading.ticket->wait();
      if (read.must_restart()) return read;
      if (read.ok()) bytes = reading.buffer.bytes();
    }
    if (page < summary_pages) {
      check_summary(page, bytes);
    } else {
      check_group(page - summary_pages, summaries_[page - summary_pages], bytes);
    }
    pages_.pop_front();
    advance(sb().tree_node_count + ++next_page_, sb().tree_node_count + total);
  }
  if (free_blocks_ != sb().free_blocks) {
    findings_.add(FindingKind::free_count_wrong, "free block count is " +
                                                     std::to_string(sb().free_blocks.get()) + ", " +
                                                     std::to_string(free_blocks_) + " are free");
  }
  return {};
}

void CheckScan::Impl::check_summary(uint64_t page, ConstBytes bytes) {
  const BlockNo at(sb().summary_first + 2 * page + (summary_slot(sb(), page) ? 1 : 0));
  const uint64_t first = page * kGroupsPerSummary;
  const uint64_t count = std::min<uint64_t>(kGroupsPerSummary, sb().group_count - first);
  if (bytes.empty() || !block_verifies(bytes, BlockKind::summary, at, sb().checksum_seed)) {
    findings_.add(FindingKind::bitmap_damaged,
                  "summary page " + std::to_string(page) + " does not verify");
    summary_wrong_[page] = true;
    return;  // its groups count as not initialized, and are compared as such
  }
  const SummaryPage& summary = view_as<SummaryPage>(bytes);
  for (uint64_t i = 0; i < count; ++i) summaries_[first + i] = summary.groups[i];
}

GroupSummary CheckScan::Impl::right_summary(uint64_t group, uint16_t flags) const {
  Bitmap bits;
  if (groups_[group]) bits = *groups_[group];
  bits.set({group_end(group), kGroupBlocks});
  GroupSummary summary;
  summary.free_count = static_cast<uint16_t>(bits.free_count());
  summary.free_run_max = static_cast<uint16_t>(bits.longest_run().count());
  summary.free_chunks = static_cast<uint16_t>(bits.whole_chunks({0, kGroupBlocks}));
  summary.flags = flags;
  return summary;
}

void CheckScan::Impl::check_group(uint64_t group, const GroupSummary& summary, ConstBytes page) {
  const uint32_t end = group_end(group);
  Bitmap stored;
  if ((summary.flags & kGroupInitialized) != 0) {
    const BlockNo at(sb().bitmap_first + 2 * group + ((summary.flags & kGroupSlot) != 0 ? 1 : 0));
    if (page.empty() || !block_verifies(page, BlockKind::bitmap, at, sb().checksum_seed)) {
      findings_.add(FindingKind::bitmap_damaged,
                    "bitmap page of group " + std::to_string(group) + " does not verify");
      group_wrong_[group] = true;
    } else {
      stored.load(view_as<BitmapPage>(page).bits);
    }
  }
  const GroupSummary right = right_summary(group, summary.flags);
  free_blocks_ += right.free_count;
  if (group_wrong_[group] || tree_.damaged) return;
  uint64_t missing = 0;
  uint64_t leaked = 0;
  for (uint32_t bit = 0; bit < end; ++bit) {
    const bool used = groups_[group] && groups_[group]->test(bit);
    if (used && !stored.test(bit)) ++missing;
    if (!used && stored.test(bit)) ++leaked;
  }
  if (missing + leaked != 0) {
    findings_.add(FindingKind::bitmap_wrong,
                  "group " + std::to_string(group) + ": " + std::to_string(missing) +
                      " blocks are used and marked free, " + std::to_string(leaked) +
                      " are unused and marked allocated");
    group_wrong_[group] = true;
  } else if (right.free_count != summary.free_count || right.free_chunks != summary.free_chunks) {
    findings_.add(FindingKind::free_count_wrong,
                  "group " + std::to_string(group) + ": summary says " +
                      std::to_string(summary.free_count.get()) + " free blocks and " +
                      std::to_string(summary.free_chunks.get()) + " free chunks, there are " +
                      std::to_string(right.free_count.get()) + " and " +
                      std::to_string(right.free_chunks.get()));
    summary_wrong_[group / kGroupsPerSummary] = true;
  }
}

// ---- repair ----

void CheckScan::Impl::plan_repairs() {
  const uint64_t generation = sb().checkpoint_no;
  for (uint64_t group = 0; group < sb().group_count; ++group) {
    if (!group_wrong_[group]) continue;
    auto flags = static_cast<uint16_t>(summaries_[group].flags | kGroupInitialized);
    const BlockNo at(sb().bitmap_first + 2 * group + ((flags & kGroupSlot) != 0 ? 1 : 0));
    AlignedBuffer image(kBlockBytes);
    set_block_header(image.bytes(), BlockKind::bitmap, at, generation);
    BitmapPage& page = view_as<BitmapPage>(image.bytes());
    Bitmap bits;
    if (groups_[group]) bits = *groups_[group];
    bits.set({group_end(group), kGroupBlocks});
    page.group = group;
    page.free_count = bits.free_count();
    bits.store(page.bits);
    seal_block(image.bytes(), sb().checksum_seed);
    writes_.emplace_back(at.value(), std::move(image));
    summaries_[group] = right_summary(group, flags);
    summary_wrong_[group / kGroupsPerSummary] = true;
  }
  for (uint64_t page = 0; page < sb().summary_pages; ++page) {
    if (!summary_wrong_[page]) continue;
    const BlockNo at(sb().summary_first + 2 * page + (summary_slot(sb(), page) ? 1 : 0));
    AlignedBuffer image(kBlockBytes);
    set_block_header(image.bytes(), BlockKind::summary, at, generation);
    SummaryPage& summary = view_as<SummaryPage>(image.bytes());
    const uint64_t first = page * kGroupsPerSummary;
    for (uint64_t i = 0; i < kGroupsPerSummary && first + i < sb().group_count; ++i) {
      summary.groups[i] = right_summary(first + i, summaries_[first + i].flags);
    }
    seal_block(image.bytes(), sb().checksum_seed);
    writes_.emplace_back(at.value(), std::move(image));
  }
}

Attempt<void> CheckScan::Impl::repair_space() {
  CHECK(phase_ == Phase::done && !tree_.damaged);
  if (repair_phase_ == RepairPhase::plan) {
    plan_repairs();
    writing_ = make_ref<IoTicket>();
    for (const auto& [block, image] : writes_) {
      device_.submit(IoRequest::write(block_addr(BlockNo(block)), image.data(), kBlockBytes, true),
                     writing_);
    }
    repair_phase_ = RepairPhase::pages;
  }
  if (repair_phase_ == RepairPhase::pages) {
    ATTEMPT_OK(writing_->wait());
    // The other slot gets the right free count, and is repaired by it if it was damaged.
    writer_.emplace(device_, sb(), slot_);
    repair_phase_ = RepairPhase::superblock;
  }
  // Not an ATTEMPT: once this has succeeded, another call would be another write.
  Superblock fresh = sb();
  fresh.free_blocks = free_blocks_;
  fresh.shared_blocks = blocks_in_items(tree_.shared);
  const Attempt<void> written = writer_->write(fresh);
  if (!written.ok()) return written;
  for (Finding& finding : report_.findings) {
    if (finding.kind == FindingKind::superblock_damaged ||
        finding.kind == FindingKind::bitmap_damaged || finding.kind == FindingKind::bitmap_wrong ||
        finding.kind == FindingKind::free_count_wrong ||
        finding.kind == FindingKind::shared_count_wrong) {
      finding.repaired = true;
    }
  }
  repair_phase_ = RepairPhase::done;
  return {};
}

Attempt<void> CheckScan::Impl::clear_error_mark() {
  CHECK(phase_ == Phase::done && report_.ok());
  if (!writer_) writer_.emplace(device_, sb(), slot_);
  Superblock fresh = sb();
  fresh.flags = fresh.flags & ~kVolumeHasErrors;
  return writer_->write(fresh);
}

CheckScan::CheckScan(BlockDevice& device, std::function<void(const CheckProgress&)> progress)
    : impl_(std::make_unique<Impl>(device, std::move(progress))) {}
CheckScan::~CheckScan() = default;
Attempt<void> CheckScan::run() { return impl_->run(); }
CheckReport& CheckScan::report() { return impl_->report_; }
Attempt<void> CheckScan::repair_space() { return impl_->repair_space(); }
Attempt<void> CheckScan::clear_error_mark() { return impl_->clear_error_mark(); }

}  // namespace fusefs
