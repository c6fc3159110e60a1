// Moving names: onto nothing, over something, or two for each other.
//
// Up to four inodes change: both directories (which may be one), what moves, and what it replaces
// or is exchanged with. They are distinct otherwise: a directory never moves into itself, and one
// that holds something is never replaced.
#include <optional>

#include "core/inode/namespace.h"

namespace fusefs {

struct Namespace::RenamePlan {
  RenamePlan(Store& store, NodePins& pins, RenameMode how) : txn(store, pins), mode(how) {}

  Transaction txn;
  const RenameMode mode;
  InodeRef from, to;
  InodeRef source, target;  // target: may be none
  Dirent source_entry;
  EntryPlace place;  // under the new name
  InodeAttr whiteout;

  Timestamp now;
  std::optional<InodeEdit> from_edit, to_edit, source_edit, target_edit;

  bool exchanges() const { return mode == RenameMode::exchange; }
  bool leaves_whiteout() const {
    return mode == RenameMode::whiteout || mode == RenameMode::whiteout_no_replace;
  }
  bool may_replace() const {
    return mode != RenameMode::no_replace && mode != RenameMode::whiteout_no_replace;
  }
  int source_directories() const { return source->attr.is_directory() ? 1 : 0; }
  int target_directories() const { return target && target->attr.is_directory() ? 1 : 0; }
  InodeEdit& edit_of_to() { return to_edit ? *to_edit : *from_edit; }

