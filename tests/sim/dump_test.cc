// Dump shows what lies on the device: a populated volume agrees with what was done to it, and a
// damaged one is shown with its damage.
#include "core/volume/dump.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "core/base/random.h"
#include "tests/support/sim_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

// The whole dump as one document.
class Collector final : public DumpSink {
 public:
  Json document = Json::object();

  void member(const char* key, Json value) override { document[key] = std::move(value); }
  void begin_list(const char* key) override {
    CHECK(!document.contains(key));
    list_ = key;
    document[list_] = Json::array();
  }
  void item(Json value) override { document[list_].push_back(std::move(value)); }
  void end_list() override { list_.clear(); }

 private:
  std::string list_;
};

struct Dumped {
  Result<void> outcome;
  Json json;
};

class DumpBed {
 public:
  DumpBed(const TestSeed& seed, SimImage image) : world_(seed.seed, options(seed), image) {}

  Dumped dump(DumpSubject subject, uint64_t number = 0, const std::string& path = {}) {
    Collector sink;
    Dump dump(world_.device(), {subject, number, path}, sink);
    const Result<void> outcome = world_.run([&] { return dump.run(); });
    return {outcome, std::move(sink.document)};
  }
  SimDevice& device() { return world_.device(); }
  Json good(DumpSubject subject, uint64_t number = 0, const std::string& path = {}) {
    Dumped dumped = dump(subject, number, path);
    CHECK(dumped.outcome.ok());
    return std::move(dumped.json);
  }

 private:
  static SimWorldOptions options(const TestSeed& seed) {
    SimWorldOptions options;
    options.device.size_bytes = SimVolumeOptions().size_bytes;
    options.forced_restart_probability = seed.forced_restart_probability;
    return options;
  }

  SimWorld world_;
};

// Identifiers are text, numbers are numbers.
uint64_t number(const Json& json) {
  return json.is_string() ? std::stoull(json.get<std::string>()) : json.get<uint64_t>();
}

// What was done to the volume, and what is to be seen of it.
struct Populated {
  SimImage image;
  InodeNo directory, file, copy, link, orphan;
  uint64_t inode_count = 0;
  uint64_t shared_blocks = 0;
};

constexpr uint64_t kFileBlocks = 60;
constexpr int kSmallFiles = 400;

class Populator {
 public:
  explicit Populator(SimVolume& sim) : sim_(sim) {}

  InodeRef make(InodeNo parent, const std::string& name, uint32_t mode,
                const std::string& target = {}) {
    NamespaceStash stash;
    CreateRequest request;
    request.mode = mode;
    request.symlink_target = target;
    auto made = sim_.world().run(
        [&] { return sim_.volume().names().create(parent, name, request, Caller{}, stash); });
    REQUIRE(made.ok());
    return std::move(made).value();
  }

  void set_xattr(InodeNo ino, const std::string& name, const std::string& value) {
    NamespaceStash stash;
    const auto* bytes = reinterpret_cast<const std::byte*>(value.data());
    REQUIRE(sim_.world()
                .run([&] {
                  return sim_.volume().names().set_xattr(ino, name, {bytes, value.size()},
                                                         Namespace::XattrMode::create, stash);
                })
                .ok());
  }

  void clone(Inode& from, Inode& to, uint64_t blocks) {
    CopyStash stash;
    const auto copied = sim_.world().run(
        [&] { return copy_range(sim_.files(), from, 0, to, 0, blocks * kBlockBytes, stash); });
    REQUIRE(copied.ok());
    REQUIRE(copied.value() == blocks * kBlockBytes);
  }

 private:
  SimVolume& sim_;
};

// `clean`: unmounted; else the power was cut after everything had been synced.
Populated populate(const TestSeed& seed, bool clean) {
  Populated result;
  SimVolume sim(seed);
  Populator populator(sim);
  {
    const InodeRef directory = populator.make(kRootInode, "dir", 0040755);
    const InodeRef file = populator.make(directory->ino, "file", 0100640);
    const InodeRef copy = populator.make(directory->ino, "copy", 0100640);
    const InodeRef link = populator.make(kRootInode, "link", 0120777, "dir/file");
    const InodeRef orphan = populator.make(kRootInode, "orphan", 0100600);
    result.directory = directory->ino;
    result.file = file->ino;
    result.copy = copy->ino;
    result.link = link->ino;
    result.orphan = orphan->ino;
    populator.set_xattr(file->ino, "user.colour", "blue");
    const std::vector<std::byte> data(kFileBlocks * kBlockBytes, std::byte{7});
    REQUIRE(sim.write(*file, 0, data, SimVolume::How::buffered).ok());
    REQUIRE(
        sim.fallocate(*file, FallocateMode::allocate, 100 * kBlockBytes, 10 * kBlockBytes, false)
            .ok());
    REQUIRE(sim.sync().ok());
    populator.clone(*file, *copy, 40);
    result.shared_blocks = 40;
    for (int i = 0; i < kSmallFiles; ++i) {
      (void)populator.make(directory->ino, "small-" + std::to_string(i), 0100644);
    }
    NamespaceStash stash;
    REQUIRE(sim.world()
                .run([&] { return sim.volume().names().unlink(kRootInode, "orphan", stash); })
                .ok());
    REQUIRE(sim.sync().ok());
    // A checkpoint shows everything in the tree; what comes behind it is in the journal.
    CheckpointNo checkpoint;
    REQUIRE(sim.world().run([&] { return sim.volume().store().checkpoint(checkpoint); }).ok());
    (void)populator.make(kRootInode, "late", 0100644);
    REQUIRE(sim.sync().ok());
  }
  result.inode_count = 1 + 4 + kSmallFiles + 1;
  result.image = clean ? sim.unmount() : sim.power_cut();
  return result;
}

