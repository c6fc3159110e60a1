#include "tests/support/sim_image.h"

#include <algorithm>

#include "core/base/checksum.h"

namespace fusefs {
namespace {

bool all_zero(ConstBytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

const SimImage::Page* SimImage::find(uint64_t page) const {
  auto chunk = chunks_.find(page / kPagesPerChunk);
  return chunk == chunks_.end() ? nullptr : chunk->second->pages[page % kPagesPerChunk].get();
}

SimImage::Page& SimImage::own(uint64_t page) {
  std::shared_ptr<Chunk>& chunk = chunks_[page / kPagesPerChunk];
  if (chunk == nullptr) {
    chunk = std::make_shared<Chunk>();
  } else if (chunk.use_count() > 1) {
    chunk = std::make_shared<Chunk>(*chunk);
  }
  std::shared_ptr<Page>& slot = chunk->pages[page % kPagesPerChunk];
  if (slot == nullptr) {
    slot = std::make_shared<Page>();
  } else if (slot.use_count() > 1) {
    slot = std::make_shared<Page>(*slot);
  }
  return *slot;
}

void SimImage::read(uint64_t addr, Bytes out) const {
  while (!out.empty()) {
    const uint64_t offset = addr % kBlockBytes;
    const size_t len = std::min<size_t>(out.size(), kBlockBytes - offset);
    if (const Page* page = find(addr / kBlockBytes)) {
      std::memcpy(out.data(), page->data() + offset, len);
    } else {
      std::memset(out.data(), 0, len);
    }
    addr += len;
    out = out.subspan(len);
  }
}

void SimImage::write(uint64_t addr, ConstBytes data) {
  while (!data.empty()) {
    const uint64_t offset = addr % kBlockBytes;
    const size_t len = std::min<size_t>(data.size(), kBlockBytes - offset);
    std::memcpy(own(addr / kBlockBytes).data() + offset, data.data(), len);
    addr += len;
    data = data.subspan(len);
  }
}

std::vector<uint64_t> SimImage::pages_within(uint64_t addr, uint64_t end) const {
  std::vector<uint64_t> found;
  const uint64_t first = addr / kBlockBytes;
  for (auto at = chunks_.lower_bound(first / kPagesPerChunk); at != chunks_.end(); ++at) {
    const uint64_t base = at->first * kPagesPerChunk;
    if (base * kBlockBytes >= end) break;
    for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
      if (at->second->pages[i] == nullptr || base + i < first) continue;
      if ((base + i) * kBlockBytes < end) found.push_back((base + i) * kBlockBytes);
    }
  }
  return found;
}

uint64_t SimImage::page_count() const {
  uint64_t count = 0;
  for (const auto& [number, chunk] : chunks_) {
    for (const auto& page : chunk->pages) count += page != nullptr ? 1 : 0;
  }
  return count;
}

uint64_t SimImage::fingerprint() const {
  uint64_t print = 0;
  for (const auto& [number, chunk] : chunks_) {
    for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
      const Page* page = chunk->pages[i].get();
      if (page == nullptr || all_zero(*page)) continue;
      print = checksum_seeded(bytes_of(number * kPagesPerChunk + i), print);
      print = checksum_seeded(*page, print);
    }
  }
  return print;
}

}  // namespace fusefs
