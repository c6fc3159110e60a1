// A volume whose power is cut: after every device write of short histories, and at random in long
// ones. Afterwards the checkpoint is consistent by itself, mounting replays it, what was made
// durable is there, nothing is there that never was, and the check of the result is clean.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "core/file/dedupe.h"
#include "core/file/unshare.h"
#include "core/volume/check.h"
#include "tests/support/crash_model.h"
#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kSectorsMax = 400;  // of a file: 200 KiB
constexpr uint64_t kSectorsPerBlock = kBlockBytes / kSectorBytes;

using How = SimVolume::How;

unsigned long long ull(uint64_t value) { return value; }

// A random history, done to a volume and told to the model.
class History {
 public:
  History(SimVolume& sim, CrashModel& model, uint64_t seed)
      : sim_(sim), model_(model), random_(seed) {
    directories_[""] = kRootInode;
  }

  // False when the power has gone.
  bool step() {
    if (sim_.world().dead()) return false;
    const uint64_t what = random_.below(100);
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
    return sim_.world().run_for(random_.below(2 * kNsPerSecond));
  }

  void drop_references() { open_.clear(); }

 private:
  struct Open {
    OpenFile file;
    size_t change = 0;  // of names, that made it
  };

  std::string random_name() { return "n" + std::to_string(random_.below(8)); }
  std::string random_directory() {
    auto at = directories_.begin();
    std::advance(at, static_cast<ptrdiff_t>(random_.below(directories_.size())));
    return at->first;
  }
  std::string random_path() { return random_directory() + "/" + random_name(); }
  static std::string directory_of(const std::string& path) {
    return path.substr(0, path.rfind('/'));
  }
  static std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }
  InodeNo inode_of_directory(const std::string& path) { return directories_.at(path); }

  // The outcome of a change of names that the model was told of.
  template <class T>
  bool settle(const Result<T>& result) {
    if (result.ok()) return true;
    if (sim_.world().dead()) return false;
    model_.take_back();
    CAPTURE(error_name(result.error()));
    CHECK((result.error() == Error::exists || result.error() == Error::directory_not_empty ||
           result.error() == Error::is_a_directory || result.error() == Error::not_a_directory ||
           result.error() == Error::invalid_argument || result.error() == Error::not_found));
    return true;
  }

  // FUSEFS_TRACE=1 shows the history of a seed that fails.
  template <class... Args>
  void trace(const char* format, Args... args) {
    static const bool on = std::getenv("FUSEFS_TRACE") != nullptr;
    if (on) std::fprintf(stderr, format, args...);
  }

  // A file, or a directory.
  bool create(bool directory) {
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
      open_[id] = {OpenFile{created.value(), 0, true, 0}, model_.change_count()};
    }
    return true;
  }

  bool remove() {
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
        --open->second.file.inode->open_count;
        open_.erase(open);
      }
      const InodeNo ino = removed.value()->ino;
      sim_.world().inside([&] { sim_.volume().release_inode(ino); });
    }
    return true;
  }

  bool rename() {
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
      return sim_.volume().names().rename(inode_of_directory(directory_of(from)), name_of(from),
                                          inode_of_directory(directory_of(to)), name_of(to),
                                          exchange ? RenameMode::exchange : RenameMode::replace,
                                          Caller{}, stash);
    });
    return settle(renamed);
  }

  Open* random_open(uint64_t* id) {
    if (open_.empty()) return nullptr;
    auto at = open_.begin();
    std::advance(at, static_cast<ptrdiff_t>(random_.below(open_.size())));
    *id = at->first;
    return &at->second;
  }

  bool write() {
    uint64_t id = 0;
    Open* open = random_open(&id);
    if (open == nullptr) return true;
    uint64_t first = random_.below(kSectorsMax);
    uint64_t count = random_.between(1, random_.chance(0.2) ? 200 : 24);
    const How how = random_how();
    if (random_.chance(0.5)) {
      first -= first % kSectorsPerBlock;
      count += kSectorsPerBlock - count % kSectorsPerBlock;
    }
    static constexpr const char* kNames[] = {"buffered", "direct", "mapped",
                                             "dsync",    "sync",   "direct dsync",
                                             "direct sync"};
    trace("write %llu: %llu+%llu %s\n", ull(id), ull(first), ull(count),
          kNames[static_cast<int>(how)]);
    if (!write_words(*open, first, model_.file(id).write(first, count), how)) return false;
    if (how >= How::dsync) {
      model_.file(id).made_durable(first, count);
      model_.made_durable(open->change);
    }
    return true;
  }

  How random_how() {
    const uint64_t what = random_.below(100);
    if (what < 35) return How::buffered;
    if (what < 65) return How::direct;
    if (what < 75) return How::mapped;
    if (what < 85) return How::dsync;
    if (what < 90) return How::sync;
    return what < 96 ? How::direct_dsync : How::direct_sync;
  }

  bool write_words(Open& open, uint64_t first, const std::vector<uint64_t>& words, How how) {
    const size_t len = words.size() * kSectorBytes;
    AlignedBuffer data((len + kBlockBytes) / kBlockBytes * kBlockBytes);
    auto* out = reinterpret_cast<uint64_t*>(data.data());
    for (const uint64_t word : words) out = std::fill_n(out, kSectorBytes / 8, word);
    const auto written =
        sim_.write(*open.file.inode, first * kSectorBytes, ConstBytes(data.bytes()).first(len),
                   how);
    if (sim_.world().dead()) return false;
    REQUIRE(written.ok());
    CHECK(written.value() == len);
    return true;
  }

  // Before any power cut a file reads as the model has it, from whatever page or block it comes.
  bool read() {
    uint64_t id = 0;
    Open* open = random_open(&id);
    if (open == nullptr) return true;
    const CrashFile& file = model_.file(id);
    const uint64_t first = random_.below(kSectorsMax);
    const uint64_t count = random_.chance(0.3) ? 2 * kSectorsMax : random_.between(1, 60);
    trace("read %llu: %llu+%llu\n", ull(id), ull(first), ull(count));
    const auto got = sim_.read(*open->file.inode, first * kSectorBytes, count * kSectorBytes);
    if (sim_.world().dead()) return false;
    REQUIRE(got.ok());
    const uint64_t end = std::max(first, std::min(first + count, file.size()));
    REQUIRE(got.value().size() == (end - first) * kSectorBytes);
    const auto* word = reinterpret_cast<const uint64_t*>(got.value().data());
    for (uint64_t sector = first; sector < end; ++sector) {
      for (uint64_t i = 0; i < kSectorBytes / 8; ++i) REQUIRE(*word++ == file.word(sector));
    }
    return true;
  }

  bool truncate() {
    uint64_t id = 0;
    Open* open = random_open(&id);
    if (open == nullptr) return true;
    const uint64_t sectors = random_.below(kSectorsMax);
    trace("truncate %llu: %llu\n", ull(id), ull(sectors));
    model_.file(id).set_size(sectors);
    const auto done = sim_.truncate(*open->file.inode, sectors * kSectorBytes);
    if (sim_.world().dead()) return false;
    REQUIRE(done.ok());
    return true;
  }

  bool punch() {
    uint64_t id = 0;
    Open* open = random_open(&id);
    if (open == nullptr) return true;
    const uint64_t first = random_.below(kSectorsMax);
    const uint64_t count = random_.between(1, 100);
    trace("punch %llu: %llu+%llu\n", ull(id), ull(first), ull(count));
    model_.file(id).zero(first, first + count);
    const auto mode = random_.chance(0.5) ? FallocateMode::punch_hole : FallocateMode::zero_range;
    const auto done =
        sim_.fallocate(*open->file.inode, mode, first * kSectorBytes, count * kSectorBytes, true);
    if (sim_.world().dead()) return false;
    REQUIRE(done.ok());
    return true;
  }

  bool clone() {
    uint64_t from = 0;
    uint64_t to = 0;
    Open* source = random_open(&from);
    Open* target = random_open(&to);
    if (source == nullptr || from == to) return true;
    const uint64_t size = model_.file(from).size();
    uint64_t first = random_.below(size + 1);
    uint64_t at = random_.below(kSectorsMax / 2);
    if (random_.chance(0.8)) {
      first -= first % kSectorsPerBlock;
      at -= at % kSectorsPerBlock;
    }
    uint64_t count = random_.chance(0.5) ? size - first : random_.below(size - first + 1);
    count = std::min(count, 2 * kSectorsMax);
    if (count == 0) return true;
    std::vector<uint64_t> words;
    for (uint64_t i = 0; i < count; ++i) words.push_back(model_.file(from).word(first + i));
    trace("clone %llu: %llu+%llu to %llu: %llu\n", ull(from), ull(first), ull(count), ull(to),
          ull(at));
    model_.file(to).put(at, words);
    CopyStash stash;
    const auto copied = sim_.world().run([&] {
      return copy_range(sim_.files(), *source->file.inode, first * kSectorBytes,
                        *target->file.inode, at * kSectorBytes, count * kSectorBytes, stash);
    });
    if (sim_.world().dead()) return false;
    REQUIRE(copied.ok());
    CHECK(copied.value() == count * kSectorBytes);
    return true;
  }

  // Blocks of one file, written to another: the same bytes in two places, and then in one.
  bool dedupe() {
    uint64_t from = 0;
    uint64_t to = 0;
    Open* source = random_open(&from);
    Open* target = random_open(&to);
    if (source == nullptr || from == to) return true;
    const uint64_t blocks = model_.file(from).size() / kSectorsPerBlock;
    if (blocks == 0) return true;
    const uint64_t first = random_.below(blocks) * kSectorsPerBlock;
    const uint64_t count =
        std::min(random_.between(1, 12), blocks - first / kSectorsPerBlock) * kSectorsPerBlock;
    const uint64_t at = random_.below(kSectorsMax / kSectorsPerBlock / 2) * kSectorsPerBlock;
    trace("dedupe %llu: %llu+%llu with %llu: %llu\n", ull(from), ull(first), ull(count), ull(to),
          ull(at));
    std::vector<uint64_t> words;
    for (uint64_t i = 0; i < count; ++i) words.push_back(model_.file(from).word(first + i));
    model_.file(to).put(at, words);
    if (!write_words(*target, at, words, random_how())) return false;
    DedupeStash stash;
    const auto same = sim_.world().run([&] {
      return dedupe_range(sim_.files(), *source->file.inode, first * kSectorBytes,
                          *target->file.inode, at * kSectorBytes, count * kSectorBytes, stash);
    });
    if (sim_.world().dead()) return false;
    REQUIRE(same.ok());
    CHECK(stash.same);
    CHECK(same.value() == count * kSectorBytes);
    return true;
  }

  bool unshare() {
    uint64_t id = 0;
    Open* open = random_open(&id);
    if (open == nullptr) return true;
    const uint64_t first = random_.below(kSectorsMax);
    const uint64_t count = random_.between(1, kSectorsMax);
    trace("unshare %llu: %llu+%llu\n", ull(id), ull(first), ull(count));
    UnshareStash stash;
    const bool keep_holes = random_.chance(0.5);
    const auto copied = sim_.world().run([&] {
      return unshare_range(sim_.files(), *open->file.inode, first * kSectorBytes,
                           count * kSectorBytes, keep_holes, stash);
    });
    if (sim_.world().dead()) return false;
    REQUIRE(copied.ok());
    return true;
  }

  bool fsync() {
    uint64_t id = 0;
    Open* open = random_open(&id);
    if (open == nullptr) return true;
    const bool data_only = random_.chance(0.3);
    trace("%s %llu\n", data_only ? "fdatasync" : "fsync", ull(id));
    const auto done = sim_.fsync(open->file, data_only);
    if (sim_.world().dead()) return false;
    REQUIRE(done.ok());
    model_.file(id).made_durable();
    model_.made_durable(open->change);
    return true;
  }

  bool sync() {
    trace("sync%s\n", "");
    const auto done = sim_.sync();
    if (sim_.world().dead()) return false;
    REQUIRE(done.ok());
    for (auto& [id, open] : open_) model_.file(id).made_durable();
    model_.made_durable(model_.change_count());
    return true;
  }

  SimVolume& sim_;
  CrashModel& model_;
  Random random_;
  std::map<std::string, InodeNo> directories_;  // path -> inode
  std::map<uint64_t, Open> open_;
};

