#include <map>
#include <vector>

#include "core/base/random.h"
#include "core/io/aligned_buffer.h"
#include "core/tree/node_edit.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

using Model = std::map<Key, std::vector<std::byte>>;
constexpr uint64_t kSeed = 77;
constexpr BlockNo kAt{4096};

std::vector<std::byte> random_value(Random& random, size_t len) {
  std::vector<std::byte> value(len);
  for (std::byte& byte : value) byte = static_cast<std::byte>(random.next());
  return value;
}

bool same(const NodePage& page, const Model& model) {
  if (page.count() != model.size()) return false;
  uint32_t slot = 0;
  for (const auto& [key, value] : model) {
    const ConstBytes found = page.value(slot);
    if (page.key(slot) != key || found.size() != value.size()) return false;
    if (!std::equal(found.begin(), found.end(), value.begin())) return false;
    ++slot;
  }
  return true;
}

uint32_t bytes_of_model(const Model& model) {
  uint32_t bytes = 0;
  for (const auto& [key, value] : model) bytes += NodePage::item_bytes(value.size());
  return bytes;
}

bool verifies(AlignedBuffer& buffer) {
  set_block_header(buffer.bytes(), BlockKind::node, kAt, 3);
  seal_block(buffer.bytes(), kSeed);
  return node_verifies(buffer.bytes(), kAt, 3, kSeed);
}

Key key_of(uint64_t number) { return inode_key(InodeNo(number)); }

}  // namespace

TEST_CASE("a node holds what an ordered map holds, and refuses only what does not fit") {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const size_t len_max = seed % 2 == 0 ? kItemValueBytesMax : 200;
    AlignedBuffer buffer(kNodeBytes);
    NodePage page(buffer.data());
    page.init(0);
    Model model;
    for (int step = 0; step < 4000; ++step) {
      const Key key = key_of(random.below(100) + 1);
      const uint32_t slot = page.lower_bound(key);
      REQUIRE(page.holds(slot, key) == model.contains(key));
      if (random.below(3) == 0) {
        if (page.holds(slot, key)) page.erase(slot);
        model.erase(key);
      } else {
        const std::vector<std::byte> value = random_value(random, random.below(len_max + 1));
        Model wanted = model;
        wanted[key] = value;
        const bool fits =
            page.holds(slot, key) ? page.replace(slot, value) : page.insert(slot, key, value);
        REQUIRE(fits == (bytes_of_model(wanted) <= kNodePayloadBytes));
        if (fits) model = std::move(wanted);
      }
      REQUIRE(page.used_bytes() == bytes_of_model(model));
    }
    CHECK(same(page, model));
    if (!model.empty()) CHECK(verifies(buffer));
  }
}

TEST_CASE("after a split both nodes have room, and together they hold everything") {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const size_t len_max = seed % 2 == 0 ? kItemValueBytesMax : 100;
    AlignedBuffer left_buffer(kNodeBytes);
    AlignedBuffer right_buffer(kNodeBytes);
    NodePage left(left_buffer.data());
    NodePage right(right_buffer.data());
    left.init(0);
    right.init(0);
    Model model;
    Key key{};
    std::vector<std::byte> value;
    for (;;) {
      key = key_of(random.below(1000) * 2 + 2);
      if (model.contains(key)) continue;
      value = random_value(random, random.below(len_max + 1));
      if (!left.insert(left.lower_bound(key), key, value)) break;
      model[key] = value;
    }
    const uint32_t slot = left.lower_bound(key);
    const bool at_end = slot == left.count();
    const NodePage::Split split = left.split_for(slot, NodePage::item_bytes(value.size()));
    right.append_from(left, split.stay);
    left.truncate(split.stay);
    REQUIRE((split.goes_right ? right.insert(slot - split.stay, key, value)
                              : left.insert(slot, key, value)));
    model[key] = value;

    REQUIRE(left.count() > 0);
    REQUIRE(right.count() > 0);
    if (at_end) {
      CHECK(right.count() == 1);
    } else {
      CHECK(left.free_bytes() >= 1900);
      CHECK(right.free_bytes() >= 1900);
    }
    REQUIRE(verifies(left_buffer));
    REQUIRE(verifies(right_buffer));
    const Model::iterator middle = model.lower_bound(right.key(0));
    CHECK(same(left, Model(model.begin(), middle)));
    CHECK(same(right, Model(middle, model.end())));
  }
}

