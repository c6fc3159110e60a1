// Random operations on names, links, attributes and xattrs, compared with a model: every answer,
// and now and then everything there is.
//
// The model is what POSIX says, in maps. Inodes are known by their numbers, which the volume
// hands out; a test seed in which the two differ prints how to run it again.
#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/support/namespace_rig.h"
#include "tests/support/test_options.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

struct ModelNode {
  uint32_t mode = 0;
  uint32_t links = 0;
  InodeNo parent;                                        // directories
  std::map<std::string, InodeNo> entries;                // directories
  std::map<std::string, std::vector<std::byte>> xattrs;  // names and values
  std::string target;                                    // symlinks

  bool is_directory() const { return (mode & 0170000u) == 0040000u; }
};

class Model {
 public:
  Model() {
    ModelNode& root = nodes_[kRootInode];
    root.mode = kDirectoryMode;
    root.links = 2;
    root.parent = kRootInode;
  }

  ModelNode& at(InodeNo ino) { return nodes_.at(ino); }
  std::map<InodeNo, ModelNode>& nodes() { return nodes_; }

  std::vector<InodeNo> directories() const {
    std::vector<InodeNo> found;
    for (const auto& [ino, node] : nodes_) {
      if (node.is_directory() && node.links != 0) found.push_back(ino);
    }
    return found;
  }
  std::optional<InodeNo> find(InodeNo parent, const std::string& name) {
    const auto& entries = at(parent).entries;
    const auto entry = entries.find(name);
    if (entry == entries.end()) return std::nullopt;
    return entry->second;
  }

  void add(InodeNo parent, const std::string& name, InodeNo ino, const ModelNode& node) {
    nodes_[ino] = node;
    attach(parent, name, ino);
    if (!node.is_directory()) nodes_[ino].links = 1;
  }
  void attach(InodeNo parent, const std::string& name, InodeNo ino) {
    at(parent).entries[name] = ino;
    if (at(ino).is_directory()) {
      at(ino).parent = parent;
      ++at(parent).links;
    }
  }
  void detach(InodeNo parent, const std::string& name) {
    if (at(at(parent).entries.at(name)).is_directory()) --at(parent).links;
    at(parent).entries.erase(name);
  }
  void drop_link(InodeNo ino) {
    ModelNode& node = at(ino);
    node.links = node.is_directory() ? 0 : node.links - 1;
  }
  bool inside(InodeNo directory, InodeNo ancestor) {
    while (directory != ancestor) {
      if (directory == kRootInode) return false;
      directory = at(directory).parent;
    }
    return true;
  }

  std::optional<Error> unlink(InodeNo parent, const std::string& name, bool directory) {
    const auto ino = find(parent, name);
    if (!ino) return Error::not_found;
    if (at(*ino).is_directory() != directory) {
      return directory ? Error::not_a_directory : Error::is_a_directory;
    }
    if (!at(*ino).entries.empty()) return Error::directory_not_empty;
    detach(parent, name);
    drop_link(*ino);
    return std::nullopt;
  }

  // `moved`: something has changed. What a whiteout leaves behind is added by the caller.
  std::optional<Error> rename(InodeNo from, const std::string& old_name, InodeNo to,
                              const std::string& new_name, RenameMode mode, bool& moved) {
    moved = false;
    const auto source = find(from, old_name);
    if (!source) return Error::not_found;
    const auto target = find(to, new_name);
    const bool exchange = mode == RenameMode::exchange;
    if (target && mode == RenameMode::no_replace) return Error::exists;
    if (!target && exchange) return Error::not_found;
    if (target == source) return std::nullopt;
    const bool source_directory = at(*source).is_directory();
    const bool target_directory = target && at(*target).is_directory();
    if (source_directory && inside(to, *source)) return Error::invalid_argument;
    if (target_directory && exchange && inside(from, *target)) return Error::invalid_argument;
    if (target && !exchange) {
      if (source_directory && !target_directory) return Error::not_a_directory;
      if (!source_directory && target_directory) return Error::is_a_directory;
      if (!at(*target).entries.empty()) return Error::directory_not_empty;
    }
    detach(from, old_name);
    if (target) detach(to, new_name);
    attach(to, new_name, *source);
    if (exchange) attach(from, old_name, *target);
    if (target && !exchange) drop_link(*target);
    moved = true;
    return std::nullopt;
  }

 private:
  std::map<InodeNo, ModelNode> nodes_;
};

class Run {
 public:
  Run(const TestSeed& seed, uint64_t hash_mask)
      : random_(seed.seed), rig_({seed.seed, seed.forced_restart_probability, hash_mask}) {}

