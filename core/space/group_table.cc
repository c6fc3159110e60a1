#include "core/space/group_table.h"

#include <algorithm>
#include <string>
#include <utility>

namespace fusefs {
namespace {

// The summaries are read in requests of this size.
constexpr uint64_t kSummaryReadBytes = 1 << 20;

uint64_t end_of_data(const Superblock& superblock) {
  const uint64_t by_groups = superblock.data_first + superblock.group_count * kGroupBlocks;
  return std::min<uint64_t>(by_groups, superblock.block_count);
}

std::string describe(const char* what, uint64_t number, BlockNo at) {
  return std::string(what) + " " + std::to_string(number) + ", block " + std::to_string(at.value());
}

}  // namespace

GroupTable::GroupTable(Scheduler& scheduler, BlockDevice& device, Health& health,
                       const Superblock& superblock)
    : scheduler_(scheduler),
      device_(device),
      health_(health),
      checksum_seed_(superblock.checksum_seed),
      summary_first_(superblock.summary_first),
      bitmap_first_(superblock.bitmap_first),
      data_first_(superblock.data_first),
      data_end_(end_of_data(superblock)),
      groups_(superblock.group_count),
      index_(superblock.group_count) {
  const uint64_t pages = superblock.summary_pages;
  CHECK(pages * kGroupsPerSummary >= groups_.size());
  summary_frozen_.resize(pages);
  for (uint64_t page = 0; page < pages; ++page) {
    summary_slots_.push_back(summary_slot(superblock, page));
  }
}

BitRange GroupTable::bits_of(GroupNo group) const {
  const uint64_t left = (data_end_ - block_at(group, 0)).value();
  return {0, static_cast<uint32_t>(std::min<uint64_t>(left, kGroupBlocks))};
}

// ---- Summaries ----

Attempt<void> GroupTable::load_summaries(Ref<IoTicket>& ticket) {
  if (summaries_loaded_) return {};
  if (!ticket) {
    // Both slots: they lie side by side, and one large read is cheaper than many small ones.
    summaries_ = AlignedBuffer(summary_slots_.size() * 2 * kBlockBytes);
    ticket = make_ref<IoTicket>();
    for (uint64_t at = 0; at < summaries_.size(); at += kSummaryReadBytes) {
      const uint64_t len = std::min<uint64_t>(kSummaryReadBytes, summaries_.size() - at);
      device_.submit(IoRequest::read(block_addr(summary_first_) + at, summaries_.data() + at, len),
                     ticket);
    }
  }
  ATTEMPT_OK(ticket->wait());
  const Result<void> accepted = accept_summaries();
  if (!accepted.ok()) return accepted.error();
  summaries_ = AlignedBuffer();
  ticket.reset();
  summaries_loaded_ = true;
  return {};
}

Result<void> GroupTable::accept_summaries() {
  free_blocks_ = free_chunks_ = committed_free_ = 0;
  for (GroupNo group = 0; group < groups_.size(); ++group) {
    const uint64_t page = group / kGroupsPerSummary;
    const BlockNo at = summary_block(page, summary_slots_[page]);
    const uint64_t offset = block_addr(at) - block_addr(summary_first_);
    const ConstBytes bytes = summaries_.bytes().subspan(offset, kBlockBytes);
    if (group % kGroupsPerSummary == 0 &&
        !block_verifies(bytes, BlockKind::summary, at, checksum_seed_)) {
      health_.note_corruption(describe("summary page", page, at));
      return Error::corrupt;
    }
    GroupInfo& info = groups_[group];
    info.summary = view_as<SummaryPage>(bytes).groups[group % kGroupsPerSummary];
    if ((info.summary.flags & kGroupInitialized) == 0) {
      const auto all = static_cast<uint16_t>(bits_of(group).count());
      info.summary = {all, all, static_cast<uint16_t>(all / kNodeBlocks), uint16_t{0}};
    } else if (!summary_plausible(group, info.summary)) {
      health_.note_corruption(describe("summary page", page, at));
      return Error::corrupt;
    }
    info.free_count = info.summary.free_count;
    info.free_run_max = info.summary.free_run_max;
    info.free_chunks = info.summary.free_chunks;
    free_blocks_ += info.free_count;
    free_chunks_ += info.free_chunks;
    committed_free_ += info.free_count;
    refresh_index(group);
  }
  free_blocks_frozen_ = committed_free_;
  return {};
}

bool GroupTable::summary_plausible(GroupNo group, const GroupSummary& summary) const {
  const uint32_t free = summary.free_count;
  const uint32_t run = summary.free_run_max;
  return free <= bits_of(group).count() && run <= free && (run != 0) == (free != 0) &&
         summary.free_chunks * kNodeBlocks <= free &&
         (summary.flags & ~(kGroupInitialized | kGroupSlot)) == 0;
}

// ---- Loading and dropping ----

Attempt<void> GroupTable::load(GroupNo group, Use use) {
  GroupInfo& info = groups_[group];
  if (info.loaded) {
    if (use == Use::normal) touch(group, use);
    return {};
  }
  if ((info.summary.flags & kGroupInitialized) == 0) {
    Bitmap empty;
    empty.set({bits_of(group).end, kGroupBlocks});
    install(group, empty, use);
    return {};
  }
  const BlockNo at = bitmap_block(group, committed_slot(group));
  auto found = loading_.find(group);
  if (found == loading_.end()) {
    found =
        loading_.emplace(group, Loading{AlignedBuffer(kBlockBytes), make_ref<IoTicket>()}).first;
    Loading& loading = found->second;
    device_.submit(IoRequest::read(block_addr(at), loading.page.data(), kBlockBytes),
                   loading.ticket);
  }
  if (found->second.ticket->pending()) {
    return restart_after(found->second.ticket->completion(), RestartReason::bitmap_load);
  }
  const Loading loading = std::move(found->second);
  loading_.erase(found);
  if (!loading.ticket->result().ok()) {
    refuse(group, loading.ticket->result().error());
    return loading.ticket->result().error();
  }
  if (!page_verifies(group, loading.page.bytes())) {
    refuse(group, Error::corrupt);
    return Error::corrupt;
  }
  Bitmap bitmap;
  bitmap.load(view_as<BitmapPage>(loading.page.bytes()).bits);
  install(group, bitmap, use);
  return {};
}

Attempt<void> GroupTable::load_all(BlockRange blocks) {
  std::optional<Restart> restart;
  std::optional<Error> error;
  size_t waiting = 0;
  for_each_piece(blocks, [&](GroupNo group, BitRange) {
    if (error || waiting == kGroupLoadsAtOnce) return;
    const Attempt<void> attempt = load(group);
    if (attempt.failed()) error = attempt.error();
    if (attempt.must_restart()) {
      restart = attempt.restart();
      ++waiting;
    }
  });
  if (error) return *error;
  if (restart) return *restart;
  return {};
}

bool GroupTable::page_verifies(GroupNo group, ConstBytes bytes) const {
  const BlockNo at = bitmap_block(group, committed_slot(group));
  if (!block_verifies(bytes, BlockKind::bitmap, at, checksum_seed_)) return false;
  const BitmapPage& page = view_as<BitmapPage>(bytes);
  Bitmap bitmap;
  bitmap.load(page.bits);
  const BitRange beyond{bits_of(group).end, kGroupBlocks};
  return page.group == group && page.free_count == groups_[group].summary.free_count &&
         page.free_count == bitmap.free_count() && bitmap.used_count(beyond) == beyond.count();
}

// Nothing is allocated in the group from here on. What was free in it is no longer counted.
void GroupTable::refuse(GroupNo group, Error error) {
  GroupInfo& info = groups_[group];
  if (error == Error::corrupt) {
    health_.note_corruption(
        describe("bitmap of group", group, bitmap_block(group, committed_slot(group))));
  }
  if (info.unreadable) return;
  info.unreadable = true;
  free_blocks_ -= info.free_count;
  free_chunks_ -= info.free_chunks;
  refresh_index(group);
}

void GroupTable::install(GroupNo group, const Bitmap& bitmap, Use use) {
  drop_idle();
  GroupInfo& info = groups_[group];
  if (info.unreadable) {
    info.unreadable = false;
    free_blocks_ += info.free_count;
    free_chunks_ += info.free_chunks;
    refresh_index(group);
  }
  info.loaded = std::make_unique<LoadedGroup>();
  info.loaded->committed = bitmap;
  info.loaded->unavailable = bitmap;
  // The summary's counts were plausible; from here on they have to be right.
  const uint32_t chunks = bitmap.whole_chunks({0, kGroupBlocks});
  free_chunks_ = free_chunks_ - info.free_chunks + chunks;
  info.free_chunks = static_cast<uint16_t>(chunks);
  ++loaded_count_;
  touch(group, use);
  measure_run(group);
}

void GroupTable::touch(GroupNo group, Use use) {
  LoadedGroup& loaded = *groups_[group].loaded;
  loaded.used_ns = use == Use::once ? 0 : scheduler_.clock().monotonic_ns();
  if (loaded.idle) idle_.erase(loaded.position);
  loaded.idle = false;
  if (loaded.dirty || loaded.frozen || loaded.differences != 0) return;
  loaded.idle = true;
  loaded.position = idle_.insert(use == Use::once ? idle_.begin() : idle_.end(), group);
}

// After a change of state: the group is idle exactly when it may be dropped.
void GroupTable::settle(GroupNo group) {
  LoadedGroup& loaded = *groups_[group].loaded;
  const bool idle = !loaded.dirty && !loaded.frozen && loaded.differences == 0;
  if (idle == loaded.idle) return;
  loaded.idle = idle;
  if (idle) {
    loaded.position = idle_.insert(idle_.end(), group);
  } else {
    idle_.erase(loaded.position);
  }
}

void GroupTable::drop_idle() {
  const uint64_t now_ns = scheduler_.clock().monotonic_ns();
  while (loaded_count_ >= kLoadedGroupsMax && !idle_.empty()) {
    const GroupNo group = idle_.front();
    GroupInfo& info = groups_[group];
    if (info.loaded->used_ns + kLoadedGroupKeepNs > now_ns && info.loaded->used_ns != 0) return;
    if (!info.run_exact) measure_run(group);
    idle_.pop_front();
    info.loaded.reset();
    --loaded_count_;
  }
}

const LoadedGroup& GroupTable::loaded(GroupNo group) const {
  CHECK_MSG(groups_[group].loaded, "a bitmap is used that was not prepared");
  return *groups_[group].loaded;
}

LoadedGroup& GroupTable::change(GroupNo group) {
  CHECK_MSG(groups_[group].loaded, "a bitmap is changed that was not prepared");
  return *groups_[group].loaded;
}

void GroupTable::measure_run(GroupNo group) {
  GroupInfo& info = groups_[group];
  info.free_run_max = static_cast<uint16_t>(loaded(group).unavailable.longest_run().count());
  info.run_exact = true;
  refresh_index(group);
}

void GroupTable::refresh_index(GroupNo group) {
  const GroupInfo& info = groups_[group];
  if (info.unreadable) {
    index_.update(group, 0, 0, 0);
  } else {
    index_.update(group, info.free_count, info.free_run_max, info.free_chunks);
  }
}

// ---- Changing ----

void GroupTable::take_bits(GroupNo group, BitRange bits) {
  GroupInfo& info = groups_[group];
  LoadedGroup& loaded = change(group);
  const uint32_t chunks = loaded.unavailable.whole_chunks(bits);
  CHECK_MSG(loaded.unavailable.set(bits) == bits.count(), "a block is handed out twice");
  loaded.differences += bits.count();
  info.free_count = static_cast<uint16_t>(info.free_count - bits.count());
  info.free_chunks = static_cast<uint16_t>(info.free_chunks - chunks);
  // A run became shorter; whether it was the longest is found out when somebody needs to know.
  info.free_run_max = std::min(info.free_run_max, info.free_count);
  info.run_exact = info.free_count == 0;
  free_blocks_ -= bits.count();
  free_chunks_ -= chunks;
  refresh_index(group);
  settle(group);
}

void GroupTable::give_bits(GroupNo group, BitRange bits) {
  GroupInfo& info = groups_[group];
  LoadedGroup& loaded = change(group);
  CHECK_MSG(loaded.committed.used_count(bits) == 0, "an allocated block becomes free");
  CHECK_MSG(loaded.unavailable.clear(bits) == bits.count(), "a free block becomes free");
  const uint32_t chunks = loaded.unavailable.whole_chunks(bits);
  loaded.differences -= bits.count();
  info.free_count = static_cast<uint16_t>(info.free_count + bits.count());
  info.free_chunks = static_cast<uint16_t>(info.free_chunks + chunks);
  const auto run = static_cast<uint16_t>(loaded.unavailable.run_around(bits.first));
  info.free_run_max = std::max(info.free_run_max, run);
  free_blocks_ += bits.count();
  free_chunks_ += chunks;
  refresh_index(group);
  settle(group);
}

void GroupTable::take(BlockRange blocks) {
  for_each_piece(blocks, [this](GroupNo group, BitRange bits) { take_bits(group, bits); });
}

void GroupTable::give(BlockRange blocks) {
  for_each_piece(blocks, [this](GroupNo group, BitRange bits) { give_bits(group, bits); });
}

uint64_t GroupTable::commit_set(BlockRange blocks) {
  uint64_t changed = 0;
  for_each_piece(blocks, [&](GroupNo group, BitRange bits) {
    LoadedGroup& loaded = change(group);
    CHECK_MSG(loaded.unavailable.used_count(bits) == bits.count(),
              "a block is allocated that was not handed out");
    const uint32_t set = loaded.committed.set(bits);
    loaded.differences -= set;
    committed_free_ -= set;
    changed += set;
    note_dirty(group);
  });
  return changed;
}

uint64_t GroupTable::commit_clear(BlockRange blocks) {
  uint64_t changed = 0;
  for_each_piece(blocks, [&](GroupNo group, BitRange bits) {
    LoadedGroup& loaded = change(group);
    const uint32_t cleared = loaded.committed.clear(bits);
    loaded.differences += cleared;
    committed_free_ += cleared;
    changed += cleared;
    note_dirty(group);
  });
  return changed;
}

void GroupTable::replay_set(BlockRange blocks) {
  for_each_piece(blocks, [this](GroupNo group, BitRange bits) {
    while (true) {
      const Bitmap& committed = change(group).committed;
      const uint32_t first = committed.find_free(bits);
      if (first == bits.end) return;
      const BitRange run{first, committed.find_used({first, bits.end})};
      take_bits(group, run);
      commit_set(blocks_of(group, run));
      bits.first = run.end;
    }
  });
}

void GroupTable::replay_clear(BlockRange blocks) {
  for_each_piece(blocks, [this](GroupNo group, BitRange bits) {
    while (true) {
      const Bitmap& committed = change(group).committed;
      const uint32_t first = committed.find_used(bits);
      if (first == bits.end) return;
      const BitRange run{first, committed.find_free({first, bits.end})};
      commit_clear(blocks_of(group, run));
      give_bits(group, run);
      bits.first = run.end;
    }
  });
}

void GroupTable::note_dirty(GroupNo group) {
  LoadedGroup& loaded = change(group);
  if (!loaded.dirty) dirty_.push_back(group);
  loaded.dirty = true;
  settle(group);
}

}  // namespace fusefs