  void begin_edits(Timestamp present) {
    now = present;
    from_edit.emplace(from);
    if (to != from) to_edit.emplace(to);
    source_edit.emplace(source);
    if (target) target_edit.emplace(target);
  }
  void move_to(InodeEdit& moved, const InodeRef& directory) {
    if (moved.attr.is_directory()) moved.attr.parent = directory->ino;
    moved.note_change(now);
    moved.stage(txn);
  }
  void stage_directories() {
    from_edit->stage(txn);
    if (to_edit) to_edit->stage(txn);
  }
  void apply(InodeTable& table, JournalSeq seq) {
    for (std::optional<InodeEdit>* edit : {&from_edit, &to_edit, &source_edit, &target_edit}) {
      if (*edit) (*edit)->apply(table, seq);
    }
  }
};

Attempt<InodeRef> Namespace::rename(InodeNo from, std::string_view from_name, InodeNo to,
                                    std::string_view to_name, RenameMode mode, const Caller& caller,
                                    NamespaceStash& stash) {
  CHECK_MSG(stash.seq == JournalSeq(), "rename() has committed before");
  TRY_OK(check_name(from_name));
  TRY_OK(check_name(to_name));
  RenamePlan plan(store_, stash.pins, mode);
  ATTEMPT(plan.from, get_directory(from, stash));
  ATTEMPT(plan.to, get_directory(to, stash));
  ATTEMPT_OK(find_renamed(plan, from_name, to_name, stash));
  if (plan.target == plan.source) return InodeRef();
  ATTEMPT_OK(check_rename(plan, stash));

  plan.begin_edits(inodes_.now());
  if (plan.exchanges()) {
    stage_exchange(plan);
  } else {
    ATTEMPT_OK(stage_move(plan, to_name, caller));
  }
  plan.stage_directories();
  ATTEMPT_OK(plan.txn.prepare());
  stash.seq = plan.txn.commit();
  plan.apply(inodes_, stash.seq);
  if (plan.leaves_whiteout()) adopt_new_inode(plan.whiteout, stash.seq);
  return plan.exchanges() ? InodeRef() : plan.target;
}

Attempt<void> Namespace::find_renamed(RenamePlan& plan, std::string_view from_name,
                                      std::string_view to_name, NamespaceStash& stash) {
  ATTEMPT(std::optional<Dirent> entry, find_entry(plan.txn, hash_, plan.from->ino, from_name));
  if (!entry) return Error::not_found;
  plan.source_entry = std::move(*entry);
  ATTEMPT(plan.place, find_place(plan.txn, hash_, plan.to->ino, to_name));
  if (plan.place.entry) {
    if (!plan.may_replace()) return Error::exists;
    ATTEMPT(plan.target, get_entry_inode(*plan.place.entry, stash));
  } else {
    if (plan.exchanges()) return Error::not_found;
    if (!plan.place.free_cookie) return Error::no_space;
  }
  ATTEMPT(plan.source, get_entry_inode(plan.source_entry, stash));
  return {};
}

Attempt<void> Namespace::check_rename(RenamePlan& plan, NamespaceStash& stash) {
  const bool source_is_directory = plan.source->attr.is_directory();
  const bool target_is_directory = plan.target && plan.target->attr.is_directory();
  if (plan.from != plan.to) {
    if (source_is_directory) ATTEMPT_OK(check_not_inside(*plan.to, plan.source->ino, stash));
    if (target_is_directory && plan.exchanges()) {
      ATTEMPT_OK(check_not_inside(*plan.from, plan.target->ino, stash));
    }
  }
  if (is_frozen(*plan.from) || is_frozen(*plan.source) || has_flag(*plan.to, kInodeImmutable)) {
    return Error::not_permitted;
  }
  if (plan.target && (is_frozen(*plan.to) || is_frozen(*plan.target))) return Error::not_permitted;
  if (plan.target && !plan.exchanges()) {
    if (source_is_directory && !target_is_directory) return Error::not_a_directory;
    if (!source_is_directory && target_is_directory) return Error::is_a_directory;
    if (target_is_directory) {
      ATTEMPT(const bool empty, is_empty_directory(plan.txn, plan.target->ino));
      if (!empty) return Error::directory_not_empty;
    }
  }
  // One short of the limit is refused too when directories only change places.
  for (const InodeRef& directory : {plan.from, plan.to}) {
    const bool grows = source_is_directory || target_is_directory;
    if (grows && plan.from != plan.to && directory->attr.link_count >= kLinkCountMax) {
      return Error::too_many_links;
    }
  }
  if (plan.leaves_whiteout()) ATTEMPT_OK(space_.check_room());
  return {};
}

// Walks from `directory` to the root.
Attempt<void> Namespace::check_not_inside(const Inode& directory, InodeNo ancestor,
                                          NamespaceStash& stash) {
  InodeNo at = directory.ino;
  InodeNo parent = directory.attr.parent;
  // Parents that lead in a circle are a corrupt volume: the walk meets an inode that it has marked,
  // marking again after 1, 2, 4 ... steps.
  InodeNo marked = at;
  uint64_t steps = 0;
  uint64_t next_mark = 1;
  while (true) {
    if (at == ancestor) return Error::invalid_argument;
    if (at == kRootInode || parent == at) return {};
    at = parent;
    if (at == marked) return Error::corrupt;
    if (++steps == next_mark) {
      marked = at;
      next_mark *= 2;
    }
    ATTEMPT(const InodeRef inode, inodes_.get(at, stash.pins));
    parent = inode->attr.parent;
  }
}

void Namespace::stage_exchange(RenamePlan& plan) {
  const Dirent& one = plan.source_entry;
  const Dirent& other = *plan.place.entry;
  put_entry(plan.txn, plan.from->ino, one.cookie, one.name, other.ino, other.type);
  put_entry(plan.txn, plan.to->ino, other.cookie, other.name, one.ino, one.type);
  const int subdirectories = plan.source_directories() - plan.target_directories();
  plan.from_edit->note_entries(plan.now, 0, plan.to_edit ? -subdirectories : 0);
  if (plan.to_edit) plan.to_edit->note_entries(plan.now, 0, subdirectories);
  plan.move_to(*plan.source_edit, plan.to);
  plan.move_to(*plan.target_edit, plan.from);
}

Attempt<void> Namespace::stage_move(RenamePlan& plan, std::string_view to_name,
                                    const Caller& caller) {
  const Dirent& left = plan.source_entry;
  remove_entry(plan.txn, plan.from->ino, left);
  if (plan.leaves_whiteout()) {
    CreateRequest request;
    request.mode = 0020000;  // and device 0:0: what overlayfs takes for "deleted here"
    ATTEMPT(plan.whiteout, stage_new_inode(plan.txn, *plan.from, request, caller));
    put_entry(plan.txn, plan.from->ino, left.cookie, left.name, plan.whiteout.ino,
              plan.whiteout.type());
  }
  const uint64_t cookie = plan.target ? plan.place.entry->cookie : *plan.place.free_cookie;
  put_entry(plan.txn, plan.to->ino, cookie, to_name, plan.source->ino, plan.source->attr.type());

  plan.from_edit->note_entries(plan.now, plan.leaves_whiteout() ? 0 : -1,
                               -plan.source_directories());
  plan.edit_of_to().note_entries(plan.now, plan.target ? 0 : 1,
                                 plan.source_directories() - plan.target_directories());
  plan.move_to(*plan.source_edit, plan.to);
  if (plan.target_edit) TRY_OK(stage_unlinked(plan.txn, *plan.target_edit, plan.now));
  return {};
}

}  // namespace fusefs
