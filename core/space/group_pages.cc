// Checkpoints of the bitmap and summary pages: which slot is written, and when it counts.
#include <algorithm>
#include <utility>

#include "core/space/group_table.h"

namespace fusefs {

std::vector<FrozenPage> GroupTable::freeze(CheckpointNo checkpoint) {
  CHECK_MSG(!frozen_, "a checkpoint begins while another one is written");
  frozen_ = true;
  frozen_groups_ = std::exchange(dirty_, {});
  std::sort(frozen_groups_.begin(), frozen_groups_.end());
  std::vector<FrozenPage> pages;
  for (GroupNo group : frozen_groups_) {
    pages.push_back(freeze_bitmap(group, checkpoint));
    LoadedGroup& loaded = change(group);
    loaded.dirty = false;
    loaded.frozen = true;
    const uint64_t page = group / kGroupsPerSummary;
    if (!summary_frozen_[page]) frozen_summaries_.push_back(page);
    summary_frozen_[page] = true;
  }
  // Behind the bitmaps: a summary says in which slots its groups' pages are.
  for (uint64_t page : frozen_summaries_) pages.push_back(freeze_summary(page, checkpoint));
  free_blocks_frozen_ = committed_free_;
  return pages;
}

FrozenPage GroupTable::freeze_bitmap(GroupNo group, CheckpointNo checkpoint) {
  const Bitmap& bitmap = change(group).committed;
  FrozenPage page{bitmap_block(group, !committed_slot(group)), AlignedBuffer(kBlockBytes)};
  set_block_header(page.image.bytes(), BlockKind::bitmap, page.at, checkpoint.value());
  BitmapPage& image = view_as<BitmapPage>(page.image.bytes());
  image.group = group;
  image.free_count = bitmap.free_count();
  bitmap.store(image.bits);

  GroupSummary& summary = groups_[group].summary;
  summary.free_count = static_cast<uint16_t>(bitmap.free_count());
  summary.free_run_max = static_cast<uint16_t>(bitmap.longest_run().count());
  summary.free_chunks = static_cast<uint16_t>(bitmap.whole_chunks({0, kGroupBlocks}));
  return page;
}

FrozenPage GroupTable::freeze_summary(uint64_t page_no, CheckpointNo checkpoint) {
  FrozenPage page{summary_block(page_no, !summary_slots_[page_no]), AlignedBuffer(kBlockBytes)};
  set_block_header(page.image.bytes(), BlockKind::summary, page.at, checkpoint.value());
  SummaryPage& image = view_as<SummaryPage>(page.image.bytes());
  const GroupNo first = page_no * kGroupsPerSummary;
  const GroupNo end = std::min<GroupNo>(first + kGroupsPerSummary, groups_.size());
  for (GroupNo group = first; group < end; ++group) {
    GroupSummary summary = groups_[group].summary;
    if (groups_[group].loaded && groups_[group].loaded->frozen) {
      summary.flags = static_cast<uint16_t>((summary.flags ^ kGroupSlot) | kGroupInitialized);
    }
    image.groups[group - first] = summary;
  }
  return page;
}

void GroupTable::write_summary_slots(unsigned char* slots) const {
  std::fill_n(slots, kSummarySlotBytes, static_cast<unsigned char>(0));
  for (uint64_t page = 0; page < summary_slots_.size(); ++page) {
    if (summary_slots_[page] != summary_frozen_[page]) {
      slots[page / 8] = static_cast<unsigned char>(slots[page / 8] | (1u << (page % 8)));
    }
  }
}

void GroupTable::thaw(bool durable) {
  CHECK(frozen_);
  frozen_ = false;
  for (GroupNo group : frozen_groups_) {
    GroupSummary& summary = groups_[group].summary;
    LoadedGroup& loaded = change(group);
    loaded.frozen = false;
    if (durable) {
      summary.flags = static_cast<uint16_t>((summary.flags ^ kGroupSlot) | kGroupInitialized);
      settle(group);
    } else {
      note_dirty(group);
    }
  }
  frozen_groups_.clear();
  for (uint64_t page : frozen_summaries_) {
    if (durable) summary_slots_[page] = !summary_slots_[page];
    summary_frozen_[page] = false;
  }
  frozen_summaries_.clear();
}

}  // namespace fusefs