// The value of the first item of `type` in a list of items.
Json value_of(const Json& items, const std::string& type) {
  for (const Json& item : items) {
    if (item["type"] == type) return item["value"];
  }
  FAIL("no item of type ", type);
  return {};
}

// Nodes of the tree, as the dump has them: block -> node.
std::map<uint64_t, Json> nodes_of(const Json& tree) {
  std::map<uint64_t, Json> nodes;
  for (const Json& node : tree["nodes"]) CHECK(nodes.emplace(node["at_block"], node).second);
  return nodes;
}

uint64_t count_items(const Json& tree, const std::string& type) {
  uint64_t count = 0;
  for (const Json& node : tree["nodes"]) {
    if (!node.contains("items")) continue;
    for (const Json& item : node["items"]) count += item["type"] == type ? 1 : 0;
  }
  return count;
}

const DumpSubject kSubjects[] = {
    DumpSubject::overview, DumpSubject::superblock, DumpSubject::journal, DumpSubject::tree,
    DumpSubject::inode,    DumpSubject::path,       DumpSubject::group,   DumpSubject::node,
    DumpSubject::orphans,  DumpSubject::shared};

}  // namespace

TEST_CASE("a dump of superblocks, areas and groups adds up") {
  for_each_seed(2, [](const TestSeed& seed) {
    const Populated volume = populate(seed, true);
    DumpBed bed(seed, volume.image);
    const Json superblock = bed.good(DumpSubject::superblock);
    REQUIRE(superblock["superblocks"].size() == 2);
    const Json& active = superblock["superblocks"][number(superblock["active_slot"])];
    CHECK(active["verdict"] == "good");
    CHECK(active["clean"] == true);
    CHECK(active["shared_blocks"] == volume.shared_blocks);

    const Json overview = bed.good(DumpSubject::overview);
    uint64_t at = 0;
    for (const Json& area : overview["areas"]) {
      CHECK(number(area["first_block"]) >= at);
      CHECK(number(area["end_block"]) > number(area["first_block"]));
      at = number(area["end_block"]);
    }
    CHECK(at == number(active["block_count"]));
    uint64_t free_blocks = 0;
    for (const Json& page : overview["summary_pages"]) {
      CHECK(page["checksum_ok"] == true);
      free_blocks += number(page["free_blocks"]);
    }
    CHECK(free_blocks == number(active["free_blocks"]));

    uint64_t free_in_groups = 0;
    for (uint64_t group = 0; group < number(active["group_count"]); ++group) {
      const Json dumped = bed.good(DumpSubject::group, group);
      free_in_groups += number(dumped["summary"]["free_count"]);
      const Json& slot = dumped["bitmap_slots"][number(dumped["summary"]["bitmap_slot"])];
      if (dumped["summary"]["initialized"] == false) continue;
      CHECK(slot["checksum_ok"] == true);
      uint64_t in_runs = 0;
      for (const Json& run : slot["free_runs"]) in_runs += number(run["block_count"]);
      CHECK(in_runs == number(slot["free_count"]));
      CHECK(in_runs == number(dumped["summary"]["free_count"]));
    }
    CHECK(free_in_groups == free_blocks);
  });
}