  void step() {
    switch (random_.below(16)) {
      case 0:
      case 1:
      case 2:
        return create(0100000 | pick_permissions());
      case 3:
      case 4:
        return create(0040000 | pick_permissions());
      case 5:
        return create(kSymlinkMode);
      case 6:
        return link();
      case 7:
      case 8:
        return unlink(false);
      case 9:
        return unlink(true);
      case 10:
      case 11:
      case 12:
        return rename();
      case 13:
        return change_mode();
      case 14:
        return change_xattr();
      default:
        return reap_some();
    }
  }

  void remount() {
    if (random_.chance(0.5)) {
      rig_.remount();
    } else {
      rig_.crash();
    }
    // Nothing is open, so nothing without a name outlives it.
    CHECK(rig_.orphans().empty());
    std::erase_if(model_.nodes(), [](const auto& entry) { return entry.second.links == 0; });
  }

  void compare() {
    std::vector<InodeNo> orphans;
    for (auto& [ino, node] : model_.nodes()) {
      const uint64_t number = ino.value();
      CAPTURE(number);
      const auto attr = rig_.attr(ino);
      REQUIRE(attr.ok());
      CHECK(attr.value().mode == node.mode);
      CHECK(attr.value().link_count == node.links);
      CHECK(attr.value().xattr_count == node.xattrs.size());
      if (node.links == 0) orphans.push_back(ino);
      if (node.is_directory() && node.links != 0) compare_directory(ino, node, attr.value());
      if (attr.value().is_symlink()) CHECK(rig_.read_symlink(ino).value() == node.target);
      compare_xattrs(ino, node);
    }
    CHECK(rig_.orphans() == orphans);
  }

 private:
  uint32_t pick_permissions() { return static_cast<uint32_t>(random_.below(01000)); }
  InodeNo pick_directory() {
    const auto directories = model_.directories();
    return directories[random_.below(directories.size())];
  }
  // Few names, so that operations meet.
  std::string pick_name(InodeNo directory) {
    const auto& entries = model_.at(directory).entries;
    if (!entries.empty() && random_.chance(0.5)) {
      return std::next(entries.begin(), static_cast<ptrdiff_t>(random_.below(entries.size())))
          ->first;
    }
    const std::string name = "n" + std::to_string(random_.below(30));
    return random_.chance(0.1) ? name + std::string(250 - name.size(), '-') : name;
  }
  InodeNo pick_node() {
    return std::next(model_.nodes().begin(),
                     static_cast<ptrdiff_t>(random_.below(model_.nodes().size())))
        ->first;
  }

  template <class R>
  static bool agree(const R& result, std::optional<Error> expected) {
    if (result.ok()) {
      REQUIRE_MESSAGE(!expected, error_name(*expected));
      return true;
    }
    REQUIRE_MESSAGE(expected.has_value(), error_name(result.error()));
    CHECK(error_name(result.error()) == error_name(*expected));
    return false;
  }

  void create(uint32_t mode) {
    const InodeNo parent = pick_directory();
    const std::string name = pick_name(parent);
    ModelNode node;
    node.mode = mode;
    node.links = node.is_directory() ? 2 : 1;
    if (mode == kSymlinkMode) node.target = "to/" + std::to_string(random_.below(1000));
    const auto result = mode == kSymlinkMode ? rig_.symlink(parent, name, node.target)
                                             : rig_.create(parent, name, mode);
    const bool there = model_.find(parent, name).has_value();
    if (!agree(result, there ? std::optional(Error::exists) : std::nullopt)) return;
    REQUIRE(!model_.nodes().contains(result.value()));
    model_.add(parent, name, result.value(), node);
  }

  void link() {
    const InodeNo ino = pick_node();
    const InodeNo parent = pick_directory();
    const std::string name = pick_name(parent);
    std::optional<Error> expected;
    if (model_.find(parent, name)) {
      expected = Error::exists;
    } else if (model_.at(ino).is_directory()) {
      expected = Error::not_permitted;
    }
    if (!agree(rig_.link(ino, parent, name), expected)) return;
    model_.attach(parent, name, ino);
    ++model_.at(ino).links;
  }

  void unlink(bool directory) {
    const InodeNo parent = pick_directory();
    const std::string name = pick_name(parent);
    const auto ino = model_.find(parent, name);
    const auto result = directory ? rig_.rmdir(parent, name) : rig_.unlink(parent, name);
    if (agree(result, model_.unlink(parent, name, directory))) CHECK(result.value() == *ino);
  }

