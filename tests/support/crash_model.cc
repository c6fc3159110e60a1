#include "tests/support/crash_model.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace fusefs {
namespace {

// file (16 bits), write (24 bits), sector (24 bits): never zero.
uint64_t make_word(uint64_t file, uint64_t serial, uint64_t sector) {
  return file << 48 | (serial & 0xffffff) << 24 | (sector & 0xffffff);
}

}  // namespace

uint64_t CrashFile::word(uint64_t sector) const {
  const auto at = sectors_.find(sector);
  return at == sectors_.end() ? 0 : at->second.back();
}

std::vector<uint64_t> CrashFile::write(uint64_t first, uint64_t count) {
  ++serial_;
  std::vector<uint64_t> words;
  for (uint64_t i = 0; i < count; ++i) words.push_back(make_word(id_, serial_, first + i));
  put(first, words);
  return words;
}

void CrashFile::put(uint64_t first, const std::vector<uint64_t>& words) {
  for (uint64_t i = 0; i < words.size(); ++i) {
    auto [at, fresh] = sectors_.try_emplace(first + i);
    if (fresh) at->second.push_back(0);
    at->second.push_back(words[i]);
  }
  if (first + words.size() > size()) size_.push_back(first + words.size());
}

void CrashFile::zero(uint64_t first, uint64_t end) {
  for (auto at = sectors_.lower_bound(first); at != sectors_.end() && at->first < end; ++at) {
    at->second.push_back(0);
  }
}

void CrashFile::set_size(uint64_t sectors) {
  if (sectors < size()) zero(sectors, ~uint64_t{0});
  if (sectors != size()) size_.push_back(sectors);
}

void CrashFile::made_durable() {
  size_.erase(size_.begin(), size_.end() - 1);
  for (auto& [sector, words] : sectors_) words.erase(words.begin(), words.end() - 1);
}

void CrashFile::made_durable(uint64_t first, uint64_t count) {
  const auto end = sectors_.lower_bound(first + count);
  for (auto at = sectors_.lower_bound(first); at != end; ++at) {
    at->second.erase(at->second.begin(), at->second.end() - 1);
  }
  for (uint64_t& size : size_) size = std::max(size, first + count);
}

bool CrashFile::allowed(uint64_t sector, uint64_t word) const {
  const auto at = sectors_.find(sector);
  if (at == sectors_.end()) return word == 0;
  return std::find(at->second.begin(), at->second.end(), word) != at->second.end();
}

std::string CrashFile::compare(uint64_t size_bytes, const std::vector<std::byte>& content) const {
  const auto sectors = size_bytes / kSectorBytes;
  if (size_bytes % kSectorBytes != 0 ||
      std::find(size_.begin(), size_.end(), sectors) == size_.end()) {
    // Data reaches the device in pieces, and the size follows each: any size on the way is fine.
    const auto [low, high] = std::minmax_element(size_.begin(), size_.end());
    if (sectors < *low || sectors > *high) {
      return "size " + std::to_string(size_bytes) + " was never meant";
    }
  }
  for (uint64_t sector = 0; sector < sectors; ++sector) {
    uint64_t words[kSectorBytes / 8];
    std::memcpy(words, content.data() + sector * kSectorBytes, kSectorBytes);
    for (const uint64_t word : words) {
      if (word != words[0]) return "sector " + std::to_string(sector) + " is torn";
    }
    if (!allowed(sector, words[0])) {
      char text[120];
      std::snprintf(text, sizeof(text), "sector %llu holds %016llx, which it must not",
                    static_cast<unsigned long long>(sector),
                    static_cast<unsigned long long>(words[0]));
      return text;
    }
  }
  return {};
}

void CrashModel::made_durable(size_t count) { durable_ = std::max(durable_, count); }

std::optional<uint64_t> CrashModel::id_of(InodeNo ino) const {
  for (const auto& [id, known] : inodes_) {
    if (known == ino) return id;
  }
  return std::nullopt;
}

bool CrashModel::names_allowed(const std::map<std::string, InodeNo>& found) const {
  for (size_t k = durable_ - 1; k < states_.size(); ++k) {
    const CrashNames& state = states_[k];
    const bool same = std::equal(
        state.begin(), state.end(), found.begin(), found.end(), [&](const auto& a, const auto& b) {
          const auto known = inodes_.find(a.second);
          return a.first == b.first && (known == inodes_.end() || known->second == b.second);
        });
    if (same) return true;
  }
  return false;
}

}  // namespace fusefs