TEST_CASE("the child of an interior node is the last one that may hold the key") {
  AlignedBuffer buffer(kNodeBytes);
  NodePage page(buffer.data());
  page.init(1);
  for (uint32_t i = 0; i < 10; ++i) {
    const ChildPointer child{uint64_t{100} + i, uint64_t{1}};
    REQUIRE(page.insert(i, key_of(10 * (i + 1)), bytes_of(child)));
  }
  CHECK(page.child_slot(key_of(1)) == 0);
  CHECK(page.child_slot(key_of(10)) == 0);
  CHECK(page.child_slot(key_of(19)) == 0);
  CHECK(page.child_slot(key_of(20)) == 1);
  CHECK(page.child_slot(key_of(1000)) == 9);
  page.set_child(3, {uint64_t{7}, uint64_t{8}});
  CHECK(page.child(3).block == 7);
  CHECK(page.child(3).generation == 8);
  CHECK(page.child(4).block == 104);
  CHECK(verifies(buffer));
}

TEST_CASE("a node whose seal is right but whose content makes no sense is refused") {
  AlignedBuffer good(kNodeBytes);
  NodePage page(good.data());
  page.init(0);
  Random random(1);
  for (uint32_t i = 0; i < 20; ++i) {
    REQUIRE(page.insert(i, key_of(i + 1), random_value(random, 40)));
  }
  REQUIRE(verifies(good));

  const auto refused = [&](auto&& damage) {
    AlignedBuffer bad(kNodeBytes);
    std::memcpy(bad.data(), good.data(), kNodeBytes);
    damage(view_as<NodeHeader>(bad.bytes()),
           *reinterpret_cast<std::array<NodeSlot, 20>*>(bad.data() + sizeof(NodeHeader)));
    return !verifies(bad);
  };
  using Slots = std::array<NodeSlot, 20>;
  CHECK_FALSE(refused([](NodeHeader&, Slots&) {}));
  CHECK(refused([](NodeHeader& header, Slots&) { header.count = uint16_t{0}; }));
  CHECK(refused([](NodeHeader& header, Slots&) { header.count = uint16_t{21}; }));
  CHECK(refused([](NodeHeader& header, Slots&) { header.count = uint16_t{60000}; }));
  CHECK(refused([](NodeHeader& header, Slots&) { header.level = uint16_t{12}; }));
  CHECK(refused([](NodeHeader& header, Slots&) { header.level = uint16_t{1}; }));
  CHECK(refused([](NodeHeader& header, Slots&) { header.values_first = uint32_t{100}; }));
  CHECK(refused([](NodeHeader& header, Slots&) { header.values_first = uint32_t{1} << 20; }));
  CHECK(refused([](NodeHeader& header, Slots&) { header.garbage_bytes = uint32_t{1}; }));
  CHECK(refused([](NodeHeader&, Slots& slots) { std::swap(slots[3].key, slots[4].key); }));
  CHECK(refused([](NodeHeader&, Slots& slots) { slots[3].key = slots[4].key; }));
  CHECK(refused([](NodeHeader&, Slots& slots) { slots[3].value_first = slots[4].value_first; }));
  CHECK(
      refused([](NodeHeader&, Slots& slots) { slots[0].value_first = uint16_t{kNodeBytes - 1}; }));
  CHECK(refused([](NodeHeader&, Slots& slots) { slots[3].value_len = uint16_t{41}; }));
  CHECK(refused([](NodeHeader&, Slots& slots) { slots[3].key.type = 8; }));
  CHECK(refused([](NodeHeader&, Slots& slots) { slots[3].zero = 1; }));
}

TEST_CASE("a node is refused at another place, of another generation, volume or content") {
  AlignedBuffer buffer(kNodeBytes);
  NodePage page(buffer.data());
  page.init(0);
  REQUIRE(page.insert(0, key_of(1), {}));
  REQUIRE(verifies(buffer));
  CHECK_FALSE(node_verifies(buffer.bytes(), BlockNo(8), 3, kSeed));
  CHECK_FALSE(node_verifies(buffer.bytes(), kAt, 2, kSeed));
  CHECK_FALSE(node_verifies(buffer.bytes(), kAt, 3, kSeed + 1));
  buffer.data()[kNodeBytes - 5] ^= std::byte{1};
  CHECK_FALSE(node_verifies(buffer.bytes(), kAt, 3, kSeed));
}

}  // namespace fusefs
