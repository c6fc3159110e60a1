#include "tests/support/namespace_rig.h"

#include <algorithm>
#include <optional>

#include "core/volume/check.h"
#include "tests/support/sim_volume.h"

namespace fusefs {

using Made = NamespaceRig::Made;

namespace {

// No ATTEMPT: what has committed is not to be attempted again.
Attempt<InodeNo> number_of(Attempt<InodeRef> made) {
  if (!made.ok()) return Unfinished(made);
  return made.value() ? made.value()->ino : InodeNo();
}

}  // namespace

// The volume, and a namespace on it with a hash of the test's.
class NamespaceRig::Mounted {
 public:
  Mounted(const Options& options, std::optional<SimImage> image)
      : volume(image ? SimVolume(seed_of(options), {}, std::move(*image))
                     : SimVolume(seed_of(options), {})),
        names(volume.volume().inodes(), volume.volume().store(), volume.volume().space(),
              NameHash(options.seed, options.hash_mask)) {}

  static TestSeed seed_of(const Options& options) {
    return {options.seed, options.forced_restart_probability};
  }

  SimVolume volume;
  Namespace names;
};

NamespaceRig::NamespaceRig(const Options& options)
    : mounted_(std::make_unique<Mounted>(options, std::nullopt)), options_(options) {}

NamespaceRig::~NamespaceRig() = default;

Namespace& NamespaceRig::names() { return mounted_->names; }
InodeTable& NamespaceRig::inodes() { return mounted_->volume.volume().inodes(); }
SimWorld& NamespaceRig::world() { return mounted_->volume.world(); }

SimVolume& NamespaceRig::volume() { return mounted_->volume; }

void NamespaceRig::remount() {
  SimImage image = mounted_->volume.unmount();
  CheckScan scan(world().device());
  CHECK(world().run([&scan] { return scan.run(); }).ok());
  const CheckReport& report = scan.report();
  CHECK_MSG(report.ok(), report.findings.front().text.c_str());
  mounted_ = std::make_unique<Mounted>(options_, std::move(image));
}

void NamespaceRig::crash() {
  CHECK(mounted_->volume.sync().ok());
  SimImage image = mounted_->volume.power_cut();
  mounted_ = std::make_unique<Mounted>(options_, std::move(image));
}

Made NamespaceRig::lookup(InodeNo parent, std::string name) {
  return run(
      [=, this](NamespaceStash& stash) { return number_of(names().lookup(parent, name, stash)); });
}

Made NamespaceRig::create(InodeNo parent, std::string name, uint32_t mode, Caller caller) {
  return run([=, this](NamespaceStash& stash) {
    return number_of(names().create(parent, name, {mode, 0, ""}, caller, stash));
  });
}

Made NamespaceRig::symlink(InodeNo parent, std::string name, std::string target) {
  return run([=, this](NamespaceStash& stash) {
    return number_of(names().create(parent, name, {kSymlinkMode, 0, target}, {}, stash));
  });
}

Made NamespaceRig::create_unnamed(InodeNo parent, uint32_t mode) {
  return run([=, this](NamespaceStash& stash) {
    return number_of(names().create_unnamed(parent, {mode, 0, ""}, {}, stash));
  });
}

Made NamespaceRig::link(InodeNo ino, InodeNo parent, std::string name) {
  return run([=, this](NamespaceStash& stash) {
    return number_of(names().link(ino, parent, name, stash));
  });
}

Made NamespaceRig::unlink(InodeNo parent, std::string name) {
  return run(
      [=, this](NamespaceStash& stash) { return number_of(names().unlink(parent, name, stash)); });
}

Made NamespaceRig::rmdir(InodeNo parent, std::string name) {
  return run(
      [=, this](NamespaceStash& stash) { return number_of(names().rmdir(parent, name, stash)); });
}

Made NamespaceRig::rename(InodeNo from, std::string from_name, InodeNo to, std::string to_name,
                          RenameMode mode) {
  return run([=, this](NamespaceStash& stash) {
    return number_of(names().rename(from, from_name, to, to_name, mode, {}, stash));
  });
}

Made NamespaceRig::set_attr(InodeNo ino, AttrChange change) {
  return run(
      [=, this](NamespaceStash& stash) { return number_of(names().set_attr(ino, change, stash)); });
}

Made NamespaceRig::set_flags(InodeNo ino, uint32_t flags) {
  return run(
      [=, this](NamespaceStash& stash) { return number_of(names().set_flags(ino, flags, stash)); });
}

Result<InodeAttr> NamespaceRig::attr(InodeNo ino) {
  return run([=, this](NamespaceStash& stash) -> Attempt<InodeAttr> {
    ATTEMPT(const InodeRef inode, inodes().get(ino, stash.pins));
    return inode->attr;
  });
}

Result<std::string> NamespaceRig::read_symlink(InodeNo ino) {
  return run([=, this](NamespaceStash& stash) { return names().read_symlink(ino, stash); });
}

Result<std::vector<Namespace::Listed>> NamespaceRig::list(InodeNo directory, uint64_t cookie,
                                                          size_t max, bool attributes) {
  return run([=, this](NamespaceStash& stash) {
    return names().list(directory, cookie, max, attributes, stash);
  });
}

std::vector<std::string> NamespaceRig::names_in(InodeNo directory, size_t batch) {
  std::vector<std::string> names;
  uint64_t cookie = 0;
  while (true) {
    auto listed = list(directory, cookie, batch);
    CHECK(listed.ok());
    if (listed.value().empty()) break;
    for (const Namespace::Listed& one : listed.value()) {
      CHECK(one.entry.cookie > cookie);
      cookie = one.entry.cookie;
      if (one.entry.name != "." && one.entry.name != "..") names.push_back(one.entry.name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::vector<std::byte>> NamespaceRig::get_xattr(InodeNo ino, std::string name) {
  return run([=, this](NamespaceStash& stash) { return names().get_xattr(ino, name, stash); });
}

Result<void> NamespaceRig::set_xattr(InodeNo ino, std::string name, std::vector<std::byte> value,
                                     Namespace::XattrMode mode, bool kill_sgid) {
  return run([=, this](NamespaceStash& stash) {
    return names().set_xattr(ino, name, value, mode, stash, kill_sgid);
  });
}

Result<void> NamespaceRig::remove_xattr(InodeNo ino, std::string name) {
  return run([=, this](NamespaceStash& stash) { return names().remove_xattr(ino, name, stash); });
}

Result<std::vector<std::string>> NamespaceRig::list_xattrs(InodeNo ino) {
  return run([=, this](NamespaceStash& stash) { return names().list_xattrs(ino, stash); });
}

Result<void> NamespaceRig::kill_privileges(InodeNo ino, bool suid_too) {
  return run(
      [=, this](NamespaceStash& stash) { return names().kill_privileges(ino, suid_too, stash); });
}

Result<void> NamespaceRig::reap(InodeNo ino) {
  return run([=, this](NamespaceStash& stash) { return names().reap(ino, stash); });
}

std::vector<InodeNo> NamespaceRig::orphans() {
  std::vector<InodeNo> found;
  InodeNo after;
  while (true) {
    const auto next = run([=, this](NamespaceStash& stash) {
      OrphanKind kind{};
      return names().next_orphan(after, kind, stash.pins);
    });
    CHECK(next.ok());
    if (!next.value()) return found;
    after = *next.value();
    found.push_back(after);
  }
}

}  // namespace fusefs
