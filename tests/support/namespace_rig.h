// NamespaceRig: a mounted volume on a simulated device, and the namespace as blocking calls.
//
// Each call runs as one operation of the simulated world, to its end. The volume may be unmounted
// and mounted again, or crash and be mounted again, in between: inode numbers stay, everything in
// memory goes.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/inode/namespace.h"
#include "tests/support/sim_world.h"

namespace fusefs {

inline constexpr uint32_t kRegularMode = 0100644;
inline constexpr uint32_t kDirectoryMode = 0040755;
inline constexpr uint32_t kSymlinkMode = 0120777;

class SimVolume;

class NamespaceRig {
 public:
  struct Options {
    uint64_t seed = 1;
    double forced_restart_probability = 0.0;
    // Few bits make names collide.
    uint64_t hash_mask = ~uint64_t{0};
  };

  explicit NamespaceRig(const Options& options);
  ~NamespaceRig();

  Namespace& names();
  InodeTable& inodes();
  SimWorld& world();
  SimVolume& volume();

  // Unmounts cleanly, has the checker look at what is on the device, and mounts.
  void remount();
  // Makes what was committed durable, cuts the power, and mounts.
  void crash();

  // Calls `fn(stash)`, which returns an Attempt, until it is done.
  template <class Fn>
  auto run(Fn fn) {
    return world().run(
        [fn = std::move(fn), stash = NamespaceStash()]() mutable { return fn(stash); });
  }

  // The number of the inode that the call is about; 0: of none.
  using Made = Result<InodeNo>;
  Made lookup(InodeNo parent, std::string name);
  Made create(InodeNo parent, std::string name, uint32_t mode, Caller caller = {});
  Made symlink(InodeNo parent, std::string name, std::string target);
  Made create_unnamed(InodeNo parent, uint32_t mode);
  Made link(InodeNo ino, InodeNo parent, std::string name);
  Made unlink(InodeNo parent, std::string name);
  Made rmdir(InodeNo parent, std::string name);
  Made rename(InodeNo from, std::string from_name, InodeNo to, std::string to_name,
              RenameMode mode = RenameMode::replace);
  Made set_attr(InodeNo ino, AttrChange change);
  Made set_flags(InodeNo ino, uint32_t flags);
  Result<InodeAttr> attr(InodeNo ino);
  Result<std::string> read_symlink(InodeNo ino);
  Result<std::vector<Namespace::Listed>> list(InodeNo directory, uint64_t cookie = 0,
                                              size_t max = 10'000, bool attributes = false);
  // The names of all entries but "." and "..", sorted, read `batch` at a time.
  std::vector<std::string> names_in(InodeNo directory, size_t batch = 100);
  Result<std::vector<std::byte>> get_xattr(InodeNo ino, std::string name);
  Result<void> set_xattr(InodeNo ino, std::string name, std::vector<std::byte> value,
                         Namespace::XattrMode mode = Namespace::XattrMode::create_or_replace,
                         bool kill_sgid = false);
  Result<void> remove_xattr(InodeNo ino, std::string name);
  Result<std::vector<std::string>> list_xattrs(InodeNo ino);
  Result<void> kill_privileges(InodeNo ino, bool suid_too);
  Result<void> reap(InodeNo ino);
  // All numbers with an orphan item.
  std::vector<InodeNo> orphans();

 private:
  class Mounted;
  std::unique_ptr<Mounted> mounted_;
  const Options options_;
};

}  // namespace fusefs