TEST_CASE("a dump of a path shows the inode with everything that belongs to it") {
  for_each_seed(2, [](const TestSeed& seed) {
    const Populated volume = populate(seed, true);
    DumpBed bed(seed, volume.image);
    const Json file = bed.good(DumpSubject::path, 0, "/dir/file");
    REQUIRE(file["path"].size() == 2);
    CHECK(file["path"][0]["name"] == "dir");
    CHECK(number(file["path"][0]["ino"]) == volume.directory.value());
    CHECK(number(file["path"][1]["ino"]) == volume.file.value());
    const Json inode = value_of(file["items"], "inode");
    CHECK(inode["file_type"] == "file");
    CHECK(inode["mode"] == "100640");
    CHECK(inode["size_bytes"] == 110 * kBlockBytes);
    CHECK(inode["mapped_bytes"] == (kFileBlocks + 10) * kBlockBytes);
    CHECK(inode["xattr_count"] == 1);
    CHECK(value_of(file["items"], "xattr")["name"] == "user.colour");
    uint64_t written = 0;
    uint64_t unwritten = 0;
    for (const Json& item : file["items"]) {
      if (item["type"] != "extent") continue;
      (item["value"]["unwritten"] == true ? unwritten : written) +=
          number(item["value"]["block_count"]);
    }
    CHECK(written == kFileBlocks);
    CHECK(unwritten == 10);
    // The same by its number.
    CHECK(bed.good(DumpSubject::inode, volume.file.value())["items"] == file["items"]);

    const Json link = bed.good(DumpSubject::inode, volume.link.value());
    CHECK(value_of(link["items"], "symlink")["target"] == "dir/file");
    const Json directory = bed.good(DumpSubject::path, 0, "dir//");
    CHECK(value_of(directory["items"], "inode")["entry_count"] == kSmallFiles + 2);
    uint64_t entries = 0;
    for (const Json& item : directory["items"]) entries += item["type"] == "dirent" ? 1 : 0;
    CHECK(entries == kSmallFiles + 2);
    CHECK(number(bed.good(DumpSubject::path, 0, "/")["items"][0]["object"]) == kRootInode.value());

    CHECK(bed.dump(DumpSubject::path, 0, "/dir/nothing").outcome.error() == Error::not_found);
    CHECK(bed.dump(DumpSubject::inode, 123'456).outcome.error() == Error::not_found);
    CHECK(bed.dump(DumpSubject::group, 123'456).outcome.error() == Error::invalid_argument);
    CHECK(bed.dump(DumpSubject::node, ~uint64_t{0}).outcome.error() == Error::invalid_argument);
  });
}

TEST_CASE(
    "a dump of the tree has every node and every inode, and each node by itself is the same") {
  for_each_seed(2, [](const TestSeed& seed) {
    const Populated volume = populate(seed, true);
    DumpBed bed(seed, volume.image);
    const Json superblock = bed.good(DumpSubject::superblock);
    const Json& active = superblock["superblocks"][number(superblock["active_slot"])];
    const Json tree = bed.good(DumpSubject::tree);
    const std::map<uint64_t, Json> nodes = nodes_of(tree);
    CHECK(nodes.size() == number(active["tree_node_count"]));
    CHECK(nodes.count(number(active["tree_root"])) == 1);
    CHECK(count_items(tree, "inode") == volume.inode_count);
    CHECK(count_items(tree, "dirent") == volume.inode_count - 1);
    for (const auto& entry : nodes) {
      Json node = entry.second;
      CHECK(node["damage"].is_null());
      CHECK(node["verifies"] == true);
      node.erase("damage");
      CHECK(bed.good(DumpSubject::node, entry.first)["node"] == node);
    }
    uint64_t shared = 0;
    const Json owners = bed.good(DumpSubject::shared);
    for (const Json& item : owners["shared"]) {
      CHECK(item["value"]["owner_count"] == 2);
      shared += number(item["value"]["block_count"]);
    }
    CHECK(shared == volume.shared_blocks);
    CHECK(bed.good(DumpSubject::orphans)["orphans"].empty());
    const Json journal = bed.good(DumpSubject::journal);
    CHECK(journal["clean"] == true);
    CHECK(journal["transactions"].empty());
  });
}

TEST_CASE("after a power cut a dump shows the orphan, and the journal that waits to be replayed") {
  for_each_seed(2, [](const TestSeed& seed) {
    const Populated volume = populate(seed, false);
    DumpBed bed(seed, volume.image);
    const Json orphans = bed.good(DumpSubject::orphans);
    REQUIRE(orphans["orphans"].size() == 1);
    const Json& orphan = orphans["orphans"][0]["value"];
    CHECK(number(orphan["ino"]) == volume.orphan.value());
    CHECK(orphan["kind"] == "unlinked");

    const Json journal = bed.good(DumpSubject::journal);
    CHECK(journal["clean"] == false);
    CHECK(journal["damaged_at_head"] == false);
    CHECK(journal["transaction_count"] == journal["transactions"].size());
    uint64_t seq = 0;
    bool late = false;
    for (const Json& transaction : journal["transactions"]) {
      CHECK(number(transaction["seq"]) > seq);
      seq = number(transaction["seq"]);
      for (const Json& change : transaction["changes"]) {
        late |= change["change"] == "put" && change["type"] == "dirent" &&
                change["value"]["name"] == "late";
      }
    }
    CHECK(late);
    // It reads the checkpoint and replays nothing.
    CHECK(bed.dump(DumpSubject::path, 0, "/late").outcome.error() == Error::not_found);
  });
}

TEST_CASE("a damaged node is named, and everything else is still shown") {
  for_each_seed(2, [](const TestSeed& seed) {
    Populated volume = populate(seed, true);
    std::map<uint64_t, Json> nodes;
    {
      DumpBed bed(seed, volume.image);
      nodes = nodes_of(bed.good(DumpSubject::tree));
    }
    REQUIRE(nodes.size() > 3);
    Random random(seed.seed);
    for (const auto& [block, node] : nodes) {
      SimImage damaged = volume.image;
      const uint64_t addr = block_addr(BlockNo(block)) + random.below(kNodeBytes);
      std::byte byte{};
      damaged.read(addr, {&byte, 1});
      byte ^= std::byte{1};
      damaged.write(addr, {&byte, 1});
      DumpBed bed(seed, damaged);
      const std::map<uint64_t, Json> shown = nodes_of(bed.good(DumpSubject::tree));
      REQUIRE(shown.count(block) == 1);
      CHECK(shown.at(block)["damage"] == "does not verify");
      for (const auto& entry : shown) {
        if (entry.first != block) CHECK(entry.second == nodes.at(entry.first));
      }
      // A leaf hides itself, an inner node what is below it.
      if (node["level"] == 0) CHECK(shown.size() == nodes.size());
      CHECK(bed.good(DumpSubject::node, block)["node"]["verifies"] == false);
      const Result<void> path = bed.dump(DumpSubject::path, 0, "/dir/file").outcome;
      CHECK((path.ok() || path.error() == Error::corrupt || path.error() == Error::not_found));
    }
  });
}

TEST_CASE("a node that cannot be read is shown as that") {
  for_each_seed(1, [](const TestSeed& seed) {
    const Populated volume = populate(seed, true);
    DumpBed bed(seed, volume.image);
    const Json superblock = bed.good(DumpSubject::superblock);
    const uint64_t root =
        number(superblock["superblocks"][number(superblock["active_slot"])]["tree_root"]);
    SimFault unreadable;
    unreadable.kind = IoKind::read;
    unreadable.addr_first = block_addr(BlockNo(root));
    unreadable.addr_end = unreadable.addr_first + kNodeBytes;
    unreadable.error = Error::io_failed;
    bed.device().add_fault(unreadable);
    const Json tree = bed.good(DumpSubject::tree);
    REQUIRE(tree["nodes"].size() == 1);
    CHECK(tree["nodes"][0]["damage"] == "cannot be read");
    CHECK(tree["nodes"][0]["at_block"] == root);
    CHECK(bed.dump(DumpSubject::node, root).outcome.error() == Error::io_failed);
  });
}

TEST_CASE("no damage to metadata makes a dump fail otherwise than with an error") {
  for_each_seed(12, [](const TestSeed& seed) {
    static std::map<uint64_t, Populated> volumes;
    auto [at, fresh] = volumes.try_emplace(seed.seed % 2);
    if (fresh) at->second = populate({seed.seed, 0.0}, seed.seed % 2 == 0);
    SimImage damaged = at->second.image;
    std::vector<uint64_t> blocks;
    {
      DumpBed bed(seed, damaged);
      const Json overview = bed.good(DumpSubject::overview);
      const uint64_t data_first = number(overview["areas"].back()["first_block"]);
      for (uint64_t block = 0; block < data_first; ++block) blocks.push_back(block);
      const auto nodes = nodes_of(bed.good(DumpSubject::tree));
      for (const auto& entry : nodes) blocks.push_back(entry.first);
    }
    Random random(seed.seed);
    for (int i = 0; i < 200; ++i) {
      const uint64_t block = blocks[random.below(blocks.size())];
      std::vector<std::byte> junk(random.between(1, 64));
      for (std::byte& byte : junk) byte = static_cast<std::byte>(random.next());
      const uint64_t offset = random.below(random.chance(0.5) ? 128 : kBlockBytes - junk.size());
      damaged.write(block_addr(BlockNo(block)) + offset, junk);
    }
    DumpBed bed(seed, damaged);
    for (const DumpSubject subject : kSubjects) {
      for (uint64_t i = 0; i < 4; ++i) {
        const uint64_t what = subject == DumpSubject::node    ? blocks[random.below(blocks.size())]
                              : subject == DumpSubject::group ? 0
                                                              : random.below(500);
        const Dumped dumped = bed.dump(subject, what, "/dir/file");
        if (dumped.outcome.ok()) continue;
        const Error error = dumped.outcome.error();
        CAPTURE(error_name(error));
        CHECK((error == Error::corrupt || error == Error::not_found ||
               error == Error::not_a_volume || error == Error::newer_version ||
               error == Error::truncated_volume));
      }
    }
  });
}

}  // namespace fusefs
