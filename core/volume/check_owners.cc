// Who owns which block: all extents of all files laid over each other.
//
//     file A   |------|
//     file B       |--------|
//     file C       |--|
//     owners   1111333322222         a `shared` item for each stretch of 2 and more
#include "core/volume/check_impl.h"

namespace fusefs {
namespace {

std::string blocks_text(BlockRange blocks) {
  return "blocks " + std::to_string(blocks.first.value()) + " to " +
         std::to_string(blocks.end.value() - 1);
}

// Calls visit(range, owners) for each stretch with the same positive number of owners.
template <class Visit>
void sweep(const std::vector<BlockRange>& extents, Visit&& visit) {
  std::vector<uint64_t> starts;
  std::vector<uint64_t> ends;
  starts.reserve(extents.size());
  ends.reserve(extents.size());
  for (const BlockRange& extent : extents) {
    starts.push_back(extent.first.value());
    ends.push_back(extent.end.value());
  }
  std::sort(starts.begin(), starts.end());
  std::sort(ends.begin(), ends.end());
  size_t s = 0;
  size_t e = 0;
  uint32_t owners = 0;
  uint64_t from = 0;
  while (e < ends.size()) {
    const uint64_t at = s < starts.size() ? std::min(starts[s], ends[e]) : ends[e];
    if (owners > 0 && at > from) visit(BlockRange{BlockNo(from), BlockNo(at)}, owners);
    while (s < starts.size() && starts[s] == at) ++owners, ++s;
    while (e < ends.size() && ends[e] == at) --owners, ++e;
    from = at;
  }
}

// The stretches with two and more owners, neighbours of the same count as one.
class SharedList {
 public:
  void add(BlockRange blocks, uint32_t owners) {
    if (!list_.empty() && list_.back().blocks.end == blocks.first &&
        list_.back().owners == owners) {
      list_.back().blocks.end = blocks.end;
    } else {
      list_.push_back({blocks, owners});
    }
  }
  const std::vector<CheckedShared>& list() const { return list_; }

 private:
  std::vector<CheckedShared> list_;
};

void report_wrong(CheckFindings& findings, BlockRange blocks, uint32_t said, uint32_t right) {
  Finding& finding = findings.add(FindingKind::shared_wrong,
                                  blocks_text(blocks) + ": said to have " + std::to_string(said) +
                                      " owners, and have " + std::to_string(right));
  finding.blocks = blocks;
  finding.owners = right;
}

// Both lists are ordered and without overlaps: walks them side by side and reports each stretch
// on which they differ.
void compare(const std::vector<CheckedShared>& said, const std::vector<CheckedShared>& right,
             CheckFindings& findings) {
  std::vector<uint64_t> borders;
  for (const auto* list : {&said, &right}) {
    for (const CheckedShared& entry : *list) {
      borders.push_back(entry.blocks.first.value());
      borders.push_back(entry.blocks.end.value());
    }
  }
  std::sort(borders.begin(), borders.end());
  borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
  const auto owners_at = [](const std::vector<CheckedShared>& list, size_t& at, uint64_t block) {
    while (at < list.size() && list[at].blocks.end.value() <= block) ++at;
    return at < list.size() && list[at].blocks.contains(BlockNo(block)) ? list[at].owners : 1u;
  };
  size_t said_at = 0;
  size_t right_at = 0;
  for (size_t i = 0; i + 1 < borders.size(); ++i) {
    const uint32_t a = owners_at(said, said_at, borders[i]);
    const uint32_t b = owners_at(right, right_at, borders[i]);
    if (a != b) report_wrong(findings, {BlockNo(borders[i]), BlockNo(borders[i + 1])}, a, b);
  }
}

void mark(std::vector<std::unique_ptr<Bitmap>>& groups, const Superblock& superblock,
          BlockRange blocks, uint64_t& newly_used, uint64_t& already_used) {
  uint64_t at = blocks.first.value() - superblock.data_first;
  const uint64_t end = blocks.end.value() - superblock.data_first;
  while (at < end) {
    std::unique_ptr<Bitmap>& group = groups[at / kGroupBlocks];
    if (!group) group = std::make_unique<Bitmap>();
    const auto first = static_cast<uint32_t>(at % kGroupBlocks);
    const auto last = static_cast<uint32_t>(std::min<uint64_t>(kGroupBlocks, first + (end - at)));
    const uint32_t changed = group->set({first, last});
    newly_used += changed;
    already_used += last - first - changed;
    at += last - first;
  }
}

}  // namespace

uint64_t blocks_in_items(const std::vector<CheckedShared>& shared) {
  uint64_t blocks = 0;
  for (const CheckedShared& item : shared) blocks += item.blocks.count().value();
  return blocks;
}

void check_owners(CheckedTree& tree, const Superblock& superblock, CheckReport& report,
                  CheckFindings& findings, std::vector<std::unique_ptr<Bitmap>>& groups) {
  groups.clear();
  groups.resize(superblock.group_count);
  for (const BlockRange& node : tree.nodes) {
    uint64_t twice = 0;
    mark(groups, superblock, node, report.counts.allocated_blocks, twice);
    if (twice != 0) {
      findings.add(FindingKind::block_conflict,
                   blocks_text(node) + ": two tree nodes in one place");
    }
  }
  SharedList shared;
  sweep(tree.extents, [&](BlockRange blocks, uint32_t owners) {
    uint64_t twice = 0;
    mark(groups, superblock, blocks, report.counts.allocated_blocks, twice);
    if (twice != 0) {
      findings.add(FindingKind::block_conflict,
                   blocks_text(blocks) + ": a file's data and a tree node in one place");
    }
    if (owners < 2) return;
    shared.add(blocks, owners);
    report.counts.shared_blocks += blocks.count().value();
  });
  if (tree.damaged) return;
  compare(tree.shared, shared.list(), findings);
  // The items may be wrong: their repair corrects the count by the difference.
  const uint64_t said = superblock.shared_blocks;
  const uint64_t in_items = blocks_in_items(tree.shared);
  if (said == in_items) return;
  findings.add(FindingKind::shared_count_wrong, "shared block count is " + std::to_string(said) +
                                                    ", " + std::to_string(in_items) +
                                                    " are in shared items");
}

}  // namespace fusefs