void list_tree(SimVolume& sim, InodeNo directory, const std::string& path,
               std::map<std::string, InodeNo>& found) {
  uint64_t cookie = 0;
  while (true) {
    NamespaceStash stash;
    const auto listed = sim.world().run(
        [&] { return sim.volume().names().list(directory, cookie, 16, false, stash); });
    REQUIRE(listed.ok());
    if (listed.value().empty()) return;
    for (const auto& entry : listed.value()) {
      cookie = entry.entry.cookie;
      if (entry.entry.name == "." || entry.entry.name == "..") continue;
      const std::string child = path + "/" + entry.entry.name;
      found[child] = entry.entry.ino;
      if (entry.entry.type == 4) list_tree(sim, entry.entry.ino, child, found);
    }
  }
}

CheckReport scan(const SimImage& image, const SimVolumeOptions& options) {
  SimWorldOptions world_options;
  world_options.device.size_bytes = options.size_bytes;
  world_options.device.logical_block_bytes = options.logical_block_bytes;
  SimWorld world(1, world_options, image);
  CheckScan scan(world.device());
  REQUIRE(world.run([&] { return scan.run(); }).ok());
  return scan.report();
}

void require_consistent(const SimImage& image, const SimVolumeOptions& options) {
  const CheckReport report = scan(image, options);
  for (const Finding& finding : report.findings) FAIL_CHECK(finding.text);
  REQUIRE(report.ok());
}

