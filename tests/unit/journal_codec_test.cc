// The encoding of changes, and the decoder's manners with bytes that nobody encoded.
#include <cstring>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "core/format/node_format.h"
#include "core/journal/change_codec.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

std::vector<std::byte> copy_of(ConstBytes bytes) { return {bytes.begin(), bytes.end()}; }

ChangeEncoder four_changes() {
  ChangeEncoder encoder;
  encoder.put(extent_key(InodeNo(7), FileBlock(9)), bytes_of(std::string_view("a value")));
  encoder.erase(inode_key(InodeNo(8)));
  encoder.allocate(block_range(BlockNo(100), BlockCount(3)));
  encoder.release(block_range(BlockNo(1), BlockCount(1)));
  return encoder;
}

TEST_CASE("changes are decoded as they were encoded") {
  const ChangeEncoder encoder = four_changes();
  const auto decoded = decode_changes(encoder.bytes(), encoder.count());
  REQUIRE(decoded.ok());
  const std::vector<Change>& changes = decoded.value();
  REQUIRE(changes.size() == 4);
  CHECK(changes[0].kind == ChangeKind::put);
  CHECK(changes[0].key == extent_key(InodeNo(7), FileBlock(9)));
  CHECK(text_of(changes[0].value) == "a value");
  CHECK(changes[1].kind == ChangeKind::erase);
  CHECK(changes[1].key == inode_key(InodeNo(8)));
  CHECK(changes[2].kind == ChangeKind::allocate);
  CHECK(changes[2].blocks == block_range(BlockNo(100), BlockCount(3)));
  CHECK(changes[3].kind == ChangeKind::release);
  CHECK(changes[3].blocks == block_range(BlockNo(1), BlockCount(1)));
}

TEST_CASE("the encoded size of a change is known beforehand") {
  ChangeEncoder put;
  put.put(inode_key(InodeNo(1)), bytes_of(std::string_view("12345")));
  CHECK(put.bytes().size() == ChangeEncoder::put_bytes(5));
  ChangeEncoder erase;
  erase.erase(inode_key(InodeNo(1)));
  CHECK(erase.bytes().size() == ChangeEncoder::put_bytes(0));
  ChangeEncoder blocks;
  blocks.allocate(block_range(BlockNo(5), BlockCount(5)));
  CHECK(blocks.bytes().size() == ChangeEncoder::block_change_bytes());
}

TEST_CASE("changes cut short anywhere are refused, whatever count is claimed") {
  const ChangeEncoder encoder = four_changes();
  for (size_t len = 0; len < encoder.bytes().size(); ++len) {
    const auto decoded = decode_changes(encoder.bytes().first(len), encoder.count());
    CHECK_FALSE(decoded.ok());
  }
  for (uint32_t count : {0u, 1u, 3u, 5u, ~0u}) {
    CHECK_FALSE(decode_changes(encoder.bytes(), count).ok());
  }
}

TEST_CASE("no change of one byte makes the decoder point outside what it was given") {
  const ChangeEncoder encoder = four_changes();
  for (size_t at = 0; at < encoder.bytes().size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::vector<std::byte> bytes = copy_of(encoder.bytes());
      bytes[at] = static_cast<std::byte>(value);
      const auto decoded = decode_changes(bytes, encoder.count());
      if (!decoded.ok()) {
        CHECK(decoded.error() == Error::corrupt);
        continue;
      }
      for (const Change& change : decoded.value()) {
        if (change.kind == ChangeKind::put) {
          REQUIRE(change.value.data() >= bytes.data());
          REQUIRE(change.value.data() + change.value.size() <= bytes.data() + bytes.size());
        } else if (change.kind != ChangeKind::erase) {
          REQUIRE(change.blocks.first < change.blocks.end);
        }
      }
    }
  }
}

TEST_CASE("random bytes are decoded or refused, and never trusted") {
  Random random(11);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> bytes(random.below(200));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(4));
    const auto decoded = decode_changes(bytes, static_cast<uint32_t>(random.below(4)));
    if (decoded.ok()) ++accepted;
  }
  CHECK(accepted > 0);  // the empty string at least
}

TEST_CASE("a change that claims blocks beyond the last block number is refused") {
  ChangeEncoder encoder;
  encoder.allocate(block_range(BlockNo(1), BlockCount(1)));
  std::vector<std::byte> bytes = copy_of(encoder.bytes());
  BlockChange& change = view_as<BlockChange>(Bytes(bytes).subspan(sizeof(ChangeHeader)));
  change.first = ~uint64_t{0};
  change.count = uint64_t{2};
  CHECK_FALSE(decode_changes(bytes, 1).ok());
  change.first = uint64_t{1};
  change.count = uint64_t{0};
  CHECK_FALSE(decode_changes(bytes, 1).ok());
  change.count = uint64_t{1};
  CHECK(decode_changes(bytes, 1).ok());
}

TEST_CASE("a value larger than the tree takes is refused") {
  ChangeEncoder encoder;
  const std::vector<std::byte> value(kItemValueBytesMax);
  encoder.put(inode_key(InodeNo(1)), value);
  CHECK(decode_changes(encoder.bytes(), 1).ok());

  std::vector<std::byte> bytes = copy_of(encoder.bytes());
  bytes.push_back(std::byte{0});
  view_as<ChangeHeader>(Bytes(bytes)).value_len = uint16_t{kItemValueBytesMax + 1};
  CHECK_FALSE(decode_changes(bytes, 1).ok());
}

}  // namespace
}  // namespace fusefs
