#include <algorithm>
#include <iterator>

#include "core/file/dedupe.h"
#include "core/file/unshare.h"
#include "tests/crash/crash_history.h"

namespace fusefs {
namespace {

using How = SimVolume::How;

constexpr uint64_t kSectorsMax = 400;  // of a file: 200 KiB
constexpr uint64_t kSectorsPerBlock = kBlockBytes / kSectorBytes;

}  // namespace

bool CrashHistory::write() {
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
  static constexpr const char* kNames[] = {"buffered", "direct",       "mapped",     "dsync",
                                           "sync",     "direct dsync", "direct sync"};
  trace("write %llu: %llu+%llu %s\n", ull(id), ull(first), ull(count),
        kNames[static_cast<int>(how)]);
  if (!write_words(*open, first, model_.file(id).write(first, count), how)) return false;
  if (how >= How::dsync) {
    model_.file(id).made_durable(first, count);
    model_.made_durable(open->change);
  }
  return true;
}

How CrashHistory::random_how() {
  const uint64_t what = random_.below(100);
  if (what < 35) return How::buffered;
  if (what < 65) return How::direct;
  if (what < 75) return How::mapped;
  if (what < 85) return How::dsync;
  if (what < 90) return How::sync;
  return what < 96 ? How::direct_dsync : How::direct_sync;
}

bool CrashHistory::write_words(Open& open, uint64_t first, const std::vector<uint64_t>& words,
                               How how) {
  const size_t len = words.size() * kSectorBytes;
  AlignedBuffer data((len + kBlockBytes) / kBlockBytes * kBlockBytes);
  auto* out = reinterpret_cast<uint64_t*>(data.data());
  for (const uint64_t word : words) out = std::fill_n(out, kSectorBytes / 8, word);
  const auto written =
      sim_.write(*open.file.inode, first * kSectorBytes, ConstBytes(data.bytes()).first(len), how);
  if (sim_.world().dead()) return false;
  REQUIRE(written.ok());
  CHECK(written.value() == len);
  return true;
}

// Before any power cut a file reads as the model has it, from whatever page or block it comes.
bool CrashHistory::read() {
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

bool CrashHistory::truncate() {
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

bool CrashHistory::punch() {
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

bool CrashHistory::clone() {
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
    return copy_range(sim_.files(), *source->file.inode, first * kSectorBytes, *target->file.inode,
                      at * kSectorBytes, count * kSectorBytes, stash);
  });
  if (sim_.world().dead()) return false;
  REQUIRE(copied.ok());
  CHECK(copied.value() == count * kSectorBytes);
  return true;
}

// Blocks of one file, written to another: the same bytes in two places, and then in one.
bool CrashHistory::dedupe() {
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

bool CrashHistory::unshare() {
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

bool CrashHistory::fsync() {
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

bool CrashHistory::sync() {
  trace("sync%s\n", "");
  const auto done = sim_.sync();
  if (sim_.world().dead()) return false;
  REQUIRE(done.ok());
  for (auto& [id, open] : open_) model_.file(id).made_durable();
  model_.made_durable(model_.change_count());
  return true;
}

}  // namespace fusefs
