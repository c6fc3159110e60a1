// Repairs through ordinary transactions: each finding's is complete or not made at all.
#include <sys/stat.h>

#include <algorithm>

#include "core/volume/check.h"
#include "core/volume/volume.h"

namespace fusefs {
namespace {

constexpr std::string_view kLostAndFound = "lost+found";

bool repaired_in_tree(FindingKind kind) {
  return finding_repairable(kind) && kind >= FindingKind::shared_wrong;
}

}  // namespace

class CheckRepair::Impl {
 public:
  Impl(Volume& volume, CheckReport& report) : volume_(volume), report_(report) {
    for (size_t i = 0; i < report.findings.size(); ++i) {
      if (repaired_in_tree(report.findings[i].kind)) order_.push_back(i);
    }
    // Counts as the scan found them come before what changes them again (lost+found).
    std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
      return report.findings[a].kind < report.findings[b].kind;
    });
  }

  Attempt<void> run() {
    while (next_ < order_.size()) {
      Finding& finding = report_.findings[order_[next_]];
      const Attempt<void> repaired = repair(finding);
      if (!repaired.ok()) return repaired;
      finding.repaired = true;
      pins_.clear();
      ++next_;
      Operation::current()->note_progress();
    }
    return {};
  }

 private:
  Attempt<void> repair(const Finding& finding);
  Attempt<void> set_owners(Transaction& txn, BlockRange blocks, uint32_t owners);
  Attempt<void> repair_inode(const Finding& finding);
  Attempt<void> attach(InodeNo ino);
  Attempt<InodeRef> lost_and_found();

  Volume& volume_;
  CheckReport& report_;
  std::vector<size_t> order_;
  size_t next_ = 0;
  NodePins pins_;
  NamespaceStash names_;
  InodeRef lost_and_found_;
};

Attempt<void> CheckRepair::Impl::repair(const Finding& finding) {
  const InodeNo ino(finding.ino);
  Transaction txn(volume_.store(), pins_);
  switch (finding.kind) {
    case FindingKind::shared_wrong:
      ATTEMPT_OK(set_owners(txn, finding.blocks, finding.owners));
      break;
    case FindingKind::entry_dangling:
      txn.erase(dirent_key(InodeNo(finding.other), finding.cookie));
      break;
    case FindingKind::orphan_wrong:
      txn.erase(orphan_key(ino));
      break;
    case FindingKind::orphan_missing: {
      OrphanValue orphan{};
      orphan.kind = static_cast<unsigned char>(OrphanKind::unlinked);
      txn.put(orphan_key(ino), bytes_of(orphan));
      break;
    }
    case FindingKind::inode_unreachable:
      return attach(ino);
    default:
      return repair_inode(finding);
  }
  ATTEMPT_OK(txn.prepare());
  txn.commit();
  return {};
}

// Replaces what the shared items say of `blocks`.
Attempt<void> CheckRepair::Impl::set_owners(Transaction& txn, BlockRange blocks, uint32_t owners) {
  const auto put = [&](BlockRange range, uint32_t count) {
    SharedValue value{};
    value.length = range.count().value();
    value.count = count;
    txn.put(shared_key(range.first), bytes_of(value));
  };
  BlockNo at = blocks.first;
  while (at < blocks.end) {
    ATTEMPT(auto item, txn.at_or_before(shared_key(blocks.end - BlockCount(1))));
    if (!item || item->key.type != KeyType::shared) break;
    const SharedValue value = view_as<SharedValue>(item->value);
    const BlockRange range = block_range(BlockNo(item->key.offset), BlockCount(value.length));
    if (range.end <= blocks.first) break;
    txn.erase(item->key);
    if (range.first < blocks.first) put({range.first, blocks.first}, value.count);
    if (range.end > blocks.end) put({blocks.end, range.end}, value.count);
    if (range.first <= blocks.first) break;
  }
  if (owners >= 2) put(blocks, owners);
  return {};
}

Attempt<void> CheckRepair::Impl::repair_inode(const Finding& finding) {
  ATTEMPT(const InodeRef inode, volume_.inodes().get(InodeNo(finding.ino), pins_));
  InodeAttr attr = inode->attr;
  switch (finding.kind) {
    case FindingKind::block_count_wrong:
      attr.block_count = BlockCount(finding.other);
      break;
    case FindingKind::link_count_wrong:
      attr.link_count = static_cast<uint32_t>(finding.other);
      break;
    case FindingKind::entry_count_wrong:
      attr.size = finding.other;
      break;
    case FindingKind::parent_wrong:
      attr.parent = InodeNo(finding.other);
      break;
    case FindingKind::xattr_count_wrong:
      attr.xattr_count = static_cast<uint32_t>(finding.other);
      break;
    default:
      CHECK_MSG(false, "not an inode's finding");
  }
  Transaction txn(volume_.store(), pins_);
  const InodeValue value = attr.to_value();
  txn.put(inode_key(attr.ino), bytes_of(value));
  ATTEMPT_OK(txn.prepare());
  const JournalSeq seq = txn.commit();
  inode->attr = attr;
  volume_.inodes().saved(*inode, seq, attr.size, true);
  return {};
}

Attempt<InodeRef> CheckRepair::Impl::lost_and_found() {
  if (lost_and_found_) return lost_and_found_;
  Attempt<InodeRef> found = volume_.names().lookup(kRootInode, kLostAndFound, names_);
  if (found.failed() && found.error() == Error::not_found) {
    CreateRequest request;
    request.mode = S_IFDIR | 0700;
    ATTEMPT_INTO(lost_and_found_,
                 volume_.names().create(kRootInode, kLostAndFound, request, Caller{}, names_));
    return lost_and_found_;
  }
  ATTEMPT_INTO(lost_and_found_, std::move(found));
  return lost_and_found_;
}

// Gives an inode that nothing names an entry "#NUMBER" in lost+found.
Attempt<void> CheckRepair::Impl::attach(InodeNo ino) {
  ATTEMPT(const InodeRef directory, lost_and_found());
  ATTEMPT(const InodeRef inode, volume_.inodes().get(ino, pins_));
  const NameHash hash(volume_.store().superblock().name_hash_seed);
  Transaction txn(volume_.store(), pins_);
  std::string name = "#";
  name += std::to_string(ino.value());
  ATTEMPT(const EntryPlace place, find_place(txn, hash, directory->ino, name));
  if (place.entry) return {};  // attached by an earlier, interrupted run
  if (!place.free_cookie) return Error::no_space;
  put_entry(txn, directory->ino, *place.free_cookie, name, ino, inode->attr.type());
  InodeAttr attr = inode->attr;
  InodeAttr parent = directory->attr;
  ++parent.size;
  if (attr.is_directory()) {
    attr.parent = directory->ino;
    ++parent.link_count;
  } else {
    attr.link_count = 1;
  }
  const InodeValue value = attr.to_value();
  const InodeValue parent_value = parent.to_value();
  txn.put(inode_key(ino), bytes_of(value));
  txn.put(inode_key(directory->ino), bytes_of(parent_value));
  ATTEMPT_OK(txn.prepare());
  const JournalSeq seq = txn.commit();
  inode->attr = attr;
  directory->attr = parent;
  volume_.inodes().saved(*inode, seq, attr.size, true);
  volume_.inodes().saved(*directory, seq, parent.size, true);
  return {};
}

CheckRepair::CheckRepair(Volume& volume, CheckReport& report)
    : impl_(std::make_unique<Impl>(volume, report)) {}
CheckRepair::~CheckRepair() = default;
Attempt<void> CheckRepair::run() { return impl_->run(); }

}  // namespace fusefs