// Everything that must be true of what the power cut left.
void check_survivors(const SimImage& image, SimVolumeOptions options, const TestSeed& seed,
                     const CrashModel& model) {
  options.cut_after_writes.reset();
  require_consistent(image, options);
  SimVolume sim(seed, options, image);
  std::map<std::string, InodeNo> found;
  list_tree(sim, kRootInode, "", found);
  CHECK(model.names_allowed(found));
  for (const auto& entry : found) {
    const std::string& path = entry.first;
    const InodeNo ino = entry.second;
    NamespaceStash stash;
    auto inode = sim.world().run([&] { return sim.volume().inodes().get(ino, stash.pins); });
    REQUIRE(inode.ok());
    const std::optional<uint64_t> id = model.id_of(ino);
    if (!inode.value()->attr.is_regular() || !id) continue;
    const uint64_t size = inode.value()->attr.size;
    const std::string wrong =
        const_cast<CrashModel&>(model).file(*id).compare(size, sim.read_all(*inode.value()));
    CHECK_MESSAGE(wrong.empty(), path, ": ", wrong);
  }
  require_consistent(sim.unmount(), options);
}

SimImage formatted(const TestSeed& seed, const SimVolumeOptions& options) {
  SimVolume fresh(seed, options);
  return fresh.unmount();
}

