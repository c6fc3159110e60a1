// SimImage: the content of a simulated device, sparse and shared.
//
// A copy is a snapshot and costs a few pointers: pages are shared until one side writes. What was
// never written reads as zeroes and takes no memory, so that 16 TiB cost nothing.
//
// It knows no requests, no cache and no power cut: sim_device.h.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "core/base/bytes.h"
#include "core/base/units.h"

namespace fusefs {

class SimImage {
 public:
  // `addr` and sizes are in bytes and need no alignment.
  void read(uint64_t addr, Bytes out) const;
  void write(uint64_t addr, ConstBytes data);

  // The addresses of the pages that hold memory and touch [addr, end): all others are zeroes.
  std::vector<uint64_t> pages_within(uint64_t addr, uint64_t end) const;
  // Pages of 4 KiB that hold memory.
  uint64_t page_count() const;
  // The same content gives the same number; zero pages count as absent.
  uint64_t fingerprint() const;

 private:
  static constexpr uint64_t kPagesPerChunk = 256;
  using Page = std::array<std::byte, kBlockBytes>;
  struct Chunk {
    std::array<std::shared_ptr<Page>, kPagesPerChunk> pages;
  };

  const Page* find(uint64_t page) const;
  // A page that nobody shares.
  Page& own(uint64_t page);

  std::map<uint64_t, std::shared_ptr<Chunk>> chunks_;  // by page / kPagesPerChunk
};

}  // namespace fusefs
