#include "tests/crash/crash_history.h"

#include <utility>

namespace fusefs {

CrashHistory::CrashHistory(SimVolume& sim, CrashModel& model, uint64_t seed)
    : sim_(sim), model_(model), random_(seed) {
  directories_[""] = kRootInode;
}

bool CrashHistory::step() {
  if (sim_.world().dead()) return false;
  const uint64_t what = random_.below(112);
  if (what < 14) return create(false);
  if (what < 18) return create(true);
  if (what < 24) return remove();
  if (what < 32) return rename();
  if (what < 52) return write();
  if (what < 60) return read();
  if (what < 68) return truncate();
  if (what < 72) return punch();
  if (what < 77) return clone();
  if (what < 81) return dedupe();
  if (what < 84) return unshare();
  if (what < 90) return fsync();
  if (what < 93) return sync();
  if (what < 97) return pin_or_unpin();
  if (what < 105) return store();
  return sim_.world().run_for(random_.below(2 * kNsPerSecond));
}

// A file, or a directory.
bool CrashHistory::create(bool directory) {
  const std::string path = random_path();
  if (model_.names().count(path) != 0) return true;
  if (directory && directories_.size() > 6) return true;
  const uint64_t id = model_.new_id();
  trace("%s %s: %llu\n", directory ? "mkdir" : "create", path.c_str(), ull(id));
  CrashNames names = model_.names();
  names[path] = id;
  model_.change(std::move(names));
  NamespaceStash stash;
  CreateRequest request;
  request.mode = directory ? 0040755 : 0100644;
  const auto created = sim_.world().run([&] {
    return sim_.volume().names().create(inode_of_directory(directory_of(path)), name_of(path),
                                        request, Caller{}, stash);
  });
  if (!settle(created)) return false;
  if (!created.ok()) return true;
  model_.set_inode(id, created.value()->ino);
  if (directory) {
    directories_[path] = created.value()->ino;
  } else {
    ++created.value()->open_count;  // without it, what loses its name has nothing left to save
    open_[id] = {OpenFile{created.value(), 0, true, 0}, model_.change_count(), nullptr};
  }
  return true;
}

bool CrashHistory::remove() {
  const std::string path = random_path();
  const auto found = model_.names().find(path);
  if (found == model_.names().end()) return true;
  const uint64_t id = found->second;
  const bool directory = directories_.count(path) != 0;
  CrashNames names = model_.names();
  names.erase(path);
  model_.change(std::move(names));
  NamespaceStash stash;
  auto& all = sim_.volume().names();
  const auto removed = sim_.world().run([&] {
    const InodeNo parent = inode_of_directory(directory_of(path));
    return directory ? all.rmdir(parent, name_of(path), stash)
                     : all.unlink(parent, name_of(path), stash);
  });
  if (!settle(removed)) return false;
  if (removed.ok() && directory) directories_.erase(path);
  if (removed.ok() && random_.chance(0.5)) {  // else it stays open without a name
    const auto open = open_.find(id);
    if (open != open_.end()) {
      if (!end_pin(open->second)) return false;
      --open->second.file.inode->open_count;
      open_.erase(open);
    }
    const InodeNo ino = removed.value()->ino;
    sim_.world().inside([&] { sim_.volume().release_inode(ino); });
  }
  return true;
}

bool CrashHistory::rename() {
  const std::string from = random_path();
  const std::string to = random_path();
  const auto found = model_.names().find(from);
  // Directories stay where they are: the model keeps paths, not parents.
  if (found == model_.names().end() || directories_.count(from) || directories_.count(to)) {
    return true;
  }
  if (from == to) return true;
  const bool exchange = random_.chance(0.3) && model_.names().count(to) != 0;
  CrashNames names = model_.names();
  if (exchange) {
    std::swap(names[from], names[to]);
  } else {
    names[to] = found->second;
    names.erase(from);
  }
  model_.change(std::move(names));
  NamespaceStash stash;
  const auto renamed = sim_.world().run([&] {
    return sim_.volume().names().rename(
        inode_of_directory(directory_of(from)), name_of(from), inode_of_directory(directory_of(to)),
        name_of(to), exchange ? RenameMode::exchange : RenameMode::replace, Caller{}, stash);
  });
  return settle(renamed);
}

CrashHistory::Open* CrashHistory::random_open(uint64_t* id) {
  if (open_.empty()) return nullptr;
  auto at = open_.begin();
  std::advance(at, static_cast<ptrdiff_t>(random_.below(open_.size())));
  *id = at->first;
  return &at->second;
}

}  // namespace fusefs