// Runs `steps` steps on a copy of `image`; returns how many device writes it came to, and checks
// what is left if the power went.
uint64_t run_history(const SimImage& image, const SimVolumeOptions& options, const TestSeed& seed,
                     uint64_t steps) {
  CrashModel model;
  SimVolume sim(seed, options, image);
  History history(sim, model, seed.seed);
  uint64_t done = 0;
  while (done < steps && history.step()) ++done;
  history.drop_references();
  CHECK(sim.files().faults.page_gone_count == 0);
  const uint64_t writes = sim.device().stats().change_count;
  check_survivors(sim.power_cut(), options, seed, model);
  return writes;
}

}  // namespace

TEST_CASE("a short history survives a power cut after each of its writes") {
  for_each_seed(60, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.logical_block_bytes = seed.seed % 2 == 0 ? 512 : 4096;
    options.discard = seed.seed % 3 == 0;
    const SimImage image = formatted(seed, options);
    uint64_t mounted = 0;
    {
      SimVolume probe(seed, options, image);
      mounted = probe.device().stats().change_count;
    }
    const uint64_t writes = run_history(image, options, seed, 25);
    for (uint64_t cut = mounted; cut < writes; ++cut) {
      CAPTURE(cut);
      options.cut_after_writes = cut;
      run_history(image, options, seed, 25);
    }
  });
}

TEST_CASE("a long history survives a power cut at any time") {
  for_each_seed(1500, [](const TestSeed& seed) {
    SimVolumeOptions options;
    options.logical_block_bytes = seed.seed % 3 == 0 ? 512 : 4096;
    options.discard = seed.seed % 2 == 0;
    Random random(seed.seed ^ 0xc4a5);
    run_history(formatted(seed, options), options, seed, random.between(50, 400));
  });
}

TEST_CASE("a volume survives power cuts one after the other, also while it recovers") {
  for_each_seed(100, [](const TestSeed& seed) {
    SimVolumeOptions options;
    Random random(seed.seed ^ 0x7e57);
    SimImage image = formatted(seed, options);
    for (int round = 0; round < 6; ++round) {
      CrashModel model;
      TestSeed round_seed = seed;
      round_seed.seed = random.next();
      SimWorldOptions world_options;
      world_options.device.size_bytes = options.size_bytes;
      world_options.device.cut_after_writes = random.below(60);
      SimWorld world(round_seed.seed, world_options, image);
      VolumeOptions volume_options;
      volume_options.cache_bytes = options.cache_bytes;
      auto volume = std::make_unique<Volume>(world.scheduler(), world.device(), world.clock(),
                                             volume_options, [](const std::string&) {});
      if (world.run([&] { return volume->mount(); }).ok()) {
        uint64_t number = 0;
        while (!world.dead()) {
          NamespaceStash stash;
          CreateRequest request;
          request.mode = 0100644;
          const std::string name = std::to_string(round) + "-" + std::to_string(number++);
          (void)world.run(
              [&] { return volume->names().create(kRootInode, name, request, Caller{}, stash); });
          world.run_for(300 * kNsPerMs);
        }
      }
      image = world.power_cut();
      volume.reset();
      require_consistent(image, options);
    }
    SimVolume last(seed, options, image);
    require_consistent(last.unmount(), options);
  });
}

}  // namespace fusefs