  void rename() {
    const InodeNo from = pick_directory();
    const InodeNo to = random_.chance(0.4) ? from : pick_directory();
    const std::string old_name = pick_name(from);
    const std::string new_name = pick_name(to);
    const auto mode = static_cast<RenameMode>(random_.below(4));
    const auto target = model_.find(to, new_name);
    const auto result = rig_.rename(from, old_name, to, new_name, mode);
    bool moved = false;
    if (!agree(result, model_.rename(from, old_name, to, new_name, mode, moved))) return;
    const bool replaced = moved && target && mode != RenameMode::exchange;
    CHECK(result.value() == (replaced ? *target : InodeNo()));
    if (!moved || mode != RenameMode::whiteout) return;
    const auto whiteout = rig_.lookup(from, old_name);
    REQUIRE(whiteout.ok());
    ModelNode node;
    node.mode = 0020000;
    model_.add(from, old_name, whiteout.value(), node);
  }

  void change_mode() {
    const InodeNo ino = pick_node();
    AttrChange change;
    change.permissions = pick_permissions();
    REQUIRE(rig_.set_attr(ino, change).ok());
    ModelNode& node = model_.at(ino);
    node.mode = (node.mode & ~07777u) | *change.permissions;
  }

  void change_xattr() {
    const InodeNo ino = pick_node();
    const std::string name = "user.x" + std::to_string(random_.below(8));
    auto& xattrs = model_.at(ino).xattrs;
    const bool there = xattrs.contains(name);
    if (random_.chance(0.3)) {
      const std::optional<Error> expected =
          there ? std::nullopt : std::optional(Error::no_attribute);
      if (agree(rig_.remove_xattr(ino, name), expected)) xattrs.erase(name);
      return;
    }
    const size_t len = random_.below(random_.chance(0.2) ? 20'000 : 100);
    const std::vector<std::byte> value(len, static_cast<std::byte>(random_.below(256)));
    const auto mode = static_cast<Namespace::XattrMode>(random_.below(3));
    std::optional<Error> expected;
    if (there && mode == Namespace::XattrMode::create) expected = Error::exists;
    if (!there && mode == Namespace::XattrMode::replace) expected = Error::no_attribute;
    if (agree(rig_.set_xattr(ino, name, value, mode), expected)) xattrs[name] = value;
  }

  void reap_some() {
    const InodeNo ino = pick_node();
    REQUIRE(rig_.reap(ino).ok());
    if (model_.at(ino).links == 0) model_.nodes().erase(ino);
  }

  void compare_directory(InodeNo ino, const ModelNode& node, const InodeAttr& attr) {
    CHECK(attr.parent == node.parent);
    CHECK(attr.size == node.entries.size());
    std::map<std::string, InodeNo> seen;
    uint64_t cookie = 2;
    const size_t batch = 1 + random_.below(20);
    while (true) {
      const auto listed = rig_.list(ino, cookie, batch, true);
      REQUIRE(listed.ok());
      if (listed.value().empty()) break;
      for (const auto& one : listed.value()) {
        REQUIRE(one.entry.cookie > cookie);
        cookie = one.entry.cookie;
        seen[one.entry.name] = one.entry.ino;
        REQUIRE(one.attr.has_value());
        CHECK(one.attr->ino == one.entry.ino);
        CHECK(one.attr->mode == model_.at(one.entry.ino).mode);
        CHECK(one.entry.type == one.attr->type());
      }
    }
    CHECK(seen == node.entries);
    for (const auto& [name, number] : node.entries) {
      CHECK(rig_.lookup(ino, name).value() == number);
    }
  }

  void compare_xattrs(InodeNo ino, const ModelNode& node) {
    const auto listed = rig_.list_xattrs(ino);
    REQUIRE(listed.ok());
    const std::set<std::string> names(listed.value().begin(), listed.value().end());
    CHECK(names.size() == node.xattrs.size());
    for (const auto& [name, value] : node.xattrs) {
      CHECK(names.contains(name));
      CHECK(rig_.get_xattr(ino, name).value() == value);
    }
  }

  Random random_;
  NamespaceRig rig_;
  Model model_;
};

TEST_CASE("random operations on names answer and leave what the model says") {
  for_each_seed(4, [](const TestSeed& seed) {
    // Every other seed with a hash of one bit: all names collide with half of the others.
    Run run(seed, seed.seed % 2 == 0 ? 1 : ~uint64_t{0});
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 200; ++i) run.step();
      run.compare();
      run.remount();
      run.compare();
    }
  });
}

}  // namespace
}  // namespace fusefs
