// Pins of a random history, and stores through them.
#include <algorithm>
#include <cstring>
#include <utility>

#include "tests/crash/crash_history.h"

namespace fusefs {
namespace {

constexpr uint64_t kSectorsPerPage = kPageBytes / kSectorBytes;
constexpr uint64_t kPinnedPagesMax = 6;  // several files may be pinned in a cache of 64 pages

}  // namespace

bool CrashHistory::pin_or_unpin() {
  uint64_t id = 0;
  Open* open = random_open(&id);
  if (open == nullptr) return true;
  return open->pinned ? end_pin(*open) : begin_pin(id, *open);
}

bool CrashHistory::begin_pin(uint64_t id, Open& open) {
  const uint64_t pages = (model_.file(id).size() + kSectorsPerPage - 1) / kSectorsPerPage;
  if (pages == 0) return true;
  auto pinned = std::make_shared<Pinned>();
  PinRequest request;
  const uint64_t first = random_.below(pages);
  const uint64_t count = random_.between(1, std::min(pages - first, kPinnedPagesMax));
  request.range = file_range(FileBlock(first), BlockCount(count));
  constexpr PinKind kKinds[] = {PinKind::write, PinKind::write, PinKind::mapped, PinKind::read};
  request.kind = kKinds[random_.below(std::size(kKinds))];
  if (request.kind == PinKind::mapped || random_.chance(0.5)) {
    pinned->frames = std::make_shared<AlignedBuffer>(count * kPageBytes);
    request.frames = pinned->frames->data();
    request.frames_owner = pinned->frames;
  }
  if (request.kind == PinKind::mapped) {
    pinned->may_store.resize(count);
    // Lives as long as the pin does, which may be longer than what the history has of it.
    request.protect = [pinned = std::weak_ptr<Pinned>(pinned), first](FileRange range) {
      const std::shared_ptr<Pinned> mine = pinned.lock();
      for (FileBlock at = range.first; mine && at < range.end; ++at) {
        mine->may_store[at.value() - first] = false;
      }
    };
  }
  trace("pin %llu: pages %llu+%llu, kind %d\n", ull(id), ull(first), ull(count),
        static_cast<int>(request.kind));
  PinStash stash;
  auto begun = sim_.world().run(
      [&] { return fusefs::begin_pin(sim_.files(), *open.file.inode, request, stash); });
  if (sim_.world().dead()) return false;
  sim_.world().inside([&] { stash.pin.reset(); });
  if (begun.ok()) {
    pinned->pin = std::move(begun).value();
    open.pinned = std::move(pinned);
  } else {
    CHECK(begun.error() == Error::no_memory);  // the others have it pinned
  }
  return true;
}

bool CrashHistory::end_pin(Open& open) {
  if (!open.pinned) return true;
  trace("unpin%s\n", "");
  const auto ended =
      sim_.world().run([&] { return fusefs::end_pin(sim_.files(), *open.pinned->pin); });
  if (sim_.world().dead()) return false;
  REQUIRE(ended.ok());
  sim_.world().inside([&] { open.pinned.reset(); });
  return true;
}

// Into pages in a row, as far as the file has them.
bool CrashHistory::store() {
  uint64_t id = 0;
  Open* open = random_open(&id);
  if (open == nullptr || !open->pinned) return true;
  const Pin& pin = *open->pinned->pin;
  if (pin.kind == PinKind::read) return true;
  const uint64_t pages = pin.range.count().value();
  const uint64_t first = random_.below(pages);
  const uint64_t count = random_.between(1, pages - first);
  trace("store %llu: pages %llu+%llu\n", ull(id), ull(pin.range.first.value() + first), ull(count));
  for (uint64_t i = 0; i < count; ++i) {
    if (!store_page(id, *open, pin.range.first + BlockCount(first + i))) return false;
  }
  return true;
}

bool CrashHistory::store_page(uint64_t id, Open& open, FileBlock page) {
  CrashFile& file = model_.file(id);
  const uint64_t page_sector = page.value() * kSectorsPerPage;
  if (page_sector >= file.size()) return true;
  const uint64_t sectors = std::min(kSectorsPerPage, file.size() - page_sector);
  Pinned& pinned = *open.pinned;
  const size_t index = (page - pinned.pin->range.first).value();
  while (pinned.pin->is_mapped() && !pinned.may_store[index]) {
    PinFaultStash stash;
    const auto faulted = sim_.world().run([&] {
      return fault_pinned(
          sim_.files(), *pinned.pin, page, PinAccess::store,
          [&] { pinned.may_store[index] = true; }, stash);
    });
    if (sim_.world().dead()) return false;
    REQUIRE(faulted.ok());
  }
  const uint64_t first = random_.below(sectors);
  const uint64_t count = random_.between(1, sectors - first);
  const std::vector<uint64_t> words = file.write(page_sector + first, count);
  std::byte* to = pinned.pin->frame(page) + first * kSectorBytes;
  for (const uint64_t word : words) {
    for (size_t i = 0; i < kSectorBytes; i += sizeof(word)) {
      std::memcpy(to + i, &word, sizeof(word));
    }
    to += kSectorBytes;
  }
  return true;
}

}  // namespace fusefs
