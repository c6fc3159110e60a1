// A batch as an image: what its header says, and what of it the checksum covers.
#include <cstring>
#include <string>
#include <vector>

#include "core/journal/batch.h"
#include "core/journal/change_codec.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kSeed = 99;
constexpr BlockNo kPlace{40};

void append_text(Batch& batch, uint64_t seq, const std::string& value, WriteStamp stamp = 0) {
  ChangeEncoder encoder;
  encoder.put(inode_key(InodeNo(seq)), bytes_of(std::string_view(value)));
  batch.append(JournalSeq(seq), encoder.bytes(), encoder.count(), stamp, seq * 10);
}

bool verifies(Batch& batch) {
  return block_verifies(batch.image(), BlockKind::journal, kPlace, kSeed);
}

TEST_CASE("a sealed batch verifies at its place and with its seed only") {
  Batch batch(5, AlignedBuffer());
  append_text(batch, 21, "one");
  append_text(batch, 22, "two");
  batch.close(kPlace, 1000);
  batch.seal(kSeed);
  CHECK(verifies(batch));
  CHECK_FALSE(block_verifies(batch.image(), BlockKind::journal, BlockNo(41), kSeed));
  CHECK_FALSE(block_verifies(batch.image(), BlockKind::journal, kPlace, kSeed + 1));
  CHECK_FALSE(block_verifies(batch.image(), BlockKind::node, kPlace, kSeed));

  const BatchHeader& header = view_as<BatchHeader>(ConstBytes(batch.image()));
  CHECK(header.header.generation == 5);
  CHECK(header.batch_blocks == 1);
  CHECK(header.transaction_count == 2);
  CHECK(header.first_seq == 21);
  CHECK(batch.last_seq() == JournalSeq(22));
  CHECK(batch.opened_ns() == 210);
}

TEST_CASE("every byte of a batch counts, padding included") {
  Batch batch(1, AlignedBuffer());
  append_text(batch, 1, std::string(3000, 'x'));
  append_text(batch, 2, std::string(3000, 'y'));
  batch.close(kPlace, 0);
  batch.seal(kSeed);
  REQUIRE(batch.image().size() == 2 * kBlockBytes);
  for (size_t at = 0; at < batch.image().size(); at += 97) {
    batch.image()[at] ^= std::byte{1};
    CHECK_FALSE(verifies(batch));
    batch.image()[at] ^= std::byte{1};
  }
  CHECK(verifies(batch));
}

TEST_CASE("a batch in a used buffer carries nothing of the batch before") {
  Batch first(1, AlignedBuffer());
  append_text(first, 1, std::string(4000, 's'));
  first.close(kPlace, 0);
  first.seal(kSeed);

  Batch second(2, first.take_buffer());
  append_text(second, 2, "short");
  second.close(kPlace, 0);
  second.seal(kSeed);
  const std::string_view image = text_of(second.image());
  CHECK(image.find("ssss") == std::string_view::npos);
  CHECK(image.find("short") != std::string_view::npos);
}

TEST_CASE("a batch has room for the largest transaction, and never grows beyond its limit") {
  const std::vector<std::byte> changes(kTransactionBytesMax);
  Batch batch(1, AlignedBuffer());
  uint64_t seq = 0;
  while (batch.has_room(changes.size())) {
    batch.append(JournalSeq(++seq), changes, 1, 0, 0);
  }
  CHECK(seq >= 1);
  CHECK(batch.blocks() * kBlockBytes <= kBatchBytesMax);
}

TEST_CASE("a batch shows the latest data that any of its transactions shows") {
  Batch batch(1, AlignedBuffer());
  append_text(batch, 1, "a", 7);
  append_text(batch, 2, "b", 3);
  append_text(batch, 3, "c");
  CHECK(batch.data_stamp() == 7);
}

}  // namespace
}  // namespace fusefs
