// Entries against inodes: link counts, entry counts, parents, orphans, and who cannot be reached.
#include "core/volume/check_impl.h"

namespace fusefs {
namespace {

std::string inode_text(const CheckedInode& inode) { return "inode " + std::to_string(inode.ino); }

void count_entries(CheckedTree& tree, CheckFindings& findings) {
  for (const CheckedEntry& entry : tree.entries) {
    CheckedInode* directory = tree.find(entry.directory);
    CheckedInode* target = tree.find(entry.target);
    if (target == nullptr || (target->mode >> 12) != entry.type) {
      Finding& finding = findings.add(
          FindingKind::entry_dangling,
          "directory " + std::to_string(entry.directory) + ": entry at cookie " +
              std::to_string(entry.cookie) + " names inode " + std::to_string(entry.target) +
              (target == nullptr ? ", which is not there" : ", which is of another type"));
      finding.ino = entry.target;
      finding.other = entry.directory;
      finding.cookie = entry.cookie;
      continue;
    }
    ++target->links;
    if (directory != nullptr) ++directory->entries;
    if (target->directory() && directory != nullptr) ++directory->subdirectories;
  }
}

void check_orphans(CheckedTree& tree, CheckFindings& findings) {
  for (const auto& [ino, kind] : tree.orphans) {
    CheckedInode* inode = tree.find(ino);
    const bool right = inode != nullptr && (kind == OrphanKind::truncate || inode->link_count == 0);
    if (!right) {
      findings
          .add(FindingKind::orphan_wrong,
               "orphan item for inode " + std::to_string(ino) +
                   (inode == nullptr ? ", which is not there" : ", which has links"))
          .ino = ino;
    } else if (kind == OrphanKind::unlinked) {
      inode->orphan = true;
    }
  }
}

uint32_t right_link_count(const CheckedInode& inode) {
  return inode.directory() ? 2 + inode.subdirectories : inode.links;
}

void check_inode(const CheckedInode& inode, CheckFindings& findings) {
  const bool root = inode.ino == kRootInode.value();
  if (inode.directory() && inode.entries != inode.size) {
    Finding& finding =
        findings.add(FindingKind::entry_count_wrong,
                     inode_text(inode) + ": entry count is " + std::to_string(inode.size) + ", " +
                         std::to_string(inode.entries) + " are there");
    finding.ino = inode.ino;
    finding.other = inode.entries;
  }
  if (inode.orphan) return;
  if (inode.links == 0 && !root) {
    const bool unlinked = inode.link_count == 0;
    findings
        .add(unlinked ? FindingKind::orphan_missing : FindingKind::inode_unreachable,
             inode_text(inode) +
                 (unlinked ? ": has no link and no orphan item" : ": no directory entry names it"))
        .ino = inode.ino;
    return;
  }
  if (inode.link_count != right_link_count(inode)) {
    Finding& finding =
        findings.add(FindingKind::link_count_wrong,
                     inode_text(inode) + ": link count is " + std::to_string(inode.link_count) +
                         ", and should be " + std::to_string(right_link_count(inode)));
    finding.ino = inode.ino;
    finding.other = right_link_count(inode);
  }
}

void check_parents(CheckedTree& tree, CheckFindings& findings) {
  for (const CheckedEntry& entry : tree.entries) {
    CheckedInode* target = tree.find(entry.target);
    if (target == nullptr || !target->directory() || target->parent == entry.directory) continue;
    Finding& finding = findings.add(FindingKind::parent_wrong,
                                    inode_text(*target) + ": its parent is said to be " +
                                        std::to_string(target->parent) + ", and is " +
                                        std::to_string(entry.directory));
    finding.ino = target->ino;
    finding.other = entry.directory;
  }
}

// Directories that name each other in a ring have entries and cannot be reached from the root.
void check_rings(CheckedTree& tree, CheckFindings& findings) {
  enum class Mark : uint8_t { unknown, walking, reaches };
  std::vector<Mark> marks(tree.inodes.size(), Mark::unknown);
  const auto index_of = [&](const CheckedInode* inode) {
    return static_cast<size_t>(inode - tree.inodes.data());
  };
  std::vector<size_t> path;
  for (CheckedInode& start : tree.inodes) {
    if (!start.directory()) continue;
    path.clear();
    CheckedInode* at = &start;
    bool ring = false;
    while (at != nullptr && at->ino != kRootInode.value() && marks[index_of(at)] != Mark::reaches) {
      if (marks[index_of(at)] == Mark::walking) {
        ring = true;
        break;
      }
      marks[index_of(at)] = Mark::walking;
      path.push_back(index_of(at));
      at = tree.find(at->parent);
    }
    if (ring) {
      findings.add(FindingKind::item_damaged, inode_text(start) + ": it is among its own parents");
    }
    for (const size_t index : path) marks[index] = Mark::reaches;
  }
}

}  // namespace

void check_names(CheckedTree& tree, CheckFindings& findings) {
  if (tree.find(kRootInode.value()) == nullptr) {
    findings.add(FindingKind::node_damaged, "the root directory's inode is missing");
  }
  count_entries(tree, findings);
  check_orphans(tree, findings);
  // With a part of the tree missing, what seems to be without links may only have lost its entry.
  if (tree.damaged) return;
  for (const CheckedInode& inode : tree.inodes) check_inode(inode, findings);
  check_parents(tree, findings);
  check_rings(tree, findings);
}

}  // namespace fusefs
