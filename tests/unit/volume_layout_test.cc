#include "core/format/journal_format.h"
#include "core/format/space_format.h"
#include "core/volume/format_volume.h"

#include <doctest/doctest.h>

namespace fusefs {
namespace {

constexpr uint64_t kMiB = 1 << 20;

void check_layout(uint64_t bytes) {
  INFO("bytes ", bytes);
  const Result<VolumeLayout> planned = plan_layout(bytes);
  REQUIRE(planned.ok());
  const VolumeLayout& layout = planned.value();
  CHECK_LE(layout.block_count, bytes / kBlockBytes);
  CHECK_GE(layout.journal_first, kFirstUsableBlock);
  CHECK_GE(layout.journal_blocks * kBlockBytes, kJournalBytesMin);
  CHECK_LE(layout.journal_blocks * kBlockBytes, kJournalBytesMax);
  CHECK_GE(layout.summary_first, layout.journal_first + layout.journal_blocks);
  CHECK_GE(layout.bitmap_first, layout.summary_first + 2 * layout.summary_pages);
  CHECK_GE(layout.data_first, layout.bitmap_first + 2 * layout.group_count);
  CHECK_LT(layout.data_first, layout.block_count);
  const uint64_t data = layout.block_count - layout.data_first;
  CHECK_EQ(layout.group_count, (data + kGroupBlocks - 1) / kGroupBlocks);
  CHECK_EQ(layout.summary_pages, (layout.group_count + kGroupsPerSummary - 1) / kGroupsPerSummary);
  // What is left over at the end is never worth a group.
  CHECK_LT(bytes / kBlockBytes - layout.block_count, 256);
}

TEST_CASE("every size from 64 MiB to 16 TiB is divided without overlap and nearly without rest") {
  for (uint64_t bytes = 64 * kMiB; bytes <= 1100 * kMiB; bytes += 37 * kBlockBytes) {
    check_layout(bytes);
  }
  for (uint64_t bytes : {10ull << 30, 1ull << 40, 16ull << 40, (100ull << 40) + 4095}) {
    check_layout(bytes);
  }
}

TEST_CASE("around the size where one more group begins, no group is empty") {
  const uint64_t start = plan_layout(2000 * kMiB).value().data_first + 15 * kGroupBlocks;
  for (uint64_t blocks = start - 200; blocks < start + 400; ++blocks) {
    check_layout(blocks * kBlockBytes);
  }
}

TEST_CASE("a device below 64 MiB, or beyond what the format can describe, is refused") {
  CHECK(plan_layout(64 * kMiB - 1).error() == Error::invalid_argument);
  CHECK(plan_layout(0).error() == Error::invalid_argument);
  CHECK(plan_layout(1ull << 60).error() == Error::invalid_argument);
}

TEST_CASE("a 64 MiB volume gives more than 88 percent to data and nodes") {
  const VolumeLayout layout = plan_layout(64 * kMiB).value();
  CHECK_GE((layout.block_count - layout.data_first) * 100, 88 * layout.block_count);
}

}  // namespace
}  // namespace fusefs
